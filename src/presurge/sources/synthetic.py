"""Writing a synthetic request trace to a file, always labelled as synthetic."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import polars as pl

from presurge import __version__
from presurge.errors import ConfigError
from presurge.files import atomic_path, write_json
from presurge.progress import Progress, silent
from presurge.sources.synthetic_label import label_path
from presurge.sources.synthetic_requests import BLOCK_ROWS, SyntheticSpec, SyntheticTrace

__all__ = ["GENERATOR", "GENERATOR_VERSION", "SyntheticReport", "SyntheticSpec", "parse_start", "synthesize"]

GENERATOR = "presurge-synthetic-trace"
GENERATOR_VERSION = 1


@dataclass(frozen=True, slots=True)
class SyntheticReport:
    """What was written."""

    path: Path
    sidecar: Path
    rows: int
    failures: int
    input_tokens: int
    output_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "path": str(self.path), "sidecar": str(self.sidecar), "synthetic": True}


def parse_start(text: str) -> datetime:
    """Read a date, or a date and time, as wall-clock time.

    Raises:
        ConfigError: It is neither, or it names a time zone: the rhythm follows the clock on the wall.
    """
    try:
        start = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "Write for example 2024-01-01 or 2024-01-01T06:00."
        raise ConfigError(f"{text!r} is no ISO-8601 date", setting="start", hint=hint) from error
    if start.tzinfo is not None or start.second or start.microsecond:
        raise ConfigError(f"{text!r} must be a whole minute without a time zone", setting="start")
    return start


def synthesize(spec: SyntheticSpec, path: Path, *, progress: Progress = silent) -> SyntheticReport:
    """Write a synthetic trace as CSV (also .gz, .zst) or Parquet, with a JSON file beside it that says what it is.

    Args:
        spec: What to draw.
        path: Where; the ending decides the format.
        progress: Told the share of the rows that is written.

    Raises:
        ConfigError: The ending of ``path`` is none of .csv, .csv.gz, .csv.zst, .parquet.
        StorageError: The file system refused; no partial file is left.
    """
    write = _writer(path)
    began = perf_counter()
    trace = SyntheticTrace(spec)
    label = _label(spec, trace.rows)
    totals = {"rows": 0, "failures": 0, "input_tokens": 0, "output_tokens": 0}

    def watch(block: pl.DataFrame) -> None:
        totals["rows"] += len(block)
        totals["failures"] += int((block["Response tokens"] == 0).sum())
        totals["input_tokens"] += int(block["Request tokens"].sum())
        totals["output_tokens"] += int(block["Response tokens"].sum())
        progress("Drawing a synthetic trace", totals["rows"] / trace.rows, f"{totals['rows']:,} requests")

    sidecar = label_path(path)
    with atomic_path(path) as temporary:
        try:
            write(trace.scan(watch), temporary, label)
        except pl.exceptions.ComputeError as error:
            raise OSError(str(error)) from error  # the writer's way to say that the disk is full
        # Before the trace is in place: there is never a trace without its label.
        write_json(sidecar, {**label, "totals": totals})
    return SyntheticReport(path, sidecar, **totals, seconds=perf_counter() - began)


def _writer(path: Path) -> Callable[[pl.LazyFrame, Path, dict[str, Any]], None]:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _write_parquet
    if name.endswith(".csv"):
        return partial(_write_csv, "uncompressed")
    if name.endswith(".csv.gz"):
        return partial(_write_csv, "gzip")
    if name.endswith(".csv.zst"):
        return partial(_write_csv, "zstd")
    raise ConfigError(
        f"no format for the ending of {path.name!r}",
        setting="out",
        hint="Use .csv, .csv.gz, .csv.zst or .parquet.",
    )


def _write_csv(
    compression: Literal["uncompressed", "gzip", "zstd"],
    frame: pl.LazyFrame,
    path: Path,
    label: dict[str, Any],
) -> None:
    del label  # a CSV has no place for it: the model names and the file beside it say what it is
    frame.sink_csv(path, compression=compression, check_extension=False)


def _write_parquet(frame: pl.LazyFrame, path: Path, label: dict[str, Any]) -> None:
    metadata = {"presurge.synthetic": "true", "presurge.generator": json.dumps(label)}
    frame.sink_parquet(path, compression_level=1, row_group_size=BLOCK_ROWS, metadata=metadata)


def _label(spec: SyntheticSpec, rows: int) -> dict[str, Any]:
    parameters = {**asdict(spec), "start": spec.start.isoformat()}
    return {
        "synthetic": True,
        "generator": GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "presurge_version": __version__,
        "rows": rows,
        "parameters": parameters,
    }
