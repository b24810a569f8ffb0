"""A request trace or a guide file, summed over buckets in exact integers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from presurge.errors import ConfigError, DataError, within
from presurge.series.buckets import (
    BUSY,
    ELAPSED,
    TIME,
    Buckets,
    Totals,
    bucket_queries,
    bucketed,
    check_conserved,
)
from presurge.series.frequency import MINUTE, SECOND, check_step, format_step
from presurge.series.panel import Channel, Clock, Panel
from presurge.series.spans import Span
from presurge.series.timestamps import TimeForm, TimeUnit, format_stamp
from presurge.sources.files import RowFile, open_file
from presurge.sources.formats import GUIDE_SERIES, GUIDE_TIME, LOAD_CHANNELS, recognise_file
from presurge.sources.synthetic import is_synthetic
from presurge.sources.trace import BadRows, FailureRule, Trace, check_trace, counted, open_trace
from presurge.workflows.edges import covered_rows, moment_of, note_on, steps_left
from presurge.workflows.prepare.burstgpt import PARTS, channel_values, guide_columns, guide_sums, name_of

EXTRA_CHANNELS = (Channel("failures", "requests", "count"), Channel("in_flight", "requests", "gauge"))
"""Further channels of a series, where the trace has them; they are forecast only on request."""


# Not a pydantic model like other configurations: pydantic alone would take a seventh of the time to prepare BurstGPT.
@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """How to read a trace and what to write from it.

    Attributes:
        step: Time between two rows in microseconds, from 1 s to 1 week.
        dense: Whether to also write the series with one row per second.
        split: Shares of the rows for train, val, rl and test, in chronological order; they add up to 1.
        name: Prefix of the file names; by default the name of the input.
        analyze: Whether to compute statistics of the trace, in a second pass over it.
        failures: Whether failed requests count as requests and failures, or only as failures.
        format: Name of the trace's format; by default its columns decide.
        columns: Its columns by their names in ``TraceFormat``, to read any log of requests.
        time_unit: Unit of numeric timestamps; by default the format or their magnitude decides.
        bad_rows: Whether a bad row is an error or is dropped.
        now: What time it is (``edges.rows_over``): rows whose step is not over are left out.

    Raises:
        ConfigError: The step or the split is impossible.
    """

    step: int = MINUTE
    dense: bool = False
    split: Sequence[float | str] = ("0.6", "0.1", "0.2", "0.1")
    name: str | None = None
    analyze: bool = False
    failures: FailureRule = "keep"
    format: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    time_unit: TimeUnit | None = None
    bad_rows: BadRows = "error"
    now: int | None = None

    def __post_init__(self) -> None:
        check_step(self.step)
        Span(np.array([0]), np.array([0])).cut(self.split)
        if len(self.split) != len(PARTS):
            raise ConfigError(
                f"the split has {len(self.split)} parts, not four",
                setting="split",
                hint="Give the shares of train, val, rl and test, for example 0.6,0.1,0.2,0.1; 0 for a part that you do not need.",
            )

    def name_for(self, file: Path) -> str:
        """Prefix of the names of the files made from this one."""
        return self.name or name_of(file)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aggregate:
    """An input, summed over buckets.

    Attributes:
        buckets: The sums.
        totals: The sums over the rows of the input itself.
        clock: Clock of its timestamps.
        source: Path, format and size of the input, as JSON values.
        reading_notes: What reading the input changed.
        partial: Whether the input covers the first and the last bucket only in part.
        statistics: Statistics of a trace in seconds, if asked for.
    """

    buckets: Buckets
    totals: Totals
    clock: Clock
    source: dict[str, Any]
    reading_notes: tuple[str, ...]
    partial: tuple[bool, bool]
    statistics: dict[str, Any] | None = None

    def coarsen(self, step: int) -> Self:
        """The same in buckets of ``step`` microseconds.

        Raises:
            DataError: The step is not a multiple of the present one, or a sum was not conserved.
        """
        if step % self.buckets.step:
            raise DataError(
                f"its rows are {format_step(self.buckets.step)} apart, and {format_step(step)} is not a multiple of that",
                where=self.source["path"],
                hint="Use a wider `step`, or start again from the trace.",
            )
        buckets = self.buckets.coarsen(step)
        check_conserved(
            self.totals, buckets.totals(), f"{self.source['path']}, buckets of {format_step(step)}"
        )
        return replace(self, buckets=buckets, partial=_partial(buckets, self.partial))

    def until(self, now: int | None, step: int) -> Self:
        """The same without the last steps of ``step`` microseconds that are not over; a note says how many they are.

        Raises:
            DataError: None is over.
        """
        whole = self.buckets
        end = (whole.last // step + 1) * step
        left = int(steps_left(np.array([end]), step, self.clock, now)[0])
        if not left:
            return self
        limit, moment = end - left * step, moment_of(now)
        rows = end // step - whole.first // step
        note = note_on(min(left, rows), rows, limit, moment, self.clock, self.source["path"])
        kept = slice(int(np.searchsorted(whole.index_N, limit // whole.step)))
        sums = {name: values[kept] for name, values in whole.sums.items()}
        buckets = replace(whole, index_N=whole.index_N[kept], sums=sums, last=limit - 1)
        totals = {name: total for name, total in buckets.totals().items() if name in self.totals}
        notes, partial = (*self.reading_notes, note), _partial(buckets, (self.partial[0], False))
        return replace(self, buckets=buckets, totals=totals, partial=partial, reading_notes=notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What reading the input changed, and which edge buckets the input covers only in part."""
        edges = " and ".join(name for name, flag in zip(("first", "last"), self.partial, strict=True) if flag)
        edge_note = f"The trace covers the {edges} bucket only in part; flagged as partial"
        return (*self.reading_notes, edge_note) if edges else self.reading_notes


