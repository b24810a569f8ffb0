"""The shell around the body of every network: it normalises windows, adds the vector of the item and shapes the outputs.

Shapes: B windows, L context, H horizon, C targets, O observed covariates, K inputs known in advance (for a body these
include the embedding of the item), D = C + O + K inputs of a row, Q outputs per value (1, or quantiles).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from presurge.errors import ModelError
from presurge.models.linear.moments import LEAST_SIZE

if TYPE_CHECKING:
    from presurge.models.networks.forecaster import NetworkConfig

WindowNormalisation = Literal["none", "last", "mean", "meanabs", "revin"]

_SMALLEST_VARIANCE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkShape:
    """The sizes of what a body receives and returns.

    Attributes:
        context: L.
        horizon: H.
        channels: C.
        known: K.
        outputs: Q.
        levels: How many of the K, the last ones, describe the normalisation of the window: 0, or 2 C, the level of every
            target and then the logarithm of its spread, the same in every row.
        observed: O.
        given: How many of the K, the first ones, are known channels of the panel.
        embedding: How many of the K are learned for the item of the window.
    """

    context: int
    horizon: int
    channels: int
    known: int
    outputs: int
    levels: int = 0
    observed: int = 0
    given: int = 0
    embedding: int = 0

    @property
    def inputs(self) -> int:
        """D, the inputs of a past row: targets, observed covariates, inputs known in advance."""
        return self.channels + self.observed + self.known

    @property
    def values(self) -> int:
        """C x Q, the values that a body returns for a row of the forecast."""
        return self.channels * self.outputs


class WindowNetwork(nn.Module):
    """A body between the normalisation of the targets of a window and its inverse.

    ``revin`` is the reversible instance normalisation of Kim et al., "Reversible Instance Normalization for Accurate
    Time-Series Forecasting against Distribution Shift", ICLR 2022.

    Args:
        body: Called with past [B, L, D] and future [B, H, K]; returns B x (H, C, Q) values in that order, in any shape.
        shape: The sizes that the body was built for.
        config: Says how every window is normalised, with a learned gain and shift or without.
        items: Number of items to tell apart.
    """

    def __init__(self, body: nn.Module, shape: NetworkShape, config: "NetworkConfig", items: int) -> None:
        super().__init__()
        self.body, self.shape, self.normalisation = body, shape, config.normalisation
        size = {"gain_C": torch.ones(shape.channels), "shift_C": torch.zeros(shape.channels)}
        self.affine = nn.ParameterDict(size) if config.affine and config.normalisation == "revin" else None
        # Number 0 is any item that was not in the training data; its vector stays zero.
        self.item = nn.Embedding(items + 1, shape.embedding, padding_idx=0) if shape.embedding else None

    def forward(
        self, context_BLD: torch.Tensor, known_BHK: torch.Tensor, item_B: torch.Tensor
    ) -> torch.Tensor:
        """Forecast on the model's scale: [B, H, C], or [B, H, Q, C] where there are several outputs.

        Args:
            context_BLD: Targets, observed covariates and inputs known in advance, without the vector of the item.
            known_BHK: The inputs known in advance, for the rows of the forecast.
            item_B: Number of the item in training; -1 for any other item.
        """
        shape = self.shape
        context_BLC, others_BLX = context_BLD[..., : shape.channels], context_BLD[..., shape.channels :]
        level_B1C, spread_B1C = self._level(context_BLC)
        inner_BLC = (context_BLC - level_B1C) / spread_B1C
        if self.affine is not None:
            inner_BLC = inner_BLC * self.affine["gain_C"] + self.affine["shift_C"]
        past, future = [inner_BLC, others_BLX], [known_BHK]
        told = [] if self.item is None else [self.item(item_B + 1)[:, None]]
        if shape.levels:
            told += [level_B1C, spread_B1C.log().expand_as(level_B1C)]
        for told_B1K in told:
            past.append(told_B1K.expand(-1, shape.context, -1))
            future.append(told_B1K.expand(-1, shape.horizon, -1))
        rows = self._in_shape(self.body(torch.cat(past, 2), torch.cat(future, 2)), len(context_BLD))
        rows_BHQC = rows.reshape(-1, shape.horizon, shape.channels, shape.outputs).transpose(2, 3)
        if self.affine is not None:
            rows_BHQC = (rows_BHQC - self.affine["shift_C"]) / self.affine["gain_C"]
        rows_BHQC = rows_BHQC * spread_B1C[:, None] + level_B1C[:, None]
        return rows_BHQC if shape.outputs > 1 else rows_BHQC[:, :, 0]

    def _in_shape(self, rows: torch.Tensor, windows: int) -> torch.Tensor:
        """Check that the values that the body returned are in the order (B, H, C, Q), and pass them on."""
        shape = self.shape
        given, values = tuple(rows.shape), shape.horizon * shape.values
        in_order = len(given) < 3 or given[1] == shape.horizon
        if given[:1] != (windows,) or rows.numel() != windows * values or not in_order:
            raise ModelError(
                f"the body returned values of the shape {given} for {windows} windows",
                where=type(self.body).__name__,
                hint=f"It must return [B, H, C, Q] = [{windows}, {shape.horizon}, {shape.channels}, {shape.outputs}], or "
                "the same values in that order with fewer dimensions.",
            )
        return rows

    def _level(self, context_BLC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Level and spread of every window and target, [B, 1, C] each."""
        one = context_BLC.new_ones(1, 1, 1)
        match self.normalisation:
            case "last":
                return context_BLC[:, -1:], one
            case "mean":
                return context_BLC.mean(1, keepdim=True), one
            case "meanabs":
                size_B1C = context_BLC.abs().mean(1, keepdim=True).clamp(min=LEAST_SIZE)
                return torch.zeros_like(size_B1C), size_B1C
            case "revin":
                variance_B1C, mean_B1C = torch.var_mean(context_BLC, 1, correction=0, keepdim=True)
                return mean_B1C, (variance_B1C + _SMALLEST_VARIANCE).sqrt()
            case _:
                return torch.zeros_like(context_BLC[:, :1]), one


class Head(nn.Module):
    """Map the features of a window to its forecast linearly, and add a linear map of the inputs known for each future row.

    Args:
        features: Length of the vector that describes a window.
        shape: The sizes of the network.
    """

    def __init__(self, features: int, shape: NetworkShape) -> None:
        super().__init__()
        self.shape = shape
        self.rows = nn.Linear(features, shape.horizon * shape.values)
        self.known = nn.Linear(shape.known, shape.values, bias=False) if shape.known else None

    def forward(self, feature_BF: torch.Tensor, future_BHK: torch.Tensor) -> torch.Tensor:
        """[B, H, C x Q]."""
        rows: torch.Tensor = self.rows(feature_BF).reshape(-1, self.shape.horizon, self.shape.values)
        return rows if self.known is None else rows + self.known(future_BHK)
