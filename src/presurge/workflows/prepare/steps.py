"""``presurge prepare`` and the guide's three steps one by one: second file, minute file, split.

Requests and tokens are compared as exact integers after every step: rows of the trace, buckets of one second, buckets of
the step, parts of the split. Nothing is written unless all of them agree.
"""

from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from presurge.errors import ConfigError, DataError
from presurge.files import staged
from presurge.progress import Progress, silent
from presurge.series.frequency import SECOND
from presurge.sources.files import RowFile, open_file
from presurge.sources.formats import GUIDE_SERIES, LOAD_CHANNELS, recognise_file
from presurge.sources.table import read_table
from presurge.workflows.edges import rows_over
from presurge.workflows.prepare import aggregate, burstgpt, directory
from presurge.workflows.prepare.aggregate import Aggregate, PrepareConfig
from presurge.workflows.prepare.directory import Prepared

Input = Path | RowFile | None
OUT = Path("dataset")
DEFAULTS = PrepareConfig()


def prepare(
    trace: Path | RowFile, out: Path, config: PrepareConfig = DEFAULTS, *, progress: Progress = silent
) -> Prepared:
    """Make a prepared directory from a request trace: series, manifest, minute file, split and, if asked for, seconds.

    Raises:
        DataError: The trace cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    file = open_file(trace)
    if file.table:
        return _prepare_table(file, out, config)
    if "model" in config.columns:
        return _prepare_models(file, out, config)
    name = config.name_for(file.path)
    by_second = config.dense or config.analyze
    found = _counted(file, SECOND if by_second else config.step, config, progress)
    found = found.until(config.now, config.step)
    coarse = found.coarsen(config.step) if by_second else found
    minutes = burstgpt.compressed_frame(coarse.buckets, coarse.partial)
    with staged(out) as folder:
        written = directory.write_dense(folder, name, found, progress) if config.dense else []
        written += directory.write_compressed(folder, name, minutes, coarse)
        manifest, parts = directory.write_split(folder, name, minutes, coarse, config.split)
    return Prepared.of(coarse, out, [*written, *parts], manifest)


def _counted(file: RowFile, step: int, config: PrepareConfig, progress: Progress) -> Aggregate:
    progress("Reading the trace", 0.0)
    _, found = aggregate.count_trace(file, step, config)
    progress("Reading the trace", 1.0)
    return found


def _prepare_table(file: RowFile, out: Path, config: PrepareConfig) -> Prepared:
    """A prepared directory of sums or levels, such as the answer of a Prometheus server, in steps that are no finer."""
    hint = "Leave it out: these are values at regular times already."
    names = ("columns", "dense", "analyze", "format", "split", "name", "failures", "time_unit", "bad_rows")
    _refuse(config, names, "is for a log of requests", hint)
    step = max(config.step, read_table(file, **file.table).panel.step)
    settings = {**file.table, "step": f"{step // SECOND}s"}
    table = read_table(file, **settings)
    over, note, moment = rows_over(table.panel, config.now, str(file.path))
    panel, notes = table.panel.take(over), (*file.notes, *table.notes)
    left = moment if note else None  # whoever reads the rows leaves out the same ones
    with staged(out) as folder:
        manifest = directory.write_table(folder, file.scan().collect(), file.path, settings, notes, now=left)
    notes, totals = (*notes, *([note] if note else [])), {"values": int(panel.observed.sum())}
    return Prepared(out, directory.TABLE_FILES, len(panel), step, totals, notes, manifest)


def _prepare_models(file: RowFile, out: Path, config: PrepareConfig) -> Prepared:
    """A prepared directory with an item for each model of a request log."""
    hint = "Leave one of them out: `model` makes a series for each model."
    _refuse(config, ("dense", "analyze", "split", "name"), "cannot be used with `model`", hint)
    found, frame = aggregate.count_models(file, config)
    values = [channel.name for channel in LOAD_CHANNELS if channel.name in found.totals]
    table: dict[str, Any] = {"time": "time", "values": values, "item": "model", "fill": "zero"}
    table |= {"step": f"{config.step // SECOND}s", "kinds": dict.fromkeys(values, "count")}
    notes = (*found.reading_notes, f"a series for each of {frame['model'].n_unique():,} models")
    with staged(out) as folder:
        manifest = directory.write_table(folder, frame, file.path, table, notes, found.partial)
    return Prepared(out, directory.TABLE_FILES, len(frame), config.step, found.totals, notes, manifest)


def _refuse(config: PrepareConfig, names: Sequence[str], what: str, hint: str) -> None:
    for name in names:
        if getattr(config, name) != getattr(DEFAULTS, name):
            raise ConfigError(
                what, setting=next(iter(config.columns)) if name == "columns" else name, hint=hint
            )


def prepare_dense(
    trace: Input = None, out: Path = OUT, config: PrepareConfig = DEFAULTS, *, progress: Progress = silent
) -> Prepared:
    """The guide's first step: the second series of a trace, by default of ``BurstGPT_1.csv`` (or ``NAME.csv``) in ``out``.

    Raises:
        DataError: The trace cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    file = open_file(trace or _existing(out / f"{config.name or burstgpt.NAME}.csv", "TRACE"))
    found = _counted(file, SECOND, config, progress).until(config.now, SECOND)
    with staged(out) as folder:
        written = directory.write_dense(folder, config.name_for(file.path), found, progress)
    return Prepared.of(found, out, written)


