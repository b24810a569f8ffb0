"""Windows as views: a window is the row of its origin, and nothing is copied until a batch is gathered.

Shapes: B windows, L context rows, H horizon rows, W = L + H, C channels, K known channels, F static features, R rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.series.panel import Channel, FloatArray, IntArray, Panel, columns_of
from presurge.series.spans import Span

CHUNK = 16_384
"""Windows gathered at once when walking a whole span, which bounds the memory."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """What a forecaster may know about B windows.

    Attributes:
        context_BLC: float32, original units, oldest row first; NaN where missing.
        item_B: Item number of each window.
        origin_B: Time of the last context row, microseconds since the Unix epoch.
        step: Frequency in microseconds.
        items: Names of the items that ``item_B`` numbers.
        channels: The C channels.
        future_BHK: float32, the known channels after the origin, in their order; NaN where missing. None if there are no
            known channels, or nobody asked for the future.
        features_BF: float32, the static features of each window's item.
        time_BW: int64, time of every row of context and horizon; None on a regular clock, when ``times`` counts steps.
    """

    context_BLC: FloatArray
    item_B: IntArray
    origin_B: IntArray
    step: int
    items: tuple[str, ...]
    channels: tuple[Channel, ...]
    future_BHK: FloatArray | None = None
    features_BF: FloatArray | None = None
    time_BW: IntArray | None = None

    def targets(self) -> FloatArray:
        """The context of the target channels alone: float32 [B, L, C]."""
        return take_columns(self.context_BLC, columns_of(self.channels, "target"))

    def select(self, channels: Sequence[Channel]) -> "WindowBatch":
        """The batch with some of its channels, in the order given."""
        names, kept = [c.name for c in self.channels], [c.name for c in channels]
        if names == kept:
            return self
        known = [c.name for c in self.channels if c.role == "known"]
        columns = [known.index(c.name) for c in channels if c.role == "known"]
        return replace(
            self,
            context_BLC=self.context_BLC[:, :, [names.index(name) for name in kept]],
            channels=tuple(channels),
            future_BHK=None if self.future_BHK is None else self.future_BHK[:, :, columns],
        )

    def rows(self, rows: IntArray) -> "WindowBatch":
        """Some of the windows."""
        names = ("context_BLC", "item_B", "origin_B", "future_BHK", "features_BF", "time_BW")
        arrays = {name: getattr(self, name) for name in names}
        return replace(self, **{name: array[rows] for name, array in arrays.items() if array is not None})

    def last_rows(self, context: int) -> "WindowBatch":
        """The batch with a shorter context."""
        before = self.context_BLC.shape[1] - context
        time_BW = None if self.time_BW is None else self.time_BW[:, before:]
        return replace(self, context_BLC=self.context_BLC[:, before:], time_BW=time_BW)

    def times(self, horizon: int) -> IntArray:
        """int64 [B, L + H], the time of every row of context and horizon."""
        if self.time_BW is not None:
            return self.time_BW
        context = self.context_BLC.shape[1]
        times: IntArray = self.origin_B[:, None] + np.arange(1 - context, horizon + 1) * self.step
        return times


def window_origins(panel: Panel, span: Span, *, context: int, horizon: int, stride: int = 1) -> IntArray:
    """The last context row of every window whose H targets lie in the span.

    The context may begin before the span (a forecast of the first test row knows the rows before it) but never in
    another item. In each item the origins are ``stride`` rows apart, from the earliest possible one.
    """
    pieces = [np.zeros(0, np.int64)]
    for begin, first, last in zip(panel.indptr[:-1], span.first, span.last, strict=True):
        earliest = max(int(first) - 1, int(begin) + context - 1)
        pieces.append(np.arange(earliest, int(last) - horizon, stride, dtype=np.int64))
    return np.concatenate(pieces)


def complete(panel: Panel, origins: IntArray, *, before: int, after: int) -> npt.NDArray[np.bool_]:
    """bool [B, C]: all ``before`` rows up to each origin are observed, and all ``after`` rows following it measured."""
    if panel.measured.all():
        return np.ones((len(origins), len(panel.channels)), np.bool_)
    missing = np.zeros((len(panel) + 1, len(panel.channels)), np.int64)
    np.cumsum(~panel.observed, axis=0, out=missing[1:])
    result: npt.NDArray[np.bool_] = missing[origins + 1 + after] == missing[origins + 1 - before]
    if panel.carried is not None and after:
        np.cumsum(panel.carried, axis=0, out=missing[1:])
        result &= missing[origins + 1 + after] == missing[origins + 1]
    return result


def gather(values: npt.NDArray[Any], origins: IntArray, *, before: int, after: int) -> npt.NDArray[Any]:
    """Copy the rows ``origin - before + 1 ... origin + after`` of every origin: [B, before + after, C]."""
    width, channels = before + after, values.shape[1]
    if len(origins) == 0:
        return np.zeros((0, width, channels), values.dtype)
    shape, size = (len(values) - width + 1, width * channels), values.itemsize
    rows = np.ndarray(shape, values.dtype, np.ascontiguousarray(values), strides=(channels * size, size))
    windows: npt.NDArray[Any] = rows[origins - before + 1].reshape(len(origins), width, channels)
    return windows


def whole(panel: Panel, origins: IntArray, *, context: int, horizon: int) -> npt.NDArray[np.bool_]:
    """bool [B]: no channel misses a row of the context, no known channel one of the horizon."""
    known = columns_of(panel.channels, "known")
    result: npt.NDArray[np.bool_] = np.all(complete(panel, origins, before=context, after=0), axis=1)
    if known.size:
        result &= origins + horizon < panel.indptr[panel.items_of(origins) + 1]
        result[result] = complete(panel, origins[result], before=0, after=horizon)[:, known].all(axis=1)
    return result


def batch_of(panel: Panel, origins: IntArray, context: int, horizon: int = 0) -> WindowBatch:
    """Gather what a forecaster may know at each origin: the context and ``horizon`` rows of the known channels.

    The rows of a context before the first one of the item are missing.
    """
    item_B = panel.items_of(origins)
    known, future_BHN = columns_of(panel.channels, "known"), None
    if horizon and known.size:
        future_BHN = _around(panel, origins, item_B, before=0, after=horizon)
    return WindowBatch(
        context_BLC=_around(panel, origins, item_B, before=context, after=0),
        item_B=item_B,
        origin_B=panel.times_of(origins),
        step=panel.step,
        items=panel.items,
        channels=panel.channels,
        future_BHK=None if future_BHN is None else future_BHN[:, :, known],
        features_BF=panel.features[item_B] if panel.feature_names else None,
        time_BW=None if panel.stamps is None else _bar_times(panel, origins, item_B, context, horizon),
    )


def _around(panel: Panel, origins: IntArray, item_B: IntArray, *, before: int, after: int) -> FloatArray:
    """What ``gather`` finds in the panel, but NaN outside the item of each origin."""
    begin_B, end_B = panel.indptr[item_B], panel.indptr[item_B + 1]
    if (origins - before + 1 >= begin_B).all() and (origins + after < end_B).all():
        return gather(panel.values, origins, before=before, after=after)
    row_BW = origins[:, None] + np.arange(1 - before, after + 1)
    values_BWC: FloatArray = panel.values[row_BW.clip(0, len(panel) - 1)]
    values_BWC[(row_BW < begin_B[:, None]) | (row_BW >= end_B[:, None])] = np.nan
    return values_BWC


def _bar_times(panel: Panel, origins: IntArray, item_B: IntArray, context: int, horizon: int) -> IntArray:
    """Stamps of every row of context and horizon; beyond the end of an item they are the nominal step apart."""
    row_BW = np.maximum(origins[:, None] + np.arange(1 - context, horizon + 1), panel.indptr[item_B, None])
    last_B1 = panel.indptr[item_B + 1, None] - 1
    beyond_BW = np.maximum(row_BW - last_B1, 0)
    times: IntArray = panel.times_of(np.minimum(row_BW, last_B1)) + beyond_BW * panel.step
    return times


def targets_of(panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
    """Gather the actual values of the target channels: float32 [B, H, C], NaN where missing."""
    actual_BHC = gather(panel.values, origins, before=0, after=horizon)
    if panel.carried is not None:
        actual_BHC[gather(panel.carried, origins, before=0, after=horizon)] = np.nan
    return take_columns(actual_BHC, panel.targets)


def take_columns(rows: FloatArray, columns: IntArray) -> FloatArray:
    """Some columns of rows of any leading shape; the rows themselves if these are all columns."""
    if len(columns) == rows.shape[-1]:
        return rows
    chosen: FloatArray = rows[..., columns]
    return chosen


def chunks(origins: IntArray, size: int = CHUNK) -> Iterator[IntArray]:
    """The origins in pieces of at most ``size``."""
    for begin in range(0, len(origins), size):
        yield origins[begin : begin + size]
