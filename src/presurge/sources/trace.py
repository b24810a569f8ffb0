"""Request traces: one row per request, scanned lazily, so that a trace may be larger than memory."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from presurge.errors import DataError
from presurge.series.buckets import ELAPSED, TIME
from presurge.series.frequency import SECOND
from presurge.series.panel import Clock, Panel
from presurge.series.timestamps import TimeForm, TimeUnit, check_unit, detect_form, stamp_expr
from presurge.sources.files import RowFile, no_rows, open_file, reading
from presurge.sources.formats import REQUEST_CHANNELS, TraceFormat, trace_format

BadRows = Literal["error", "drop"]
FailureRule = Literal["keep", "drop"]
Queries = Callable[[pl.LazyFrame], Sequence[pl.LazyFrame]]
"""Takes the events and returns what to compute from them."""

_LARGEST = 2**53
"""Larger token counts are not exact as floats, which is how the text of a number is first read."""
_SUCCESS = (
    "0",
    "ok",
    "success",
    "successful",
    "succeeded",
    "completed",
    "complete",
    "done",
    "finished",
    "true",
)
_TOKENS = ("input_tokens", "output_tokens")
_BATCH = 1_000_000
_DISTINCT_AT_ONCE = 25_000_000
"""Stamps whose distinct values are counted together in an unsorted trace: about half a gigabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace of requests with every row checked.

    Attributes:
        path: The file.
        format: Name of its format.
        clock: Of its stamps.
        has_elapsed: Whether the events have the column ``elapsed_us``.
        events: ``time_us`` (Int64), and where the file has them ``input_tokens``, ``output_tokens`` (Int64), ``failed``
            (Boolean: by the status, or without one no output token), ``elapsed_us`` (Int64, null where unknown), ``model``
            and ``log_type`` (String); in file order.
        rows: Number of events.
        first_us: Earliest stamp in microseconds.
        last_us: Latest stamp in microseconds.
        dropped: Bad rows left out.
        failure: What makes a request a failed one, in words.
        notes: What was changed on the way in, in words.
        answers: Results of the queries that were computed along with the checks.
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
    failure: str = "no output token"
    notes: tuple[str, ...] = ()
    answers: tuple[pl.DataFrame, ...] = field(default=(), repr=False)


