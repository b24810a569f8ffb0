"""Write a prepared directory: every table as CSV and Parquet, if its sums match those of the trace."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from presurge import __version__
from presurge.files import write_json
from presurge.progress import Progress
from presurge.series.buckets import TIME, Totals, check_conserved
from presurge.series.frequency import SECOND
from presurge.series.spans import Span
from presurge.sources.formats import GUIDE_COLUMNS, LOAD_CHANNELS
from presurge.workflows.prepare import burstgpt
from presurge.workflows.prepare.aggregate import EXTRA_CHANNELS, Aggregate

MANIFEST = "prepare.json"
MANIFEST_FORMAT = "presurge-prepared"
SERIES = "series.parquet"
TABLE_FILES = (Path(SERIES), Path(MANIFEST))

_CHUNK_ROWS = 250_000


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What was written.

    Attributes:
        directory: Where the files are.
        files: The files, relative to the directory.
        rows: Rows of the series: seconds for the dense step, else steps.
        step: Time between two of those rows in microseconds.
        totals: Exact sums over the input, and so over every file.
        notes: What reading the input changed, and what to know about the result.
        manifest: Content of ``prepare.json``, if it was written.
        statistics: Statistics of the trace, if asked for.
    """

    directory: Path
    files: tuple[Path, ...]
    rows: int
    step: int
    totals: Totals
    notes: tuple[str, ...]
    manifest: dict[str, Any] | None = None
    statistics: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, found: Aggregate, directory: Path, files: list[Path], manifest: dict[str, Any] | None = None
    ) -> Self:
        """Describe what was written of an input."""
        rows, step = len(found.buckets), found.buckets.step
        return cls(directory, tuple(files), rows, step, found.totals, found.notes, manifest, found.statistics)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        files = [str(file) for file in self.files]
        step_seconds = values.pop("step") // SECOND
        return {**values, "directory": str(self.directory), "files": files, "step_seconds": step_seconds}


def write_dense(folder: Path, name: str, seconds: Aggregate, progress: Progress) -> list[Path]:
    """Write the second file, CSV with the guide's five columns and Parquet with ours too, in one pass over the buckets.

    Raises:
        DataError: The rows written do not add up to the totals.
    """
    stem, buckets = f"{name}_{burstgpt.DENSE}", seconds.buckets
    csv, parquet = Path(f"{stem}.csv"), Path(f"{stem}.parquet")
    written = dict.fromkeys(seconds.totals, 0)
    with (folder / csv).open("wb") as stream:

        def pieces(*_: object) -> Iterator[pl.DataFrame]:
            for begin in range(0, len(buckets), _CHUNK_ROWS):
                end = min(begin + _CHUNK_ROWS, len(buckets))
                chunk = burstgpt.dense_frame(buckets, begin, end)
                chunk.select(c for c in GUIDE_COLUMNS if c in chunk.columns).write_csv(
                    stream, include_header=begin == 0
                )
                for column, total in burstgpt.frame_totals(chunk).items():
                    written[column] += total
                yield chunk
                progress("Writing the second series", end / len(buckets))

        chunks = register_io_source(pieces, schema=burstgpt.dense_frame(buckets, 0, 0).schema)
        chunks.sink_parquet(folder / parquet, compression="lz4")
    check_conserved(seconds.totals, written, csv.name)
    return [csv, parquet]


def write_compressed(folder: Path, name: str, minutes: pl.DataFrame, found: Aggregate) -> list[Path]:
    """Write the minute file and return the names of its files.

    Raises:
        DataError: It does not add up to the totals.
    """
    stem = f"{name}_{burstgpt.compressed(found.buckets.step // SECOND)}"
    check_conserved(found.totals, burstgpt.frame_totals(minutes), stem)
    return _write_both(folder, stem, minutes)


def write_split(
    folder: Path, name: str, minutes: pl.DataFrame, found: Aggregate, shares: Sequence[float | str]
) -> tuple[dict[str, Any], list[Path]]:
    """Write the parts, the series that training reads and last the manifest, which makes the directory a prepared one.

    Returns:
        The manifest, and the names of the files.

    Raises:
        DataError: The parts together, or the series, do not add up to the totals.
    """
    spans = Span(np.array([0]), np.array([len(minutes)])).cut(shares)
    split = {part: [int(s.first[0]), int(s.last[0])] for part, s in zip(burstgpt.PARTS, spans, strict=True)}
    pieces = {part: minutes.slice(first, last - first) for part, (first, last) in split.items()}
    check_conserved(found.totals, burstgpt.frame_totals(pl.concat(pieces.values())), "split")
    written = []
    for part, piece in pieces.items():
        written += _write_both(folder, burstgpt.part_name(name, part), piece)
    series = burstgpt.series_frame(minutes)
    check_conserved(found.totals, {column: int(series[column].sum()) for column in found.totals}, SERIES)
    series.write_parquet(folder / SERIES, compression="uncompressed")
    content = {
        "step_seconds": found.buckets.step // SECOND,
        "clock": found.clock,
        "series": SERIES,
        "channels": [asdict(channel) for channel in LOAD_CHANNELS if channel.name in series.columns],
        "extra_channels": [asdict(channel) for channel in EXTRA_CHANNELS if channel.name in series.columns],
        "rows": len(series),
        "start_us": int(series[TIME][0]),
        "split": split,
        "totals": found.totals,
        "source": found.source,
    }
    manifest = _write_manifest(folder, 1, content, found.partial, found.notes)
    return manifest, [*written, Path(SERIES), Path(MANIFEST)]


def write_table(
    folder: Path,
    frame: pl.DataFrame,
    path: Path,
    table: dict[str, Any],
    notes: Sequence[str],
    partial: tuple[bool, bool] = (False, False),
    now: int | None = None,
) -> dict[str, Any]:
    """Write the rows of a table and last the manifest, which says how to read them, and return it."""
    frame.write_parquet(folder / SERIES, compression="lz4")
    source = {"path": str(path), "format": "table"}
    content = {"series": SERIES, "table": table, "source": source, "now": now}
    return _write_manifest(folder, 2, content, partial, notes)


def _write_manifest(
    folder: Path, version: int, content: dict[str, Any], partial: tuple[bool, bool], notes: Sequence[str]
) -> dict[str, Any]:
    manifest = {
        "format": MANIFEST_FORMAT,
        "format_version": version,
        **content,
        "partial_edges": {"first": partial[0], "last": partial[1]},
        "notes": list(notes),
        "presurge_version": __version__,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _write_both(folder: Path, stem: str, frame: pl.DataFrame) -> list[Path]:
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    csv, parquet = Path(f"{stem}.csv"), Path(f"{stem}.parquet")
    frame.write_csv(folder / csv)
    frame.write_parquet(folder / parquet, compression="uncompressed")  # a few MB: packing costs more
    return [csv, parquet]
