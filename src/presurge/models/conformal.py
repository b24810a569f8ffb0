"""Split-conformal intervals: quantiles of past errors around a point forecast, which then follow later errors.

Residuals keep their sign, so an interval may be lopsided; each horizon step and channel has its own. Source: Lei, G'Sell,
Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018.

After the calibration, each known error moves the quantiles a little. A quantile of level q goes up by ``rate * q * scale`` if
the error lies above it and down by ``rate * (1 - q) * scale`` if it lies below, so that in the long run a share q of the errors
lies below it, whatever the series does. An error counts as soon as its target is known: the quantiles of horizon step h at
an origin rest on forecasts made at least h rows before it. The scale is the present width of the 80 % interval, or the mean
absolute error so far if that is larger, so an interval opens and closes by a share of itself, however far the load has moved.

Sources: Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021; Angelopoulos, Candès and
Tibshirani, "Conformal PID control for time series prediction", 2023 (quantile tracking).

Shapes: B windows, H horizon, C target channels, Q quantiles, T tracks (origins that follow the same errors), S rows of a track.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
RATE = 0.03
"""Speed at which intervals follow later errors. On the series of benchmarks/accuracy.py 0.02 to 0.04 do equally well."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Quantiles of the residuals of a validation part.

    Residuals of counts are taken between square roots, so that an interval grows with the load and never falls below
    zero; residuals of gauges are taken in original units.

    Attributes:
        residuals_HQC: float32, the residual quantile of each step, level and channel.
        levels: The Q levels, ascending.
        count_C: bool, which channels count.
        n_windows: How many windows it was measured on.
        rate: How fast the quantiles follow the errors of rows after the calibration; 0 keeps them fixed.
        until: Item -> time of the last row that model or calibration learned from, in microseconds since the Unix epoch.
            Only later errors are followed; of an item that is not listed, all errors.
    """

    residuals_HQC: FloatArray
    levels: tuple[float, ...]
    count_C: BoolArray
    n_windows: int
    rate: float = RATE
    until: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def measure(
        cls,
        actual_BHC: FloatArray,
        centre: FloatArray,
        count_C: BoolArray,
        levels: tuple[float, ...] = QUANTILE_LEVELS,
        *,
        until: Mapping[str, int] | None = None,
    ) -> Self:
        """Take the conformal quantiles of the errors of B forecasts; missing actual values are left out.

        Of n residuals an upper level q takes the ``ceil((n + 1) q)``-th smallest, and a lower level mirrors it. That gives
        the finite-sample guarantee for exchangeable residuals.

        Args:
            actual_BHC: Actual values in original units; NaN where missing.
            centre: Point forecasts [B, H, C], or the quantiles [B, H, Q, C] that a model learned, whose levels are then
                corrected one by one (Romano, Patterson, Candès, "Conformalized Quantile Regression", 2019).
            count_C: Which channels count.
            levels: The Q levels, ascending.
            until: Item -> time of the last row that the model learned from, in microseconds.
        """
        learned = centre.ndim == 4
        centre_BHXC = centre if learned else centre[:, :, None, :]
        residual_BHXC = score_space(actual_BHC, count_C)[:, :, None, :] - score_space(centre_BHXC, count_C)
        _, horizon, _, channels = residual_BHXC.shape
        residuals = np.zeros((horizon, len(levels), channels), np.float32)
        for h in range(horizon):
            for c in range(channels):
                known = ~np.isnan(residual_BHXC[:, h, 0, c])
                ordered_BX = np.sort(residual_BHXC[known, h, :, c], axis=0)
                for q, level in enumerate(levels):
                    residuals[h, q, c] = _conformal_quantile(ordered_BX[:, q if learned else 0], level)
        return cls(residuals, levels, count_C, len(actual_BHC), until=until or {})

    def quantiles(self, centre: FloatArray, residuals_BHQC: FloatArray | None = None) -> FloatArray:
        """Quantiles of B forecasts: float32 [B, H, Q, C], ascending; H may be shorter than the calibrated horizon.

        Args:
            centre: Point forecasts [B, H, C] or learned quantiles [B, H, Q, C], original units, as in ``measure``.
            residuals_BHQC: Residual quantiles that followed later errors; None takes those of the calibration.
        """
        spread = self.residuals_HQC if residuals_BHQC is None else residuals_BHQC
        centre_BHXC = centre if centre.ndim == 4 else centre[:, :, None, :]
        bounds = score_space(centre_BHXC, self.count_C) + spread[..., : centre.shape[1], :, :]
        result: FloatArray = np.where(self.count_C, np.square(np.maximum(bounds, 0)), bounds)
        if centre.ndim == 4:
            result.sort(axis=2)
        return result.astype(np.float32, copy=False)

    def errors(self, actual_XC: FloatArray, made_XHC: FloatArray) -> FloatArray:
        """Errors of all forecasts of some rows, on the scale of the residuals: [..., H, C]; NaN where one is unknown."""
        return score_space(actual_XC, self.count_C)[..., None, :] - score_space(made_XHC, self.count_C)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the residual array, as JSON values."""
        return {
            "levels": list(self.levels),
            "n_windows": self.n_windows,
            "rate": self.rate,
            "until_us": dict(self.until),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], residuals_HQC: FloatArray, count_C: BoolArray) -> Self:
        """The inverse of ``to_dict``."""
        levels = tuple(value["levels"])
        return cls(residuals_HQC, levels, count_C, value["n_windows"], value["rate"], value["until_us"])


