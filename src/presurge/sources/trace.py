"""Request traces: one row a request, scanned lazily, so that a trace may be larger than the memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from presurge.errors import DataError
from presurge.series.frequency import SECOND
from presurge.series.panel import Clock
from presurge.series.timestamps import TimeForm, TimeUnit, check_unit, detect_form, stamp_expr
from presurge.sources.files import RowFile, no_rows, open_file, reading
from presurge.sources.recognise import TraceFormat, trace_format

BadRows = Literal["error", "drop"]
Queries = Callable[[pl.LazyFrame], Sequence[pl.LazyFrame]]
"""From the events to what is asked of them."""

_LARGEST = 2**53
"""Token counts beyond this are not exact as floats, which is how the text of a number is first read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace of requests whose every row was checked.

    Attributes:
        path: The file.
        format: Name of its format.
        clock: Of its stamps.
        has_elapsed: The events have the column ``elapsed_us``.
        events: ``time_us``, ``input_tokens``, ``output_tokens`` (Int64), ``failed`` (Boolean: no output token), and where
            the file has them ``elapsed_us`` (Int64, null where unknown), ``model`` and ``log_type`` (String); in file order.
        rows: Number of events.
        first_us: Earliest stamp.
        last_us: Latest stamp.
        dropped: Bad rows left out.
        notes: What was treated on the way in, in words.
        answers: To the queries that were asked along with the checks.
    """

    path: Path
    format: str
    clock: Clock
    has_elapsed: bool
    events: pl.LazyFrame = field(repr=False)
    rows: int
    first_us: int
    last_us: int
    dropped: int = 0
    notes: tuple[str, ...] = ()
    answers: tuple[pl.DataFrame, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the columns of a file become the columns of the events."""

    file: RowFile
    format: TraceFormat
    form: TimeForm
    scan: pl.LazyFrame

    @property
    def stamp(self) -> pl.Expr:
        return stamp_expr(self.format.time, self.form)

    def bad(self, column: str) -> pl.Expr:
        """Whether a row has no usable value in one of the needed columns."""
        if column == self.format.time:
            return self.stamp.is_null()
        value = pl.col(column)
        wrong = value.is_null() | (value < 0) | (value > _LARGEST)
        if self.scan.collect_schema()[column].is_integer():
            return wrong
        return wrong | value.is_nan() | (value != value.floor())

    @property
    def blank(self) -> pl.Expr:
        return pl.all_horizontal(pl.col(column).is_null() for column in self.format.needs)


def open_trace(
    path: Path | str,
    *,
    format: str | None = None,
    time_unit: TimeUnit | None = None,
    bad_rows: BadRows = "error",
    also: Queries | None = None,
) -> Trace:
    """Open a request trace and check every row of it in one pass, without holding it in memory.

    Args:
        path: CSV (plain, gz, zst), Parquet or JSON lines.
        format: One of `TRACE_FORMATS`; told by the columns if not given.
        time_unit: Unit of numeric stamps; told by the format or by their magnitude if not given.
        bad_rows: Whether a bad stamp or token count is an error or drops its row (counted in the notes).
        also: Queries on the events to answer in the same pass as the checks, which saves reading the file again.

    Raises:
        DataError: The file cannot be read or has a bad row.
        FormatError: The columns fit no format or several.
    """
    file = open_file(Path(path))
    with reading(file.path):
        wanted = trace_format(file.columns, path=file.path, name=format)
        layout = _lay_out(file, wanted, time_unit, pl.Int64)
        survey = _survey(layout, layout.scan, also)
        if survey.counts[f"bad {wanted.input_tokens}"] or survey.counts[f"bad {wanted.output_tokens}"]:
            # Whole numbers are fastest read as such; only a file that also writes them as 12.0 is read as decimals.
            layout = _lay_out(file, wanted, time_unit, pl.Float64)
            survey = _survey(layout, layout.scan, also)
        return _checked(layout, survey, bad_rows, also)


def _lay_out(file: RowFile, wanted: TraceFormat, unit: TimeUnit | None, tokens: type[pl.DataType]) -> _Layout:
    sample = file.sample(wanted.time)
    if sample.is_empty():
        raise no_rows(file.path)
    where = f"{file.path}, column {wanted.time!r}"
    form = detect_form(sample, unit=unit or wanted.time_unit, where=where)
    numbers = pl.Int64 if form.unit == "ns" else pl.Float64
    types: dict[str, type[pl.DataType]] = {
        wanted.time: numbers if form.kind == "number" else pl.String,
        wanted.input_tokens: tokens,
        wanted.output_tokens: tokens,
    }
    optional = {wanted.elapsed: pl.Float64, wanted.model: pl.String, wanted.log_type: pl.String}
    types |= {
        column: kind for column, kind in optional.items() if column is not None and column in file.columns
    }
    scan = file.scan(types)
    stored = scan.collect_schema()
    # Parquet keeps its own types: a decimal or a text there becomes the number that it would be in a CSV.
    odd = [c for c in types if types[c].is_numeric() and not (stored[c].is_integer() or stored[c].is_float())]
    return _Layout(
        file, wanted, form, scan.with_columns(pl.col(odd).cast(pl.Float64, strict=False)) if odd else scan
    )