def count_trace(source: Path | RowFile, step: int, config: PrepareConfig) -> tuple[Trace, Aggregate]:
    """Open a request trace, check it and sum it over buckets of ``step`` microseconds, all in one streamed pass.

    Raises:
        DataError: It cannot be read, its stamps or sums do not fit into buckets, or a request was lost.
        FormatError: Its columns fit no known format, or several.
    """
    file = open_file(source)
    trace = open_trace(
        file,
        format=config.format,
        columns=config.columns,
        time_unit=config.time_unit,
        bad_rows=config.bad_rows,
        also=lambda events: bucket_queries(counted(events, config.failures), step),
    )
    where = str(file.path)
    with within(where):
        buckets, totals = bucketed(trace.answers, step)
    failures = totals.get("failures", 0)
    requests = trace.rows - (failures if config.failures == "drop" else 0)
    check_conserved({"requests": requests}, totals, where)
    check_conserved(totals, buckets.totals(), f"{where}, buckets of {format_step(step)}")
    treated = "counted as requests too" if config.failures == "keep" else "left out of requests and tokens"
    note = (f"{failures:,} failed requests ({trace.failure}) are {treated}",) if failures else ()
    return trace, Aggregate(
        buckets=buckets,
        totals=totals,
        clock=trace.clock,
        source=_describe_source(file, trace.format),
        reading_notes=(*trace.notes, *note),
        partial=_partial(buckets),
        statistics=_statistics(trace, buckets, totals) if config.analyze and step == SECOND else None,
    )


