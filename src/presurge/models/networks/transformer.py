"""A Transformer encoder over the rows of the context, or over patches of them.

Sources: Vaswani et al., "Attention Is All You Need", 2017; for the patches Nie et al., "A Time Series is Worth 64 Words",
ICLR 2023. Shapes: B windows, L context, H horizon, D inputs of a row, K inputs known in advance, P rows of a patch, N patches.
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.utils.checkpoint import checkpoint

from presurge.config import Config
from presurge.models.networks.forecaster import NetworkConfig, NetworkForecaster
from presurge.models.networks.window import Head, NetworkShape


class TransformerConfig(NetworkConfig):
    """Configuration of the Transformer.

    Attributes:
        d_model: Length of a token.
        nhead: Attention heads, which share ``d_model`` evenly.
        num_layers: Encoder layers.
        dim_feedforward: Hidden units of the feed-forward part of a layer.
        dropout: Share of the numbers that training leaves out.
        patch_length: Rows in a token; 0 makes every row a token, which costs much more.
        gradient_checkpointing: Recompute each layer in the backward pass instead of storing its activations: less memory,
            about a third more time, the same weights.
    """

    d_model: int = Field(64, ge=1)
    nhead: int = Field(4, ge=1)
    num_layers: int = Field(2, ge=1)
    dim_feedforward: int = Field(256, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    patch_length: int = Field(8, ge=0)
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> "TransformerConfig":
        if self.d_model % self.nhead:
            raise ValueError(
                f"d_model {self.d_model} cannot be divided evenly among {self.nhead} heads (nhead)"
            )
        return self


class TransformerBody(nn.Module):
    """Encoder layers over tokens with learned positions; the head reads the mean token and the last one."""

    def __init__(self, settings: TransformerConfig, shape: NetworkShape) -> None:
        super().__init__()
        self.patch = min(max(1, settings.patch_length), shape.context)
        self.lead = -shape.context % self.patch
        tokens = (self.lead + shape.context) // self.patch
        self.embed = nn.Linear(self.patch * shape.inputs, settings.d_model)
        self.position_NF = nn.Parameter(0.02 * torch.randn(tokens, settings.d_model))
        layer = nn.TransformerEncoderLayer(
            settings.d_model,
            settings.nhead,
            settings.dim_feedforward,
            settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.last_norm = nn.LayerNorm(settings.d_model)
        self.encoder = nn.TransformerEncoder(layer, settings.num_layers, enable_nested_tensor=False)
        self.recompute = settings.gradient_checkpointing
        self.head = Head(2 * settings.d_model, shape)

    def forward(self, past_BLD: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, values]."""
        # Copies of the first row fill up the first patch.
        row_BLD = torch.cat([past_BLD[:, :1].expand(-1, self.lead, -1), past_BLD], 1)
        patch_BNP = row_BLD.reshape(len(row_BLD), -1, self.patch, row_BLD.shape[2]).transpose(2, 3).flatten(2)
        token_BNF = self.embed(patch_BNP) + self.position_NF
        if self.recompute and self.training:
            for layer in self.encoder.layers:
                token_BNF = checkpoint(layer, token_BNF, use_reentrant=False)
        else:
            token_BNF = self.encoder(token_BNF)
        token_BNF = self.last_norm(token_BNF)
        rows: torch.Tensor = self.head(torch.cat([token_BNF.mean(1), token_BNF[:, -1]], 1), future_BHK)
        return rows


class Transformer(NetworkForecaster):
    """Attention between rows, or patches of rows, of all channels at once."""

    name: ClassVar[str] = "transformer"
    summary: ClassVar[str] = "attention between patches of rows, all channels at once"
    config_class: ClassVar[type[Config]] = TransformerConfig
    training_defaults: ClassVar[dict[str, object]] = {
        "epochs": 30,
        "patience": 5,
        "batch_size": 32,
        "learning_rate": 5e-4,
        "clip_norm": 1.0,
    }
    config: TransformerConfig

    def body(self, shape: NetworkShape) -> nn.Module:
        """Encoder layers and a head."""
        return TransformerBody(self.config, shape)
