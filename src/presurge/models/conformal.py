"""Split-conformal intervals: quantiles of past errors, laid around a point forecast.

Source: Lei, G'Sell, Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018
(split conformal), with signed residuals so that an interval may be lopsided, one set per horizon step and channel.

Intervals that follow the errors: from the calibrated quantiles on, each known error moves them a little.

A quantile of level q goes up by ``rate * q * scale`` when the error lies above it and down by ``rate * (1 - q) * scale`` when
it lies below, so that in the long run a share q of the errors lies below it, whatever the series does. An error enters
when its target is known, not before: the quantiles of horizon step h at an origin rest on forecasts made h rows or more before
it. The scale is the present width of the 80 % interval, or the mean absolute error so far where that is larger: an interval
then opens and closes by a share of itself, however far the load has moved.

What an origin follows is fixed by its time alone: the errors of its block of ``BLOCK`` rows, counted from the Unix epoch, and
of the block before it. So a forecast from a history that reaches back that far has the very intervals of a backtest.

Sources: Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021; Angelopoulos, Candès and
Tibshirani, "Conformal PID control for time series prediction", 2023 (quantile tracking).

Shapes: B windows, H horizon, C channels, Q quantiles, T tracks (origins that follow the same errors), S rows of a track.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.windows import IntArray, WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster

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


BLOCK = 500
"""Rows of a block: an origin follows the errors of the last 501 to 1,000 rows."""
_VALUES_AT_ONCE = 1 << 21


class Tracked(NamedTuple):
    """Point forecasts of B windows, their quantiles, and how many rows' errors the quantiles follow (0: none)."""

    mean_BHC: FloatArray
    quantiles_BHQC: FloatArray | None
    followed_B: IntArray
    levels: tuple[float, ...] = ()