def score_space(values_XC: FloatArray, count_C: BoolArray) -> FloatArray:
    """The scale on which residuals are taken: square roots of counts, gauges as they are; any leading shape."""
    result: FloatArray = np.where(count_C, np.sqrt(np.maximum(values_XC, 0)), values_XC)
    return result


def _conformal_quantile(ordered: FloatArray, level: float) -> float:
    """The conformal quantile of n residuals in ascending order; the plain median for 0.5, and 0 of none."""
    n = len(ordered)
    if n == 0:
        return 0.0
    if level == 0.5:
        return float(np.median(ordered))
    rank = math.ceil((n + 1) * level) if level > 0.5 else math.floor((n + 1) * level)
    return float(ordered[min(max(rank - 1, 0), n - 1)])


@dataclass(eq=False)
class Tracks:
    """Residual quantiles that follow errors; X tracks, of any leading shape.

    Attributes:
        quantiles_XHQC: float64. Each moves on its own and may cross another, so sort a copy to read them.
        total_XHC: float64, sum of the absolute errors.
        count_XHC: int64, number of these errors.
        followed_X: int64, rows with a known error.
    """

    quantiles_XHQC: npt.NDArray[np.float64]
    total_XHC: npt.NDArray[np.float64]
    count_XHC: IntArray
    followed_X: IntArray

    @classmethod
    def begin(cls, residuals_HQC: FloatArray, *shape: int) -> Self:
        """Tracks of the given shape that begin at the residual quantiles of a calibration and follow no error yet."""
        quantiles_XHQC = np.tile(residuals_HQC.astype(np.float64), (*shape, 1, 1, 1))
        total_XHC = np.zeros((*shape, len(residuals_HQC), residuals_HQC.shape[2]))
        return cls(quantiles_XHQC, total_XHC, np.zeros_like(total_XHC, np.int64), np.zeros(shape, np.int64))

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The four arrays."""
        return self.quantiles_XHQC, self.total_XHC, self.count_XHC, self.followed_X

    def follow(self, errors_SXHC: FloatArray, levels: tuple[float, ...], rate: float) -> Iterator[Self]:
        """Move by S rows of errors, oldest first, and yield the tracks after each row.

        Args:
            errors_SXHC: Errors of at least one row, on the scale of the residuals; NaN moves nothing.
            levels: The Q levels, ascending.
            rate: How far one error moves a quantile, as a share of the scale.
        """
        known_SXHC = ~np.isnan(errors_SXHC)
        size_SXHC = np.where(known_SXHC, np.abs(errors_SXHC), 0).astype(np.float64)
        size_SXHC[0] += self.total_XHC  # so that any split of the rows adds in the same order, bit for bit
        total_SXHC = size_SXHC.cumsum(axis=0)
        count_SXHC = self.count_XHC + known_SXHC.cumsum(axis=0)
        followed_SX = self.followed_X + known_SXHC.any(axis=(-2, -1)).cumsum(axis=0)
        mean_SXHC, rate_SXHC = total_SXHC / np.maximum(count_SXHC, 1), rate * known_SXHC
        level_Q1 = np.array(levels)[:, None]
        low, high = (np.abs(level_Q1 - level).argmin() for level in (0.1, 0.9))
        for s, errors_XHC in enumerate(errors_SXHC):
            quantiles_XHQC = self.quantiles_XHQC
            width_XHC = quantiles_XHQC[..., high, :] - quantiles_XHQC[..., low, :]
            gain_XHC = rate_SXHC[s] * np.maximum(width_XHC, mean_SXHC[s])
            quantiles_XHQC += gain_XHC[..., None, :] * (
                level_Q1 - (errors_XHC[..., None, :] < quantiles_XHQC)
            )
            self.total_XHC, self.count_XHC, self.followed_X = total_SXHC[s], count_SXHC[s], followed_SX[s]
            yield self


def in_words(calibration: Calibration | None, followed_B: IntArray) -> str:
    """Say in a phrase what the intervals of B forecasts rest on."""
    if calibration is None:
        return "none: the model was never calibrated"
    least, most = int(followed_B.min()), int(followed_B.max())
    if most == 0:
        return "as calibrated in training"
    rows = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"calibrated in training, then following the errors of the last {rows} rows"