def open_trace(
    source: Path | str | RowFile,
    *,
    format: str | None = None,
    columns: Mapping[str, Any] | None = None,
    time_unit: TimeUnit | None = None,
    bad_rows: BadRows = "error",
    also: Queries | None = None,
) -> Trace:
    """Open a request trace and check every row of it in one pass, without holding it in memory.

    Args:
        source: CSV, JSON lines or an access log (plain, gz, zst), or Parquet, or what ``open_file`` made of it.
        format: One of `TRACE_FORMATS`; by default the columns decide.
        columns: Attributes of ``TraceFormat`` that replace those of the format; ``time`` alone reads any log.
        time_unit: Unit of numeric stamps; by default the format or their magnitude decides.
        bad_rows: Whether a bad stamp or token count is an error or drops its row (the notes count them).
        also: Queries on the events to compute in the same pass as the checks, which saves reading the file again.

    Raises:
        DataError: The file cannot be read or has a bad row.
        FormatError: The columns fit no format, or several.
    """
    file = open_file(source)
    with reading(file.path, file.data):
        wanted = trace_format(file, format, columns)
        layout = _lay_out(file, wanted, time_unit, pl.Int64)
        survey = _survey(layout, layout.scan, also)
        if any(survey.counts[f"bad {column}"] for column in wanted.needs[1:]):
            # Reading whole numbers as such is fastest; only a file that also writes them as 12.0 is read as decimals.
            layout = _lay_out(file, wanted, time_unit, pl.Float64)
            survey = _survey(layout, layout.scan, also)
        (scan, counts, answers), dropped, notes = _cleaned(layout, survey, bad_rows, also)
    if not counts["rows"]:
        raise no_rows(file.path)
    first, last = counts["first"], counts["last"]
    check_unit(layout.form, first, last, where=f"{file.path}, column {wanted.time!r}")
    clock = layout.form.clock(first)
    if counts.get("bad elapsed"):
        notes.append(f"negative or infinite elapsed times taken as unknown: {counts['bad elapsed']:,}")
    return Trace(
        path=file.path,
        format=wanted.name,
        clock=clock,
        has_elapsed=wanted.elapsed in file.columns,
        events=scan.select(_event_columns(layout, file.columns)),
        rows=counts["rows"],
        first_us=first,
        last_us=last,
        dropped=dropped,
        failure="no output token" if layout.succeeded is None else f"by their {wanted.status}",
        notes=(*file.notes, f"time stamps: {layout.form.describe(clock)}", *notes),
        answers=answers,
    )


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

    @property
    def succeeded(self) -> pl.Expr | None:
        """Whether the status of a request means success; None if the file has no status."""
        if self.format.status not in self.file.columns:
            return None
        status = pl.col(str(self.format.status)).str.strip_chars().str.to_lowercase()
        if self.format.ok:
            return status.is_in([value.lower() for value in self.format.ok]).fill_null(False)
        http = status.cast(pl.Float64, strict=False).is_between(100, 399).fill_null(False)
        return http | status.is_in(_SUCCESS).fill_null(False)

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
        """Whether a row is an empty line of text, or no request. A JSON object without a value is a request gone wrong."""
        needs: Iterable[str] = self.format.needs if self.file.kind in ("csv", "log") else ()
        if self.file.kind == "csv" and self.format.needs == (self.format.time,):
            needs = self.file.columns
        empty = pl.all_horizontal(pl.col(name).is_null() for name in needs) if needs else pl.lit(False)
        if not self.format.only:
            return empty
        column, value = self.format.only
        return empty | (pl.col(column) != value).fill_null(True)

    @property
    def read(self) -> list[str]:
        """The columns from which the checks and the sums of a series are made."""
        source = self.format
        more = [source.elapsed, source.status, source.only[0] if source.only else None]
        columns = [*source.needs, *(name for name in more if name is not None and name in self.file.columns)]
        return [*dict.fromkeys((*columns, *self.blank.meta.root_names()))]


def _lay_out(file: RowFile, wanted: TraceFormat, unit: TimeUnit | None, tokens: type[pl.DataType]) -> _Layout:
    sample = file.sample(wanted.time)
    if sample.is_empty():
        raise no_rows(file.path)
    where = f"{file.path}, column {wanted.time!r}"
    form = detect_form(sample, unit=unit or wanted.time_unit, where=where)
    numbers = pl.Int64 if form.unit == "ns" else pl.Float64
    texts = (wanted.status, wanted.model, wanted.log_type, *wanted.only[:1])
    kinds: dict[Any, type[pl.DataType]] = {**dict.fromkeys(texts, pl.String), wanted.elapsed: pl.Float64}
    types = {name: kind for name, kind in kinds.items() if name in file.columns}
    has_status = wanted.status in types
    types |= {wanted.time: numbers if form.kind == "number" else pl.String}
    # With a status, a failed request may have no tokens; only as text is none another thing than no number.
    types |= dict.fromkeys(wanted.needs[1:], pl.String if has_status else tokens)
    scan = file.scan(types)
    if has_status:
        scan = scan.with_columns(pl.col(str(wanted.status)).cast(pl.String))
        failed = ~_Layout(file, wanted, form, scan).succeeded  # type: ignore[operator]
        zeros = (
            pl.when(failed & pl.col(c).is_null()).then(0).otherwise(pl.col(c)).alias(c)
            for c in wanted.needs[1:]
        )
        scan = scan.with_columns(zeros)
        types |= dict.fromkeys(wanted.needs[1:], tokens)
    stored = scan.collect_schema()
    # Parquet keeps its own types: a decimal or a text there becomes the number that it would be in a CSV.
    odd = [c for c in types if types[c].is_numeric() and not (stored[c].is_integer() or stored[c].is_float())]
    scan = scan.with_columns(
        pl.col(c).cast(types[c] if has_status else pl.Float64, strict=False) for c in odd
    )
    return _Layout(file, wanted, form, scan)


class _Survey(NamedTuple):
    """Rows, what was counted in them, and the results of the queries computed along."""

    scan: pl.LazyFrame
    counts: dict[str, int]
    answers: tuple[pl.DataFrame, ...]


