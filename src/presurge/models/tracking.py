"""Forecasts with the means and intervals that each origin could know, over a whole panel or row by row as it arrives.

The time of an origin alone decides which errors they follow: those of its block of ``BLOCK`` rows, counted from the
Unix epoch, and of the block before. So a forecast from a history that reaches back that far is the same as in a
backtest, and a service that observes one row at a time needs the state of two tracks only.

Shapes: B windows, L context, H horizon, C target channels, N all channels, Q quantiles, T tracks (origins that follow the same
errors), S rows of a track, I items, Z centres (the points and, from a model that learned them, its quantiles). With peaks,
the channels of centres and calibrations are there twice, as they are and as their running maxima over the horizon.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from presurge.models import plugins
from presurge.models.conformal import Calibration, with_peaks
from presurge.models.following import BLOCK, Tracks
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.windows import WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster, Prediction

_VALUES_AT_ONCE = 1 << 21


class Tracked(NamedTuple):
    """Means, medians and quantiles of B windows, and how many rows' errors they follow (0: none).

    Of a model that was never calibrated, mean and median are its point forecast. ``peak`` is the same for the largest of the
    first h steps, for each h: joint over the steps, so no smaller than any of them.
    """

    mean_BHC: FloatArray
    median_BHC: FloatArray
    quantiles_BHQC: FloatArray | None
    followed_B: IntArray
    levels: tuple[float, ...] = ()
    peak: Any = None  # a Tracked; the API reference cannot resolve that name in a named tuple


@dataclass(eq=False)
class _Live(Tracks):
    """What a tracker knows after the last row of every item.

    The tracks have the shape [2, I]: of each item the one in use, which began with the block before, and the one of this
    block, which the next block will use.

    Attributes:
        time_IL: int64, times of the rows of the context.
        context_ILN: float32.
        tops_IHC: float32, the largest of the last h rows for each h; only with peaks.
        centres_IAHZC: float32, the forecasts of the last A = H origins, newest first; NaN where none was made.
    """

    time_IL: IntArray
    context_ILN: FloatArray
    tops_IHC: FloatArray
    centres_IAHZC: FloatArray


class IntervalTracker:
    """Forecasts with the means and intervals that each origin could know: over a panel at once, or row by row.

    Args:
        predict: Forecasts B windows.
        panel: Exactly the model's channels.
        calibration: Of the model, or None.
        context: L.
        horizon: H.
        peaks: Whether to forecast the running maxima too, if the calibration knows them.
    """

    def __init__(
        self,
        predict: "Callable[[WindowBatch], Prediction]",
        panel: Panel,
        calibration: Calibration | None,
        *,
        context: int,
        horizon: int,
        peaks: bool = False,
    ) -> None:
        channels = len(panel.targets)
        self._predict, self._panel, self._context, self._horizon = predict, panel, context, horizon
        if calibration is None:
            none, flags_C = np.zeros((1, horizon, 0, channels), np.float32), np.zeros(channels, np.bool_)
            calibration = Calibration(
                none, (), flags_C, 0, none.sum(axis=2), none[0], none[0, 0, :0].sum(axis=0)
            )
        self._peaks = peaks and len(calibration.count_C) > channels
        self._calibration = calibration if self._peaks else calibration.first_channels(channels)
        self._group_I = calibration.groups_of(panel.items)
        until = calibration.until
        self._until_I = np.array([until.get(item, -(1 << 62)) for item in panel.items], np.int64)
        # The forecasts that are kept, by origin. The first one is NaN and stands for those that are not.
        self._origins = np.array([-1])
        self._centres = np.full((1, horizon, 1, len(self._calibration.count_C)), np.nan, np.float32)
        self._live: _Live | None = None

    @classmethod
    def of(cls, model: "Forecaster", panel: Panel, *, peaks: bool = False) -> Self:
        """The tracker of a fitted model over a panel that holds its channels."""
        predict, view = partial(plugins.predict, model), model.fitted_spec().view(panel)
        return cls(
            predict, view, model.calibration, context=model.context, horizon=model.horizon, peaks=peaks
        )

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from origins with complete contexts, ascending within a call and from one call to the next.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, if they were gathered already.
        """
        if batch is None:
            batch = batch_of(self._panel, origins_B, self._context, self._horizon)
        made = self._predict(batch)
        centre_BHZC = self._centre(made)
        if not self._calibration.follows:
            return self._calibrated(made, centre_BHZC, *self._begun(batch.item_B))
        return self._calibrated(made, centre_BHZC, *self._follow(batch.item_B, origins_B, centre_BHZC))

    def observe(
        self, actual_IN: FloatArray, *, times_I: IntArray | None = None, future_IHK: FloatArray | None = None
    ) -> Tracked:
        """Add the next row of every item and forecast from it, in constant time.

        The first call starts after the last rows of the panel and needs the forecasts of up to two blocks before them.
        Means and intervals are those that ``predict`` gives for the longer panel, if the same forecasts are made.

        Args:
            actual_IN: The row, of all channels; NaN where missing. While the context has a missing value, the model's own
                answer to it is returned, and no error of that forecast is ever followed.
            times_I: Time of the row in microseconds; one step after the last where None.
            future_IHK: The known channels of the H rows after it.
        """
        live = self._live = self._live or self._start()
        panel = self._panel
        now_I = live.time_IL[:, -1] + panel.step if times_I is None else times_I
        if self._calibration.follows:
            self._reveal(live, actual_IN, now_I)
        live.context_ILN = np.concatenate((live.context_ILN[:, 1:], actual_IN[:, None]), axis=1)
        live.time_IL = np.concatenate((live.time_IL[:, 1:], now_I[:, None]), axis=1)
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
        centre_IHZC = self._centre(made)
        kept_IHZC = np.where(gaps_I[:, None, None, None], np.float32(np.nan), centre_IHZC)
        if live.centres_IAHZC.shape[3] != centre_IHZC.shape[2]:  # nothing was forecast yet
            live.centres_IAHZC = np.repeat(live.centres_IAHZC, centre_IHZC.shape[2], axis=3)
        live.centres_IAHZC = np.concatenate((kept_IHZC[:, None], live.centres_IAHZC[:, :-1]), axis=1)
        residuals_IHQC = live.quantiles_XHQC[0].astype(np.float32)
        bias_IHC, followed_I = live.bias_XHC[0].astype(np.float32), live.followed_X[0].copy()
        return self._calibrated(made, centre_IHZC, residuals_IHQC, bias_IHC, followed_I)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that ``observe`` needs to go on, as arrays."""
        live = self._live = self._live or self._start()
        return {name: array.copy() for name, array in vars(live).items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state of the same model and items, whatever rows the panel holds."""
        self._live = _Live(**{name: array.copy() for name, array in state.items()})

    def _centre(self, made: "Prediction") -> FloatArray:
        """What errors are taken from: [B, H, Z, C]."""
        centre_BHZC = made.point_BHC[:, :, None]
        if made.quantiles_BHQC is not None:
            centre_BHZC = np.concatenate((centre_BHZC, made.quantiles_BHQC), axis=2)
        if len(self._origins) == 1:
            self._centres = np.repeat(self._centres[:, :, :1], centre_BHZC.shape[2], axis=2)
        return with_peaks(centre_BHZC) if self._peaks else centre_BHZC

    def _calibrated(
        self,
        made: "Prediction",
        centre_BHZC: FloatArray,
        residuals_BHQC: FloatArray,
        bias_BHC: FloatArray,
        followed_B: IntArray,
    ) -> Tracked:
        """Forecasts with means and quantiles around the points, or with those that the model learned, corrected."""
        calibration, levels = self._calibration, self._calibration.levels
        if not levels:
            return Tracked(made.point_BHC, _median(*made), made.quantiles_BHQC, followed_B, made.levels)
        quantiles_BHQC = calibration.quantiles(centre_BHZC, residuals_BHQC)
        mean_BHC = calibration.means(centre_BHZC[:, :, 0], bias_BHC)
        median_BHC = _median(centre_BHZC[:, :, 0], quantiles_BHQC, levels)
        if not self._peaks:
            return Tracked(mean_BHC, median_BHC, quantiles_BHQC, followed_B, levels)
        channels = len(calibration.count_C) // 2
        mean_BHC, median_BHC = mean_BHC[..., :channels], median_BHC[..., :channels]
        quantiles_BHQC, top_BHQC = quantiles_BHQC[..., :channels], quantiles_BHQC[..., channels:]
        top_BHQC = np.maximum.accumulate(np.maximum(top_BHQC, quantiles_BHQC), axis=1)
        top_BHC = _top_mean(mean_BHC, quantiles_BHQC, top_BHQC, calibration)
        peak_BHC = _median(top_BHC, top_BHQC, levels)
        peak = Tracked(top_BHC, peak_BHC, top_BHQC, followed_B, levels)
        return Tracked(mean_BHC, median_BHC, quantiles_BHQC, followed_B, levels, peak)

    def _begun(self, item_B: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
        """Residual quantiles [B, H, Q, C] and mean errors [B, H, C] as calibrated; they follow the errors of no row."""
        calibration, group_B = self._calibration, self._group_I[item_B]
        return (
            calibration.residuals_KHQC[group_B],
            calibration.bias_KHC[group_B],
            np.zeros(len(item_B), np.int64),
        )

    def _follow(
        self, item_B: IntArray, origins_B: IntArray, centre_BHZC: FloatArray
    ) -> tuple[FloatArray, FloatArray, IntArray]:
        """Residual quantiles [B, H, Q, C] and mean errors [B, H, C] at each origin, and how many rows' errors they follow."""
        residuals_BHQC, bias_BHC, followed_B = self._begun(item_B)
        first_B = self._first_targets(item_B, origins_B)
        late = np.flatnonzero(origins_B >= first_B)
        begins = np.unique(first_B[late], return_index=True)[1]
        for part in np.split(late, begins[:: self._tracks_at_once()])[1:]:
            first_T, begin_T, track_B = np.unique(first_B[part], return_index=True, return_inverse=True)
            last_T = origins_B[part[np.append(begin_T[1:], len(part)) - 1]]
            rows = self._tracks(item_B[part[begin_T]], first_T, last_T, origins_B[part], centre_BHZC[part])
            seen_B = origins_B[part] - first_B[part] + 1
            order = np.argsort(seen_B, kind="stable")
            due_S = np.split(order, np.searchsorted(seen_B[order], np.arange(1, seen_B.max() + 1)))
            for tracks, due in zip(rows, due_S, strict=True):
                if len(due):
                    residuals_BHQC[part[due]] = tracks.quantiles_XHQC[track_B[due]]
                    bias_BHC[part[due]] = tracks.bias_XHC[track_B[due]]
                    followed_B[part[due]] = tracks.followed_X[track_B[due]]
        return residuals_BHQC, bias_BHC, followed_B

    def _start(self) -> _Live:
        """The state after the last rows of the panel."""
        panel, calibration, horizon = self._panel, self._calibration, self._horizon
        begin_I1, last_I = panel.indptr[:-1, None], panel.indptr[1:] - 1
        row_IL = last_I[:, None] + np.arange(1 - self._context, 1)
        context_ILN = panel.values[np.maximum(row_IL, begin_I1)]
        context_ILN[row_IL < begin_I1] = np.nan
        items = np.arange(len(panel.items))
        recent_IH = last_I[:, None] - np.arange(horizon if self._peaks else 0)
        tops_IHC = np.maximum.accumulate(self._targets(recent_IH), axis=1)
        tops_IHC[recent_IH < begin_I1] = np.nan
        live = _Live(
            **vars(Tracks.begin(calibration, np.tile(self._group_I, (2, 1)))),
            time_IL=panel.times_of(np.maximum(row_IL, begin_I1)),
            context_ILN=context_ILN,
            tops_IHC=tops_IHC,
            centres_IAHZC=np.empty(0, np.float32),
        )
        parts = [] if not calibration.follows else chunks(items, -(-self._tracks_at_once() // 2))
        found, kept = live.arrays(), []
        for part in parts:
            item_T, last_T = np.tile(part, 2), np.tile(last_I[part], 2)
            first_T = self._first_targets(item_T, last_T, np.repeat((1, 0), len(part)))
            *_, tracks = self._tracks(item_T, first_T, last_T)
            for array, end in zip(found, tracks.arrays(), strict=True):
                array[:, part] = end.reshape(2, len(part), *end.shape[1:])
            origin_IA = last_I[part, None] - np.arange(horizon)
            kept.append(self._centres[self._places(part[:, None], origin_IA)])
        nothing = np.full((len(items), horizon, *self._centres.shape[1:]), np.nan, np.float32)
        live.centres_IAHZC = np.concatenate(kept) if kept else nothing
        return live

    def _reveal(self, live: _Live, actual_IN: FloatArray, now_I: IntArray) -> None:
        """Follow the errors that the next row of every item reveals; with a new block, the younger track takes over."""
        calibration, block = self._calibration, BLOCK * self._panel.step
        blocks_I = now_I // block - live.time_IL[:, -1] // block
        fresh = Tracks.begin(calibration, self._group_I).arrays() if blocks_I.any() else ()
        for array, start in zip(live.arrays(), fresh, strict=False):
            array[0, blocks_I > 0] = array[1, blocks_I > 0]
            array[1, blocks_I > 0] = start[blocks_I > 0]
            array[0, blocks_I > 1] = start[blocks_I > 1]
        actual_IHC = actual_IN[:, None, self._panel.targets]
        if self._peaks:
            shape = live.tops_IHC.shape
            before_IHC = np.concatenate((actual_IHC, live.tops_IHC[:, :-1]), axis=1)
            live.tops_IHC = np.maximum(actual_IHC, before_IHC)
            actual_IHC = np.concatenate((np.broadcast_to(actual_IHC, shape), live.tops_IHC), axis=-1)
        actual_IHC = np.where((now_I <= self._until_I)[:, None, None], np.float32(np.nan), actual_IHC)
        steps = np.arange(self._horizon)  # step h was forecast h rows before
        centre_IHZC = live.centres_IAHZC[:, steps, steps]
        both_XHC, both_XHZC = np.stack((actual_IHC, actual_IHC)), np.stack((centre_IHZC, centre_IHZC))
        next(live.follow(both_XHC[None], both_XHZC[None], calibration))

    def _tracks_at_once(self) -> int:
        """How many tracks to follow at once, so that their errors fit into a few tens of MiB."""
        return max(1, _VALUES_AT_ONCE // int(2 * BLOCK * self._centres[0].size))

    def _first_targets(self, item_B: IntArray, origins_B: IntArray, before: IntArray | int = 1) -> IntArray:
        """The first row whose errors an origin follows, ``before`` blocks before its own; after it if there is none."""
        panel, block = self._panel, BLOCK * self._panel.step
        edge_B = (panel.times_of(origins_B) // block - before) * block
        fresh_B = panel.rows_after(item_B, np.maximum(self._until_I[item_B], edge_B - 1))
        first_B: IntArray = np.maximum(fresh_B, panel.indptr[item_B] + self._context)
        return first_B

    def _tracks(
        self, item_T: IntArray, first_T: IntArray, last_T: IntArray, *made: npt.NDArray[Any]
    ) -> Iterator[Tracks]:
        """Tracks that follow the errors of the rows from the first to the last: at their beginning and after each row.

        ``made`` are origins and the forecasts from them, if some were made already.
        """
        calibration, steps = self._calibration, np.arange(self._horizon)
        self._make(item_T, first_T, last_T, *made)
        tracks = Tracks.begin(calibration, self._group_I[item_T])
        yield tracks
        row_S = np.arange(max(0, (last_T - first_T).max() + 1))
        size = len(first_T) * self._centres[0].size
        for part_S in chunks(row_S, max(1, _VALUES_AT_ONCE // size)):
            row_ST = first_T + part_S[:, None]
            place_STH = self._places(item_T[:, None], row_ST[:, :, None] - 1 - steps)
            place_STH[row_ST > last_T] = 0
            actual_STHC = self._targets(row_ST[:, :, None] - (steps if self._peaks else 0))
            if self._peaks:
                own_STHC = np.repeat(actual_STHC[:, :, :1], self._horizon, axis=2)
                tops_STHC = np.maximum.accumulate(actual_STHC, axis=2)
                actual_STHC = np.concatenate((own_STHC, tops_STHC), axis=-1)
            yield from tracks.follow(actual_STHC, self._centres[place_STH, steps], calibration)

    def _targets(self, rows_X: IntArray) -> FloatArray:
        """What came in some rows, NaN where nothing was measured: [..., C]; rows beyond the panel count as its ends."""
        panel, rows_X = self._panel, rows_X.clip(0, len(self._panel) - 1)
        values_XC: FloatArray = panel.values[rows_X][..., panel.targets]
        if panel.carried is not None:
            values_XC[panel.carried[rows_X][..., panel.targets]] = np.nan
        return values_XC

    def _make(self, item_T: IntArray, first_T: IntArray, last_T: IntArray, *made: npt.NDArray[Any]) -> None:
        """Keep the forecasts of the rows from the first to the last, and those from the last H rows; make what is missing."""
        earliest_T = self._panel.indptr[item_T] + self._context - 1
        begin_T = np.maximum(np.minimum(first_T, last_T + 1) - self._horizon, earliest_T)
        needed = np.zeros(len(self._panel) + 1, np.bool_)
        needed[-1] = True  # the origin -1
        for begin, last in zip(begin_T, last_T, strict=True):
            needed[begin : last + 1] = True
        origins, centres = [self._origins, *made[:1]], [*made[1:]]
        absent = np.flatnonzero(needed[:-1])
        absent = absent[~np.isin(absent, np.concatenate(origins))]
        absent = absent[whole(self._panel, absent, context=self._context, horizon=self._horizon)]
        size = max(1, _VALUES_AT_ONCE // (self._context * len(self._panel.channels)))
        for part in chunks(absent, size):
            origins.append(part)
            batch = batch_of(self._panel, part, self._context, self._horizon)
            centres.append(self._centre(self._predict(batch)))
        found = np.concatenate(origins)
        order = np.argsort(found, kind="stable")
        order = order[needed[found[order]]]
        self._origins, self._centres = found[order], np.concatenate((self._centres, *centres))[order]

    def _places(self, item: IntArray, origins: IntArray) -> IntArray:
        """Where the forecasts from some origins are kept; 0 for those that are not, or lie before the item."""
        place = np.searchsorted(self._origins, origins).clip(max=len(self._origins) - 1)
        kept = (self._origins[place] == origins) & (origins >= self._panel.indptr[item])
        return np.where(kept, place, 0)


def _median(
    point_BHC: FloatArray, quantiles_BHQC: FloatArray | None, levels: tuple[float, ...]
) -> FloatArray:
    """The quantile 0.5, or the point where there is none."""
    if quantiles_BHQC is None or 0.5 not in levels:
        return point_BHC
    return quantiles_BHQC[:, :, levels.index(0.5)]


def _top_mean(
    mean_BHC: FloatArray, quantiles_BHQC: FloatArray, top_BHQC: FloatArray, calibration: Calibration
) -> FloatArray:
    """Means of the running maxima: the largest mean, moved as the quantiles of the peak are from those of the steps.

    What moves is the average of all quantiles: by the same share for counts, whose peaks grow with the load, else by the same
    distance.
    """
    levels, channels = np.array(calibration.levels), mean_BHC.shape[2]
    share_Q1 = np.diff(np.concatenate(([0], (levels[1:] + levels[:-1]) / 2, [1])))[:, None]
    own_BHC = np.maximum.accumulate((quantiles_BHQC * share_Q1).sum(axis=2), axis=1)
    top_BHC = (top_BHQC * share_Q1).sum(axis=2)
    highest_BHC = np.maximum.accumulate(mean_BHC, axis=1)
    grown_BHC = highest_BHC * top_BHC / np.where(own_BHC > 0, own_BHC, 1)
    moved_BHC = np.where(calibration.count_C[:channels], grown_BHC, highest_BHC + top_BHC - own_BHC)
    result: FloatArray = np.maximum.accumulate(np.maximum(moved_BHC, highest_BHC), axis=1)
    return result.astype(np.float32)
