"""Forecasts with the means and intervals that each origin could know, over a whole panel or row by row as it arrives.

The time of an origin alone decides which errors they follow: those of its block of ``BLOCK`` rows, counted from the
Unix epoch, and of the block before. So a forecast from a history that reaches back that far is the same as in a
backtest, and a service that observes one row at a time needs the state of two tracks only.

Shapes: B windows, L context, H horizon, C target channels, N all channels, Q quantiles, T tracks (origins that follow the same
errors), S rows of a track, I items, Z centres (the points and, from a model that learned them, its quantiles). With peaks,
the channels of centres and calibrations are there twice, as they are and as their running maxima over the horizon.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.errors import ConfigError
from presurge.models import plugins
from presurge.models.conformal import Calibration, at_levels, with_peaks
from presurge.models.following import BLOCK, Tracks
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.windows import WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster, Prediction

_VALUES_AT_ONCE = 1 << 21


class Tracked(NamedTuple):
    """Means, medians and quantiles of B windows, and how many rows' errors they follow (0: none).

    Of a model that was never calibrated, mean and median are its point forecast, and Q is 0 unless it learned quantiles.
    ``peak`` is the same for the largest of the first h steps, for each h: joint over the steps, so no smaller than any of them.
    """

    mean_BHC: FloatArray
    median_BHC: FloatArray
    quantiles_BHQC: FloatArray
    followed_B: IntArray
    levels: tuple[float, ...] = ()
    peak: Any = None  # a Tracked; the API reference cannot resolve that name in a named tuple

    def part(self, windows: slice) -> "Tracked":
        """The forecasts of some windows."""
        return self._replace(
            mean_BHC=self.mean_BHC[windows],
            median_BHC=self.median_BHC[windows],
            quantiles_BHQC=self.quantiles_BHQC[windows],
            followed_B=self.followed_B[windows],
            peak=self.peak and self.peak.part(windows),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Tracked]") -> "Tracked":
        """The forecasts of several windows of one model together."""
        if len(parts) == 1:
            return parts[0]
        peaks = [part.peak for part in parts]
        return parts[0]._replace(
            mean_BHC=np.concatenate([part.mean_BHC for part in parts]),
            median_BHC=np.concatenate([part.median_BHC for part in parts]),
            quantiles_BHQC=np.concatenate([part.quantiles_BHQC for part in parts]),
            followed_B=np.concatenate([part.followed_B for part in parts]),
            peak=cls.joined(peaks) if all(peaks) else None,
        )

    def at_levels(self, levels: Sequence[float] | None, count_C: npt.NDArray[np.bool_]) -> "Tracked":
        """The forecasts with quantiles of some levels, and their peak with these; None keeps the calibrated ones.

        Raises:
            ConfigError: A level does not lie between 0 and 1, or there are no quantiles to find others between.
        """
        if levels is None:
            return self
        wanted = tuple(sorted({float(level) for level in levels}))
        if not wanted or not 0 < wanted[0] <= wanted[-1] < 1:
            raise ConfigError(
                f"quantile levels lie between 0 and 1, not {', '.join(f'{q:g}' for q in wanted) or 'none'}",
                setting="levels",
                hint="Name at least one, for example `levels=0.5,0.9,0.99`.",
            )
        if len(self.levels) < 2:
            raise ConfigError(
                "the model has no calibrated quantiles",
                setting="levels",
                hint="Train it again with validation rows, which calibrate it.",
            )
        found = at_levels(self.quantiles_BHQC, self.levels, wanted, count_C)
        peak = self.peak
        if peak:  # beyond the calibrated levels the slopes differ, but no peak is lower than a row
            tops_BHQC = at_levels(peak.quantiles_BHQC, self.levels, wanted, count_C)
            tops_BHQC = np.maximum(tops_BHQC, np.maximum.accumulate(found, axis=1))
            peak = peak._replace(quantiles_BHQC=tops_BHQC, levels=wanted)
        return self._replace(quantiles_BHQC=found, levels=wanted, peak=peak)


@dataclass(eq=False)
class _Live(Tracks):
    """What a tracker knows after the last row of every item.

    The tracks have the shape [2, I]: of each item the one in use, which began with the block before, and the one of this
    block, which the next block will use.

    Attributes:
        time_IL: int64, times of the rows of the context.
        context_ILN: float32.
        targets_IAC: float32, what came in the last A rows, newest first: in H with peaks, else in one.
        centres_IHHZC: float32, the forecasts of the last H origins, newest first; NaN where none was made.
    """

    time_IL: IntArray
    context_ILN: FloatArray
    targets_IAC: FloatArray
    centres_IHHZC: FloatArray


class IntervalTracker:
    """Forecasts with the means and intervals that each origin could know: over a panel at once, or row by row.

    Args:
        model: A fitted model.
        panel: Holds the model's channels.
        peaks: Whether to forecast the running maxima too, if the model's calibration knows them.
    """

    def __init__(self, model: "Forecaster", panel: Panel, *, peaks: bool = False) -> None:
        spec = model.fitted_spec()
        self._model, self._panel = model, spec.view(panel)
        self._context, self._horizon = model.context, model.horizon
        nothing = np.zeros((0, model.horizon, len(spec.targets)), np.float32)
        calibration = model.calibration or Calibration.measure(nothing, nothing, spec.count_mask, ())
        self._peaks = peaks and len(calibration.count_C) > len(spec.targets)
        self._calibration = calibration if self._peaks else calibration.first_channels(len(spec.targets))
        # How many rows ago those came that make the running maxima of a row.
        self._ago = np.arange(model.horizon if self._peaks else 1)
        self._group_I = calibration.groups_of(panel.items)
        self._until_I = np.array([calibration.until.get(item, -(1 << 62)) for item in panel.items], np.int64)
        # The forecasts that are kept, by origin. The first one is NaN and stands for those that are not.
        self._origins = np.array([-1])
        self._centres = np.full((1, model.horizon, 1, len(self._calibration.count_C)), np.nan, np.float32)
        self._later: Any = (
            None  # the forecasts of a first call that follows no errors, kept when there is a second one
        )
        self._live: _Live | None = None

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from origins with complete contexts, ascending within a call and from one call to the next.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, if they were gathered already.
        """
        if batch is None:
            batch = batch_of(self._panel, origins_B, self._context, self._horizon)
        made, centre_BHZC = self._forecast(batch)
        tracks = Tracks.begin(self._calibration, self._group_I[batch.item_B])
        if self._calibration.follows:
            self._follow(tracks, batch.item_B, origins_B, centre_BHZC)
        return self._tracked(made, centre_BHZC, tracks)

    def observe(
        self,
        actual_IN: FloatArray,
        *,
        times_I: IntArray | None = None,
        future_IHK: FloatArray | None = None,
        carried_IN: npt.NDArray[np.bool_] | None = None,
    ) -> Tracked:
        """Add the next row of every item and forecast from it, in constant time.

        The first call starts after the last rows of the panel and needs the forecasts of up to two blocks before them.
        Means and intervals are those that ``predict`` gives for the longer panel, if the same forecasts are made.

        Args:
            actual_IN: The row, of all channels; NaN where missing. While the context has a missing value, the model's own
                answer to it is returned, and no error of that forecast is ever followed.
            times_I: Time of the row in microseconds; one step after the last where None.
            future_IHK: The known channels of the H rows after it.
            carried_IN: Values that were carried from an earlier row: no error follows from them.
        """
        live = self._live = self._live or self._start()
        panel = self._panel
        now_I = live.time_IL[:, -1] + panel.step if times_I is None else times_I
        if self._calibration.follows:
            measured_IN = actual_IN if carried_IN is None else np.where(carried_IN, np.nan, actual_IN)
            self._reveal(live, measured_IN, now_I)
        live.context_ILN = np.concatenate((live.context_ILN[:, 1:], actual_IN[:, None]), axis=1)
        live.time_IL = np.concatenate((live.time_IL[:, 1:], now_I[:, None]), axis=1)
        ahead_IH = now_I[:, None] + panel.step * np.arange(1, self._horizon + 1)
        batch = WindowBatch(
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
        made, centre_IHZC = self._forecast(batch)
        gaps_I: npt.NDArray[np.bool_] = np.any(np.isnan(live.context_ILN), axis=(1, 2))
        if future_IHK is not None:
            gaps_I |= np.isnan(future_IHK).any(axis=(1, 2))
        kept_IHZC = np.where(gaps_I[:, None, None, None], np.float32(np.nan), centre_IHZC)
        before_IHHZC = _with_shape(live.centres_IHHZC[:, :-1], centre_IHZC.shape[1:])
        live.centres_IHHZC = np.concatenate((kept_IHZC[:, None], before_IHHZC), axis=1)
        tracks = Tracks.begin(self._calibration, self._group_I)
        tracks.put(..., live, 0)
        return self._tracked(made, centre_IHZC, tracks)

    def state(self, last_I: IntArray | None = None) -> dict[str, npt.NDArray[Any]]:
        """Everything that ``observe`` needs to go on: arrays whose first axis is that of the items.

        Args:
            last_I: Before the first ``observe``, the row of each item after which to go on (default: its last one in the panel).
        """
        live = self._live = self._live or self._start(last_I)
        return {name: np.moveaxis(array, _item_axis(name), 0).copy() for name, array in vars(live).items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state of the same model and items, whatever rows the panel holds."""
        self._live = _Live(
            **{name: np.moveaxis(array, 0, _item_axis(name)).copy() for name, array in state.items()}
        )

    def _forecast(self, batch: WindowBatch) -> "tuple[Prediction, FloatArray]":
        """What the model says, and what errors are taken from: [B, H, Z, C]."""
        made = plugins.predict(self._model, batch)
        centre_BHZC = made.point_BHC[:, :, None]
        if made.quantiles_BHQC is not None:
            centre_BHZC = np.concatenate((centre_BHZC, made.quantiles_BHQC), axis=2)
        return made, with_peaks(centre_BHZC) if self._peaks else centre_BHZC

    def _tracked(self, made: "Prediction", centre_BHZC: FloatArray, tracks: Tracks) -> Tracked:
        """Forecasts with means and quantiles around the points, or with those that the model learned, corrected."""
        calibration, levels, followed_B = self._calibration, self._calibration.levels, tracks.followed_X
        if not levels:
            point_BHC, learned_BHQC, levels = made
            quantiles_BHQC = centre_BHZC[:, :, 1:]  # Q is 0 where none were learned
            levels = levels if learned_BHQC is not None else ()
            return Tracked(
                point_BHC, _median(point_BHC, quantiles_BHQC, levels), quantiles_BHQC, followed_B, levels
            )
        quantiles_BHQC = calibration.quantiles(centre_BHZC, tracks.quantiles_XHQC.astype(np.float32))
        mean_BHC = calibration.means(centre_BHZC[:, :, 0], tracks.bias_XHC.astype(np.float32))
        median_BHC = _median(centre_BHZC[:, :, 0], quantiles_BHQC, levels)
        if not self._peaks:
            return Tracked(mean_BHC, median_BHC, quantiles_BHQC, followed_B, levels)
        channels = len(calibration.count_C) // 2
        mean_BHC, median_BHC = mean_BHC[..., :channels], median_BHC[..., :channels]
        quantiles_BHQC, top_BHQC = quantiles_BHQC[..., :channels], quantiles_BHQC[..., channels:]
        top_BHQC = np.maximum.accumulate(np.maximum(top_BHQC, quantiles_BHQC), axis=1)
        top_BHC = _top_mean(mean_BHC, quantiles_BHQC, top_BHQC, calibration)
        peak = Tracked(top_BHC, _median(top_BHC, top_BHQC, levels), top_BHQC, followed_B, levels)
        return Tracked(mean_BHC, median_BHC, quantiles_BHQC, followed_B, levels, peak)

    def _follow(self, begun: Tracks, item_B: IntArray, origins_B: IntArray, centre_BHZC: FloatArray) -> None:
        """Move tracks that begin at B origins by the errors that each origin knows."""
        first_B = self._first_targets(item_B, origins_B)
        late = np.flatnonzero(origins_B >= first_B)
        if not len(late) and len(self._origins) == 1 and self._later is None:
            self._later = first_B.min() - self._horizon, origins_B, [centre_BHZC]
            return
        self._keep(first_B.min() - self._horizon, origins_B, [centre_BHZC])
        begins = np.unique(first_B[late], return_index=True)[1]
        for part in np.split(late, begins[:: self._tracks_at_once()])[1:]:
            first_T, begin_T, track_B = np.unique(first_B[part], return_index=True, return_inverse=True)
            last_T = origins_B[part[np.append(begin_T[1:], len(part)) - 1]]
            seen_B = origins_B[part] - first_B[part] + 1
            order = np.argsort(seen_B, kind="stable")
            due_S = np.split(order, np.searchsorted(seen_B[order], np.arange(1, seen_B.max() + 1)))
            states = self._tracks(item_B[part[begin_T]], first_T, last_T)
            for tracks, due in zip(states, due_S, strict=True):
                if len(due):
                    begun.put(part[due], tracks, track_B[due])

    def _start(self, last_I: IntArray | None = None) -> _Live:
        """The state after some rows of the panel, by default the last ones."""
        panel, calibration, horizon = self._panel, self._calibration, self._horizon
        if self._later is not None:
            self._keep(self._later[0], self._origins[:0], [])
        begin_I1 = panel.indptr[:-1, None]
        last_I = panel.indptr[1:] - 1 if last_I is None else last_I
        row_IL = last_I[:, None] + np.arange(1 - self._context, 1)
        context_ILN = panel.values[np.maximum(row_IL, begin_I1)]
        context_ILN[row_IL < begin_I1] = np.nan
        ago_IA = last_I[:, None] - self._ago
        targets_IAC = self._targets(ago_IA)
        targets_IAC[ago_IA < begin_I1] = np.nan
        live = _Live(
            **vars(Tracks.begin(calibration, np.tile(self._group_I, (2, 1)))),
            time_IL=panel.times_of(np.maximum(row_IL, begin_I1)),
            context_ILN=context_ILN,
            targets_IAC=targets_IAC,
            centres_IHHZC=np.empty(0, np.float32),
        )
        kept = []
        for part in chunks(np.arange(len(panel.items)), -(-self._tracks_at_once() // 2)):
            if calibration.follows:
                item_T, both = np.tile(part, 2), np.arange(2 * len(part)).reshape(2, -1)
                first_T = self._first_targets(item_T, last_I[item_T], np.repeat((1, 0), len(part)))
                *_, tracks = self._tracks(item_T, first_T, last_I[item_T])
                live.put((slice(None), part), tracks, both)
            origin_IH = last_I[part, None] - np.arange(horizon)
            kept.append(self._centres[self._places(part[:, None], origin_IH)])
        live.centres_IHHZC = np.concatenate([_with_shape(one, self._centres.shape[1:]) for one in kept])
        return live

    def _reveal(self, live: _Live, actual_IN: FloatArray, now_I: IntArray) -> None:
        """Follow the errors that the next row of every item reveals; with a new block, the younger track takes over."""
        block = BLOCK * self._panel.step
        blocks_I = now_I // block - live.time_IL[:, -1] // block
        if blocks_I.any():
            fresh = Tracks.begin(self._calibration, self._group_I)
            live.put((0, blocks_I > 0), live, (1, blocks_I > 0))
            live.put((1, blocks_I > 0), fresh, blocks_I > 0)
            live.put((0, blocks_I > 1), fresh, blocks_I > 1)
        newest_I1C = actual_IN[:, None, self._panel.targets]
        live.targets_IAC = np.concatenate((newest_I1C, live.targets_IAC[:, :-1]), axis=1)
        actual_IHC = self._actual(live.targets_IAC)
        actual_IHC[now_I <= self._until_I] = np.nan
        steps = np.arange(self._horizon)  # step h was forecast h rows before
        centre_11IHZC = live.centres_IHHZC[None, None, :, steps, steps]
        next(live.follow(actual_IHC[None, None], centre_11IHZC, self._calibration))

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

    def _tracks(self, item_T: IntArray, first_T: IntArray, last_T: IntArray) -> Iterator[Tracks]:
        """Tracks that follow the errors of the rows from the first to the last: at their beginning and after each row."""
        self._make(item_T, first_T, last_T)
        tracks, steps = Tracks.begin(self._calibration, self._group_I[item_T]), np.arange(self._horizon)
        yield tracks
        row_S = np.arange(max(0, (last_T - first_T).max() + 1))
        size = len(first_T) * self._centres[0].size
        for part_S in chunks(row_S, max(1, _VALUES_AT_ONCE // size)):
            row_ST1 = first_T[:, None] + part_S[:, None, None]
            place_STH = self._places(item_T[:, None], row_ST1 - 1 - steps)
            place_STH[row_ST1[..., 0] > last_T] = 0
            actual_STHC = self._actual(self._targets(row_ST1 - self._ago))
            yield from tracks.follow(actual_STHC, self._centres[place_STH, steps], self._calibration)

    def _targets(self, rows_X: IntArray) -> FloatArray:
        """What came in some rows, NaN where nothing was measured: [..., C]; rows beyond the panel count as its ends."""
        panel, rows_X = self._panel, rows_X.clip(0, len(self._panel) - 1)
        values_XC: FloatArray = panel.values[rows_X][..., panel.targets]
        if panel.carried is not None:
            values_XC[panel.carried[rows_X][..., panel.targets]] = np.nan
        return values_XC

    def _actual(self, targets_XAC: FloatArray) -> FloatArray:
        """What came in the first of A rows, newest first, and the running maxima with it if there are peaks: [..., A, C]."""
        if not self._peaks:
            return targets_XAC.copy()
        newest_XAC = np.broadcast_to(targets_XAC[..., :1, :], targets_XAC.shape)
        return np.concatenate((newest_XAC, np.maximum.accumulate(targets_XAC, axis=-2)), axis=-1)

    def _make(self, item_T: IntArray, first_T: IntArray, last_T: IntArray) -> None:
        """Make the missing forecasts of the rows from the first to the last, and those from the last H rows."""
        earliest_T = self._panel.indptr[item_T] + self._context - 1
        begin_T = np.maximum(np.minimum(first_T, last_T + 1) - self._horizon, earliest_T)
        needed = [np.arange(begin, last + 1) for begin, last in zip(begin_T, last_T, strict=True)]
        absent = np.setdiff1d(np.concatenate(needed), self._origins)
        absent = absent[whole(self._panel, absent, context=self._context, horizon=self._horizon)]
        size = max(1, _VALUES_AT_ONCE // (self._context * len(self._panel.channels)))
        batches = (batch_of(self._panel, part, self._context, self._horizon) for part in chunks(absent, size))
        self._keep(begin_T.min(), absent, [self._forecast(batch)[1] for batch in batches])

    def _keep(self, since: int, origins: IntArray, centres: list[FloatArray]) -> None:
        """Keep more forecasts, and forget those from origins before a row."""
        if self._later is not None:
            later, self._later = self._later, None
            self._keep(*later)
        every = np.concatenate((self._origins, origins))
        order = np.argsort(every, kind="stable")
        order = order[(every[order] >= since) | (every[order] < 0)]
        parts = [self._centres, *centres]
        together = np.concatenate([_with_shape(part, parts[-1].shape[1:]) for part in parts])
        self._origins, self._centres = every[order], together[order]

    def _places(self, item: IntArray, origins: IntArray) -> IntArray:
        """Where the forecasts from some origins are kept; 0 for those that are not, or lie before the item."""
        place = np.searchsorted(self._origins, origins).clip(max=len(self._origins) - 1)
        kept = (self._origins[place] == origins) & (origins >= self._panel.indptr[item])
        return np.where(kept, place, 0)


def _with_shape(centres_XHZC: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Forecasts [..., *shape]; those that are all missing may have one centre where others have more."""
    leading = centres_XHZC.shape[: centres_XHZC.ndim - len(shape)]
    return np.broadcast_to(centres_XHZC, (*leading, *shape))


def _item_axis(name: str) -> int:
    """Where the items are in an array of ``_Live``: tracks have two of each."""
    return int("_X" in name)


def _median(point_BHC: FloatArray, quantiles_BHQC: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """The quantile 0.5, or the point where there is none."""
    if 0.5 not in levels:
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
