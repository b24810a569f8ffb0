"""An input of any known kind, a request trace or a guide file, summed over buckets."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from presurge.errors import DataError
from presurge.series.buckets import BUSY, Buckets, Totals, bucket, bucket_queries, bucketed, check_conserved
from presurge.series.frequency import format_step
from presurge.series.panel import Clock
from presurge.series.timestamps import TimeUnit
from presurge.sources.formats import GUIDE_SERIES, recognise_file
from presurge.sources.synthetic import is_synthetic
from presurge.sources.trace import BadRows, FailureRule, Trace, counted, open_trace
from presurge.workflows.guide_files import GuideFile, read_guide_file


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReading:
    """How a trace is read.

    Attributes:
        failures: Whether failed requests count as requests, or as failures only.
        format: Name of the format; told by the columns where None.
        time_unit: Unit of numeric stamps; told by the format or their size where None.
        bad_rows: Whether a bad row is an error or left out.
    """

    failures: FailureRule = "keep"
    format: str | None = None
    time_unit: TimeUnit | None = None
    bad_rows: BadRows = "error"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountedInput:
    """An input, summed over buckets.

    Attributes:
        buckets: The sums.
        totals: The sums over the rows of the input itself.
        clock: Of its stamps.
        source: Path, format and size.
        notes: What was treated on the way in.
        partial: Whether the first and the last bucket are covered only in part.
        trace: The trace, if it is one.
    """

    buckets: Buckets
    totals: Totals
    clock: Clock
    source: dict[str, Any]
    notes: tuple[str, ...]
    partial: tuple[bool, bool]
    trace: Trace | None = None


def count_trace(path: Path, step: int, reading: TraceReading) -> CountedInput:
    """Open a request trace, check it and sum it over buckets, all in one streamed pass.

    Raises:
        DataError: It cannot be read, its stamps or sums cannot be bucketed, or a request was lost.
        FormatError: Its columns fit no known format or several.
    """
    trace = open_trace(
        path,
        format=reading.format,
        time_unit=reading.time_unit,
        bad_rows=reading.bad_rows,
        also=lambda events: bucket_queries(counted(events, reading.failures), step),
    )
    try:
        buckets, totals = bucketed(trace.answers, step)
    except DataError as error:
        raise DataError(error.what, where=str(path), hint=error.hint) from error
    requests = trace.rows - (totals["failures"] if reading.failures == "drop" else 0)
    check_conserved({"requests": requests}, totals, str(path))
    check_conserved(totals, buckets.totals(), f"{path}, buckets of {format_step(step)}")
    edges = buckets.partial()
    return CountedInput(
        buckets=buckets,
        totals=totals,
        clock=trace.clock,
        source=describe_source(path, trace.format),
        notes=(*trace.notes, *_failure_note(totals["failures"], reading.failures)),
        partial=(bool(edges[0]), bool(edges[-1])),
        trace=replace(trace, answers=()),
    )


def count_guide_file(file: GuideFile, step: int) -> CountedInput:
    """Sum a second or minute file over wider (or equal) buckets.

    Raises:
        DataError: The step is no multiple of the distance of its rows.
    """
    where = str(file.path)
    if step % file.step:
        raise DataError(
            f"its rows are {format_step(file.step)} apart, which {format_step(step)} is no multiple of",
            where=where,
            hint="Take a wider `step`, or start again from the trace.",
        )
    buckets, totals = bucket(file.rows(), step)
    # The last row covers its whole step, not only the instant of its stamp.
    buckets = replace(buckets, last=buckets.last + file.step - 1)
    check_conserved(totals, buckets.totals(), f"{where}, buckets of {format_step(step)}")
    edges, flags = buckets.partial(), file.partial
    notes = () if "failures" in totals else ("The file does not say which requests failed.",)
    return CountedInput(
        buckets=buckets,
        totals={name: total for name, total in totals.items() if name != BUSY},
        clock=file.clock,
        source=describe_source(file.path, GUIDE_SERIES),
        notes=notes,
        partial=(bool(edges[0]) or flags[0], bool(edges[-1]) or flags[1]),
    )


def count_any(path: Path, step: int, reading: TraceReading | None = None) -> CountedInput:
    """Sum a request trace or a guide file over buckets, whichever it is.

    Raises:
        DataError: It cannot be read or bucketed.
        FormatError: Its columns fit no known format.
    """
    reading = reading or TraceReading()
    if reading.format is None and recognise_file(path) == GUIDE_SERIES:
        return count_guide_file(read_guide_file(path), step)
    return count_trace(path, step, reading)


def describe_source(path: Path, form: str) -> dict[str, Any]:
    """What names an input in a manifest. The manifest has a checksum of the series, which costs less and says more."""
    label = {"synthetic": True} if is_synthetic(path) else {}
    return {"path": str(path), "format": form, "bytes": path.stat().st_size, **label}


def _failure_note(failures: int, rule: FailureRule) -> tuple[str, ...]:
    if not failures:
        return ()
    treated = "counted as requests too" if rule == "keep" else "left out of requests and tokens"
    return (f"{failures:,} failed requests (no output token) are {treated}",)
