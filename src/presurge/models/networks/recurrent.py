"""LSTM and GRU: the state after the last row of the context, mapped to the whole horizon at once.

Shapes: B windows, L context, H horizon, D inputs of a row, K inputs known in advance.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from presurge.config import Config
from presurge.models.networks.forecaster import NetworkConfig, NetworkForecaster
from presurge.models.networks.window import Head, NetworkShape


class RecurrentConfig(NetworkConfig):
    """Configuration of LSTM and GRU.

    Attributes:
        hidden_size: Length of the state.
        num_layers: Stacked layers.
        dropout: Share of the numbers between two layers that training leaves out.
    """

    hidden_size: int = Field(64, ge=1)
    num_layers: int = Field(2, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)


class RecurrentBody(nn.Module):
    """A recurrent network and a linear head on its last state."""

    def __init__(self, cell: type[nn.LSTM | nn.GRU], settings: RecurrentConfig, shape: NetworkShape) -> None:
        super().__init__()
        dropout = settings.dropout if settings.num_layers > 1 else 0.0
        self.cell = cell(shape.inputs, settings.hidden_size, settings.num_layers, dropout=dropout)
        self.head = Head(settings.hidden_size, shape)

    def forward(self, past_BLD: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, values]."""
        state_LBF, _ = self.cell(past_BLD.transpose(0, 1).contiguous())
        rows: torch.Tensor = self.head(state_LBF[-1], future_BHK)
        return rows


class LSTM(NetworkForecaster):
    """Long short-term memory over all targets at once."""

    name: ClassVar[str] = "lstm"
    summary: ClassVar[str] = "recurrent network with long short-term memory, all channels at once"
    config_class: ClassVar[type[Config]] = RecurrentConfig
    training_defaults: ClassVar[dict[str, object]] = {
        "epochs": 30,
        "patience": 5,
        "batch_size": 32,
        "clip_norm": 1.0,
    }
    config: RecurrentConfig

    def body(self, shape: NetworkShape) -> nn.Module:
        """LSTM layers and a head."""
        return RecurrentBody(nn.LSTM, self.config, shape)


class GRU(LSTM):
    """Gated recurrent units over all targets at once."""

    name: ClassVar[str] = "gru"
    summary: ClassVar[str] = "recurrent network with gated units, all channels at once"

    def body(self, shape: NetworkShape) -> nn.Module:
        """GRU layers and a head."""
        return RecurrentBody(nn.GRU, self.config, shape)
