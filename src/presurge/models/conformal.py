"""Split-conformal intervals: quantiles of past errors around a point forecast, which then follow later errors.

Residuals keep their sign, so an interval may be lopsided; each horizon step and channel has its own. Source: Lei, G'Sell,
Rinaldo, Tibshirani, Wasserman, "Distribution-Free Predictive Inference for Regression", 2018.

After the calibration, each known error moves the quantiles a little. A quantile of level q goes up by ``rate * q * scale`` if
the error lies above it and down by ``rate * (1 - q) * scale`` if it lies below, so that in the long run a share q of the errors
lies below it, whatever the series does. An error counts as soon as its target is known: the quantiles of horizon step h at
an origin rest on forecasts made at least h rows before it. The scale is the present width of the 80 % interval, or the mean
absolute error so far if that is larger, so an interval opens and closes by a share of itself, however far the load has moved.

The time of an origin alone decides which errors it follows: those of its block of ``BLOCK`` rows, counted from the Unix epoch,
and of the block before. So a forecast from a history that reaches back that far has the same intervals as a backtest, and a
service that observes one row at a time needs the state of two tracks only.

Sources: Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021; Angelopoulos, Candès and
Tibshirani, "Conformal PID control for time series prediction", 2023 (quantile tracking).

Shapes: B windows, L context, H horizon, C target channels, N all channels, Q quantiles, T tracks (origins that follow the same
errors), S rows of a track, I items.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.windows import IntArray, WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster, Prediction

RATE = 0.03
"""Speed at which intervals follow later errors. On the series of benchmarks/accuracy.py 0.02 to 0.04 do equally well."""
BLOCK = 500
"""Rows of a block: an origin follows the errors of the last 501 to 1,000 rows."""
_VALUES_AT_ONCE = 1 << 21


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


class Tracked(NamedTuple):
    """Point forecasts of B windows, their quantiles, and how many rows' errors the quantiles follow (0: none)."""

    mean_BHC: FloatArray
    quantiles_BHQC: FloatArray | None
    followed_B: IntArray
    levels: tuple[float, ...] = ()


