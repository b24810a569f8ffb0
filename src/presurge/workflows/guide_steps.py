"""The guide's three steps one by one: second file, minute file, split."""

from pathlib import Path

import polars as pl

from presurge.errors import DataError
from presurge.files import staged
from presurge.progress import Progress, silent
from presurge.series.frequency import MINUTE, SECOND, check_step
from presurge.sources.formats import GUIDE_SERIES
from presurge.workflows import guide_files as guide
from presurge.workflows import prepared_files as files
from presurge.workflows.counted_input import TraceReading, count_any, count_trace, describe_source
from presurge.workflows.prepared_files import NAME, SPLIT, Fractions, MinuteSeries, Prepared
from presurge.workflows.statistics import trace_statistics

OUT = Path("dataset")


def prepare_dense(
    trace: Path | None = None,
    out: Path = OUT,
    *,
    name: str = NAME,
    analyze: bool = False,
    reading: TraceReading | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The guide's first step: the second series of a trace, ``NAME.csv`` in ``out`` where none is named.

    Raises:
        DataError: The trace cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    report, reading = progress or silent, reading or TraceReading()
    report("Reading the trace", 0.0)
    counted = count_trace(trace or _existing(out / f"{name}.csv", "TRACE"), SECOND, reading)
    statistics = trace_statistics(counted) if analyze else None
    report("Reading the trace", 1.0)
    with staged(out, failures=(pl.exceptions.PolarsError,)) as folder:
        written = files.write_dense(folder, name, counted.buckets, counted.totals, report)
    return Prepared(
        directory=out,
        files=tuple(written),
        rows=len(counted.buckets),
        step=SECOND,
        totals=counted.totals,
        notes=counted.notes,
        statistics=statistics,
    )


def prepare_compress(
    source: Path | None = None,
    out: Path = OUT,
    *,
    step: int = MINUTE,
    name: str = NAME,
    reading: TraceReading | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The guide's second step: the series of a step from a second file or a trace.

    Args:
        source: A second file or a trace; the second file of ``prepare_dense`` in ``out`` where None, as Parquet if that
            is not older than the CSV, since it knows failures and requests in flight too.
        out: Where to write.
        step: Distance of the rows in microseconds.
        name: What the file names begin with.
        reading: How a trace is read.
        progress: Called with phase and share done.

    Raises:
        DataError: The input cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    report = progress or silent
    report("Reading the input", 0.0)
    counted = count_any(source or _newest(out / guide.dense_name(name)), check_step(step), reading)
    report("Reading the input", 1.0)
    minutes = MinuteSeries.of(counted)
    with staged(out, failures=(pl.exceptions.PolarsError,)) as folder:
        written = files.write_compressed(folder, name, minutes)
    return minutes.prepared(out, written)


def prepare_split(
    source: Path | None = None, out: Path = OUT, *, split: Fractions = SPLIT, name: str = NAME
) -> Prepared:
    """The guide's third step: the parts of a minute file, and the series and manifest that make ``out`` DATA.

    Args:
        source: A minute file; that of ``prepare_compress`` in ``out`` where None (of 60 s, else the only one there).
        out: Where to write.
        split: Shares of the rows for train, val, rl and test, in the order of time.
        name: What the file names begin with.

    Raises:
        DataError: The file cannot be read, or a request or token was not conserved; nothing was written.
        ConfigError: The split is impossible.
        StorageError: The file system refused; ``out`` is as it was.
    """
    files.check_fractions(split)
    file = guide.read_guide_file(source or _newest(_compressed_in(out, name)))
    minutes = MinuteSeries(
        frame=file.frame,
        totals=guide.frame_totals(file.frame),
        step=file.step,
        clock=file.clock,
        source=describe_source(file.path, GUIDE_SERIES),
        notes=files.edge_notes(file.partial),
    )
    with staged(out, failures=(pl.exceptions.PolarsError,)) as folder:
        manifest, written = files.write_split_and_series(folder, minutes, split)
    return minutes.prepared(out, written, manifest=manifest)


def _compressed_in(out: Path, name: str) -> Path:
    """The minute file to split, without its ending: that of 60 s, else the only one of another step."""
    usual = guide.compressed_name(name, MINUTE)
    found = {path.stem for path in out.glob(f"{name}_compressed_*s.*")}
    if len(found) > 1 and usual not in found:
        names = ", ".join(sorted(found))
        raise DataError(f"there are several series: {names}", where=str(out), hint="Name the one to split.")
    return out / (usual if usual in found or not found else found.pop())


def _newest(stem: Path) -> Path:
    """The CSV or Parquet of a file; Parquet unless the CSV was changed after it."""
    csv, parquet = (stem.with_name(f"{stem.name}.{ending}") for ending in ("csv", "parquet"))
    if parquet.is_file() and not (csv.is_file() and csv.stat().st_mtime_ns > parquet.stat().st_mtime_ns):
        return parquet
    return _existing(csv, "INPUT")


def _existing(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise DataError(
            "there is no such file, and it is what is read by default",
            where=str(path),
            hint=f"Name the {argument}, or run the step before this one with the same `out` and `name`.",
        )
    return path