def _survey(layout: _Layout, scan: pl.LazyFrame, also: Queries | None) -> _Survey:
    needs, elapsed, known = layout.format.needs, layout.format.elapsed, layout.read
    wanted = [
        pl.len().alias("rows"),
        layout.blank.sum().alias("blank"),
        layout.stamp.min().alias("first"),
        layout.stamp.max().alias("last"),
        *(layout.bad(column).sum().alias(f"bad {column}") for column in needs),
    ]
    if elapsed in known:
        value = pl.col(str(elapsed))
        wanted.append((value.is_not_null() & ~_usable_elapsed(value)).sum().alias("bad elapsed"))
    if also is None:
        return _Survey(scan, scan.select(wanted).collect(engine="streaming").row(0, named=True), ())
    # The cache lets checks and queries share one reading of the file; none of it is kept.
    shared = scan.select(known).cache()
    queries = [shared.select(wanted), *also(shared.select(_event_columns(layout, known)))]
    counts, *answers = pl.collect_all(queries, engine="streaming")
    return _Survey(scan, counts.row(0, named=True), tuple(answers))


def _cleaned(
    layout: _Layout, survey: _Survey, bad_rows: BadRows, also: Queries | None
) -> tuple[_Survey, int, list[str]]:
    """Leave out blank and bad rows and survey the others again: (survey, bad rows dropped, notes)."""
    notes, dropped = [], 0
    if survey.counts["blank"]:
        kind = f"rows other than {layout.format.only[1]}" if layout.format.only else "empty rows"
        notes.append(f"{kind} skipped: {survey.counts['blank']:,}")
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


def _usable_elapsed(value: pl.Expr) -> pl.Expr:
    return (value >= 0) & value.cast(pl.Float64).is_finite()


def _event_columns(layout: _Layout, known: Collection[str]) -> list[pl.Expr]:
    """The columns of the events that can be made from the known ones; a bad row may give nulls."""
    source, succeeded = layout.format, layout.succeeded
    columns = [layout.stamp.alias(TIME)]
    for column, name in ((source.input_tokens, "input_tokens"), (source.output_tokens, "output_tokens")):
        if column is not None:
            columns.append(pl.col(column).cast(pl.Int64, strict=False).alias(name))
    if succeeded is not None:
        columns.append((~succeeded).alias("failed"))
    elif source.output_tokens is not None:
        columns.append((pl.col(source.output_tokens).cast(pl.Int64, strict=False) == 0).alias("failed"))
    if source.elapsed in known:
        seconds = pl.col(str(source.elapsed))
        elapsed = (seconds.cast(pl.Float64) * SECOND).round().cast(pl.Int64, strict=False)
        columns.append(pl.when(_usable_elapsed(seconds)).then(elapsed).alias(ELAPSED))
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
        hint="Fix the file, or leave such rows out (they are counted): `bad_rows=drop`",
    )


def counted(events: pl.LazyFrame, failures: FailureRule = "keep", *, by: Sequence[str] = ()) -> pl.LazyFrame:
    """The events of a trace as columns that add up: ``requests``, and ``input_tokens``, ``output_tokens``, ``failures`` if known.

    Args:
        events: As in a ``Trace``; ``elapsed_us`` is kept if they have it.
        failures: ``keep`` counts failed requests as requests with the tokens that they have; ``drop`` counts them only in
            ``failures``, not as requests, tokens or time in flight.
        by: Columns to keep as they are, such as ``model``.
    """
    known = events.collect_schema()
    columns = {"requests": pl.lit(1, pl.Int64)}
    columns |= {name: pl.col(name) for name in (*_TOKENS, ELAPSED) if name in known}
    if "failed" not in known:
        return events.select(TIME, *by, **columns)
    if failures == "drop":
        kept = (~pl.col("failed")).cast(pl.Int64)
        columns = {name: column * kept for name, column in columns.items()}
    return events.select(TIME, *by, **columns, failures=pl.col("failed").cast(pl.Int64))


