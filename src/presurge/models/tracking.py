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
from presurge.series.panel import FloatArray, Panel
from presurge.series.windows import IntArray, WindowBatch, batch_of, chunks, whole

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
        move(self.quantiles_IXHQC, errors_IXHC, size_IXHC, pace_of(calibration.levels, calibration.rate))