class IntervalTracker:
    """Forecasts with the intervals that each origin could know: over a panel at once, or row by row as they arrive.

    Args:
        predict: Forecasts B windows; quantiles that a model learned are calibrated, but follow no errors.
        panel: Exactly the model's channels.
        calibration: Of the model, or None.
        context: L.
        horizon: H.
    """

    def __init__(
        self,
        predict: "Callable[[WindowBatch], Prediction]",
        panel: Panel,
        calibration: Calibration | None,
        *,
        context: int,
        horizon: int,
    ) -> None:
        self._predict, self._panel, self._calibration = predict, panel, calibration
        self._context, self._horizon = context, horizon
        self._origins = np.array([-1])  # of no forecast: every search finds something
        self._means = np.full((1, horizon, len(panel.targets)), np.nan, np.float32)
        self._live: _Live | None = None

    @classmethod
    def of(cls, model: "Forecaster", panel: Panel) -> Self:
        """The tracker of a fitted model over a panel that holds its channels."""
        view = model.fitted_spec().view(panel)
        return cls(model.predict, view, model.calibration, context=model.context, horizon=model.horizon)

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from origins with complete contexts, ascending within a call and from one call to the next.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, if they were gathered already.
        """
        if batch is None:
            batch = batch_of(self._panel, origins_B, self._context, self._horizon)
        mean_BHC, quantiles_BHQC, levels = self._predict(batch)
        calibration = self._calibration
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
        length_T = np.zeros(len(first_T), np.int64)
        np.maximum.at(length_T, track_B, seen_B)
        self._make(self._needed(first_T, length_T), origins_B, mean_BHC)
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

    def observe(
        self,
        actual_IN: FloatArray,
        *,
        times_I: IntArray | None = None,
        future_IHK: FloatArray | None = None,
    ) -> Tracked:
        """Add the next row of every item and forecast from it, in constant time.

        The first call starts after the last rows of the panel and needs the forecasts of up to two blocks before them.
        The intervals are those that ``predict`` gives for the longer panel, if the same forecasts are made.

        Args:
            actual_IN: The row, of all channels; NaN where missing. While the context has a missing value, the model's own
                answer to it is returned, and no error of that forecast is ever followed.
            times_I: Time of the row in microseconds; one step after the last where None.
            future_IHK: The known channels of the H rows after it.
        """
        live = self._live = self._live or self._start()
        step, calibration = self._panel.step, self._calibration
        now_I = live.time_IL[:, -1] + step if times_I is None else times_I
        if calibration is not None and calibration.rate > 0:
            until_I = self._until(calibration, np.arange(len(now_I)))
            live.follow(actual_IN[:, self._panel.targets], now_I, until_I, calibration, BLOCK * step)
        live.context_ILN = np.concatenate((live.context_ILN[:, 1:], actual_IN[:, None]), axis=1)
        live.time_IL = np.concatenate((live.time_IL[:, 1:], now_I[:, None]), axis=1)
        ahead_IH = now_I[:, None] + step * np.arange(1, self._horizon + 1)
        mean_IHC, quantiles_IHQC, levels = self._predict(
            WindowBatch(
                context_BLC=live.context_ILN,
                item_B=np.arange(len(now_I)),
                origin_B=now_I,
                step=step,
                items=self._panel.items,
                channels=self._panel.channels,
                future_BHK=future_IHK,
                features_BF=self._panel.features if self._panel.feature_names else None,
                time_BW=None if self._panel.stamps is None else np.hstack((live.time_IL, ahead_IH)),
            )
        )
        holes_I: npt.NDArray[np.bool_] = np.any(np.isnan(live.context_ILN), axis=(1, 2))
        if future_IHK is not None:
            holes_I |= np.isnan(future_IHK).any(axis=(1, 2))
        made_IHC = np.where(holes_I[:, None, None], np.float32(np.nan), mean_IHC)
        live.means_IAHC = np.concatenate((made_IHC[:, None], live.means_IAHC[:, :-1]), axis=1)
        followed_I = np.zeros(len(now_I), np.int64)
        if calibration is None:
            return Tracked(mean_IHC, quantiles_IHQC, followed_I, levels)
        if quantiles_IHQC is not None:
            return Tracked(mean_IHC, calibration.quantiles(quantiles_IHQC), followed_I, calibration.levels)
        residuals_IHQC = np.sort(live.quantiles_IXHQC[:, 0].astype(np.float32), axis=2)
        quantiles_IHQC = calibration.quantiles(mean_IHC, residuals_IHQC)
        return Tracked(mean_IHC, quantiles_IHQC, live.followed_IX[:, 0].copy(), calibration.levels)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that ``observe`` needs to go on, as arrays."""
        live = self._live = self._live or self._start()
        return {name: array.copy() for name, array in vars(live).items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state of the same model and items, whatever rows the panel holds."""
        self._live = _Live(**{name: array.copy() for name, array in state.items()})

    def _start(self) -> "_Live":
        """The state after the last rows of the panel."""
        panel, horizon, calibration = self._panel, self._horizon, self._calibration
        items, last_I = np.arange(len(panel.items)), panel.indptr[1:] - 1
        row_IL = last_I[:, None] + np.arange(1 - self._context, 1)
        context_ILN = panel.values[row_IL.clip(min=0)]
        context_ILN[row_IL < panel.indptr[:-1, None]] = np.nan
        made_IA = last_I[:, None] - np.arange(horizon)
        kept_IA = made_IA >= self._earliest(last_I)[:, None]
        first_T, length_T = np.zeros((2, 0), np.int64)
        residuals_HQC = np.zeros((horizon, 0, len(panel.targets)))
        if calibration is not None:
            residuals_HQC = calibration.residuals_HQC.astype(np.float64)
            pairs = [self._first_targets(calibration, last_I, items, blocks=blocks) for blocks in (1, 0)]
            first_T = np.stack(pairs, axis=1).reshape(-1)
            length_T = np.maximum(np.repeat(last_I, 2) - first_T + 1, 0)
        self._make(np.union1d(self._needed(first_T, length_T), made_IA[kept_IA]))
        place_IA, known_IA = self._places(made_IA)
        means_IAHC = self._means[place_IA]
        means_IAHC[~(known_IA & kept_IA)] = np.nan
        live = _Live(
            time_IL=panel.times_of(last_I)[:, None] + panel.step * np.arange(1 - self._context, 1),
            context_ILN=context_ILN,
            means_IAHC=means_IAHC,
            quantiles_IXHQC=np.tile(residuals_HQC, (len(items), 2, 1, 1, 1)),
            total_IXHC=np.zeros((len(items), 2, *means_IAHC.shape[2:])),
            count_IXHC=np.zeros((len(items), 2, *means_IAHC.shape[2:]), np.int64),
            followed_IX=np.zeros((len(items), 2), np.int64),
        )
        if panel.stamps is not None:
            live.time_IL = panel.times_of(np.maximum(row_IL, panel.indptr[:-1, None]))
        if calibration is not None and calibration.rate > 0 and length_T.any():
            errors_TSHC = self._errors(calibration, first_T, length_T, slice(None))
            for errors_THC in errors_TSHC.swapaxes(0, 1):
                live.move(errors_THC.reshape(live.total_IXHC.shape), calibration)
        return live

    def _until(self, calibration: Calibration, items: IntArray) -> IntArray:
        """Time of the last row of each item that model or calibration learned from."""
        never = np.iinfo(np.int64).min // 2
        return np.array([calibration.until.get(self._panel.items[item], never) for item in items], np.int64)

    def _first_targets(
        self, calibration: Calibration, origins_B: IntArray, item_B: IntArray, *, blocks: int = 1
    ) -> IntArray:
        """The first row whose errors each origin follows, so many blocks before its own; after the origin if there is none."""
        panel = self._panel
        items, place_B = np.unique(item_B, return_inverse=True)
        fresh = panel.rows_after(items, self._until(calibration, items))
        fresh = np.maximum(fresh, panel.indptr[items] + self._context)
        block = BLOCK * panel.step
        edge_B = (panel.times_of(origins_B) // block - blocks) * block
        result: IntArray = np.maximum(fresh[place_B], panel.rows_after(item_B, edge_B - 1))
        return result

    def _channel_groups(self, rows: int) -> Iterator[slice]:
        """The channels in groups whose errors fit into memory."""
        _, horizon, channels = self._means.shape
        most = max(1, _VALUES_AT_ONCE // (rows * horizon))
        return (slice(begin, begin + most) for begin in range(0, channels, most))

    def _earliest(self, row_T: IntArray) -> IntArray:
        """The earliest origin in the item of each row."""
        earliest: IntArray = self._panel.indptr[self._panel.items_of(row_T)] + self._context - 1
        return earliest

    def _needed(self, first_T: IntArray, length_T: IntArray) -> IntArray:
        """The origins of the forecasts whose errors the tracks hold."""
        begin_T, end_T = np.maximum(first_T - self._horizon, self._earliest(first_T)), first_T + length_T - 1
        ranges = [np.arange(a, b) for a, b, n in zip(begin_T, end_T, length_T, strict=True) if n]
        return np.unique(np.concatenate([np.zeros(0, np.int64), *ranges]))

    def _make(
        self, needed: IntArray, origins_B: IntArray | None = None, mean_BHC: FloatArray | None = None
    ) -> None:
        """Keep the forecasts that are needed and those just made; make those that are missing."""
        context, horizon = self._context, self._horizon
        kept = np.isin(self._origins, [-1, *needed])
        origins, means = [self._origins[kept]], [self._means[kept]]
        if origins_B is not None and mean_BHC is not None:
            again = np.isin(origins[0], origins_B)
            origins, means = [origins[0][~again], origins_B], [means[0][~again], mean_BHC]
        absent = np.setdiff1d(needed, np.concatenate(origins), assume_unique=True)
        absent = absent[whole(self._panel, absent, context=context, horizon=horizon)]
        size = max(1, _VALUES_AT_ONCE // (context * len(self._panel.channels)))
        for part in chunks(absent, size):
            origins.append(part)
            means.append(self._predict(batch_of(self._panel, part, context, horizon)).mean_BHC)
        found = np.concatenate(origins)
        order = np.argsort(found, kind="stable")
        self._origins, self._means = found[order], np.concatenate(means)[order]

    def _places(self, origin: IntArray) -> tuple[IntArray, npt.NDArray[np.bool_]]:
        """Where the forecasts of some origins are kept, and whether they are."""
        place = np.searchsorted(self._origins, origin).clip(max=len(self._origins) - 1)
        return place, self._origins[place] == origin

    def _errors(
        self, calibration: Calibration, first_T: IntArray, length_T: IntArray, group: slice
    ) -> FloatArray:
        """Errors of every step of each track, by the row of the target: float32 [T, S, H, C], NaN where unknown."""
        horizon = self._horizon
        row_TS = first_T[:, None] + np.arange(length_T.max())
        origin_TSH = row_TS[:, :, None] - np.arange(1, horizon + 1)
        place_TSH, known_TSH = self._places(origin_TSH)
        known_TSH &= origin_TSH >= self._earliest(first_T)[:, None, None]
        known_TSH &= (np.arange(row_TS.shape[1]) < length_T[:, None])[:, :, None]
        actual_TSC = self._panel.values[row_TS.clip(max=len(self._panel) - 1)][
            :, :, self._panel.targets[group]
        ]
        mean_TSHC = self._means[place_TSH, np.arange(horizon), group]
        count_C = calibration.count_C[group]
        errors = score_space(actual_TSC, count_C)[:, :, None] - score_space(mean_TSHC, count_C)
        errors[~known_TSH] = np.nan
        return errors


@dataclass(eq=False)
class _Live:
    """What a tracker knows after the last row of every item.

    Each item follows two tracks, X: the one in use, which began with the block before, and the one of this block, which the
    next block will use.

    Attributes:
        time_IL: int64, times of the rows of the context.
        context_ILN: float32.
        means_IAHC: float32, the forecasts of the last A = H origins, newest first; NaN where none was made.
        quantiles_IXHQC: float64, residual quantiles.
        total_IXHC: float64, sum of the absolute errors of the track.
        count_IXHC: int64, their number.
        followed_IX: int64, rows with a known error.
    """

    time_IL: IntArray
    context_ILN: FloatArray
    means_IAHC: FloatArray
    quantiles_IXHQC: npt.NDArray[np.float64]
    total_IXHC: npt.NDArray[np.float64]
    count_IXHC: IntArray
    followed_IX: IntArray

    def follow(
        self, actual_IC: FloatArray, now_I: IntArray, until_I: IntArray, calibration: Calibration, block: int
    ) -> None:
        """Take in the errors that the next row of every item reveals; a new block begins a new track."""
        turned_I = now_I // block - self.time_IL[:, -1] // block
        start = {"quantiles_IXHQC": calibration.residuals_HQC}
        for name in ("quantiles_IXHQC", "total_IXHC", "count_IXHC", "followed_IX") if turned_I.any() else ():
            array = getattr(self, name)
            array[turned_I > 0, 0] = array[turned_I > 0, 1]
            array[turned_I > 0, 1] = array[turned_I > 1, 0] = start.get(name, 0)
        steps = np.arange(self.means_IAHC.shape[2])
        made_IHC = self.means_IAHC[:, steps, steps]  # step h was forecast h rows before
        errors_IHC = score_space(actual_IC, calibration.count_C)[:, None] - score_space(
            made_IHC, calibration.count_C
        )
        errors_IHC[now_I <= until_I] = np.nan
        self.move(np.repeat(errors_IHC[:, None], 2, axis=1), calibration)

    def move(self, errors_IXHC: FloatArray, calibration: Calibration) -> None:
        """Move the quantiles of every track by one row of errors."""
        known_IXHC = ~np.isnan(errors_IXHC)
        self.total_IXHC += np.where(known_IXHC, np.abs(errors_IXHC), 0)
        self.count_IXHC += known_IXHC
        self.followed_IX += known_IXHC.any(axis=(2, 3))
        size_IXHC = self.total_IXHC / np.maximum(self.count_IXHC, 1)
        _move(self.quantiles_IXHQC, errors_IXHC, size_IXHC, _pace(calibration.levels, calibration.rate))


class _Pace(NamedTuple):
    """How far an error moves each level, and which two levels bound the 80 % interval."""

    level_Q1: npt.NDArray[np.float64]
    low: int
    high: int
    rate: float


def _pace(levels: tuple[float, ...], rate: float) -> _Pace:
    level_Q1 = np.array(levels)[:, None]
    low, high = (int(np.abs(level_Q1 - level).argmin()) for level in (0.1, 0.9))
    return _Pace(level_Q1, low, high, rate)


def _move(
    quantiles: npt.NDArray[np.float64], errors: FloatArray, size: npt.NDArray[np.float64], pace: _Pace
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
    order, pace = np.argsort(seen_B, kind="stable"), _pace(levels, rate)
    bounds = np.searchsorted(seen_B[order], np.arange(1, errors_TSHC.shape[1] + 2))
    for s in range(errors_TSHC.shape[1]):
        _move(state_THQC, errors_TSHC[:, s], size_TSHC[:, s], pace)
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
