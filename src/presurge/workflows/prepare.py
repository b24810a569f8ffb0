"""From a request trace to a regular series, its split and its files: the guide's three steps in one.

Requests and tokens are compared as exact integers after every step: rows of the trace, buckets of one second, buckets
of the step, parts of the split. Nothing is written unless all of them agree.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from presurge.errors import DataError
from presurge.files import staged
from presurge.progress import Progress, silent
from presurge.series.buckets import BUSY, check_conserved
from presurge.series.frequency import MINUTE, SECOND, check_step, format_step
from presurge.series.panel import Panel
from presurge.sources.formats import GUIDE_SERIES, recognise_file
from presurge.workflows import prepared_files as files
from presurge.workflows.counted_input import (
    CountedInput,
    TraceReading,
    count_guide_file,
    count_trace,
)
from presurge.workflows.guide_files import read_guide_file
from presurge.workflows.prepared_files import NAME, SPLIT, Fractions, MinuteSeries, Prepared
from presurge.workflows.statistics import trace_statistics

_SUMS = {"in_flight": BUSY}
"""Channels that are means over a bucket, by the sum that they come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """What to write from a trace.

    Attributes:
        step: Distance of the rows in microseconds, from 1 s to 1 week.
        dense: Write the second series too.
        split: Shares of the rows for train, val, rl and test, in the order of time; they add up to 1.
        name: What the file names begin with.
        analyze: Measure the trace (a second pass over it).
        reading: How the trace is read.
    """

    step: int = MINUTE
    dense: bool = False
    split: Fractions = SPLIT
    name: str = NAME
    analyze: bool = False
    reading: TraceReading = field(default_factory=TraceReading)


def prepare(
    trace: Path, out: Path, options: PrepareOptions | None = None, *, progress: Progress | None = None
) -> Prepared:
    """Make a prepared directory from a request trace: series, manifest, minute file, split and, if asked for, seconds.

    Raises:
        DataError: The trace cannot be read, or a request or token was not conserved; nothing was written.
        ConfigError: The split or the step is impossible.
        StorageError: The file system refused; ``out`` is as it was.
    """
    options = options or PrepareOptions()
    step, report = check_step(options.step), progress or silent
    files.check_fractions(options.split)
    report("Reading the trace", 0.0)
    by_second = options.dense or options.analyze
    fine = count_trace(trace, SECOND if by_second else step, options.reading)
    statistics = trace_statistics(fine) if options.analyze else None
    report("Reading the trace", 1.0)
    minutes = MinuteSeries.of(_coarsened(fine, step) if by_second else fine)
    with staged(out, failures=(pl.exceptions.PolarsError,)) as folder:
        written = []
        if options.dense:
            written += files.write_dense(folder, options.name, fine.buckets, fine.totals, report)
        written += files.write_compressed(folder, options.name, minutes)
        manifest, split_files = files.write_split_and_series(folder, minutes, options.split)
        written += split_files
    return minutes.prepared(out, written, manifest=manifest, statistics=statistics)


def trace_panel(path: Path, step: int) -> tuple[Panel, str, tuple[str, ...]]:
    """A request trace or a guide file as a panel of all that it counts: (panel, name of its format, notes).

    The training channels come first, then failures, and the mean number in flight where elapsed times are known.

    Edge buckets that are covered only in part are left out. A guide file whose rows are further apart than ``step``
    (microseconds) keeps its own step.

    Raises:
        DataError: It cannot be read, or no bucket is covered as a whole.
    """
    if recognise_file(path) == GUIDE_SERIES:
        file = read_guide_file(path)
        counted = count_guide_file(file, max(step, file.step))
    else:
        counted = count_trace(path, step, TraceReading())
    buckets, (first, last) = counted.buckets, counted.partial
    begin, end = int(first), len(buckets) - int(last)
    if begin >= end:
        raise DataError(
            f"no bucket of {format_step(buckets.step)} is covered as a whole",
            where=str(path),
            hint="The trace is too short for this step: take a narrower `step`.",
        )
    channels = tuple(c for c in (*files.CHANNELS, *files.EXTRAS) if _SUMS.get(c.name, c.name) in buckets.sums)
    columns = [buckets.column(_SUMS.get(c.name, c.name), begin, end) for c in channels]
    values = [x / buckets.step if c.name in _SUMS else x for c, x in zip(channels, columns, strict=True)]
    panel = Panel(
        values=np.stack(values, axis=1).astype(np.float32),
        channels=channels,
        step=buckets.step,
        start=buckets.starts(begin, begin + 1),
        clock=counted.clock,
    )
    notes = (*counted.notes, *files.edge_notes(counted.partial))
    return panel, str(counted.source["format"]), notes


def _coarsened(fine: CountedInput, step: int) -> CountedInput:
    buckets = fine.buckets.coarsen(step)
    check_conserved(fine.totals, buckets.totals(), f"buckets of {format_step(step)}")
    edges = buckets.partial()
    return replace(fine, buckets=buckets, partial=(bool(edges[0]), bool(edges[-1])))