def requests_panel(trace: Trace, failures: FailureRule = "keep") -> Panel:
    """The request-level view: one row per request with the time since the request before it and its tokens, if known.

    Rows are in the order of time (of the file, among equal stamps). Requests have no fixed distance, so the step of one
    second and the start at zero are nominal and the clock is relative: a forecast of three rows is one of the next three
    requests. The inter-arrival time of the first request is missing.

    Raises:
        DataError: No request is left.
    """
    known = trace.events.collect_schema()
    channels = tuple(c for c in REQUEST_CHANNELS if c.name in known or c.name == "inter_arrival")
    drop = failures == "drop" and "failed" in known
    events = trace.events.filter(~pl.col("failed")) if drop else trace.events
    frame = events.select(TIME, *(c.name for c in channels[1:])).collect(engine="streaming")
    frame = frame.sort(TIME, maintain_order=True)
    if frame.is_empty():
        raise DataError("no request is left without the failed ones", where=str(trace.path))
    values = np.full((len(frame), len(channels)), np.nan, np.float32)
    values[1:, 0] = np.diff(frame[TIME].to_numpy()) / SECOND
    for c, channel in enumerate(channels[1:], 1):
        values[:, c] = frame[channel.name].to_numpy()
    return Panel(values=values, channels=channels, step=SECOND, start=np.zeros(1, np.int64), clock="relative")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCounts:
    """Exact counts of a trace.

    Attributes:
        rows: Requests.
        first_us: Earliest stamp in microseconds.
        last_us: Latest stamp in microseconds.
        unsorted_steps: Requests that are earlier than the one before them in the file.
        duplicate_stamps: Requests minus distinct stamps.
        fractional_stamps: Stamps that are not whole seconds.
        failures: Failed requests; 0 if nothing tells them.
        bad_rows: Bad rows left out when the trace was opened.
        input_tokens: Their sum; 0 if the trace has none.
        output_tokens: Their sum; 0 if the trace has none.
    """

    rows: int
    first_us: int
    last_us: int
    unsorted_steps: int
    duplicate_stamps: int
    fractional_stamps: int
    failures: int
    bad_rows: int
    input_tokens: int
    output_tokens: int


def check_trace(trace: Trace) -> TraceCounts:
    """Count exactly what a trace holds and how regular it is, in batches and with bounded memory.

    An unsorted trace of more than 25 million requests costs one further pass for every 25 million, each of which counts
    the distinct stamps of one stretch of time.
    """
    counts = Counter[str]()
    previous = np.zeros(0, np.int64)
    known = trace.events.collect_schema()
    sums = {name: name.replace("failed", "failures") for name in (*_TOKENS, "failed") if name in known}
    events = trace.events.select(TIME, *sums)
    for batch in events.collect_batches(chunk_size=_BATCH, maintain_order=True, engine="streaming"):
        stamps = np.concatenate((previous, batch[TIME].to_numpy()))
        gaps = np.diff(stamps)
        counts.update(
            unsorted_steps=int(np.count_nonzero(gaps < 0)),
            duplicate_stamps=int(np.count_nonzero(gaps == 0)),
            fractional_stamps=int(np.count_nonzero(stamps[len(previous) :] % SECOND)),
            **{count: int(batch[column].sum()) for column, count in sums.items()},
        )
        previous = stamps[-1:]
    if counts["unsorted_steps"]:
        counts["duplicate_stamps"] = trace.rows - _distinct(trace)
    fields = {**dict.fromkeys(("failures", *_TOKENS), 0), **counts}
    return TraceCounts(
        rows=trace.rows, first_us=trace.first_us, last_us=trace.last_us, bad_rows=trace.dropped, **fields
    )


def _distinct(trace: Trace) -> int:
    """Number of distinct stamps, counted over stretches of time that fit into memory."""
    parts = -(-trace.rows // _DISTINCT_AT_ONCE)
    edges = np.linspace(trace.first_us, trace.last_us + 1, parts + 1).astype(np.int64)
    stamp = pl.col(TIME)
    return sum(
        trace.events.filter(stamp >= low, stamp < high)
        .select(stamp.n_unique())
        .collect(engine="streaming")
        .item()
        for low, high in zip(edges.tolist(), edges[1:].tolist(), strict=False)
    )
