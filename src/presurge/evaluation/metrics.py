"""Accuracy of forecasts, accumulated chunk by chunk: the memory does not depend on the number of windows.

Shapes: B windows, H horizon, C channels, Q quantiles.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import chunks

Float64Array = npt.NDArray[np.float64]
Scores = dict[str, Float64Array]
"""Metric -> float64 [H, C], or [I, C] of items; NaN where the metric is undefined."""

Totals = dict[str, Float64Array]
"""Name of a sum -> float64 [B, C], of every window over its horizon."""

INTERVALS = (50, 80, 95)
"""The intervals that are scored, in percent: 80 lies between the quantiles 0.1 and 0.9."""
METRICS = (
    *("wql", "wape", "mae", "mase", "rmse", "mse", "r2", "bias", "relative_bias", "pinball"),
    *(f"coverage_{percent}" for percent in INTERVALS),
    *(f"width_{percent}" for percent in INTERVALS),
)
ITEM_METRICS = ("wql", "wape", "mae", "mase", "rmse", "relative_bias", "coverage_80")
"""The metrics of each item of a panel."""
_ROUNDING = 4 * float(np.finfo(np.float32).eps)


class ScoreSums:
    """Running sums, float64, of everything that the metrics need, for each horizon step and channel.

    Args:
        horizon: H.
        levels: The Q quantile levels, ascending; empty for a model without intervals.
        scale_C: What one unit of MASE is, for each channel (``naive_scale``).
    """

    def __init__(self, horizon: int, levels: tuple[float, ...], scale_C: Float64Array) -> None:
        self.levels = levels
        self.scale_HC = np.tile(scale_C, (horizon, 1))
        self.pairs = {percent: pair for percent in INTERVALS if (pair := interval_bounds(percent, levels))}
        names = ["count", "size", "error", "absolute", "squared", "level", "spread"]
        names += ["pinball"] if levels else []
        names += [f"{name}_{percent}" for name in ("coverage", "width") for percent in self.pairs]
        self.sums_HC = {name: np.zeros(self.scale_HC.shape) for name in names}

    def add(
        self,
        actual_BHC: FloatArray,
        mean_BHC: FloatArray,
        median_BHC: FloatArray,
        quantiles_BHQC: FloatArray | None = None,
    ) -> Totals:
        """Take B windows in, and give their totals over the horizon by name; a target that is NaN is left out."""
        known = ~np.isnan(actual_BHC)
        actual = np.where(known, actual_BHC, 0).astype(np.float64)
        error = np.where(known, mean_BHC - actual, 0)
        cells = {
            "count": known,
            "size": np.abs(actual),
            "error": error,
            "absolute": np.abs(np.where(known, median_BHC - actual, 0)),
            "squared": np.square(error),
        }
        if quantiles_BHQC is not None:
            cells |= self._of_quantiles(actual, known, quantiles_BHQC)
        self._add_spread(actual, known)
        for name, cell_BHC in cells.items():
            self.sums_HC[name] += cell_BHC.sum(axis=0)
        return {name: cell_BHC.sum(axis=1, dtype=np.float64) for name, cell_BHC in cells.items()}

    def _of_quantiles(
        self, actual: Float64Array, known: npt.NDArray[np.bool_], quantiles_BHQC: FloatArray
    ) -> dict[str, npt.NDArray[Any]]:
        """Pinball loss of every target, whether it lies in the intervals that are scored, and their widths: [B, H, C]."""
        losses: Float64Array = np.zeros(actual.shape)
        for index, level in enumerate(self.levels):
            over = actual - quantiles_BHQC[:, :, index]
            losses += np.maximum(level * over, (level - 1) * over) / len(self.levels)
        cells = {"pinball": np.where(known, losses, 0)}
        for percent, (low, high) in self.pairs.items():
            lower, upper = quantiles_BHQC[:, :, low], quantiles_BHQC[:, :, high]
            # Bounds of counts are squares of roots: 6.9999995 has to cover 7.
            inside = known & (actual >= lower - _ROUNDING * np.abs(lower))
            cells[f"coverage_{percent}"] = inside & (actual <= upper + _ROUNDING * np.abs(upper))
            cells[f"width_{percent}"] = np.where(known, np.subtract(upper, lower, dtype=np.float64), 0)
        return cells

    def _add_spread(self, actual: Float64Array, known: npt.NDArray[np.bool_]) -> None:
        """Mean and squared spread of the actual values, merged as by Chan, Golub and LeVeque (1979)."""
        before, count = self.sums_HC["count"], known.sum(axis=0)
        mean = actual.sum(axis=0) / np.maximum(count, 1)
        shift = mean - self.sums_HC["level"]
        share = count / np.maximum(before + count, 1)
        away = np.where(known, actual - mean, 0)
        self.sums_HC["spread"] += np.square(away).sum(axis=0) + shift**2 * before * share
        self.sums_HC["level"] += shift * share

    def scores(self) -> Scores:
        """Every metric for each horizon step and channel: float64 [H, C], NaN where it is undefined."""
        # The spread of a constant is not exactly zero after rounding, but far below what float32 can tell apart.
        sums = self.sums_HC
        rounding = 1e-28 * sums["count"] * sums["level"] ** 2
        return _scores(
            sums | {"spread": np.where(sums["spread"] > rounding, sums["spread"], 0)}, self.scale_HC
        )


class ItemSums:
    """Running sums of the windows of every item over all horizon steps, whose memory does not depend on their number.

    Args:
        scale_IC: What one unit of MASE is, for each item and channel (``naive_scale``).
    """

    def __init__(self, scale_IC: Float64Array) -> None:
        self.scale_IC = scale_IC
        self.sums_IC: Totals = {}

    def add(self, item_B: IntArray, totals: Totals) -> None:
        """Add the totals of B windows to those of their items."""
        for name, total_BC in totals.items():
            np.add.at(self.sums_IC.setdefault(name, np.zeros(self.scale_IC.shape)), item_B, total_BC)

    def scores(self) -> Scores:
        """The metrics that ``ITEM_METRICS`` names, for each item and channel: float64 [I, C], NaN where undefined.

        The steps of the horizon are pooled: each metric is one ratio of sums over windows and steps.
        """
        scores = _scores(self.sums_IC, self.scale_IC)
        return {metric: scores[metric] for metric in ITEM_METRICS}


def _scores(sums: Totals, scale: Float64Array) -> Scores:
    """Every metric, from sums over windows; NaN where it is undefined or nothing was added up.

    Of the median: ``mae``; ``wape``, the sum of absolute errors over that of absolute actual values (undefined where all
    are zero); ``mase``, the MAE over ``naive_scale``. Of the mean: ``mse``, ``rmse``; ``r2``, undefined for actual values
    that do not vary; ``bias``, forecast minus actual, and ``relative_bias``, its sum over that of absolute actual
    values. Of the quantiles: ``pinball``, the mean over windows and levels; ``wql``, twice its sum over that of absolute
    actual values, averaged over the levels (Park et al., "Learning quantile functions without quantile crossing for
    distribution-free time series forecasting", 2022); coverages are shares from 0 to 1.
    """

    def ratio(above: str, below: str = "count") -> Float64Array:
        unknown = np.full(scale.shape, np.nan)
        return _ratio(sums.get(above, unknown), sums.get(below, unknown))

    scores = {
        "wql": 2 * ratio("pinball", "size"),
        "wape": ratio("absolute", "size"),
        "mae": ratio("absolute"),
        "mase": _ratio(ratio("absolute"), scale),
        "rmse": np.sqrt(ratio("squared")),
        "mse": ratio("squared"),
        "r2": 1 - ratio("squared", "spread"),
        "bias": ratio("error"),
        "relative_bias": ratio("error", "size"),
    }
    return scores | {metric: ratio(metric) for metric in METRICS if metric not in scores}


def naive_scale(panel: Panel, train: Span) -> tuple[Float64Array, Float64Array]:
    """The unit of MASE: mean absolute one-step difference of the training rows, of the C targets.

    Source: Hyndman and Koehler, "Another look at measures of forecast accuracy", 2006, with m = 1. Differences never
    cross items; a difference with a missing end is left out.

    Returns:
        float64 [C] of all items together, and [I, C] of each.
    """
    panel = panel.only_targets()
    total, count = np.zeros((2, len(panel.items), len(panel.channels)))
    pairs = np.concatenate([np.arange(a, b - 1) for a, b in zip(train.first, train.last, strict=True)])
    for rows in chunks(pairs):
        change = np.abs(panel.values[rows + 1].astype(np.float64) - panel.values[rows])
        known, item = np.isfinite(change), panel.items_of(rows)
        np.add.at(total, item, np.where(known, change, 0))
        np.add.at(count, item, known)
    return _ratio(total.sum(axis=0), count.sum(axis=0)), _ratio(total, count)


def interval_bounds(percent: int, levels: tuple[float, ...]) -> tuple[int, int] | None:
    """Where the two quantiles of an interval are among the levels; None where one is not there."""
    tail = (1 - percent / 100) / 2
    found = [np.flatnonzero(np.isclose(levels, level)) for level in (tail, 1 - tail)]
    return (int(found[0][0]), int(found[1][0])) if all(map(len, found)) else None


def _ratio(above: npt.NDArray[np.generic], below: npt.NDArray[np.generic]) -> Float64Array:
    """``above / below``, NaN where ``below`` is zero or unknown."""
    result = np.full(above.shape, np.nan)
    np.divide(above, below, out=result, where=below > 0)  # type: ignore[operator]
    return result