def count_models(source: Path | RowFile, config: PrepareConfig) -> tuple[Aggregate, pl.DataFrame]:
    """Sum a request log over buckets, in all and for each of its models, from the first request of the model to the end.

    Returns:
        The sums over all models, and a table with a row for each model and ``time`` that has requests, or ends the log.

    Raises:
        DataError: It cannot be read, its stamps or sums do not fit into buckets, or a request was lost.
        FormatError: Its columns fit no known format, or several.
    """
    trace, found = count_trace(source, config.step, config)
    found, step = found.until(config.now, config.step), config.step
    events = trace.events.filter(pl.col(TIME) <= found.buckets.last)
    rows = counted(events, config.failures, by=["model"]).drop(ELAPSED, strict=False)
    key = [pl.col("model").fill_null("no model"), (pl.col(TIME) // step * step).alias(TIME)]
    frame = rows.group_by(key).agg(pl.exclude("model", TIME).sum()).collect(engine="streaming")
    check_conserved(found.totals, {name: int(frame[name].sum()) for name in found.totals}, str(trace.path))
    last = pl.lit(found.buckets.last // step * step, pl.Int64).alias(TIME)
    ends = frame.select(pl.col("model").unique(), last).join(frame, ["model", TIME], "anti")
    frame = pl.concat([frame, ends], how="diagonal").fill_null(0).sort("model", TIME)
    time = pl.col(TIME).cast(pl.Datetime("us", "UTC")) if trace.clock == "utc" else pl.col(TIME) // SECOND
    return found, frame.select(time.alias("time"), pl.exclude(TIME))


def read_guide_file(source: Path | RowFile) -> tuple[Aggregate, pl.DataFrame]:
    """Read a second or minute file, with a bucket for each of its rows, and its columns as they are.

    Raises:
        DataError: It cannot be read, a count is missing, negative or not whole, or rows are missing in between.
    """
    file = open_file(source)
    frame, step = guide_columns(file)
    start_N = frame[GUIDE_TIME].to_numpy() * SECOND
    sums, last = guide_sums(frame, step), int(start_N[-1]) + step - 1  # it covers its whole step
    buckets = Buckets(step=step, index_N=start_N // step, sums=sums, first=int(start_N[0]), last=last)
    totals = {name: total for name, total in buckets.totals().items() if name != BUSY}
    flags = frame["Partial"].cast(pl.Boolean) if "Partial" in frame.columns else pl.Series([False])
    found = Aggregate(
        buckets=buckets,
        totals=totals,
        clock=TimeForm(kind="number").clock(buckets.first),
        source=_describe_source(file, GUIDE_SERIES),
        reading_notes=() if "failures" in totals else ("The file does not say which requests failed.",),
        partial=_partial(buckets, (bool(flags[0]), bool(flags[-1]))),
    )
    return found, frame


def _describe_source(file: RowFile, form: str) -> dict[str, Any]:
    """Describe an input for the manifest: path, format and size, and whether it is labelled as synthetic."""
    label = {"synthetic": True} if is_synthetic(file.path) else {}
    size = {"bytes": file.data.stat().st_size} if file.data.is_file() else {}  # a frame has no file
    return {"path": str(file.path), "format": form, **size, **label}


def _partial(buckets: Buckets, known: tuple[bool, bool] = (False, False)) -> tuple[bool, bool]:
    """Whether the events leave a part of the first and the last bucket uncovered, or that is known already."""
    edges = buckets.partial()
    return known[0] or bool(edges[0]), known[1] or bool(edges[-1])


def trace_panel(source: Path | RowFile, step: int) -> tuple[Panel, str, tuple[str, ...]]:
    """Read a request trace or a guide file as a panel: (panel, name of its format, notes).

    The channels are requests and tokens, then failures, and the mean number in flight if elapsed times are known. Edge
    buckets that the trace covers only in part are left out. A guide file whose rows are further apart than ``step``
    (microseconds) keeps its own step.

    Raises:
        DataError: It cannot be read, or covers no bucket completely.
    """
    file = open_file(source)
    if recognise_file(file) == GUIDE_SERIES:
        found, _ = read_guide_file(file)
        found = found.coarsen(max(step, found.buckets.step))
    else:
        _, found = count_trace(file, step, PrepareConfig())
    values = channel_values(found.buckets)
    channels = tuple(channel for channel in (*LOAD_CHANNELS, *EXTRA_CHANNELS) if channel.name in values)
    panel = Panel(
        values=np.stack([values[channel.name] for channel in channels], axis=1).astype(np.float32),
        channels=channels,
        step=found.buckets.step,
        start=found.buckets.starts(0, 1),
        clock=found.clock,
    )
    covered = covered_rows(panel, found.partial, file.path)
    return panel.take(covered), str(found.source["format"]), found.notes


def _statistics(trace: Trace, buckets: Buckets, totals: Totals) -> dict[str, Any]:
    """Describe a trace in numbers from its one-second buckets and one more pass, which compares stamps.

    Shares are between 0 and 1, and timestamps have the form of the input. ``duplicate_stamps`` counts requests whose
    exact stamp an earlier one has too, ``unsorted_requests`` those earlier than the one before them in the file,
    ``empty_share`` the seconds without an arrival; ``mean_in_flight`` is None where elapsed times are unknown.
    """
    stamps = check_trace(trace)
    requests = max(totals["requests"], 1)
    tokens = [channel.name for channel in LOAD_CHANNELS[1:] if channel.name in totals]
    failures = totals.get("failures")
    arrivals = buckets.sums["requests"]
    densest = int(arrivals.argmax())
    busy = buckets.sums.get(BUSY)
    return {
        "rows": trace.rows,
        "first": format_stamp(trace.first_us, trace.clock),
        "last": format_stamp(trace.last_us, trace.clock),
        "span_seconds": (trace.last_us - trace.first_us) / SECOND,
        "requests": totals["requests"],
        **{name: totals[name] for name in tokens},
        **{f"mean_{name}": totals[name] / requests for name in tokens},
        "failures": failures,
        "failure_share": None if failures is None else failures / trace.rows,
        "duplicate_stamps": stamps.duplicate_stamps,
        "duplicate_share": stamps.duplicate_stamps / trace.rows,
        "unsorted_requests": stamps.unsorted_steps,
        "fractional_stamps": stamps.fractional_stamps,
        "seconds": len(buckets),
        "empty_share": 1 - int((arrivals > 0).sum()) / len(buckets),
        "densest_second": format_stamp(int(buckets.index_N[densest]) * SECOND, trace.clock),
        "densest_second_requests": int(arrivals[densest]),
        "mean_in_flight": None if busy is None else int(busy.sum()) / (len(buckets) * SECOND),
    }
