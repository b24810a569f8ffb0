"""A linear map and a small perceptron beside it, for every channel on its own, with weights that all channels share.

Without hidden numbers it is the linear map alone. Source: RLinear and RMLP of Li et al., "Revisiting Long-term Time Series
Forecasting: An Investigation on Linear Mapping", 2023. Shapes: B windows, L context, H horizon, C channels, K inputs known
in advance, Q outputs.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from presurge.config import Config
from presurge.models.forecaster import LossName
from presurge.models.networks.forecaster import NetworkConfig, NetworkForecaster
from presurge.models.networks.window import NetworkShape


class MLPConfig(NetworkConfig):
    """Settings of the perceptron.

    Attributes:
        hidden_size: Numbers of the hidden layer; 0 leaves the linear map alone.
        dropout: Share of the hidden numbers that is left out in training.
        channel_embedding: Learned numbers that tell the perceptron which channel it forecasts; 0 tells it none.
    """

    loss: LossName = "mae"
    hidden_size: int = Field(64, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    channel_embedding: int = Field(0, ge=0)


class MLPBody(nn.Module):
    """Every channel's context, and what is known of its window and of the future rows, to its forecast."""

    def __init__(self, settings: MLPConfig, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = shape.known - shape.levels
        rows = shape.horizon * shape.outputs
        self.linear = nn.Linear(shape.context, rows)
        self.channel_CE = self.bent = None
        if settings.hidden_size:
            embedding = settings.channel_embedding if shape.channels > 1 else 0
            if embedding:
                self.channel_CE = nn.Parameter(torch.randn(shape.channels, embedding) / 10)
            inputs = shape.context + self.shared + shape.levels // shape.channels + embedding
            self.bent = nn.Sequential(
                nn.Linear(inputs, settings.hidden_size),
                nn.GELU(),
                nn.Dropout(settings.dropout),
                nn.Linear(settings.hidden_size, rows),
            )
        self.known = nn.Linear(self.shared, shape.values, bias=False) if self.shared else None

    def forward(self, past_BLD: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, C x Q]."""
        shape = self.shape
        x_BCL = past_BLD[:, :, : shape.channels].transpose(1, 2)
        rows_BCR: torch.Tensor = self.linear(x_BCL)
        if self.bent is not None:
            rows_BCR = rows_BCR + self.bent(torch.cat([x_BCL, *self._told(past_BLD[:, -1])], 2))
        rows_BCHQ = rows_BCR.reshape(-1, shape.channels, shape.horizon, shape.outputs)
        rows_BHV = rows_BCHQ.transpose(1, 2).reshape(-1, shape.horizon, shape.values)
        return rows_BHV if self.known is None else rows_BHV + self.known(future_BHK[..., : self.shared])

    def _told(self, last_BD: torch.Tensor) -> list[torch.Tensor]:
        """What a channel is told beside its own rows: [B, C, x] each."""
        channels, windows = self.shape.channels, len(last_BD)
        shared_BK = last_BD[:, channels : channels + self.shared]
        told = [shared_BK[:, None].expand(-1, channels, -1)]
        if self.shape.levels:
            told.append(last_BD[:, -self.shape.levels :].reshape(windows, 2, channels).transpose(1, 2))
        if self.channel_CE is not None:
            told.append(self.channel_CE.expand(windows, -1, -1))
        return told


class MLP(NetworkForecaster):
    """A linear map and a small perceptron, shared by all channels."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "linear map and small perceptron, every channel on its own"
    config_class: ClassVar[type[Config]] = MLPConfig
    training_defaults: ClassVar[dict[str, object]] = {
        "epochs": 10,
        "patience": 5,
        "batch_size": 32,
        "schedule": "cosine",
        "optimizer": "adamw",
        "weight_decay": 0.3,
    }
    config: MLPConfig

    def body(self, shape: NetworkShape) -> nn.Module:
        """A linear map and a perceptron."""
        return MLPBody(self.config, shape)
