"""Any table with a time column as a Panel: wide (one column a channel) or long (with an item column)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from presurge.errors import ConfigError, DataError
from presurge.series.frequency import format_step, infer_step, parse_step
from presurge.series.panel import Channel, ChannelKind, Panel
from presurge.series.timestamps import TimeForm, TimeUnit
from presurge.sources.columns import (
    Rows,
    choose_kind,
    exact_total,
    read_items,
    read_numbers,
    read_stamps,
    without_blank,
)
from presurge.sources.files import RowFile, RowFrame, check_columns, open_file, reading
from presurge.sources.gridding import IntArray, fill_grid, lay_grid
from presurge.sources.recognise import GUIDE_COLUMNS

Fill = Literal["auto", "zero", "missing"]

_GUIDE_CHANNELS = {
    "Concurrent_requests": ("requests", "requests"),
    "Request_tokens_sum": ("input_tokens", "tokens"),
    "Response_tokens_sum": ("output_tokens", "tokens"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCounts:
    """What was found in a table.

    Attributes:
        rows: Rows of the table.
        unsorted: Rows that are earlier than the row before them (of the same item).
        duplicates: Rows that repeat the stamp of another row (of the same item).
        off_grid: Rows whose stamp is not the beginning of its bucket.
        empty_buckets: Buckets without a row.
        missing: Values that are null or NaN, by column.
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
        counts: What was found and treated.
        totals: Exact sum of each count column of whole numbers, taken before anything became a float.
        notes: What was treated and by which rule, in words.
    """

    panel: Panel
    counts: TableCounts
    totals: Mapping[str, int]
    notes: tuple[str, ...] = ()


def read_table(
    path: Path | str,
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

    Rows of one item that fall into one bucket are summed for counts and averaged for gauges; their order does not matter.
    Each item runs from its own first row to its own last one.

    Args:
        path: The file.
        time: Its time column.
        values: Its value columns, which become the channels.
        item: The column that names the series of a row, in a long table.
        step: Width of a bucket (``"60s"``, ``"5m"``, or seconds); the most frequent distance of two rows if not given.
        kinds: Columns that are to be a count or a gauge, whatever their values look like.
        fill: What a bucket without a row holds: ``auto`` is zero for counts and missing for gauges.
        time_unit: Unit of numeric stamps; told by their magnitude if not given.

    Raises:
        DataError: The file cannot be read, lacks a column, or holds a value that is no time or no number.
        ConfigError: ``step`` or ``kinds`` cannot be used.
    """
    options = _Options(time, tuple(values), item, step, kinds or {}, fill, time_unit)
    return _read(open_file(Path(path)), options)


