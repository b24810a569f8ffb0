"""Split-conformal calibration: what the errors of past forecasts say about the mean and the quantiles around a point.

Quantiles are those of the residuals, which keep their sign, so an interval may be lopsided; each horizon step and channel has
its own. Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018.
The mean is the point and the mean of its errors, in original units, where that differs from zero by more than chance.
Later errors move all of them (``models/following.py``).

Shapes: B windows, H horizon, C target channels, Q quantiles, K groups of residuals: those of all windows together, then those
of each item with enough windows of its own; Z centres: the points and, from a model that learned them, its quantiles.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]
TAIL_RATE, CENTRE_RATE, MEAN_WEIGHT = 0.03, 0.01, 1 / 120
"""How fast quantiles and means follow later errors where no errors were there to choose by."""
OWN_WINDOWS = 100
"""Windows that an item needs for residuals of its own: with 99 of them the level 0.99 is the largest."""
FEW_WINDOWS = 50
"""With fewer windows quantiles are those of a distribution around the points: the ranks of a few errors say little."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Residual quantiles and mean errors of a validation part, and how fast they follow the errors of later rows.

    Residuals of counts are taken between square roots, so that an interval grows with the load and never falls below
    zero; residuals of gauges are taken in original units. Of a calibration that knows peaks the channels are there twice:
    as they are, and as their running maxima over the horizon.

    Attributes:
        residuals_KHQC: float32, the residual quantiles.
        levels: The Q levels, ascending.
        count_C: bool, which channels count.
        n_windows: How many windows it was measured on.
        bias_KHC: float32, mean error of the points in original units, 0 where it may be chance.
        rates_HQC: float32, how fast each quantile follows later errors; all 0 keeps them fixed.
        weight_C: float32, the weight of one later error in the mean of the errors.
        until: Item -> time of the last row that model or calibration learned from, in microseconds since the Unix epoch.
            Only later errors are followed; of an item that is not listed, all errors.
        items: Item with residuals of its own -> how many windows they rest on, in the order of the groups after the first.
    """

    residuals_KHQC: FloatArray
    levels: tuple[float, ...]
    count_C: BoolArray
    n_windows: int
    bias_KHC: FloatArray
    rates_HQC: FloatArray
    weight_C: FloatArray
    until: Mapping[str, int] = field(default_factory=dict)
    items: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def measure(
        cls,
        actual_BHC: FloatArray,
        centre: FloatArray,
        count_C: BoolArray,
        levels: tuple[float, ...] = QUANTILE_LEVELS,
        *,
        until: Mapping[str, int] | None = None,
        item_B: Sequence[str] | None = None,
    ) -> Self:
        """Take the conformal quantiles and the mean of the errors of B forecasts; missing actual values are left out.

        Of n residuals an upper level q takes the ``ceil((n + 1) q)``-th smallest, and a lower level mirrors it. That gives
        the finite-sample guarantee for exchangeable residuals. Fewer than ``FEW_WINDOWS`` residuals around points give the
        quantiles of a distribution instead.

        Args:
            actual_BHC: Actual values in original units; NaN where missing.
            centre: Points [B, H, C], or points and learned quantiles [B, H, 1 + Q, C], which are then corrected level by
                level (Romano, Patterson, Candès, "Conformalized Quantile Regression", 2019).
            count_C: Which channels count.
            levels: The Q levels, ascending.
            until: Item -> time of the last row that the model learned from, in microseconds.
            item_B: The item of each window, if there are several; one with ``OWN_WINDOWS`` gets residuals of its own.
        """
        centre_BHZC = centre if centre.ndim == 4 else centre[:, :, None, :]
        _, horizon, _, channels = centre_BHZC.shape
        counts = Counter(item_B or ())
        items = {name: n for name, n in sorted(counts.items()) if n >= OWN_WINDOWS and len(counts) > 1}
        residuals = np.zeros((1 + len(items), horizon, len(levels), channels), np.float32)
        bias = np.zeros((1 + len(items), horizon, channels), np.float32)
        for k, name in enumerate((None, *items)):
            chosen = slice(None) if name is None else np.asarray(item_B) == name
            actual, made = actual_BHC[chosen], centre_BHZC[chosen]
            apart_BHZC = errors_of(actual[:, :, None, :], made, count_C)
            own_BHZC = apart_BHZC[:, :, min(1, made.shape[2] - 1) :]
            if len(own_BHZC) < FEW_WINDOWS and own_BHZC.shape[2] == 1:
                residuals[k] = student_quantiles(own_BHZC[:, :, 0], levels)
            else:
                residuals[k] = conformal_quantiles(own_BHZC, levels)
            if 0.5 in levels:
                q = levels.index(0.5)
                own_BHC = own_BHZC[:, :, min(q, own_BHZC.shape[2] - 1)]
                residuals[k, :, q] = _beyond_chance(residuals[k, :, q], own_BHC, math.pi / 2)
            error_BHC = actual - made[:, :, 0]
            bias[k] = _beyond_chance(_mean(error_BHC), error_BHC, 1)
        rates = default_rates(horizon, levels, channels)
        weight = np.full(channels, MEAN_WEIGHT, np.float32)
        return cls(
            residuals, levels, count_C, len(actual_BHC), bias, rates, weight, until=until or {}, items=items
        )

    def groups_of(self, items: Sequence[str]) -> IntArray:
        """Which group of residuals each item has: its own, or 0."""
        place = {name: k for k, name in enumerate(self.items, start=1)}
        return np.array([place.get(item, 0) for item in items], np.int64)

    def support_of(self, items: Sequence[str]) -> int:
        """How many windows the residuals of every one of some items rest on at least."""
        return min(self.items.get(item, self.n_windows) for item in items)

    @property
    def follows(self) -> bool:
        """Whether later errors move anything."""
        return bool(self.rates_HQC.any())

    def first_channels(self, channels: int) -> Self:
        """The calibration of the first channels: without the peaks."""
        names = ("residuals_KHQC", "count_C", "bias_KHC", "rates_HQC", "weight_C")
        return replace(self, **{name: getattr(self, name)[..., :channels] for name in names})

    def quantiles(self, centre_BHZC: FloatArray, residuals_BHQC: FloatArray) -> FloatArray:
        """Quantiles of B forecasts: float32 [B, H, Q, C], ascending; any leading shape.

        Args:
            centre_BHZC: Points, or points and learned quantiles, in original units.
            residuals_BHQC: Residual quantiles.
        """
        learned = int(centre_BHZC.shape[-2] > 1)
        bounds = score_space(centre_BHZC[..., learned:, :], self.count_C) + residuals_BHQC
        bounds = _ordered(bounds, is_tail(self.levels), sum(level < 0.5 for level in self.levels))
        result: FloatArray = np.where(self.count_C, np.square(np.maximum(bounds, 0)), bounds)
        return result.astype(np.float32, copy=False)

    def means(self, point_BHC: FloatArray, bias_BHC: FloatArray) -> FloatArray:
        """Conditional means of B forecasts: float32 [B, H, C], never negative for counts."""
        floor_C = np.where(self.count_C, 0.0, -np.inf)
        means: FloatArray = np.maximum(point_BHC + bias_BHC, floor_C).astype(np.float32)
        return means

    def arrays(self) -> dict[str, FloatArray]:
        """What ``from_dict`` needs besides JSON values."""
        return {
            "residuals": self.residuals_KHQC,
            "bias": self.bias_KHC,
            "rates": self.rates_HQC,
            "weight": self.weight_C,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        return {
            "levels": list(self.levels),
            "n_windows": self.n_windows,
            "until_us": dict(self.until),
            "items": dict(self.items),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], arrays: Mapping[str, FloatArray], count_C: BoolArray) -> Self:
        """The inverse of ``to_dict`` and ``arrays``.

        A calibration of version 0.1 has residuals [H, Q, C] and one rate, and knows neither mean errors nor peaks.
        """
        levels, residuals = tuple(value["levels"]), arrays["residuals"]
        if residuals.ndim == 3:
            horizon, _, channels = residuals.shape
            residuals = residuals[None]
            arrays = {
                "bias": np.zeros((1, horizon, channels), np.float32),
                "rates": np.full(residuals.shape[1:], value["rate"], np.float32),
                "weight": np.full(channels, MEAN_WEIGHT if value["rate"] else 0, np.float32),
            }
        repeats = residuals.shape[3] // max(1, len(count_C))
        return cls(
            residuals,
            levels,
            np.tile(count_C, repeats),
            value["n_windows"],
            arrays["bias"],
            arrays["rates"],
            arrays["weight"],
            value["until_us"],
            value.get("items", {}),
        )


def default_rates(horizon: int, levels: tuple[float, ...], channels: int) -> FloatArray:
    """float32 [H, Q, C]: tails follow fast; the quantiles between them slowly, and the slower the farther ahead."""
    tail_Q = is_tail(levels)
    slow_H = CENTRE_RATE / np.sqrt(np.arange(1, horizon + 1))
    rate_HQ = np.where(tail_Q, TAIL_RATE, slow_H[:, None])
    return np.repeat(rate_HQ[:, :, None], channels, axis=2).astype(np.float32)


def is_tail(levels: tuple[float, ...]) -> BoolArray:
    """bool [Q], the levels at or beyond the ends of the 80 % interval."""
    tails: BoolArray = np.abs(np.array(levels) - 0.5) > 0.39
    return tails


def _ordered(bounds_XQC: FloatArray, tail_Q: BoolArray, n_lower: int) -> FloatArray:
    """Quantiles, ascending: the tails follow errors faster than those between them, which are kept within the tails."""
    low = int(tail_Q[:n_lower].sum())
    tails, centre = (np.sort(bounds_XQC[..., part, :], axis=-2) for part in (tail_Q, ~tail_Q))
    if low:
        centre = np.maximum(centre, tails[..., low - 1 : low, :])
    if low < tails.shape[-2]:
        centre = np.minimum(centre, tails[..., low : low + 1, :])
    return np.concatenate((tails[..., :low, :], centre, tails[..., low:, :]), axis=-2)


def score_space(values_XC: FloatArray, count_C: BoolArray) -> FloatArray:
    """The scale on which residuals are taken: square roots of counts, gauges as they are; any leading shape."""
    result: FloatArray = np.where(count_C, np.sqrt(np.maximum(values_XC, 0)), values_XC)
    return result


def errors_of(actual_XC: FloatArray, made_XC: FloatArray, count_C: BoolArray) -> FloatArray:
    """Errors of forecasts on the scale of the residuals; NaN where one is unknown."""
    return score_space(actual_XC, count_C) - score_space(made_XC, count_C)


def with_peaks(values_BHxC: FloatArray) -> FloatArray:
    """The values and, as further channels, the largest of the first h steps, for each h: [B, H, ..., 2 C]."""
    return np.concatenate((values_BHxC, np.maximum.accumulate(values_BHxC, axis=1)), axis=-1)


def conformal_quantiles(residual_BHZC: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """Conformal quantiles [H, Q, C] of residuals around one centre or one for each level; 0 of none.

    The quantile 0.5 is the plain median.
    """
    ordered_BHZC = np.sort(residual_BHZC, axis=0)  # NaN last
    windows, horizon, _, channels = ordered_BHZC.shape
    ordered_BHQC = np.broadcast_to(ordered_BHZC, (windows, horizon, len(levels), channels))
    n_HQC, level_Q1 = (~np.isnan(ordered_BHQC)).sum(axis=0), np.array(levels)[:, None]
    if not windows:
        return np.zeros(n_HQC.shape, np.float32)
    exact_HQC = (n_HQC + 1) * level_Q1
    rank_HQC = np.where(level_Q1 > 0.5, np.ceil(exact_HQC), np.floor(exact_HQC))
    sides_HQC = [np.where(level_Q1 == 0.5, middle, rank_HQC) for middle in ((n_HQC + 1) // 2, n_HQC // 2 + 1)]
    places_HQC = [(side_HQC.clip(1, np.maximum(n_HQC, 1)) - 1).astype(np.int64) for side_HQC in sides_HQC]
    low, high = (np.take_along_axis(ordered_BHQC, place[None], axis=0)[0] for place in places_HQC)
    result: FloatArray = np.where(n_HQC > 0, (low + high) / 2, 0).astype(np.float32)
    return result


def student_quantiles(residual_BHC: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """Quantiles [H, Q, C] of Student's t distribution with the spread of a few residuals; 0 of none.

    Its centre is 0, or the mean of the residuals if that is three standard errors away. It has as many degrees of freedom as
    residuals are independent, of the h that overlap one, but at least four. Source of the expansion in normal quantiles:
    Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, formula 26.7.5.
    """
    n_HC = (~np.isnan(residual_BHC)).sum(axis=0)
    centre_HC = _beyond_chance(_mean(residual_BHC), residual_BHC, 4.5)
    size_HC = np.sqrt(_mean(np.square(residual_BHC - centre_HC)))
    free_H1C = np.maximum(n_HC / np.arange(1, len(n_HC) + 1)[:, None], 4)[:, None]
    z_Q1 = np.array([NormalDist().inv_cdf(level) for level in levels])[:, None]
    first_HQC = (z_Q1**3 + z_Q1) / (4 * free_H1C)
    second_HQC = (5 * z_Q1**5 + 16 * z_Q1**3 + 3 * z_Q1) / (96 * free_H1C**2)
    quantiles_HQC: FloatArray = centre_HC[:, None] + size_HC[:, None] * (z_Q1 + first_HQC + second_HQC)
    return quantiles_HQC.astype(np.float32)


def _mean(error_BHC: FloatArray) -> FloatArray:
    """The mean of the known errors [H, C]; 0 of none."""
    total_HC = np.nansum(error_BHC, axis=0, dtype=np.float64)
    mean_HC: FloatArray = total_HC / np.maximum((~np.isnan(error_BHC)).sum(axis=0), 1)
    return mean_HC


def _beyond_chance(offset_HC: FloatArray, error_BHC: FloatArray, variance: float) -> FloatArray:
    """The mean or median of some errors; 0 for a channel where it is no larger than chance makes it.

    Errors of windows that overlap in h rows are worth an h-th of as many independent ones. An offset is kept where its
    square, summed over the steps, exceeds twice its variance: then it reduces the squared error of later forecasts (the
    rule of Akaike's criterion for one parameter).

    Args:
        offset_HC: The mean or median.
        error_BHC: The errors; NaN where one is unknown.
        variance: Of the offset of n independent errors, times n, where that of an error is 1: for a median pi / 2.
    """
    n_HC = (~np.isnan(error_BHC)).sum(axis=0)
    away_BHC = np.nan_to_num(error_BHC - _mean(error_BHC))
    spread_HC = variance * np.square(away_BHC).sum(axis=0) / np.maximum(n_HC - 1, 1)
    independent_HC = np.maximum(n_HC / np.arange(1, len(n_HC) + 1)[:, None], 1)
    kept_C = np.square(offset_HC).sum(axis=0) > 2 * (spread_HC / independent_HC).sum(axis=0)
    return np.where(kept_C, offset_HC, 0).astype(np.float32)


def at_levels(
    quantiles_BHQC: FloatArray, levels: tuple[float, ...], wanted: tuple[float, ...], count_C: BoolArray
) -> FloatArray:
    """Quantiles of other levels: the calibrated ones as they are, others interpolated or extrapolated.

    Between two calibrated levels a quantile is linear in the normal score of its level, as if the distribution were a
    normal one there; beyond the last level it goes on with the slope of the last two. Counts are not negative.
    """
    if {*wanted} <= {*levels}:
        return quantiles_BHQC[:, :, [levels.index(level) for level in wanted]]
    scores, targets = (np.array([NormalDist().inv_cdf(q) for q in some]) for some in (levels, wanted))
    above = np.searchsorted(scores, targets).clip(1, max(1, len(scores) - 1))
    below = above - 1
    share = (targets - scores[below]) / (scores[above] - scores[below])
    low, high = quantiles_BHQC[:, :, below], quantiles_BHQC[:, :, above]
    share_QC = share[:, None]
    result = low * (1 - share_QC) + high * share_QC
    found: FloatArray = np.maximum(result, np.where(count_C, 0, -np.inf)).astype(np.float32)
    return found


def supported(levels: tuple[float, ...], n_windows: int) -> tuple[float, float]:
    """The smallest and the largest level that levels calibrated on n residuals support: ``(n + 1) min(q, 1 - q) >= 1``."""
    least = 1 / (n_windows + 1)
    return max(levels[0], least), min(levels[-1], 1 - least)


@lru_cache
def extrapolated(levels: tuple[float, ...], calibrated: tuple[float, ...], n_windows: int) -> str:
    """Say in a phrase which of some levels lie beyond what levels calibrated on n residuals support; empty if none does."""
    low, high = supported(calibrated, n_windows)
    names = ", ".join(f"{level:g}" for level in levels if not low - 1e-9 <= level <= high + 1e-9)
    reach = f"calibrated on {n_windows:,} windows from {low:.2g} to {high:.4g}"
    return f"extrapolated quantiles: {names} ({reach})" if names else ""


def in_words(calibration: Calibration | None, followed_B: Sequence[int]) -> str:
    """Say in a phrase what the intervals of B forecasts rest on."""
    if calibration is None:
        return "none: the model was never calibrated"
    least, most = min(followed_B), max(followed_B)
    if most == 0:
        return "as calibrated in training"
    rows = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"calibrated in training, then following the errors of the last {rows} rows"
