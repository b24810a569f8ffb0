"""Request traces: one row per request, scanned lazily, so that a trace may be larger than memory."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
"""Larger token counts are not exact as floats, which is how the text of a number is read."""
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
_CHECKS = ["blank", "odd"]
"""What is noted of every row beside its event."""
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
        form = _form_of(file, wanted, time_unit)
        rows = _rows(file, wanted, form)
        names = {TIME: wanted.time, **{n: column for n in _TOKENS if (column := getattr(wanted, n))}}
        seen, answers = _survey(rows, list(names), also)
        if seen["blank"] and file.kind == "csv":
            rows = _rows(file, wanted, form, as_text=True)
            seen, answers = _survey(rows, list(names), also)
        bad = {name: column for name, column in names.items() if seen[f"bad {name}"]}
        if bad and bad_rows == "error":
            raise _first_bad(file, rows, bad, sum(seen[f"bad {name}"] for name in bad))
        counts = seen
        if bad or seen["blank"]:
            rows = rows.filter(~pl.col("blank")).drop_nulls(list(names))
            counts, answers = _survey(rows, list(names), also)
    if not counts["rows"]:
        raise no_rows(file.path)
    first, last = counts["first"], counts["last"]
    check_unit(form, first, last, where=f"{file.path}, column {wanted.time!r}")
    clock = form.clock(first)
    stamps = f"time stamps: {form.describe(clock)}"
    dropped = seen["rows"] - seen["blank"] - counts["rows"]
    return Trace(
        path=file.path,
        format=wanted.name,
        clock=clock,
        events=rows.drop(_CHECKS),
        rows=counts["rows"],
        first_us=first,
        last_us=last,
        dropped=dropped,
        failure=f"by their {wanted.status}" if wanted.status in file.columns else "no output token",
        notes=(*file.notes, stamps, *_notes(wanted, seen, bad, dropped, counts["odd"])),
        answers=answers,
    )


def _notes(
    source: TraceFormat, seen: Mapping[str, int], bad: Mapping[str, str], dropped: int, odd: int
) -> Iterator[str]:
    if seen["blank"]:
        kind = f"rows other than {source.only[1]}" if source.only else "empty rows"
        yield f"{kind} skipped: {seen['blank']:,}"
    if bad:
        found = ", ".join(f"{column}: {seen[f'bad {name}']:,}" for name, column in bad.items())
        yield f"bad rows left out: {dropped:,} ({found})"
    if odd:
        yield f"negative or infinite elapsed times taken as unknown: {odd:,}"


def _form_of(file: RowFile, source: TraceFormat, unit: TimeUnit | None) -> TimeForm:
    sample = file.sample(source.time)
    if sample.is_empty():
        raise no_rows(file.path)
    return detect_form(sample, unit=unit or source.time_unit, where=f"{file.path}, column {source.time!r}")


def _rows(file: RowFile, source: TraceFormat, form: TimeForm, *, as_text: bool = False) -> pl.LazyFrame:
    """The rows of a file as events, with null for what is missing or wrong, and beside them `_CHECKS`.

    ``blank`` tells an empty line of text, and what is no request; a JSON object without a value is a request gone wrong.
    ``odd`` tells elapsed times that cannot be. Only ``as_text``, which is slower, is an empty cell of a CSV another thing
    than one that is no number.
    """
    has_status = source.status in file.columns
    texts = (source.status, source.model, source.log_type, *source.only[:1])
    types: dict[Any, type[pl.DataType]] = {**dict.fromkeys(texts, pl.String), source.elapsed: pl.Float64}
    number = pl.Int64 if form.unit == "ns" else pl.Float64
    types[source.time] = pl.String if as_text or form.kind != "number" else number
    # With a status, a failed request may have no tokens: there an empty cell is not one that is no number either.
    types |= dict.fromkeys(source.needs[1:], pl.String if as_text or has_status else pl.Float64)
    scan = file.scan({name: kind for name, kind in types.items() if name in file.columns})
    if as_text:
        scan = scan.with_columns(pl.col(source.needs).str.strip_chars().replace("", None))
    stored = scan.collect_schema()

    def number_of(column: str) -> pl.Expr:
        if stored[column].is_integer() or stored[column].is_float():  # a Parquet file keeps its own types
            return pl.col(column)
        return pl.col(column).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)

    events = {TIME: stamp_expr(source.time, form)}
    failed = ~_succeeded(source) if has_status else None
    for name in _TOKENS:
        if column := getattr(source, name):
            value = number_of(column)
            whole = value.is_between(0, _LARGEST) & (value == value.floor())
            events[name] = pl.when(whole).then(value).cast(pl.Int64, strict=False)
            if failed is not None:
                events[name] = pl.when(failed & pl.col(column).is_null()).then(0).otherwise(events[name])
    if failed is not None:
        events["failed"] = failed
    elif source.output_tokens:
        events["failed"] = events["output_tokens"] == 0
    odd = pl.lit(False)
    if source.elapsed in file.columns:
        seconds = number_of(str(source.elapsed)).cast(pl.Float64)
        usable = (seconds >= 0) & seconds.is_finite()
        odd = seconds.is_not_null() & ~usable
        events[ELAPSED] = pl.when(usable).then((seconds * SECOND).round().cast(pl.Int64, strict=False))
    for name in ("model", "log_type"):
        if (column := getattr(source, name)) in file.columns:
            events[name] = pl.col(column).cast(pl.String)
    return scan.select(**events, blank=_blank(file, source), odd=odd)


def _succeeded(source: TraceFormat) -> pl.Expr:
    """Whether the status of a request means success."""
    status = pl.col(str(source.status)).cast(pl.String).str.strip_chars().str.to_lowercase()
    if source.ok:
        return status.is_in([value.lower() for value in source.ok]).fill_null(False)
    http = status.cast(pl.Float64, strict=False).is_between(100, 399).fill_null(False)
    return http | status.is_in(_SUCCESS).fill_null(False)


def _blank(file: RowFile, source: TraceFormat) -> pl.Expr:
    needs: Iterable[str] = source.needs if file.kind in ("csv", "log") else ()
    if file.kind == "csv" and source.needs == (source.time,):
        needs = file.columns
    blank = pl.all_horizontal(pl.col(name).is_null() for name in needs) if needs else pl.lit(False)
    if source.only:
        column, value = source.only
        blank |= (pl.col(column) != value).fill_null(True)
    return blank


def _survey(
    rows: pl.LazyFrame, needs: list[str], also: Queries | None
) -> tuple[dict[str, int], tuple[pl.DataFrame, ...]]:
    """What the checks count in the rows, and the answers to further queries on the events, in one pass."""
    wanted = [
        pl.len().alias("rows"),
        pl.col(TIME).min().alias("first"),
        pl.col(TIME).max().alias("last"),
        pl.col(_CHECKS).sum(),
        *((pl.col(name).is_null() & ~pl.col("blank")).sum().alias(f"bad {name}") for name in needs),
    ]
    if also is None:
        return rows.select(wanted).collect(engine="streaming").row(0, named=True), ()
    # The cache lets checks and queries share one reading of the file; none of it is kept.
    shared = rows.drop("model", "log_type", strict=False).cache()
    counts, *answers = pl.collect_all(
        [shared.select(wanted), *also(shared.drop(_CHECKS))], engine="streaming"
    )
    return counts.row(0, named=True), tuple(answers)


def _first_bad(file: RowFile, rows: pl.LazyFrame, bad: Mapping[str, str], count: int) -> DataError:
    """Find the first bad row, in a second pass that only a bad file costs."""
    found = (
        rows.with_row_index("row")
        .filter(~pl.col("blank"), pl.any_horizontal(pl.col(name).is_null() for name in bad))
        .head(1)
        .collect(engine="streaming")
        .row(0, named=True)
    )
    row = int(found["row"])
    name = next(name for name in bad if found[name] is None)
    wanted = "a time" if name == TIME else "a whole number of tokens"
    return DataError(
        f"{file.text_at(row, bad[name])} is not {wanted} ({count} bad value{'s' if count > 1 else ''} in all)",
        where=file.where(row, bad[name]),
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
