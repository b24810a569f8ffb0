"""Writing a prepared directory: every table as CSV and Parquet, each only if its sums are those of the trace."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from presurge import __version__
from presurge.errors import ConfigError
from presurge.files import write_json
from presurge.progress import Progress
from presurge.series.buckets import TIME, Buckets, Totals, check_conserved
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Clock
from presurge.series.spans import Span
from presurge.workflows import guide_files as guide
from presurge.workflows.counted_input import CountedInput
from presurge.workflows.data import MANIFEST, MANIFEST_FORMAT
from presurge.workflows.statistics import Statistics

NAME = "BurstGPT_1"
SPLIT = ("0.6", "0.1", "0.2", "0.1")
SERIES = "series.parquet"
CHANNELS = (
    Channel("requests", "requests", "count"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)
EXTRAS = (Channel("failures", "requests", "count"), Channel("in_flight", "requests", "gauge"))
"""Further columns of the series that can be selected as channels, where the trace gives them."""

Fractions = Sequence[float | str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """What was written.

    Attributes:
        directory: Where.
        files: The files, relative to it.
        rows: Rows of the series: seconds for the dense step, else steps.
        step: Distance of those rows in microseconds.
        totals: Exact sums over the input, and so over every file.
        notes: What was treated on the way in, and what to know of the result.
        manifest: Content of ``prepare.json``, where it was written.
        statistics: Numbers of the trace, where asked for.
    """

    directory: Path
    files: tuple[Path, ...]
    rows: int
    step: int
    totals: Totals
    notes: tuple[str, ...]
    manifest: dict[str, Any] | None = None
    statistics: Statistics | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "directory": str(self.directory),
            "files": [str(file) for file in self.files],
            "rows": self.rows,
            "step_seconds": self.step // SECOND,
            "totals": self.totals,
            "notes": list(self.notes),
            "manifest": self.manifest,
            "statistics": self.statistics.to_dict() if self.statistics else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MinuteSeries:
    """A minute file and what it was made of; of whatever step, in spite of the name that the guide gave it.

    Attributes:
        frame: The minute file.
        totals: Exact sums over the input.
        step: Distance of the rows in microseconds.
        clock: Of the stamps.
        source: Path, format and size of the input.
        notes: What was treated on the way in, and what to know of the result.
    """

    frame: pl.DataFrame
    totals: Totals
    step: int
    clock: Clock
    source: dict[str, Any]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, counted: CountedInput) -> Self:
        """The minute file of buckets."""
        return cls(
            frame=guide.compressed_frame(counted.buckets, counted.partial),
            totals=counted.totals,
            step=counted.buckets.step,
            clock=counted.clock,
            source=counted.source,
            notes=(*counted.notes, *edge_notes(counted.partial)),
        )

    def prepared(
        self,
        directory: Path,
        written: list[Path],
        *,
        manifest: dict[str, Any] | None = None,
        statistics: Statistics | None = None,
    ) -> Prepared:
        """Say what was written."""
        return Prepared(
            directory=directory,
            files=tuple(written),
            rows=len(self.frame),
            step=self.step,
            totals=self.totals,
            notes=self.notes,
            manifest=manifest,
            statistics=statistics,
        )


def edge_notes(partial: tuple[bool, bool]) -> tuple[str, ...]:
    """Say which edge buckets are covered only in part."""
    edges = " and ".join(name for name, flag in zip(("first", "last"), partial, strict=True) if flag)
    return (f"The trace covers the {edges} bucket only in part; flagged as partial",) if edges else ()


def check_fractions(fractions: Fractions) -> None:
    """Check the shares of train, val, rl and test before any work is done.

    Raises:
        ConfigError: They are not four, or do not add up to one.
    """
    _split_rows(0, fractions)


def write_dense(folder: Path, name: str, buckets: Buckets, totals: Totals, progress: Progress) -> list[Path]:
    """Write the second file, CSV with the guide's five columns and Parquet with ours too, in one pass over the buckets.

    Raises:
        DataError: The rows written do not add up to the totals.
    """
    csv, parquet = (Path(f"{guide.dense_name(name)}.{ending}") for ending in ("csv", "parquet"))
    written = dict.fromkeys(totals, 0)
    with (folder / csv).open("wb") as stream:

        def pieces(*_: object) -> Iterator[pl.DataFrame]:
            rows = 0
            for chunk in guide.dense_chunks(buckets):
                chunk.select(guide.DENSE_COLUMNS).write_csv(stream, include_header=rows == 0)
                for column, total in guide.frame_totals(chunk).items():
                    written[column] += total
                yield chunk
                rows += len(chunk)
                progress("Writing the second series", rows / len(buckets))

        chunks = register_io_source(pieces, schema=guide.dense_schema(buckets))
        chunks.sink_parquet(folder / parquet, compression="lz4")
    check_conserved(totals, written, csv.name)
    return [csv, parquet]


def write_compressed(folder: Path, name: str, minutes: MinuteSeries) -> list[Path]:
    """Write the minute file; the names of its files.

    Raises:
        DataError: It does not add up to the totals.
    """
    stem = guide.compressed_name(name, minutes.step)
    check_conserved(minutes.totals, guide.frame_totals(minutes.frame), stem)
    return _write_both(folder, stem, minutes.frame)


def write_split_and_series(
    folder: Path, minutes: MinuteSeries, fractions: Fractions
) -> tuple[dict[str, Any], list[Path]]:
    """Write the parts, the series that training reads and, last, the manifest, without which nothing is prepared.

    Returns:
        The manifest, and the names of the files.

    Raises:
        DataError: The parts together, or the series, do not add up to the totals.
    """
    frame, totals = minutes.frame, minutes.totals
    split = _split_rows(len(frame), fractions)
    pieces = {part: frame.slice(first, last - first) for part, (first, last) in split.items()}
    check_conserved(totals, guide.frame_totals(pl.concat(pieces.values())), "split")
    written = [
        path for part, piece in pieces.items() for path in _write_both(folder, guide.SPLIT_FILES[part], piece)
    ]
    series = guide.series_frame(frame)
    check_conserved(totals, {name: int(series[name].sum()) for name in totals}, SERIES)
    series.write_parquet(folder / SERIES, compression="uncompressed")
    digest = hashlib.sha256((folder / SERIES).read_bytes()).hexdigest()
    manifest = {**_manifest(minutes, series, split), "series_sha256": digest}
    write_json(folder / MANIFEST, manifest)
    return manifest, [*written, Path(SERIES), Path(MANIFEST)]


def _manifest(minutes: MinuteSeries, series: pl.DataFrame, split: dict[str, list[int]]) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "format_version": 1,
        "step_seconds": minutes.step // SECOND,
        "clock": minutes.clock,
        "series": SERIES,
        "channels": [asdict(channel) for channel in CHANNELS],
        "extra_channels": [asdict(channel) for channel in EXTRAS if channel.name in series.columns],
        "rows": len(series),
        "start_us": int(series[TIME][0]),
        "split": split,
        "totals": minutes.totals,
        "source": minutes.source,
        "partial_edges": {"first": bool(series["partial"][0]), "last": bool(series["partial"][-1])},
        "notes": list(minutes.notes),
        "presurge_version": __version__,
    }


def _split_rows(rows: int, fractions: Fractions) -> dict[str, list[int]]:
    """Part -> first and last row (excluded)."""
    if len(fractions) != len(guide.SPLIT_FILES):
        raise ConfigError(
            f"the split has {len(fractions)} parts and not four",
            setting="split",
            hint="Give the shares of train, val, rl and test, for example 0.6,0.1,0.2,0.1; 0 for a part that is not needed.",
        )
    spans = Span(np.array([0]), np.array([rows])).cut(fractions)
    return {part: [int(s.first[0]), int(s.last[0])] for part, s in zip(guide.SPLIT_FILES, spans, strict=True)}


def _write_both(folder: Path, stem: str, frame: pl.DataFrame) -> list[Path]:
    (folder / stem).parent.mkdir(parents=True, exist_ok=True)
    csv, parquet = Path(f"{stem}.csv"), Path(f"{stem}.parquet")
    frame.write_csv(folder / csv)
    frame.write_parquet(folder / parquet, compression="uncompressed")  # a few MB: packing costs more
    return [csv, parquet]
