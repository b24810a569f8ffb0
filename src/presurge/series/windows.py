"""Windows as views: a window is the row of its origin; nothing is copied until a batch is gathered.

Shapes: B windows, L context rows, H horizon rows, W = L + H, C channels, R rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span

IntArray = npt.NDArray[np.int64]
CHUNK = 16_384
"""Windows gathered at once where a whole span is walked: bounds the memory, whatever the number of windows."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowBatch:
    """What a forecaster may know of B windows.

    Attributes:
        context_BLC: float32, original units, oldest row first; NaN where missing.
        item_B: Item number of each window.
        origin_B: Time of the last context row, microseconds since the Unix epoch.
        step: Frequency in microseconds.
        items: Names of the items that ``item_B`` numbers.
    """

    context_BLC: FloatArray
    item_B: IntArray
    origin_B: IntArray
    step: int
    items: tuple[str, ...]


def window_origins(panel: Panel, span: Span, *, context: int, horizon: int, stride: int = 1) -> IntArray:
    """Rows of the last context row of every window whose H targets lie in the span.

    The context may reach back before the span (a forecast at the first row of a test part knows the rows before it)
    but never into another item. Per item the origins are ``stride`` rows apart, beginning at the earliest possible.
    """
    pieces = []
    for begin, first, last in zip(panel.indptr[:-1], span.first, span.last, strict=True):
        earliest = max(int(first) - 1, int(begin) + context - 1)
        pieces.append(np.arange(earliest, int(last) - horizon, stride, dtype=np.int64))
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def complete(panel: Panel, origins: IntArray, *, before: int, after: int) -> npt.NDArray[np.bool_]:
    """bool [B, C]: the ``before`` rows up to each origin and the ``after`` rows behind it are all observed."""
    if panel.observed.all():
        return np.ones((len(origins), len(panel.channels)), np.bool_)
    missing = np.zeros((len(panel) + 1, len(panel.channels)), np.int64)
    np.cumsum(~panel.observed, axis=0, out=missing[1:])
    holes: npt.NDArray[np.bool_] = missing[origins + 1 + after] == missing[origins + 1 - before]
    return holes


def gather(values: FloatArray, origins: IntArray, *, before: int, after: int) -> FloatArray:
    """Copy the rows ``origin - before + 1 ... origin + after`` of every origin: float32 [B, before + after, C]."""
    width, channels = before + after, values.shape[1]
    if len(origins) == 0:
        return np.zeros((0, width, channels), np.float32)
    rows = as_strided(
        values,
        (len(values) - width + 1, width * channels),
        (values.strides[0], values.strides[1]),
        writeable=False,
    )
    windows: FloatArray = rows[origins - before + 1].reshape(len(origins), width, channels)
    return windows


def batch_of(panel: Panel, origins: IntArray, context: int) -> WindowBatch:
    """Gather the contexts of the given origins."""
    item_B = np.searchsorted(panel.indptr, origins, side="right") - 1
    return WindowBatch(
        context_BLC=gather(panel.values, origins, before=context, after=0),
        item_B=item_B,
        origin_B=panel.start[item_B] + (origins - panel.indptr[item_B]) * panel.step,
        step=panel.step,
        items=panel.items,
    )


def targets_of(panel: Panel, origins: IntArray, horizon: int) -> FloatArray:
    """Gather the targets of the given origins: float32 [B, H, C], NaN where missing."""
    return gather(panel.values, origins, before=0, after=horizon)


def chunks(origins: IntArray, size: int = CHUNK) -> Iterator[IntArray]:
    """The origins in pieces of at most ``size``."""
    for begin in range(0, len(origins), size):
        yield origins[begin : begin + size]
