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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, IntArray

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
    count_C: npt.NDArray[np.bool_]
    n_windows: int
    rate: float = RATE
    until: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def measure(
        cls,
        actual_BHC: FloatArray,
        centre: FloatArray,
        count_C: npt.NDArray[np.bool_],
        levels: tuple[float, ...] = QUANTILE_LEVELS,
        *,
        until: Mapping[str, int] | None = None,
    ) -> "Calibration":
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

    def to_dict(self) -> dict[str, Any]:
        """Everything but the residual array, as JSON values."""
        return {
            "levels": list(self.levels),
            "n_windows": self.n_windows,
            "rate": self.rate,
            "until_us": dict(self.until),
        }

    @classmethod
    def from_dict(
        cls, value: dict[str, Any], residuals_HQC: FloatArray, count_C: npt.NDArray[np.bool_]
    ) -> "Calibration":
        """The inverse of ``to_dict``."""
        return cls(
            residuals_HQC,
            tuple(value["levels"]),
            count_C,
            value["n_windows"],
            rate=value["rate"],
            until=value["until_us"],
        )


def score_space(values_XC: FloatArray, count_C: npt.NDArray[np.bool_]) -> FloatArray:
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


class Pace(NamedTuple):
    """How far an error moves each level, and which two levels bound the 80 % interval."""

    level_Q1: npt.NDArray[np.float64]
    low: int
    high: int
    rate: float


def pace_of(levels: tuple[float, ...], rate: float) -> Pace:
    """The pace of some levels: ``rate`` is the share of the scale by which one error moves a quantile."""
    level_Q1 = np.array(levels)[:, None]
    low, high = (int(np.abs(level_Q1 - level).argmin()) for level in (0.1, 0.9))
    return Pace(level_Q1, low, high, rate)


def move(
    quantiles: npt.NDArray[np.float64], errors: FloatArray, size: npt.NDArray[np.float64], pace: Pace
) -> None:
    """Move quantiles [..., H, Q, C] in place by errors [..., H, C], whose mean absolute size so far is given."""
    width = quantiles[..., pace.high, :] - quantiles[..., pace.low, :]
    gain = pace.rate * np.maximum(width, size) * ~np.isnan(errors)
    below = errors[..., None, :] < quantiles
    quantiles += gain[..., None, :] * (pace.level_Q1 - below)


def track(
    residuals_HQC: FloatArray,
    errors_TSHC: FloatArray,
    track_B: IntArray,
    seen_B: IntArray,
    *,
    levels: tuple[float, ...],
    rate: float,
) -> FloatArray:
    """Residual quantiles after the first ``seen_B`` errors of each origin's track: float32 [B, H, Q, C], ascending in Q.

    Args:
        residuals_HQC: Where every track begins.
        errors_TSHC: Errors, oldest first, on the scale of the residuals; NaN moves nothing.
        track_B: The track of each origin.
        seen_B: How many of the S rows it knows, at least 1.
        levels: The Q levels, ascending.
        rate: How far one error moves a quantile, as a share of the scale.
    """
    known_TSHC = ~np.isnan(errors_TSHC)
    size_TSHC = np.where(known_TSHC, np.abs(errors_TSHC), 0).cumsum(axis=1, dtype=np.float64)
    size_TSHC /= np.maximum(known_TSHC.cumsum(axis=1), 1)
    state_THQC = np.repeat(residuals_HQC[None].astype(np.float64), len(errors_TSHC), axis=0)
    result = np.empty((len(track_B), *state_THQC.shape[1:]), np.float32)
    order, pace = np.argsort(seen_B, kind="stable"), pace_of(levels, rate)
    bounds = np.searchsorted(seen_B[order], np.arange(1, errors_TSHC.shape[1] + 2))
    for s in range(errors_TSHC.shape[1]):
        move(state_THQC, errors_TSHC[:, s], size_TSHC[:, s], pace)
        due = order[bounds[s] : bounds[s + 1]]
        if len(due):
            result[due] = state_THQC[track_B[due]]
    result.sort(axis=2)  # each quantile moves on its own and may have crossed another
    return result


def in_words(calibration: Calibration | None, followed_B: IntArray) -> str:
    """Say in a phrase what the intervals of B forecasts rest on."""
    if calibration is None:
        return "none: the model was never calibrated"
    least, most = int(followed_B.min()), int(followed_B.max())
    if most == 0:
        return "as calibrated in training"
    rows = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"calibrated in training, then following the errors of the last {rows} rows"
