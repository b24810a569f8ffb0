"""The shell around the body of every forecasting network: it normalises a window, tells items apart and shapes the outputs.

Shapes: B windows, L context, H horizon, C targets, O observed covariates, K inputs known in advance (for a body these
include the embedding of the item), D = C + O + K inputs of a row, Q outputs per value (1, or quantiles).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from presurge.errors import ModelError
from presurge.models.linear.moments import LEAST_SIZE

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
        levels: How many of the K, the last ones, describe the normalisation of the window: 2 C, the level of every
            target and then the logarithm of its spread, the same in every row; or 0.
        observed: O.
        given: How many of the K, the first ones, are known channels of the panel.
    """

    context: int
    horizon: int
    channels: int
    known: int
    outputs: int
    levels: int = 0
    observed: int = 0
    given: int = 0

    @property
    def inputs(self) -> int:
        """D, numbers of one row of the past: targets, observed covariates, inputs known in advance."""
        return self.channels + self.observed + self.known

    @property
    def values(self) -> int:
        """C x Q, numbers that a body returns for one row of the forecast."""
        return self.channels * self.outputs


class WindowNetwork(nn.Module):
    """A body between the normalisation of a window's targets and its inverse.

    ``revin`` is the reversible instance normalisation of Kim et al., "Reversible Instance Normalization for Accurate
    Time-Series Forecasting against Distribution Shift", ICLR 2022.

    Args:
        body: Called with past [B, L, D] and future [B, H, K]; returns B x (H, C, Q) values in that order, in any shape.
        shape: The sizes that the body was built for.
        normalisation: How every window is normalised; the forecast is scaled back.
        affine: Whether ``revin`` learns a gain and a shift for each target.
        items: Number of items to tell apart.
        embedding: Length of the vector learned for each item; 0 for none.
    """

    def __init__(
        self,
        body: nn.Module,
        shape: NetworkShape,
        *,
        normalisation: WindowNormalisation,
        affine: bool,
        items: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.body, self.shape, self.normalisation = body, shape, normalisation
        learns_scale = affine and normalisation == "revin"
        self.affine = Affine(shape.channels) if learns_scale else None
        # Number 0 stands for an item that was not in the training data: its vector stays zero.
        self.item = nn.Embedding(items + 1, embedding, padding_idx=0) if embedding else None

    def forward(
        self, context_BLD: torch.Tensor, known_BHK: torch.Tensor, item_B: torch.Tensor
    ) -> torch.Tensor:
        """Forecast on the model's scale: [B, H, C], or [B, H, Q, C] where there are several outputs.

        Args:
            context_BLD: Targets, observed covariates, inputs known in advance (without the item's embedding).
            known_BHK: The latter for the rows of the forecast.
            item_B: Number of the item in training; -1 for any other item.
        """
        shape = self.shape
        context_BLC, others_BLX = context_BLD[..., : shape.channels], context_BLD[..., shape.channels :]
        level_B1C, spread_B1C = self._level(context_BLC)
        inner_BLC = (context_BLC - level_B1C) / spread_B1C
        if self.affine is not None:
            inner_BLC = self.affine(inner_BLC)
        past, future = [inner_BLC, others_BLX], [known_BHK]
        for told_B1K in self._told(level_B1C, spread_B1C, item_B):
            past.append(told_B1K.expand(-1, shape.context, -1))
            future.append(told_B1K.expand(-1, shape.horizon, -1))
        rows = self._in_shape(self.body(torch.cat(past, 2), torch.cat(future, 2)), len(context_BLD))
        rows_BHQC = rows.reshape(-1, shape.horizon, shape.channels, shape.outputs).transpose(2, 3)
        if self.affine is not None:
            rows_BHQC = self.affine.inverse(rows_BHQC)
        rows_BHQC = rows_BHQC * spread_B1C[:, None] + level_B1C[:, None]
        return rows_BHQC if shape.outputs > 1 else rows_BHQC[:, :, 0]

    def _in_shape(self, rows: torch.Tensor, windows: int) -> torch.Tensor:
        """Return what the body returned, if its values can be read in the order (B, H, C, Q)."""
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

    def _told(
        self, level_B1C: torch.Tensor, spread_B1C: torch.Tensor, item_B: torch.Tensor
    ) -> list[torch.Tensor]:
        """Inputs that describe a whole window: [B, 1, some of K] each."""
        told = [] if self.item is None else [self.item(item_B + 1)[:, None]]
        if self.shape.levels:
            told += [level_B1C, spread_B1C.log().expand_as(level_B1C)]
        return told

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


class Affine(nn.Module):
    """A learned gain and shift for each target."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain_C = nn.Parameter(torch.ones(channels))
        self.shift_C = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., C]."""
        return x * self.gain_C + self.shift_C

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """Back again: [..., C]."""
        return (y - self.shift_C) / self.gain_C


class Head(nn.Module):
    """Map the features of a window to its forecast: one linear map, plus one of the inputs known for every future row.

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


def patches(rows_BXL: torch.Tensor, length: int) -> torch.Tensor:
    """Cut rows into patches [B, X, N, P]; copies of the first row fill up the first patch."""
    windows, series, rows = rows_BXL.shape
    lead = -rows % length
    if lead:
        rows_BXL = torch.cat([rows_BXL[:, :, :1].expand(-1, -1, lead), rows_BXL], 2)
    return rows_BXL.reshape(windows, series, (rows + lead) // length, length)
