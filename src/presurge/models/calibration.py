"""Split-conformal intervals: quantiles of past errors, laid around a point forecast.

Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018
(split conformal), with signed residuals so that an interval may be lopsided, one set per horizon step and channel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray


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
    """

    residuals_HQC: FloatArray
    levels: tuple[float, ...]
    count_C: npt.NDArray[np.bool_]
    n_windows: int

    @classmethod
    def measure(
        cls,
        actual_BHC: FloatArray,
        mean_BHC: FloatArray,
        count_C: npt.NDArray[np.bool_],
        levels: tuple[float, ...] = QUANTILE_LEVELS,
    ) -> "Calibration":
        """Take the conformal quantiles of the errors of B forecasts; windows without an actual value are left out.

        With n residuals the upper level q takes the ``ceil((n + 1) q)``-th smallest, the lower level mirrored, which is
        what gives the finite-sample guarantee for exchangeable residuals.
        """
        residual_BHC = _score_space(actual_BHC, count_C) - _score_space(mean_BHC, count_C)
        _, horizon, channels = residual_BHC.shape
        residuals = np.zeros((horizon, len(levels), channels), np.float32)
        for h in range(horizon):
            for c in range(channels):
                known = np.sort(residual_BHC[~np.isnan(residual_BHC[:, h, c]), h, c])
                residuals[h, :, c] = _conformal_quantiles(known, levels)
        return cls(residuals, levels, count_C, len(actual_BHC))

    def quantiles(self, mean_BHC: FloatArray) -> FloatArray:
        """Quantiles around B point forecasts: float32 [B, H, Q, C]; H may be shorter than what was measured."""
        centre = _score_space(mean_BHC, self.count_C)[:, :, None, :]
        spread = centre + self.residuals_HQC[: mean_BHC.shape[1]]
        squared = np.square(np.maximum(spread, 0))
        result: FloatArray = np.where(self.count_C, squared, spread).astype(np.float32)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Everything but the residual array, as JSON values."""
        return {"levels": list(self.levels), "n_windows": self.n_windows}


def _score_space(values_BHC: FloatArray, count_C: npt.NDArray[np.bool_]) -> FloatArray:
    result: FloatArray = np.where(count_C, np.sqrt(np.maximum(values_BHC, 0)), values_BHC)
    return result


def _conformal_quantiles(ordered: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    n = len(ordered)
    if n == 0:
        return np.zeros(len(levels), np.float32)
    level = np.array(levels)
    upper = np.ceil((n + 1) * level) - 1
    lower = np.floor((n + 1) * level) - 1
    middle = (n - 1) * 0.5
    rank = np.where(level > 0.5, upper, np.where(level < 0.5, lower, middle)).clip(0, n - 1)
    below, above = ordered[np.floor(rank).astype(int)], ordered[np.ceil(rank).astype(int)]
    result: FloatArray = ((below + above) / 2).astype(np.float32)
    return result
