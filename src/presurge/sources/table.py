"""Any table with a time column as a Panel: wide (one column per channel) or long (with an item column).

Every row goes into the bucket of a regular grid in which its stamp falls.
Shapes: N rows of the table, R rows of the grid (all items one after another), C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from presurge.errors import ConfigError, DataError, within
from presurge.series.frequency import format_step, infer_step, parse_step
from presurge.series.panel import Channel, ChannelKind, FloatArray, IntArray, Panel
from presurge.series.timestamps import TimeUnit
from presurge.sources.columns import (
    Rows,
    choose_kind,
    doubt_about,
    exact_totals,
    read_items,
    read_numbers,
    read_stamps,
    without_blank,
)
from presurge.sources.files import RowFile, check_columns, open_file, reading
from presurge.sources.formats import GUIDE_COUNTS, GUIDE_TIME, LOAD_CHANNELS
from presurge.sources.frames import Frame

Fill = Literal["auto", "zero", "missing"]

MAX_ROWS = 200_000_000
"""A larger grid means a wrong time column or far too small a step, and would fill the memory with empty rows."""
DUPLICATES = "rows with the stamp of another row"
"""Beginning of the note on rows that were added up or averaged because they have one stamp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """What a table holds.

    Attributes:
        rows: Rows of the table.
        unsorted: Rows that are earlier than the row before them (of the same item).
        duplicates: Rows that repeat the stamp of another row (of the same item).
        off_grid: Rows whose stamp is not the beginning of its bucket.
        empty_buckets: Buckets without a row.
        missing: Number of null or NaN values by column.
    """

    rows: int
    unsorted: int
    duplicates: int
    off_grid: int
    empty_buckets: int
    missing: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table as a panel.

    Attributes:
        panel: The regular series.
        counts: What the table holds.
        totals: Exact sum of each count column of whole numbers, taken before anything becomes a float.
        notes: What was done to the rows and by which rule, in words.
    """

    panel: Panel
    counts: TableCounts
    totals: Mapping[str, int]
    notes: tuple[str, ...] = ()


def read_table(
    source: Path | str | RowFile | Frame,
    *,
    time: str,
    values: Sequence[str],
    item: str | None = None,
    step: str | int | None = None,
    kinds: Mapping[str, ChannelKind] | None = None,
    fill: Fill = "auto",
    time_unit: TimeUnit | None = None,
) -> Table:
    """Read a CSV, Parquet or JSON lines table (plain, gz or zst) as a panel.

    Rows of one item that fall into the same bucket are summed for counts and averaged for gauges, in any order. Each item
    runs from its own first row to its own last one.

    Args:
        source: The file, what ``open_file`` made of it, or a pandas or Polars frame.
        time: Its time column.
        values: Its value columns, which become the channels.
        item: The column that names the series of each row, in a long table.
        step: Width of a bucket (``"60s"``, ``"5m"``, or seconds); by default the most frequent distance between rows.
        kinds: Columns to read as a count or a gauge, whatever their values look like.
        fill: What a bucket without a row holds: ``auto`` is zero for counts and missing for gauges.
        time_unit: Unit of numeric stamps; by default their magnitude decides.

    Raises:
        DataError: The file cannot be read, lacks a column, or holds a value that is not a time or not a number.
        ConfigError: ``step`` or ``kinds`` cannot be used.
    """
    file = open_file(source)
    width = None if step is None else parse_step(step)
    needed = [time, *([item] if item else []), *values]
    check_columns(file, needed)
    with reading(file.path, file.data):
        rows = without_blank(file, file.read(list(dict.fromkeys(needed))))
    stamp_N, form = read_stamps(rows, time, time_unit)
    item_N, items = read_items(rows, item)
    channels, numbers, doubts = _read_channels(rows, values, kinds or {})
    gaps, unsorted, duplicates = _gaps(stamp_N, item_N)
    with within(str(file.path)):
        width = width or infer_step(np.concatenate(([0], np.cumsum(gaps))))
        start, indptr, cell_N, off_grid = _lay_grid(stamp_N, item_N, len(items), width)
    totals = exact_totals(rows, channels, numbers)
    zero = [fill == "zero" or (fill == "auto" and channel.kind == "count") for channel in channels]
    filled, empty = _fill_grid(int(indptr[-1]), cell_N, numbers, channels, zero)
    clock = form.clock(int(stamp_N.min()))
    panel = Panel(
        values=filled, channels=channels, step=width, start=start, items=items, indptr=indptr, clock=clock
    )
    counts = TableCounts(
        rows=len(stamp_N),
        unsorted=unsorted,
        duplicates=duplicates,
        off_grid=off_grid,
        empty_buckets=empty,
        missing={column.name: column.null_count() for column in numbers},
    )
    notes = [f"time stamps: {form.describe(clock)}", *_notes(counts, panel, zero, guessed=step is None)]
    return Table(panel=panel, counts=counts, totals=totals, notes=(*notes, *doubts))


read_frame = read_table
"""The name of ``read_table`` for a pandas or Polars frame."""


def read_guide_csv(
    source: Path | str | RowFile, *, step: str | int | None = None, fill: Fill = "auto"
) -> Table:
    """Read the second or the minute series of the training guide: requests, and input and output tokens if it has them.

    Raises:
        DataError: The file cannot be read or lacks one of the guide's columns.
    """
    file = open_file(source)
    channels = tuple(c for c in LOAD_CHANNELS if c.name == "requests" or GUIDE_COUNTS[c.name] in file.columns)
    kinds: dict[str, ChannelKind] = {GUIDE_COUNTS[channel.name]: "count" for channel in channels}
    table = read_table(file, time=GUIDE_TIME, values=list(kinds), step=step, kinds=kinds, fill=fill)
    return replace(
        table,
        panel=table.panel.replace(values=table.panel.values, channels=channels),
        totals={n: table.totals[column] for n, column in GUIDE_COUNTS.items() if column in table.totals},
    )


def _read_channels(
    rows: Rows, values: Sequence[str], kinds: Mapping[str, ChannelKind]
) -> tuple[tuple[Channel, ...], list[pl.Series], list[str]]:
    """The value columns as channels, their numbers, and where the kind of one may be wrong."""
    for name, kind in kinds.items():
        if name not in values or kind not in ("count", "gauge"):
            raise ConfigError(
                f"{name}={kind} is not the kind of a value column",
                setting="kind",
                hint=f"Write COLUMN=count or COLUMN=gauge for one of: {', '.join(values)}.",
            )
    channels, numbers, doubts = [], [], []
    for name in values:
        numbers.append(read_numbers(rows, name))
        channels.append(Channel(name, kind=choose_kind(rows, name, numbers[-1], kinds.get(name))))
        if name not in kinds and (doubt := doubt_about(name, numbers[-1], channels[-1].kind)):
            doubts.append(doubt)
    return tuple(channels), numbers, doubts


def _gaps(stamp_N: IntArray, item_N: IntArray) -> tuple[IntArray, int, int]:
    """Positive distances between neighbouring rows of each item, rows out of order, and rows that repeat a stamp."""
    if (item_N[1:] < item_N[:-1]).any():
        order = np.argsort(item_N, kind="stable")
        stamp_N, item_N = stamp_N[order], item_N[order]
    same = item_N[1:] == item_N[:-1]
    gaps = np.diff(stamp_N)
    unsorted = int(np.count_nonzero(same & (gaps < 0)))
    if unsorted:
        gaps = np.diff(stamp_N[np.lexsort((stamp_N, item_N))])
    return gaps[same & (gaps > 0)], unsorted, int(np.count_nonzero(same & (gaps == 0)))


def _lay_grid(
    stamp_N: IntArray, item_N: IntArray, items: int, step: int
) -> tuple[IntArray, IntArray, IntArray, int]:
    """Lay buckets of one step over the stamps of every item, from its first to its last.

    An item whose stamps are all congruent modulo the step keeps its phase: hours logged at ten past stay at ten past.
    Otherwise its buckets begin at multiples of the step since the Unix epoch.

    Returns:
        start: int64 [items], first bucket of each item, microseconds since the Unix epoch.
        indptr: int64 [items + 1], rows of each item.
        cell_N: int64, the row of the grid into which each row of the table falls.
        off_grid: Rows of the table whose stamp is not the beginning of its bucket.

    Raises:
        DataError: There would be more than `MAX_ROWS` buckets.
    """
    phase_N = stamp_N % step
    low, high = _ends(phase_N, item_N, items)
    phase = np.where(low == high, low, 0)
    bucket_N = (stamp_N - phase[item_N]) // step
    first, last = _ends(bucket_N, item_N, items)
    rows = last - first + 1
    indptr = np.concatenate(([0], np.cumsum(rows)))
    if indptr[-1] > MAX_ROWS:
        usual = [seconds * 1_000_000 for seconds in (1, 10, 60, 300, 900, 3600, 86_400, 604_800)]
        enough = next((each for each in usual if int(rows.max()) * step // each < MAX_ROWS // 10), usual[-1])
        raise DataError(
            f"{len(stamp_N):,} rows would become {int(indptr[-1]):,} buckets of {format_step(step)}",
            hint=f"Give a larger step, such as `step={format_step(enough)}`, and check the first and the last stamp.",
        )
    cell_N = bucket_N - first[item_N] + indptr[item_N]
    return first * step + phase, indptr, cell_N, int(np.count_nonzero(phase_N != phase[item_N]))


def _ends(value_N: IntArray, item_N: IntArray, items: int) -> tuple[IntArray, IntArray]:
    """The least and the greatest value of each item."""
    least = np.full(items, np.iinfo(np.int64).max)
    greatest = np.full(items, np.iinfo(np.int64).min)
    np.minimum.at(least, item_N, value_N)
    np.maximum.at(greatest, item_N, value_N)
    return least, greatest


def _fill_grid(
    rows: int,
    cell_N: IntArray,
    values: Sequence[pl.Series],
    channels: Sequence[Channel],
    zero: Sequence[bool],
) -> tuple[FloatArray, int]:
    """Put the values of N rows into R buckets: sum counts, average gauges.

    Null and NaN are left out. A bucket whose rows have no value stays missing; a bucket without any row is zero for the
    channels in ``zero`` and missing for the others.

    Returns:
        float32 [R, C] with NaN where missing, and the number of buckets without a row.
    """
    filled = np.empty((rows, len(channels)), np.float32)
    filled[:] = np.where(np.array(zero), np.float32(0), np.float32(np.nan))
    # Columns have numbers for names here: a channel may be called anything.
    frame = pl.DataFrame({"cell": cell_N} | {str(c): column for c, column in enumerate(values)})
    if not (np.diff(cell_N) > 0).all():  # some rows share a bucket
        merged = [_merge(str(c), frame[str(c)].dtype, channel.kind) for c, channel in enumerate(channels)]
        frame = frame.group_by("cell").agg(merged)
    cells = frame["cell"].to_numpy()
    for c in range(len(channels)):
        filled[cells, c] = frame[str(c)].cast(pl.Float32).fill_null(np.nan).to_numpy()
    return filled, rows - len(cells)


def _merge(column: str, dtype: pl.DataType, kind: ChannelKind) -> pl.Expr:
    """The value of a bucket: the sum of a count, the mean of a gauge, missing if no row has one.

    A sum of floats depends on their order, and must not depend on that of the rows: so they are sorted first.
    """
    value = pl.col(column)
    if kind == "gauge":
        return value.sort().mean()
    total = value.sum() if dtype.is_integer() else value.sort().sum()
    return pl.when(value.count() > 0).then(total).alias(column)


def _notes(counts: TableCounts, panel: Panel, zero: Sequence[bool], *, guessed: bool) -> list[str]:
    guess = ", the most frequent distance between rows" if guessed else ""
    notes = [f"step: {format_step(panel.step)}{guess}"]
    for channel, filled in zip(panel.channels, zero, strict=True):
        merged = "summed" if channel.kind == "count" else "averaged"
        empty = "zero" if filled else "missing"
        notes.append(f"{channel.name}: {channel.kind} ({merged} in a bucket; {empty} where there is no row)")
    hint = "" if len(panel.items) > 1 else " (if they belong to several series, name their column: `item`)"
    found = {
        "rows out of order (harmless)": (counts.unsorted, counts.rows),
        f"{DUPLICATES}{hint}": (counts.duplicates, counts.rows),
        "rows inside a bucket, not at its beginning": (counts.off_grid, counts.rows),
        "buckets without a row": (counts.empty_buckets, len(panel)),
        **{f"missing values of {name}": (number, counts.rows) for name, number in counts.missing.items()},
    }
    notes += [f"{what}: {number:,} of {whole:,}" for what, (number, whole) in found.items() if number]
    return notes