class IntervalTracker:
    """Forecasts over a panel with the intervals that each origin could know.

    Args:
        forecaster: A fitted model; quantiles that it learned are calibrated, but follow nothing.
        panel: Holds the model's channels.
    """

    def __init__(self, forecaster: "Forecaster", panel: Panel) -> None:
        spec = forecaster.fitted_spec()
        self._forecaster, self._panel = forecaster, spec.view(panel)
        self._origins = np.zeros(0, np.int64)
        self._means = np.zeros((0, forecaster.horizon, len(spec.targets)), np.float32)

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from some origins with complete contexts: ascending, and from one call to the next as well.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, where they were gathered already.
        """
        forecaster = self._forecaster
        if batch is None:
            batch = batch_of(self._panel, origins_B, forecaster.context, forecaster.horizon)
        mean_BHC, quantiles_BHQC, levels = forecaster.predict(batch)
        calibration = forecaster.calibration
        followed_B = np.zeros(len(origins_B), np.int64)
        if calibration is None:
            return Tracked(mean_BHC, quantiles_BHQC, followed_B, levels)
        if quantiles_BHQC is not None:
            return Tracked(mean_BHC, calibration.quantiles(quantiles_BHQC), followed_B, calibration.levels)
        first_B = self._first_targets(calibration, origins_B, batch.item_B)
        late = origins_B >= first_B
        if calibration.rate == 0 or not late.any():
            return Tracked(mean_BHC, calibration.quantiles(mean_BHC), followed_B, calibration.levels)
        first_T, track_B = np.unique(first_B[late], return_inverse=True)
        seen_B = origins_B[late] - first_B[late] + 1
        length_T = _largest(seen_B, track_B)
        self._remember(first_T, length_T, origins_B, mean_BHC)
        residuals_BHQC = np.repeat(calibration.residuals_HQC[None], len(origins_B), axis=0)
        known_TS = np.zeros((len(first_T), length_T.max()), np.bool_)
        for group in self._channel_groups(known_TS.size):
            errors_TSHC = self._errors(calibration, first_T, length_T, group)
            known_TS |= (~np.isnan(errors_TSHC)).any(axis=(2, 3))
            residuals_BHQC[late, :, :, group] = track(
                calibration.residuals_HQC[:, :, group],
                errors_TSHC,
                track_B,
                seen_B,
                levels=calibration.levels,
                rate=calibration.rate,
            )
        followed_B[late] = known_TS.cumsum(axis=1)[track_B, seen_B - 1]
        quantiles_BHQC = calibration.quantiles(mean_BHC, residuals_BHQC)
        return Tracked(mean_BHC, quantiles_BHQC, followed_B, calibration.levels)

    def predict_last(self, origins: IntArray) -> Tracked:
        """Forecast from the last known row of every item, of many items in pieces to bound the memory."""
        _, horizon, channels = self._means.shape
        most = max(1, _VALUES_AT_ONCE // (2 * BLOCK * horizon * channels))
        parts = [self.predict(part) for part in chunks(origins, most)]
        if len(parts) == 1:
            return parts[0]
        means, quantiles, followed, levels = zip(*parts, strict=True)
        known = [part for part in quantiles if part is not None]
        return Tracked(
            np.concatenate(means),
            np.concatenate(known) if known else None,
            np.concatenate(followed),
            levels[0],
        )

    def _first_targets(self, calibration: Calibration, origins_B: IntArray, item_B: IntArray) -> IntArray:
        """The first row whose errors each origin follows; behind the origin where there is none yet."""
        panel = self._panel
        items, place_B = np.unique(item_B, return_inverse=True)
        before = np.iinfo(np.int64).min // 2
        until = np.array([calibration.until.get(panel.items[item], before) for item in items])
        fresh = np.maximum(panel.rows_after(items, until), panel.indptr[items] + self._forecaster.context)
        block = BLOCK * panel.step
        edge_B = (panel.times_of(origins_B) // block - 1) * block
        result: IntArray = np.maximum(fresh[place_B], panel.rows_after(item_B, edge_B - 1))
        return result

    def _channel_groups(self, rows: int) -> Iterator[slice]:
        """The channels in groups whose errors fit into memory."""
        _, horizon, channels = self._means.shape
        most = max(1, _VALUES_AT_ONCE // (rows * horizon))
        return (slice(begin, begin + most) for begin in range(0, channels, most))

    def _earliest(self, row_T: IntArray) -> IntArray:
        """The earliest origin in the item of each row."""
        item_T = np.searchsorted(self._panel.indptr, row_T, side="right") - 1
        earliest: IntArray = self._panel.indptr[item_T] + self._forecaster.context - 1
        return earliest

    def _remember(
        self, first_T: IntArray, length_T: IntArray, origins_B: IntArray, mean_BHC: FloatArray
    ) -> None:
        """Keep the forecasts that the tracks need and those just asked for; make those that are not there yet."""
        context, horizon = self._forecaster.context, self._forecaster.horizon
        begin_T, end_T = np.maximum(first_T - horizon, self._earliest(first_T)), first_T + length_T - 1
        needed = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(begin_T, end_T, strict=True)]))
        kept = np.isin(self._origins, needed) & ~np.isin(self._origins, origins_B)
        origins = [self._origins[kept], origins_B]
        means = [self._means[kept], mean_BHC]
        absent = np.setdiff1d(needed, np.concatenate(origins), assume_unique=True)
        absent = absent[whole(self._panel, absent, context=context, horizon=horizon)]
        size = max(1, _VALUES_AT_ONCE // (context * len(self._panel.channels)))
        for part in chunks(absent, size):
            origins.append(part)
            means.append(self._forecaster.predict(batch_of(self._panel, part, context, horizon)).mean_BHC)
        found = np.concatenate(origins)
        order = np.argsort(found, kind="stable")
        self._origins, self._means = found[order], np.concatenate(means)[order]

    def _errors(
        self, calibration: Calibration, first_T: IntArray, length_T: IntArray, group: slice
    ) -> FloatArray:
        """Errors of every step of each track, by the row of the target: float32 [T, S, H, C], NaN where unknown."""
        horizon = self._forecaster.horizon
        row_TS = first_T[:, None] + np.arange(length_T.max())
        origin_TSH = row_TS[:, :, None] - np.arange(1, horizon + 1)
        place_TSH = np.searchsorted(self._origins, origin_TSH).clip(max=len(self._origins) - 1)
        known_TSH = self._origins[place_TSH] == origin_TSH
        known_TSH &= origin_TSH >= self._earliest(first_T)[:, None, None]
        known_TSH &= (np.arange(row_TS.shape[1]) < length_T[:, None])[:, :, None]
        columns = self._panel.targets[group]
        actual_TSC = self._panel.values[row_TS.clip(max=len(self._panel) - 1)][:, :, columns]
        mean_TSHC = self._means[place_TSH, np.arange(horizon), group]
        count_C = calibration.count_C[group]
        errors = score_space(actual_TSC, count_C)[:, :, None] - score_space(mean_TSHC, count_C)
        errors[~known_TSH] = np.nan
        return errors


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
    level_Q1 = np.array(levels)[:, None]
    low, high = (int(np.abs(level_Q1 - level).argmin()) for level in (0.1, 0.9))
    known_TSHC = ~np.isnan(errors_TSHC)
    size_TSHC = np.where(known_TSHC, np.abs(errors_TSHC), 0).cumsum(axis=1, dtype=np.float64)
    size_TSHC /= np.maximum(known_TSHC.cumsum(axis=1), 1)
    state_THQC = np.repeat(residuals_HQC[None].astype(np.float64), len(errors_TSHC), axis=0)
    result = np.empty((len(track_B), *state_THQC.shape[1:]), np.float32)
    order = np.argsort(seen_B, kind="stable")
    bounds = np.searchsorted(seen_B[order], np.arange(1, errors_TSHC.shape[1] + 2))
    for s in range(errors_TSHC.shape[1]):
        width_THC = state_THQC[:, :, high] - state_THQC[:, :, low]
        gain_THC = rate * np.maximum(width_THC, size_TSHC[:, s]) * known_TSHC[:, s]
        below = errors_TSHC[:, s, :, None] < state_THQC
        state_THQC += gain_THC[:, :, None] * (level_Q1 - below)
        due = order[bounds[s] : bounds[s + 1]]
        if len(due):
            result[due] = state_THQC[track_B[due]]
    result.sort(axis=2)  # each quantile moves on its own and may have crossed another
    return result


def in_words(calibration: Calibration | None, followed_B: IntArray) -> str:
    """What the intervals of B forecasts rest on, as a phrase."""
    if calibration is None:
        return "none: the model was never calibrated"
    least, most = int(followed_B.min()), int(followed_B.max())
    if most == 0:
        return "as calibrated in training"
    rows = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"calibrated in training, then following the errors of the last {rows} rows"


def _largest(values_B: IntArray, group_B: IntArray) -> IntArray:
    largest = np.zeros(group_B.max() + 1, np.int64)
    np.maximum.at(largest, group_B, values_B)
    return largest