def prepare_compress(
    source: Input = None, out: Path = OUT, config: PrepareConfig = DEFAULTS, *, progress: Progress = silent
) -> Prepared:
    """The guide's second step: the series of a step from a second file or a trace.

    Args:
        source: A second file or a trace; by default the second file in ``out``, as Parquet if that is not older than the
            CSV, since it knows failures and requests in flight too.
        out: Where to write.
        config: How to read a trace, the step, and the prefix of the file names.
        progress: Called with the phase and the share of it that is done.

    Raises:
        DataError: The input cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    file = open_file(source or _default(out, config.name, burstgpt.DENSE, burstgpt.DENSE))
    if not (config.format or config.columns) and recognise_file(file) == GUIDE_SERIES:
        found = aggregate.read_guide_file(file)[0].coarsen(config.step)
    else:
        found = _counted(file, config.step, config, progress).until(config.now, config.step)
    minutes, name = burstgpt.compressed_frame(found.buckets, found.partial), config.name_for(file.path)
    with staged(out) as folder:
        written = directory.write_compressed(folder, name, minutes, found)
    return Prepared.of(found, out, written)


def prepare_split(source: Input = None, out: Path = OUT, config: PrepareConfig = DEFAULTS) -> Prepared:
    """The guide's third step: the parts of a minute file, and the series and manifest that make ``out`` a prepared directory.

    Args:
        source: A minute file; by default the one in ``out``, that of 60 s if there are several.
        out: Where to write.
        config: The shares of the parts, and the prefix of the file names.

    Raises:
        DataError: The file cannot be read, or a request or token was not conserved; nothing was written.
        StorageError: The file system refused; ``out`` is as it was.
    """
    file = open_file(source or _default(out, config.name, burstgpt.compressed("*"), burstgpt.compressed(60)))
    found, frame = aggregate.read_guide_file(file)
    name = config.name_for(file.path)
    with staged(out) as folder:
        manifest, written = directory.write_split(folder, name, frame, found, config.split)
    return Prepared.of(found, out, written, manifest)


def _default(out: Path, name: str | None, pattern: str, usual: str) -> Path:
    """The file that a step reads if none is named: the guide's, else that of the usual step, else the only one.

    Of its two forms it is the Parquet file, unless the CSV was changed after it.
    """
    guide = f"{name or burstgpt.NAME}_{usual}"
    found = out.glob(f"{escape(name) if name else '*'}_{pattern}.*")
    stems = sorted({path.stem for path in found if path.suffix in (".csv", ".parquet")})
    stems = [stem for stem in stems if stem.endswith(f"_{usual}")] or stems
    if len(stems) > 1 and guide not in stems:
        hint = "Name the one to read, or give its `name`."
        raise DataError(f"there are several series: {', '.join(stems)}", where=str(out), hint=hint)
    stem = guide if guide in stems or not stems else stems[0]
    csv, parquet = (out / f"{stem}.{ending}" for ending in ("csv", "parquet"))
    if parquet.is_file() and not (csv.is_file() and csv.stat().st_mtime_ns > parquet.stat().st_mtime_ns):
        return parquet
    return _existing(csv, "INPUT")


def _existing(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise DataError(
            "there is no such file, which this step reads by default",
            where=str(path),
            hint=f"Name the {argument}, or run the step before this one with the same `out` and `name`.",
        )
    return path