def read_frame(
    frame: pl.DataFrame,
    *,
    time: str,
    values: Sequence[str],
    item: str | None = None,
    step: str | int | None = None,
    kinds: Mapping[str, ChannelKind] | None = None,
    fill: Fill = "auto",
    time_unit: TimeUnit | None = None,
) -> Table:
    """Take a Polars frame as a panel, by the same rules and arguments as ``read_table``.

    Raises:
        DataError: The frame is empty, lacks a column, or holds a value that is no time or no number.
        ConfigError: ``step`` or ``kinds`` cannot be used.
    """
    options = _Options(time, tuple(values), item, step, kinds or {}, fill, time_unit)
    return _read(RowFrame.of(frame), options)


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``read_table`` and ``read_frame``."""

    time: str
    values: tuple[str, ...]
    item: str | None
    step: str | int | None
    kinds: Mapping[str, ChannelKind]
    fill: Fill
    time_unit: TimeUnit | None


def _read(file: RowFile, options: _Options) -> Table:
    names, item = list(options.values), options.item
    needed = [options.time, *([item] if item else []), *names]
    check_columns(file, needed)
    _check_kinds(options.kinds, names)
    with reading(file.path):
        rows = without_blank(file, file.read(list(dict.fromkeys(needed))))
    stamp_N, form = read_stamps(rows, options.time, options.time_unit)
    item_N, items = read_items(rows, item)
    numbers = [read_numbers(rows, name) for name in names]
    channels = tuple(
        Channel(name, kind=choose_kind(rows, name, column, options.kinds.get(name)))
        for name, column in zip(names, numbers, strict=True)
    )
    parsed = _Parsed(rows, stamp_N, form, item_N, items, channels, numbers)
    return _bucketed(parsed, parse_step(options.step) if options.step is not None else None, options.fill)


def read_guide_csv(path: Path | str, *, step: str | int | None = None) -> Table:
    """Read the second or the minute series of the training guide: requests, input and output tokens, all of them counts.

    Raises:
        DataError: The file cannot be read or has not the guide's columns.
    """
    file = open_file(Path(path))
    check_columns(file, list(GUIDE_COLUMNS))
    table = read_table(
        path,
        time=GUIDE_COLUMNS[0],
        values=list(_GUIDE_CHANNELS),
        step=step,
        kinds=dict.fromkeys(_GUIDE_CHANNELS, "count"),
    )
    channels = tuple(Channel(*_GUIDE_CHANNELS[name], kind="count") for name in table.panel.channel_names)
    return replace(
        table,
        panel=table.panel.replace(values=table.panel.values, channels=channels),
        totals={_GUIDE_CHANNELS[name][0]: total for name, total in table.totals.items()},
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Parsed:
    """The columns of a table as numbers: one stamp, item number and value per channel for each of N rows."""

    rows: Rows
    stamp_N: IntArray
    form: TimeForm
    item_N: IntArray
    items: tuple[str, ...]
    channels: tuple[Channel, ...]
    numbers: Sequence[pl.Series]


def _bucketed(parsed: _Parsed, step: int | None, fill: Fill) -> Table:
    gaps, unsorted, duplicates = _gaps(parsed.stamp_N, parsed.item_N)
    path, channels = parsed.rows.file.path, parsed.channels
    width = _infer(gaps, path) if step is None else step
    columns = list(zip(channels, parsed.numbers, strict=True))
    totals = {
        channel.name: exact_total(parsed.rows, channel.name, numbers)
        for channel, numbers in columns
        if channel.kind == "count" and numbers.dtype.is_integer()
    }
    grid = lay_grid(parsed.stamp_N, parsed.item_N, len(parsed.items), width, where=str(path))
    zero = [fill == "zero" or (fill == "auto" and channel.kind == "count") for channel in channels]
    filled, empty = fill_grid(grid, parsed.numbers, channels, zero)
    clock = parsed.form.clock(int(parsed.stamp_N.min()))
    panel = Panel(
        values=filled,
        channels=channels,
        step=width,
        start=grid.start,
        items=parsed.items,
        indptr=grid.indptr,
        clock=clock,
    )
    counts = TableCounts(
        rows=len(parsed.stamp_N),
        unsorted=unsorted,
        duplicates=duplicates,
        off_grid=grid.off_grid,
        empty_buckets=empty,
        missing={channel.name: numbers.null_count() for channel, numbers in columns},
    )
    notes = (
        f"time stamps: {parsed.form.describe(clock)}",
        *_notes(counts, panel, zero, guessed=step is None),
    )
    return Table(panel=panel, counts=counts, totals=totals, notes=notes)


def _check_kinds(kinds: Mapping[str, ChannelKind], names: Sequence[str]) -> None:
    for name, kind in kinds.items():
        if name not in names or kind not in ("count", "gauge"):
            raise ConfigError(
                f"{name}={kind} is not the kind of a value column",
                setting="kind",
                hint=f"Write COLUMN=count or COLUMN=gauge for one of: {', '.join(names)}.",
            )


def _gaps(stamp_N: IntArray, item_N: IntArray) -> tuple[IntArray, int, int]:
    """Positive distances of neighbouring rows of each item, rows out of order, and rows that repeat a stamp."""
    if (item_N[1:] < item_N[:-1]).any():
        order = np.argsort(item_N, kind="stable")
        stamp_N, item_N = stamp_N[order], item_N[order]
    same = item_N[1:] == item_N[:-1]
    gaps = np.diff(stamp_N)
    unsorted = int(np.count_nonzero(same & (gaps < 0)))
    if unsorted:
        gaps = np.diff(stamp_N[np.lexsort((stamp_N, item_N))])
    return gaps[same & (gaps > 0)], unsorted, int(np.count_nonzero(same & (gaps == 0)))


def _infer(gaps: IntArray, path: Path) -> int:
    try:
        return infer_step(np.concatenate(([0], np.cumsum(gaps))))
    except DataError as error:
        raise DataError(error.what, where=str(path), hint=error.hint) from error


def _notes(counts: TableCounts, panel: Panel, zero: Sequence[bool], *, guessed: bool) -> list[str]:
    notes = [
        f"step: {format_step(panel.step)}{', the most frequent distance of two rows' if guessed else ''}"
    ]
    for channel, filled in zip(panel.channels, zero, strict=True):
        merged = "summed" if channel.kind == "count" else "averaged"
        notes.append(
            f"{channel.name}: {channel.kind} ({merged} in a bucket; {'zero' if filled else 'missing'} where there is no row)"
        )
    hint = "" if len(panel.items) > 1 else " (if they are of several series, name their column: `item`)"
    found = {
        "rows out of order (their place does not matter)": (counts.unsorted, counts.rows),
        f"rows with the stamp of another row{hint}": (counts.duplicates, counts.rows),
        "rows inside a bucket, not at its beginning": (counts.off_grid, counts.rows),
        "buckets without a row": (counts.empty_buckets, len(panel)),
        **{f"missing values of {name}": (number, counts.rows) for name, number in counts.missing.items()},
    }
    notes += [f"{what}: {number:,} of {whole:,}" for what, (number, whole) in found.items() if number]
    return notes
