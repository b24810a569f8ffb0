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
from presurge.models.conformal import Calibration, Tracks
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.windows import WindowBatch, batch_of, chunks, whole

if TYPE_CHECKING:
    from presurge.models.forecaster import Forecaster, Prediction

BLOCK = 500
"""Rows of a block: an origin follows the errors of the last 501 to 1,000 rows."""
_VALUES_AT_ONCE = 1 << 21


class Tracked(NamedTuple):
    """Means, medians and quantiles of B windows, and how many rows' errors they follow (0: none).

    Of a model that was never calibrated, mean and median are its point forecast.
    """

    mean_BHC: FloatArray
    median_BHC: FloatArray
    quantiles_BHQC: FloatArray | None
    followed_B: IntArray
    levels: tuple[float, ...] = ()


@dataclass(eq=False)
class _Live(Tracks):
    """What a tracker knows after the last row of every item.

    The tracks have the shape [2, I]: of each item the one in use, which began with the block before, and the one of this
    block, which the next block will use.

    Attributes:
        time_IL: int64, times of the rows of the context.
        context_ILN: float32.
        means_IAHC: float32, the forecasts of the last A = H origins, newest first; NaN where none was made.
    """

    time_IL: IntArray
    context_ILN: FloatArray
    means_IAHC: FloatArray


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
        channels = len(panel.targets)
        self._predict, self._panel, self._context, self._horizon = predict, panel, context, horizon
        self._calibration = calibration or Calibration(
            np.zeros((horizon, 0, channels), np.float32), (), np.zeros(channels, np.bool_), 0, rate=0
        )
        until = self._calibration.until
        self._until_I = np.array([until.get(item, -(1 << 62)) for item in panel.items], np.int64)
        # The forecasts that are kept, by origin. The first one is NaN and stands for those that are not.
        self._origins = np.array([-1])
        self._means = np.full((1, horizon, channels), np.nan, np.float32)
        self._live: _Live | None = None

    @classmethod
    def of(cls, model: "Forecaster", panel: Panel) -> Self:
        """The tracker of a fitted model over a panel that holds its channels."""
        predict, view = partial(plugins.predict, model), model.fitted_spec().view(panel)
        return cls(predict, view, model.calibration, context=model.context, horizon=model.horizon)

    def predict(self, origins_B: IntArray, batch: WindowBatch | None = None) -> Tracked:
        """Forecast from origins with complete contexts, ascending within a call and from one call to the next.

        Args:
            origins_B: Rows of the last context rows.
            batch: Their contexts, if they were gathered already.
        """
        if batch is None:
            batch = batch_of(self._panel, origins_B, self._context, self._horizon)
        made = self._predict(batch)
        if self._calibration.rate == 0 or made.quantiles_BHQC is not None:
            return self._calibrated(made)
        return self._calibrated(made, *self._follow(batch.item_B, origins_B, made.point_BHC))

    def observe(
        self, actual_IN: FloatArray, *, times_I: IntArray | None = None, future_IHK: FloatArray | None = None
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
        if self._calibration.rate > 0:
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
        mean_IHC = np.where(gaps_I[:, None, None], np.float32(np.nan), made.point_BHC)
        live.means_IAHC = np.concatenate((mean_IHC[:, None], live.means_IAHC[:, :-1]), axis=1)
        residuals_IHQC = np.sort(live.quantiles_XHQC[0].astype(np.float32), axis=2)
        return self._calibrated(made, residuals_IHQC, live.followed_X[0].copy())

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that ``observe`` needs to go on, as arrays."""
        live = self._live = self._live or self._start()
        return {name: array.copy() for name, array in vars(live).items()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state of the same model and items, whatever rows the panel holds."""
        self._live = _Live(**{name: array.copy() for name, array in state.items()})

    def _calibrated(
        self, made: "Prediction", residuals_BHQC: FloatArray | None = None, followed_B: IntArray | None = None
    ) -> Tracked:
        """Forecasts with calibrated quantiles: those that the model learned, or else around the points."""
        point_BHC, centre, levels = made
        if centre is not None or followed_B is None:
            residuals_BHQC, followed_B = None, np.zeros(len(point_BHC), np.int64)
        if not self._calibration.levels:
            return Tracked(point_BHC, _median(*made), centre, followed_B, levels)
        levels = self._calibration.levels
        quantiles_BHQC = self._calibration.quantiles(point_BHC if centre is None else centre, residuals_BHQC)
        median_BHC = _median(point_BHC, quantiles_BHQC, levels)
        return Tracked(point_BHC, median_BHC, quantiles_BHQC, followed_B, levels)

    def _follow(
        self, item_B: IntArray, origins_B: IntArray, mean_BHC: FloatArray
    ) -> tuple[FloatArray, IntArray]:
        """Residual quantiles of each origin [B, H, Q, C], and how many rows' errors they follow [B]."""
        residuals_BHQC = np.repeat(self._calibration.residuals_HQC[None], len(origins_B), axis=0)
        followed_B = np.zeros(len(origins_B), np.int64)
        first_B = self._first_targets(item_B, origins_B)
        late = np.flatnonzero(origins_B >= first_B)
        begins = np.unique(first_B[late], return_index=True)[1]
        for part in np.split(late, begins[:: self._tracks_at_once()])[1:]:
            first_T, begin_T, track_B = np.unique(first_B[part], return_index=True, return_inverse=True)
            last_T = origins_B[part[np.append(begin_T[1:], len(part)) - 1]]
            rows = self._tracks(item_B[part[begin_T]], first_T, last_T, origins_B[part], mean_BHC[part])
            seen_B = origins_B[part] - first_B[part] + 1
            order = np.argsort(seen_B, kind="stable")
            due_S = np.split(order, np.searchsorted(seen_B[order], np.arange(1, seen_B.max() + 1)))
            for tracks, due in zip(rows, due_S, strict=True):
                if len(due):
                    residuals_BHQC[part[due]] = tracks.quantiles_XHQC[track_B[due]]
                    followed_B[part[due]] = tracks.followed_X[track_B[due]]
        residuals_BHQC.sort(axis=2)
        return residuals_BHQC, followed_B

    def _start(self) -> _Live:
        """The state after the last rows of the panel."""
        panel, calibration, horizon = self._panel, self._calibration, self._horizon
        begin_I1, last_I = panel.indptr[:-1, None], panel.indptr[1:] - 1
        row_IL = last_I[:, None] + np.arange(1 - self._context, 1)
        context_ILN = panel.values[np.maximum(row_IL, begin_I1)]
        context_ILN[row_IL < begin_I1] = np.nan
        items = np.arange(len(panel.items))
        live = _Live(
            **vars(Tracks.begin(calibration.residuals_HQC, 2, len(items))),
            time_IL=panel.times_of(np.maximum(row_IL, begin_I1)),
            context_ILN=context_ILN,
            means_IAHC=np.full((len(items), horizon, horizon, len(panel.targets)), np.nan, np.float32),
        )
        for part in chunks(items, -(-self._tracks_at_once() // 2)) if calibration.rate > 0 else ():
            item_T, last_T = np.tile(part, 2), np.tile(last_I[part], 2)
            first_T = self._first_targets(item_T, last_T, np.repeat((1, 0), len(part)))
            *_, tracks = self._tracks(item_T, first_T, last_T)
            for array, found in zip(live.arrays(), tracks.arrays(), strict=True):
                array[:, part] = found.reshape(2, len(part), *found.shape[1:])
            origin_IA = last_I[part, None] - np.arange(horizon)
            live.means_IAHC[part] = self._means[self._places(part[:, None], origin_IA)]
        return live

    def _reveal(self, live: _Live, actual_IN: FloatArray, now_I: IntArray) -> None:
        """Follow the errors that the next row of every item reveals; with a new block, the younger track takes over."""
        calibration, block = self._calibration, BLOCK * self._panel.step
        blocks_I = now_I // block - live.time_IL[:, -1] // block
        fresh = Tracks.begin(calibration.residuals_HQC).arrays() if blocks_I.any() else ()
        for array, start in zip(live.arrays(), fresh, strict=False):
            array[0, blocks_I > 0] = array[1, blocks_I > 0]
            array[1, blocks_I > 0] = array[0, blocks_I > 1] = start
        steps = np.arange(self._horizon)  # step h was forecast h rows before
        errors_IHC = calibration.errors(actual_IN[:, self._panel.targets], live.means_IAHC[:, steps, steps])
        errors_IHC[now_I <= self._until_I] = np.nan
        errors_XHC = np.stack((errors_IHC, errors_IHC))
        next(live.follow(errors_XHC[None], calibration.levels, calibration.rate))

    def _tracks_at_once(self) -> int:
        """How many tracks to follow at once, so that their errors fit into a few tens of MiB."""
        return max(1, _VALUES_AT_ONCE // int(2 * BLOCK * self._means[0].size))

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
        panel, calibration, steps = self._panel, self._calibration, np.arange(self._horizon)
        self._make(item_T, first_T, last_T, *made)
        tracks = Tracks.begin(calibration.residuals_HQC, len(first_T))
        yield tracks
        row_S = np.arange(max(0, (last_T - first_T).max() + 1))
        for part_S in chunks(row_S, max(1, _VALUES_AT_ONCE // tracks.total_XHC.size)):
            row_ST = first_T + part_S[:, None]
            place_STH = self._places(item_T[:, None], row_ST[:, :, None] - 1 - steps)
            place_STH[row_ST > last_T] = 0
            actual_STC = panel.values[row_ST.clip(max=len(panel) - 1)][:, :, panel.targets]
            errors_STHC = calibration.errors(actual_STC, self._means[place_STH, steps])
            yield from tracks.follow(errors_STHC, calibration.levels, calibration.rate)

    def _make(self, item_T: IntArray, first_T: IntArray, last_T: IntArray, *made: npt.NDArray[Any]) -> None:
        """Keep the forecasts of the rows from the first to the last, and those from the last H rows; make what is missing."""
        earliest_T = self._panel.indptr[item_T] + self._context - 1
        begin_T = np.maximum(np.minimum(first_T, last_T + 1) - self._horizon, earliest_T)
        needed = np.zeros(len(self._panel) + 1, np.bool_)
        needed[-1] = True  # the origin -1
        for begin, last in zip(begin_T, last_T, strict=True):
            needed[begin : last + 1] = True
        origins, means = [self._origins, *made[:1]], [self._means, *made[1:]]
        absent = np.flatnonzero(needed[:-1])
        absent = absent[~np.isin(absent, np.concatenate(origins))]
        absent = absent[whole(self._panel, absent, context=self._context, horizon=self._horizon)]
        size = max(1, _VALUES_AT_ONCE // (self._context * len(self._panel.channels)))
        for part in chunks(absent, size):
            origins.append(part)
            means.append(self._predict(batch_of(self._panel, part, self._context, self._horizon)).point_BHC)
        found = np.concatenate(origins)
        order = np.argsort(found, kind="stable")
        order = order[needed[found[order]]]
        self._origins, self._means = found[order], np.concatenate(means)[order]

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
