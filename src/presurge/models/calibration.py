"""Split-conformal intervals: quantiles of past errors, laid around a point forecast.

Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018
(split conformal), with signed residuals so that an interval may be lopsided, one set per horizon step and channel.
``presurge.models.tracking`` lets them follow the errors that come later.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray

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
        rate: How fast the quantiles follow the errors of rows after the calibration; 0 keeps them as they are.
        until: Item -> time of the last row that shaped model or calibration, in microseconds since the Unix epoch. Only
            errors after it are followed; all errors, for an item that is not there.
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
        """Take the conformal quantiles of the errors of B forecasts; windows without an actual value are left out.

        With n residuals the upper level q takes the ``ceil((n + 1) q)``-th smallest, the lower level mirrored, which is
        what gives the finite-sample guarantee for exchangeable residuals.

        Args:
            actual_BHC: What came, original units; NaN where missing.
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
        """Quantiles of B forecasts: float32 [B, H, Q, C], ascending; H may be shorter than what was measured.

        Args:
            centre: Point forecasts [B, H, C] or learned quantiles [B, H, Q, C], original units, as in ``measure``.
            residuals_BHQC: Residual quantiles that followed later errors; those of the calibration where None.
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
