"""A linear map and a small perceptron beside it, for every channel on its own, with weights that all channels share.

Without hidden numbers it is the linear map alone. Source: RLinear and RMLP of Li et al., "Revisiting Long-term Time Series
Forecasting: An Investigation on Linear Mapping", 2023. Shapes: B windows, L context, H horizon, C channels, K inputs known
in advance, Q outputs.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from presurge.models.forecaster import Settings
from presurge.models.networks.forecaster import NetworkForecaster, NetworkSettings
from presurge.models.networks.window import NetworkShape
from presurge.models.plan import LossName


class MLPSettings(NetworkSettings):
    """Settings of the perceptron.

    Attributes:
        hidden_size: Numbers of the hidden layer; 0 leaves the linear map alone.
        dropout: Share of the hidden numbers that is left out in training.
    """

    loss: LossName = "mae"
    hidden_size: int = Field(64, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)


class MLPBody(nn.Module):
    """Every channel's context, and what is known of its last row and of the future rows, to its forecast."""

    def __init__(self, settings: MLPSettings, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        rows, hidden = shape.horizon * shape.outputs, settings.hidden_size
        self.linear = nn.Linear(shape.context, rows)
        self.bent = None
        if hidden:
            self.bent = nn.Sequential(
                nn.Linear(shape.context + shape.known, hidden),
                nn.GELU(),
                nn.Dropout(settings.dropout),
                nn.Linear(hidden, rows),
            )
        self.known = nn.Linear(shape.known, shape.values, bias=False) if shape.known else None

    def forward(self, past_BLD: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, C x Q]."""
        shape = self.shape
        x_BCL = past_BLD[:, :, : shape.channels].transpose(1, 2)
        rows_BCR: torch.Tensor = self.linear(x_BCL)
        if self.bent is not None:
            now_BCK = past_BLD[:, -1:, shape.channels :].expand(-1, shape.channels, -1)
            rows_BCR = rows_BCR + self.bent(torch.cat([x_BCL, now_BCK], 2))
        rows_BCHQ = rows_BCR.reshape(-1, shape.channels, shape.horizon, shape.outputs)
        rows_BHV = rows_BCHQ.transpose(1, 2).reshape(-1, shape.horizon, shape.values)
        return rows_BHV if self.known is None else rows_BHV + self.known(future_BHK)


class MLP(NetworkForecaster):
    """A linear map and a small perceptron, shared by all channels."""

    name: ClassVar[str] = "mlp"
    summary: ClassVar[str] = "linear map and small perceptron, every channel on its own"
    settings_class: ClassVar[type[Settings]] = MLPSettings
    training_defaults: ClassVar[dict[str, object]] = {
        "epochs": 10,
        "patience": 5,
        "batch_size": 32,
        "schedule": "cosine",
        "optimizer": "adamw",
        "weight_decay": 0.3,
    }
    settings: MLPSettings

    def body(self, shape: NetworkShape) -> nn.Module:
        """A linear map and a perceptron."""
        return MLPBody(self.settings, shape)
