"""From rows with stamps to a regular grid: every row goes into the bucket that its stamp falls in.

Shapes: N rows of the table, R rows of the grid (all items one after another), C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError
from presurge.series.frequency import format_step
from presurge.series.panel import Channel, FloatArray

IntArray = npt.NDArray[np.int64]
MAX_ROWS = 200_000_000
"""A larger grid means a wrong time column or far too small a step, and would fill the memory with empty rows."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The buckets of a table.

    Attributes:
        step: Width of a bucket in microseconds.
        start: int64 [items], first bucket of each item, microseconds since the Unix epoch.
        indptr: int64 [items + 1], rows of each item.
        cell_N: int64, the row of the grid that each row of the table falls into.
        off_grid: Rows of the table whose stamp is not the beginning of its bucket.
    """

    step: int
    start: IntArray
    indptr: IntArray
    cell_N: IntArray
    off_grid: int


def lay_grid(stamp_N: IntArray, item_N: IntArray, items: int, step: int, *, where: str) -> Grid:
    """Lay buckets of one step over the stamps of every item, from its first to its last.

    An item whose stamps are all congruent modulo the step keeps its phase: hours logged at ten past stay at ten past.
    Otherwise its buckets begin at multiples of the step since the Unix epoch.

    Raises:
        DataError: There would be more than `MAX_ROWS` buckets.
    """
    phase_N = stamp_N % step
    low, high = _ends(phase_N, item_N, items)
    phase_of_N = np.where(low == high, low, 0)[item_N]
    bucket_N = (stamp_N - phase_of_N) // step
    first, last = _ends(bucket_N, item_N, items)
    indptr = np.concatenate(([0], np.cumsum(last - first + 1)))
    if indptr[-1] > MAX_ROWS:
        span = int((last - first + 1).max()) * step
        raise DataError(
            f"{len(stamp_N):,} rows would become {int(indptr[-1]):,} buckets of {format_step(step)}",
            where=where,
            hint=f"Give a larger step (`step={_next_step(span)}` for example), and check the first and the last stamp.",
        )
    return Grid(
        step=step,
        start=first * step + np.where(low == high, low, 0),
        indptr=indptr,
        cell_N=bucket_N - first[item_N] + indptr[item_N],
        off_grid=int(np.count_nonzero(phase_N != phase_of_N)),
    )


def fill_grid(
    grid: Grid, values: Sequence[pl.Series], channels: Sequence[Channel], zero: Sequence[bool]
) -> tuple[FloatArray, int]:
    """Put the values of N rows into R buckets: counts are summed, gauges averaged.

    A value that is null or NaN is left out. A bucket in which rows are known but no value is stays missing; one without any
    row is zero for the channels in ``zero`` and missing for the others.

    Returns:
        float32 [R, C] with NaN where missing, and the number of buckets without a row.
    """
    rows = int(grid.indptr[-1])
    blank = np.where(np.array(zero), np.float32(0), np.float32(np.nan)).astype(np.float32)
    filled = np.empty((rows, len(channels)), np.float32)
    filled[:] = blank
    frame = pl.DataFrame(
        [pl.Series("cell", grid.cell_N), *(v.alias(c.name) for v, c in zip(values, channels, strict=True))]
    )
    shared = len(grid.cell_N) > 1 and not bool((np.diff(grid.cell_N) > 0).all())
    if shared:
        frame = frame.group_by("cell").agg(_merge(frame[c.name], c) for c in channels)
    cells = frame["cell"].to_numpy()
    for index, channel in enumerate(channels):
        filled[cells, index] = frame[channel.name].cast(pl.Float32).fill_null(np.nan).to_numpy()
    return filled, rows - len(cells)


def _ends(value_N: IntArray, item_N: IntArray, items: int) -> tuple[IntArray, IntArray]:
    """The least and the greatest value of each item."""
    least = np.full(items, np.iinfo(np.int64).max)
    greatest = np.full(items, np.iinfo(np.int64).min)
    np.minimum.at(least, item_N, value_N)
    np.maximum.at(greatest, item_N, value_N)
    return least, greatest


def _merge(values: pl.Series, channel: Channel) -> pl.Expr:
    value = pl.col(channel.name)
    if channel.kind == "count":
        known = value.count() > 0
        # A sum of floats depends on their order, which the rows of a file must not: so they are sorted first.
        total = value.sum() if values.dtype.is_integer() else value.sort().sum()
        return pl.when(known).then(total).alias(channel.name)
    return value.sort().mean().alias(channel.name)


def _next_step(span: int) -> str:
    """The smallest usual step that cuts a span of time into few enough buckets."""
    usual = [seconds * 1_000_000 for seconds in (1, 10, 60, 300, 900, 3600, 86_400, 604_800)]
    return format_step(next((step for step in usual if span // step < MAX_ROWS // 10), usual[-1]))