def _checked(layout: _Layout, survey: "_Survey", bad_rows: BadRows, also: Queries | None) -> Trace:
    file, source = layout.file, layout.format
    (scan, counts, answers), dropped, notes = _cleaned(layout, survey, bad_rows, also)
    if not counts["rows"]:
        raise no_rows(file.path)
    first, last = counts["first"], counts["last"]
    check_unit(layout.form, first, last, where=f"{file.path}, column {source.time!r}")
    clock = layout.form.clock(first)
    if counts.get("bad elapsed"):
        notes.append(f"negative or infinite elapsed times taken as unknown: {counts['bad elapsed']:,}")
    return Trace(
        path=file.path,
        format=source.name,
        clock=clock,
        has_elapsed=source.elapsed in file.columns,
        events=scan.select(_event_columns(layout, file.columns)),
        rows=counts["rows"],
        first_us=first,
        last_us=last,
        dropped=dropped,
        notes=(f"time stamps: {layout.form.describe(clock)}", *notes),
        answers=answers,
    )


class _Survey(NamedTuple):
    """Rows, what was counted of them, and the answers to the queries asked along."""

    scan: pl.LazyFrame
    counts: dict[str, int]
    answers: tuple[pl.DataFrame, ...]


def _cleaned(
    layout: _Layout, survey: _Survey, bad_rows: BadRows, also: Queries | None
) -> tuple[_Survey, int, list[str]]:
    """See what is wrong, and count again where rows are left out: (survey, rows dropped, notes)."""
    notes, dropped = [], 0
    if survey.counts["blank"]:
        notes.append(f"empty rows skipped: {survey.counts['blank']:,}")
        survey = _survey(layout, survey.scan.filter(~layout.blank), also)
    counts = {c: survey.counts[f"bad {c}"] for c in layout.format.needs if survey.counts[f"bad {c}"]}
    if counts and bad_rows == "error":
        raise _first_bad(layout, counts)
    if counts:
        before = survey.counts["rows"]
        good = ~pl.any_horizontal(layout.bad(column) for column in counts)
        survey = _survey(layout, survey.scan.filter(good), also)
        dropped = before - survey.counts["rows"]
        found = ", ".join(f"{column}: {number:,}" for column, number in counts.items())
        notes.append(f"bad rows left out: {dropped:,} ({found})")
    return survey, dropped, notes


def _survey(layout: _Layout, scan: pl.LazyFrame, also: Queries | None) -> _Survey:
    needs, elapsed = layout.format.needs, layout.format.elapsed
    wanted = [
        pl.len().alias("rows"),
        layout.blank.sum().alias("blank"),
        layout.stamp.min().alias("first"),
        layout.stamp.max().alias("last"),
        *(layout.bad(column).sum().alias(f"bad {column}") for column in needs),
    ]
    known = [*needs]
    if elapsed in layout.file.columns:
        value = pl.col(str(elapsed))
        wanted.append((value.is_not_null() & ~_usable_elapsed(value)).sum().alias("bad elapsed"))
        known.append(str(elapsed))
    if also is None:
        return _Survey(scan, scan.select(wanted).collect(engine="streaming").row(0, named=True), ())
    # The cache makes checks and queries share one reading of the file; nothing of it is kept.
    shared = scan.select(known).cache()
    queries = [shared.select(wanted), *also(shared.select(_event_columns(layout, known)))]
    counts, *answers = pl.collect_all(queries, engine="streaming")
    return _Survey(scan, counts.row(0, named=True), tuple(answers))


def _usable_elapsed(value: pl.Expr) -> pl.Expr:
    return (value >= 0) & value.cast(pl.Float64).is_finite()


def _event_columns(layout: _Layout, known: Sequence[str]) -> list[pl.Expr]:
    """The columns of the events from those that are known; where a row is bad there may be nulls."""
    source = layout.format
    outputs = pl.col(source.output_tokens).cast(pl.Int64, strict=False)
    columns = [
        layout.stamp.alias("time_us"),
        pl.col(source.input_tokens).cast(pl.Int64, strict=False).alias("input_tokens"),
        outputs.alias("output_tokens"),
        (outputs == 0).alias("failed"),
    ]
    if source.elapsed in known:
        seconds = pl.col(str(source.elapsed))
        elapsed = (seconds.cast(pl.Float64) * SECOND).round().cast(pl.Int64, strict=False)
        columns.append(pl.when(_usable_elapsed(seconds)).then(elapsed).alias("elapsed_us"))
    for column, name in ((source.model, "model"), (source.log_type, "log_type")):
        if column in known:
            columns.append(pl.col(str(column)).cast(pl.String).alias(name))
    return columns


def _first_bad(layout: _Layout, counts: dict[str, int]) -> DataError:
    """Find the first bad row, in a second pass that only a bad file costs."""
    file = layout.file
    wrong = {column: layout.bad(column) & ~layout.blank for column in counts}
    found = (
        layout.scan.select(flag.alias(column) for column, flag in wrong.items())
        .with_row_index("row")
        .filter(pl.any_horizontal(*wrong))
        .head(1)
        .collect(engine="streaming")
        .row(0, named=True)
    )
    row = int(found["row"])
    column = next(column for column in counts if found[column])
    wanted = "a time" if column == layout.format.time else "a whole number of tokens"
    rows = sum(counts.values())
    return DataError(
        f"{file.text_at(row, column)} is not {wanted} ({rows} bad value{'s' if rows > 1 else ''} in all)",
        where=file.where(row, column),
        hint="Mend the file, or leave such rows out (they are counted): `bad_rows=drop`",
    )
