"""A linear map plus a small perceptron, applied to every target on its own, with weights that all targets share.

With ``hidden_size`` 0 it is the linear map alone. Covariates enter every target's forecast by maps of their own. Source:
RLinear and RMLP of Li et al., "Revisiting Long-term Time Series Forecasting: An Investigation on Linear Mapping", 2023.
Shapes: B windows, L context, H horizon, C targets, K inputs known in advance, D inputs of a row, Q outputs, R = H x Q,
X numbers of all covariates of a window.
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
    """Configuration of the perceptron.

    Attributes:
        hidden_size: Units of the hidden layer; 0 leaves the linear map alone.
        dropout: Share of the hidden units that training leaves out.
        channel_embedding: Length of the vector that tells the perceptron which target it forecasts; 0 for none.
    """

    loss: LossName = "mae"
    hidden_size: int = Field(64, ge=0)
    dropout: float = Field(0.5, ge=0, lt=1)
    channel_embedding: int = Field(0, ge=0)


class MLPBody(nn.Module):
    """Map every target's context, the covariates and what is known of the window and the future rows to its forecast."""

    def __init__(self, settings: MLPConfig, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.shared = shape.known - shape.levels
        past = shape.context * (shape.observed + shape.given)
        rows = shape.horizon * shape.outputs
        self.linear = nn.Linear(shape.context, rows)
        self.channel_CE = self.bent = None
        if settings.hidden_size:
            embedding = settings.channel_embedding if shape.channels > 1 else 0
            if embedding:
                self.channel_CE = nn.Parameter(torch.randn(shape.channels, embedding) / 10)
            inputs = shape.context + self.shared + shape.levels // shape.channels + embedding
            inputs += past + shape.horizon * shape.given
            self.bent = nn.Sequential(
                nn.Linear(inputs, settings.hidden_size),
                nn.GELU(),
                nn.Dropout(settings.dropout),
                nn.Linear(settings.hidden_size, rows),
            )
        self.known = nn.Linear(self.shared, shape.values, bias=False) if self.shared else None
        self.past = nn.Linear(past, shape.horizon * shape.values, bias=False) if past else None

    def forward(self, past_BLD: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, C x Q]."""
        shape, known = self.shape, self.shape.channels + self.shape.observed
        x_BCL = past_BLD[:, :, : shape.channels].transpose(1, 2)
        past_BX = past_BLD[:, :, shape.channels : known + shape.given].flatten(1)
        rows_BCR: torch.Tensor = self.linear(x_BCL)
        if self.bent is not None:
            last_BD = past_BLD[:, -1]
            shared = [
                last_BD[:, known : known + self.shared],
                past_BX,
                future_BHK[..., : shape.given].flatten(1),
            ]
            inputs = [x_BCL, *(each_BX[:, None].expand(-1, shape.channels, -1) for each_BX in shared)]
            if shape.levels:
                inputs.append(last_BD[:, -shape.levels :].reshape(-1, 2, shape.channels).transpose(1, 2))
            if self.channel_CE is not None:
                inputs.append(self.channel_CE.expand(len(x_BCL), -1, -1))
            rows_BCR = rows_BCR + self.bent(torch.cat(inputs, 2))
        rows_BCHQ = rows_BCR.reshape(-1, shape.channels, shape.horizon, shape.outputs)
        rows_BHV = rows_BCHQ.transpose(1, 2).reshape(-1, shape.horizon, shape.values)
        if self.past is not None:
            rows_BHV = rows_BHV + self.past(past_BX).reshape(rows_BHV.shape)
        return rows_BHV if self.known is None else rows_BHV + self.known(future_BHK[..., : self.shared])


class MLP(NetworkForecaster):
    """A linear map and a small perceptron, shared by all targets."""

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
