"""The scale on which a channel is forecast: a transform, and what is usual for each item.

A fleet holds services of very different size, so every item has a unit and a spread of its own, from its training rows. A
model of one item knows one scale, whatever the item of a history is called. Of several, an item that the training rows did
not hold is measured by each context.

Shapes: I items, B windows, X either of them, L context, N outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import TRANSFORMS, Float64Array, TransformName
from presurge.series.windows import WindowBatch

_NAMES = ("unit", "centre", "spread", "low", "high")
_UNIT = 0.1
"""Unit of an item as a share of its mean size: where the logarithm turns from straight to curved."""
_STILL = 1e-9
"""Spread of a constant item: its forecast takes no part of what others do."""


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """How a channel is transformed, and what the training rows look like then: z = T(y / unit).

    Attributes:
        transform: Name of T.
        items: Names of the I items.
        unit_X1: What y is divided by before it; a tenth of the mean absolute training value.
        centre_X1: Mean of the transformed training values.
        spread_X1: Their standard deviation.
        low_X1: The smallest of them.
        high_X1: The largest of them.
    """

    transform: TransformName
    items: tuple[str, ...]
    unit_X1: Float64Array
    centre_X1: Float64Array
    spread_X1: Float64Array
    low_X1: Float64Array
    high_X1: Float64Array

    @classmethod
    def fit(cls, values: Mapping[str, Float64Array], transform: TransformName) -> Self:
        """Fit to the observed training values of some items by their names, at least one of each."""
        rows = np.array([_measured(y_R[None], transform)[:, 0, 0] for y_R in values.values()])
        return cls(transform, tuple(values), *rows.T[:, :, None])

    def of(self, batch: WindowBatch, context_BL: FloatArray) -> "Scale":
        """The scale of every window of a batch: that of its item, or of its context if the item is new."""
        if len(self.items) == 1:
            return self
        arrays_KB1 = self._of_items(batch.items)[:, batch.item_B]
        if (new_B := np.isnan(arrays_KB1[0, :, 0])).any():
            arrays_KB1[:, new_B] = _measured(context_BL[new_B].astype(np.float64), self.transform)
        return Scale(self.transform, (), *arrays_KB1)

    def standard(self, panel: Panel) -> Float64Array:
        """The first channel in z, less the centre and over the spread of its item [R]; NaN in items without a scale."""
        arrays_KI = self._of_items(panel.items)[:, :, 0]
        unit_R, centre_R, spread_R, *_ = np.repeat(arrays_KI, np.diff(panel.indptr), axis=1)
        forward = TRANSFORMS[self.transform].forward
        x_R: Float64Array = (forward(panel.values[:, 0].astype(np.float64) / unit_R) - centre_R) / spread_R
        return x_R

    def _of_items(self, names: Sequence[str]) -> Float64Array:
        """Unit, centre, spread, low and high of some items: float64 [5, I, 1], NaN of those that are new."""
        places = {name: place for place, name in enumerate(self.items)}
        known_KX1 = np.pad(np.array(self._arrays()), ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
        return known_KX1[:, [places.get(name, -1) for name in names]]

    def forward(self, y_XL: FloatArray | Float64Array) -> Float64Array:
        """Original units to z; missing stays missing."""
        return TRANSFORMS[self.transform].forward(y_XL.astype(np.float64) / self.unit_X1)

    def inverse(self, z_BN: Float64Array, window_BL: Float64Array) -> Float64Array:
        """z to original units, clamped to the range of training rows and context, widened by half on both sides.

        The clamp keeps a weight that meets a wild context from exploding through a square or an exponential, and still lets
        a series go beyond everything before it. Where a root or logarithm was never taken of a negative value, the
        forecast does not go below zero unless the context is there already.
        """
        lowest_B1, highest_B1 = window_BL.min(axis=1, keepdims=True), window_BL.max(axis=1, keepdims=True)
        low_B1, high_B1 = np.minimum(lowest_B1, self.low_X1), np.maximum(highest_B1, self.high_X1)
        reach_B1 = 0.5 * (high_B1 - low_B1)
        low_B1 = low_B1 - reach_B1
        if self.transform != "identity":
            above_B1 = np.maximum(low_B1, np.minimum(lowest_B1, 0))
            low_B1 = np.where(self.low_X1 >= 0, above_B1, low_B1)
        held_BN = np.minimum(np.maximum(z_BN, low_B1), high_B1 + reach_B1)
        y_BN: Float64Array = self.unit_X1 * TRANSFORMS[self.transform].inverse(held_BN)
        return y_BN

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {
            name: array_X1[:, 0].tolist() for name, array_X1 in zip(_NAMES, self._arrays(), strict=True)
        }
        return {"transform": self.transform, "items": list(self.items), **values}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        arrays = [np.array(value[name], np.float64)[:, None] for name in _NAMES]
        return cls(value["transform"], tuple(value["items"]), *arrays)

    def _arrays(self) -> tuple[Float64Array, ...]:
        return self.unit_X1, self.centre_X1, self.spread_X1, self.low_X1, self.high_X1


def _measured(y_XL: Float64Array, transform: TransformName) -> Float64Array:
    """Unit, centre, spread, low and high of each row of values: float64 [5, X, 1]."""
    unit_X1 = _UNIT * np.abs(y_XL).mean(axis=1, keepdims=True)
    unit_X1 = np.where(unit_X1 > 0, unit_X1, 1.0)
    z_XL = TRANSFORMS[transform].forward(y_XL / unit_X1)
    low_X1, high_X1 = z_XL.min(axis=1, keepdims=True), z_XL.max(axis=1, keepdims=True)
    still_X1 = low_X1 == high_X1
    centre_X1 = np.where(still_X1, low_X1, z_XL.mean(axis=1, keepdims=True))
    spread_X1 = np.where(still_X1, _STILL, z_XL.std(axis=1, keepdims=True))
    return np.array([unit_X1, centre_X1, spread_X1, low_X1, high_X1])
