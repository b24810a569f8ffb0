"""Forecasts with the intervals that each origin could know, over a whole panel or row by row as it arrives.

The time of an origin alone decides which errors its intervals follow: those of its block of ``BLOCK`` rows, counted from the
Unix epoch, and of the block before. So a forecast from a history that reaches back that far has the same intervals as a
backtest, and a service that observes one row at a time needs the state of two tracks only.

Shapes: B windows, L context, H horizon, C target channels, N all channels, Q quantiles, T tracks (origins that follow the same
errors), S rows of a track, I items.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from presurge.models import plugins
from presurge.models.conformal import Calibration, move, pace_of, score_space, track
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.windows import WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster, Prediction

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
        return cls(
            partial(plugins.predict, model),
            view,
            model.calibration,
            context=model.context,
            horizon=model.horizon,
        )

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from origins with complete contexts, ascending within a call and from one call to the next.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, if they were gathered already.
        """
        if batch is None:
            batch = batch_of(self._panel, origins_B, self._context, self._horizon)
        made, calibration = self._predict(batch), self._calibration
        followed_B = np.zeros(len(origins_B), np.int64)
        if calibration is None or made.quantiles_BHQC is not None or calibration.rate == 0:
            return self._tracked(made, None, followed_B)
        first_B = self._first_targets(calibration, origins_B, batch.item_B)
        late = origins_B >= first_B
        if not late.any():
            return self._tracked(made, None, followed_B)
        first_T, track_B = np.unique(first_B[late], return_inverse=True)
        seen_B = origins_B[late] - first_B[late] + 1
        length_T = np.zeros(len(first_T), np.int64)
        np.maximum.at(length_T, track_B, seen_B)
        self._make(self._needed(first_T, length_T), origins_B, made.mean_BHC)
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
        return self._tracked(made, residuals_BHQC, followed_B)

    def _tracked(
        self, made: "Prediction", residuals_BHQC: FloatArray | None, followed_B: IntArray
    ) -> Tracked:
        """Forecasts with calibrated quantiles, around the points or of those that the model learned."""
        calibration = self._calibration
        if calibration is None:
            return Tracked(made.mean_BHC, made.quantiles_BHQC, followed_B, made.levels)
        if made.quantiles_BHQC is None:
            quantiles_BHQC = calibration.quantiles(made.mean_BHC, residuals_BHQC)
        else:
            quantiles_BHQC = calibration.quantiles(made.quantiles_BHQC)
        return Tracked(made.mean_BHC, quantiles_BHQC, followed_B, calibration.levels)

    def predict_last(self, origins: IntArray) -> Tracked:
        """Forecast from the last known row of every item, of many items in pieces to bound the memory."""
        _, horizon, channels = self._means.shape
        most = max(1, _VALUES_AT_ONCE // (2 * BLOCK * horizon * channels))
        parts = [self.predict(part) for part in chunks(origins, most)]
        if len(parts) == 1:
            return parts[0]
        columns = list(zip(*parts, strict=True))[:3]
        mean, quantiles, followed = (None if c[0] is None else np.concatenate(c) for c in columns)
        return Tracked(mean, quantiles, followed, parts[0].levels)  # type: ignore[arg-type]

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
        panel = self._panel
        now_I = live.time_IL[:, -1] + panel.step if times_I is None else times_I
        self._reveal(live, actual_IN, now_I)
        ahead_IH = now_I[:, None] + panel.step * np.arange(1, self._horizon + 1)
        made = self._predict(
            WindowBatch(
                context_BLC=live.context_ILN,
                item_B=np.arange(len(now_I)),
                origin_B=now_I,
                step=panel.step,
                items=panel.items,
                channels=panel.channels,
                future_BHK=future_IHK,
                features_BF=panel.features if panel.feature_names else None,
                time_BW=None if panel.stamps is None else np.hstack((live.time_IL, ahead_IH)),
            )
        )
        gaps_I: npt.NDArray[np.bool_] = np.any(np.isnan(live.context_ILN), axis=(1, 2))
        if future_IHK is not None:
            gaps_I |= np.isnan(future_IHK).any(axis=(1, 2))
        live.means_IAHC = _pushed(np.where(gaps_I[:, None, None], np.nan, made.mean_BHC), live.means_IAHC)
        learned = self._calibration is None or made.quantiles_BHQC is not None
        residuals_IHQC = np.sort(live.quantiles_IXHQC[:, 0].astype(np.float32), axis=2)
        return self._tracked(made, residuals_IHQC, live.followed_IX[:, 0] * (not learned))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that ``observe`` needs to go on, as arrays."""
        live = self._live = self._live or self._start()
        return {name: array.copy() for name, array in vars(live).items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state of the same model and items, whatever rows the panel holds."""
        self._live = _Live(**{name: array.copy() for name, array in state.items()})

    def _start(self) -> "_Live":
        """The state after the last rows of the panel: the rows of two blocks, observed with forecasts made in bulk."""
        panel, context, horizon = self._panel, self._context, self._horizon
        rows, begin_I1 = max(2 * BLOCK + horizon, context), panel.indptr[:-1, None]
        row_IS = panel.indptr[1:, None] + np.arange(-rows, 0)
        actual_ISN = panel.values[np.maximum(row_IS, begin_I1)]
        actual_ISN[row_IS < begin_I1] = np.nan
        time_IS = panel.times_of(np.maximum(row_IS, begin_I1))
        possible_IS = row_IS >= begin_I1 + context - 1
        self._make(row_IS[possible_IS])
        place_IS, made_IS = self._places(row_IS)
        items, channels = len(panel.items), len(panel.targets)
        quantiles_HQC = (
            np.zeros((horizon, 0, channels)) if self._calibration is None else self._calibration.residuals_HQC
        )
        live = _Live(
            time_IL=np.repeat(time_IS[:, :1], context, axis=1),
            context_ILN=np.full((items, context, len(panel.channels)), np.nan, np.float32),
            means_IAHC=np.full((items, horizon, horizon, channels), np.nan, np.float32),
            quantiles_IXHQC=np.tile(quantiles_HQC.astype(np.float64), (items, 2, 1, 1, 1)),
            total_IXHC=np.zeros((items, 2, horizon, channels)),
            count_IXHC=np.zeros((items, 2, horizon, channels), np.int64),
            followed_IX=np.zeros((items, 2), np.int64),
        )
        for s, known_I in enumerate((possible_IS & made_IS).T):
            self._reveal(live, actual_ISN[:, s], time_IS[:, s])
            mean_IHC = np.where(known_I[:, None, None], self._means[place_IS[:, s]], np.nan)
            live.means_IAHC = _pushed(mean_IHC, live.means_IAHC)
        return live

    def _reveal(self, live: "_Live", actual_IN: FloatArray, now_I: IntArray) -> None:
        """Take in the next row of every item and the errors that it reveals; a new block begins a new track."""
        calibration, block = self._calibration, BLOCK * self._panel.step
        if calibration is not None and calibration.rate > 0:
            live.turn(now_I // block - live.time_IL[:, -1] // block, calibration)
            steps = np.arange(self._horizon)
            made_IHC = live.means_IAHC[:, steps, steps]  # step h was forecast h rows before
            actual_IC, count_C = actual_IN[:, self._panel.targets], calibration.count_C
            errors_IHC = score_space(actual_IC, count_C)[:, None] - score_space(made_IHC, count_C)
            errors_IHC[now_I <= self._until(calibration, np.arange(len(now_I)))] = np.nan
            live.move(np.repeat(errors_IHC[:, None], 2, axis=1), calibration)
        live.context_ILN = np.concatenate((live.context_ILN[:, 1:], actual_IN[:, None]), axis=1)
        live.time_IL = np.concatenate((live.time_IL[:, 1:], now_I[:, None]), axis=1)

    def _until(self, calibration: Calibration, items: IntArray) -> IntArray:
        """Time of the last row of each item that model or calibration learned from."""
        never = np.iinfo(np.int64).min // 2
        return np.array([calibration.until.get(self._panel.items[item], never) for item in items], np.int64)

    def _first_targets(self, calibration: Calibration, origins_B: IntArray, item_B: IntArray) -> IntArray:
        """The first row whose errors each origin follows; after the origin if there is none."""
        panel = self._panel
        items, place_B = np.unique(item_B, return_inverse=True)
        fresh = panel.rows_after(items, self._until(calibration, items))
        fresh = np.maximum(fresh, panel.indptr[items] + self._context)
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
        earliest: IntArray = self._panel.indptr[self._panel.items_of(row_T)] + self._context - 1
        return earliest

    def _needed(self, first_T: IntArray, length_T: IntArray) -> IntArray:
        """The origins of the forecasts whose errors the tracks hold."""
        begin_T, end_T = np.maximum(first_T - self._horizon, self._earliest(first_T)), first_T + length_T - 1
        return np.unique(np.concatenate([np.arange(a, b) for a, b in zip(begin_T, end_T, strict=True)]))

    def _make(
        self, needed: IntArray, origins_B: IntArray | None = None, mean_BHC: FloatArray | None = None
    ) -> None:
        """Keep the forecasts that are needed and those just made; make those that are missing."""
        context, horizon = self._context, self._horizon
        kept = np.isin(self._origins, np.append(needed, -1))
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

    def turn(self, blocks_I: IntArray, calibration: Calibration) -> None:
        """Go on by some blocks: the younger track takes over from the older one, and a new one begins."""
        turned_I = blocks_I > 0
        for name in ("quantiles_IXHQC", "total_IXHC", "count_IXHC", "followed_IX") if turned_I.any() else ():
            array, start = getattr(self, name), calibration.residuals_HQC if name == "quantiles_IXHQC" else 0
            array[turned_I, 0] = array[turned_I, 1]
            array[turned_I, 1] = array[blocks_I > 1, 0] = start

    def move(self, errors_IXHC: FloatArray, calibration: Calibration) -> None:
        """Move the quantiles of every track by one row of errors."""
        known_IXHC = ~np.isnan(errors_IXHC)
        self.total_IXHC += np.where(known_IXHC, np.abs(errors_IXHC), 0)
        self.count_IXHC += known_IXHC
        self.followed_IX += known_IXHC.any(axis=(2, 3))
        size_IXHC = self.total_IXHC / np.maximum(self.count_IXHC, 1)
        move(self.quantiles_IXHQC, errors_IXHC, size_IXHC, pace_of(calibration.levels, calibration.rate))


def _pushed(mean_IHC: npt.NDArray[Any], means_IAHC: FloatArray) -> FloatArray:
    """The forecasts of the last A origins, newest first, after one more."""
    return np.concatenate((mean_IHC[:, None].astype(np.float32), means_IAHC[:, :-1]), axis=1)
