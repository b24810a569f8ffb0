"""The files of the training guide: names, columns, and the way between them and buckets.

A second file has one row a second, a minute file one row a step. ``Concurrent_requests`` is the guide's name for the
number of requests that arrived. Stamps are whole seconds: since the trace's own zero, or since the Unix epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from presurge.errors import DataError
from presurge.series.buckets import BUSY, TIME, Buckets, Totals
from presurge.series.frequency import SECOND, infer_step
from presurge.series.panel import Clock
from presurge.series.timestamps import TimeForm
from presurge.sources.files import check_columns, no_rows, open_file, reading

COUNT_COLUMNS = {
    "requests": "Concurrent_requests",
    "input_tokens": "Request_tokens_sum",
    "output_tokens": "Response_tokens_sum",
    "failures": "Failures",
}
"""Our name of a count -> the guide's name of its column (the last one is ours)."""

TRAINING = ("requests", "input_tokens", "output_tokens")
DENSE_COLUMNS = ("Timestamp", "Time_interval", *(COUNT_COLUMNS[name] for name in TRAINING))
AVERAGES = {
    "requests": "Avg_concurrent_requests",
    "input_tokens": "Avg_request_tokens_per_sec",
    "output_tokens": "Avg_response_tokens_per_sec",
}
SPLIT_FILES = {
    "train": "split/burstgpt_predictor_train_minute",
    "val": "split/burstgpt_predictor_val_minute",
    "rl": "split/burstgpt_rl_train_minute",
    "test": "split/burstgpt_final_test_minute",
}
"""Part -> file name without its ending; the guide's names, whatever the trace and the step."""

CHUNK_ROWS = 250_000


def dense_name(name: str) -> str:
    """File name of the second series, without its ending."""
    return f"{name}_dense_timeseries"


def compressed_name(name: str, step: int) -> str:
    """File name of the series of a step (microseconds), without its ending."""
    return f"{name}_compressed_{step // SECOND}s"


def dense_chunks(buckets: Buckets) -> Iterator[pl.DataFrame]:
    """The second file from one-second buckets, piece by piece: the guide's five columns, then ours."""
    names = [name for name in COUNT_COLUMNS if name in buckets.sums]
    for begin in range(0, len(buckets), CHUNK_ROWS):
        end = min(begin + CHUNK_ROWS, len(buckets))
        columns = {
            "Timestamp": buckets.starts(begin, end) // SECOND,
            "Time_interval": np.ones(end - begin),
            **{COUNT_COLUMNS[name]: buckets.column(name, begin, end) for name in names},
        }
        if BUSY in buckets.sums:
            columns["In_flight"] = buckets.column(BUSY, begin, end) / buckets.step
        yield pl.DataFrame(columns)


def dense_schema(buckets: Buckets) -> pl.Schema:
    """Columns and types of ``dense_chunks``."""
    names = ["Timestamp", "Time_interval"] + [COUNT_COLUMNS[n] for n in COUNT_COLUMNS if n in buckets.sums]
    schema = {name: pl.Float64() if name == "Time_interval" else pl.Int64() for name in names}
    return pl.Schema(schema | ({"In_flight": pl.Float64()} if BUSY in buckets.sums else {}))


def compressed_frame(buckets: Buckets, partial: tuple[bool, bool]) -> pl.DataFrame:
    """The minute file: the guide's columns, then ``Failures``, ``Partial`` and ``In_flight`` where they are known.

    ``partial`` says whether the first and the last bucket are covered only in part. The averages are per second that the trace covers, as in the guide: sums over the seconds present in the bucket.
    """
    counts = {name: buckets.column(name) for name in COUNT_COLUMNS if name in buckets.sums}
    seconds = buckets.seconds_present()
    columns = {
        "Timestamp": buckets.starts() // SECOND,
        "Time_interval": np.full(len(buckets), buckets.step / SECOND),
        **{COUNT_COLUMNS[name]: counts[name] for name in TRAINING},
        **{AVERAGES[name]: counts[name] / seconds for name in TRAINING},
    }
    if "failures" in counts:
        columns["Failures"] = counts["failures"]
    flags = np.zeros(len(buckets), np.bool_)
    flags[0] = partial[0]
    flags[-1] |= partial[1]
    columns["Partial"] = flags
    if BUSY in buckets.sums:
        columns["In_flight"] = buckets.column(BUSY) / buckets.step
    return pl.DataFrame(columns)


def frame_totals(frame: pl.DataFrame) -> Totals:
    """Exact sums of the count columns of a guide file."""
    return {
        name: int(frame[column].sum()) for name, column in COUNT_COLUMNS.items() if column in frame.columns
    }


def series_frame(compressed: pl.DataFrame) -> pl.DataFrame:
    """The columns of ``series.parquet`` from a minute file."""
    renamed = {column: name for name, column in COUNT_COLUMNS.items()} | {"In_flight": "in_flight"}
    partial = pl.col("Partial") if "Partial" in compressed.columns else pl.lit(False)
    return compressed.select(
        (pl.col("Timestamp") * SECOND).alias(TIME),
        *(pl.col(old).alias(new) for old, new in renamed.items() if old in compressed.columns),
        partial.alias("partial"),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GuideFile:
    """A second or minute file, read.

    Attributes:
        frame: Its columns, the counts as Int64, in the order of time.
        step: Distance of its rows in microseconds.
        clock: ``utc`` where the stamps are seconds since the Unix epoch.
        partial: Whether the first and the last row say that they are covered only in part.
    """

    path: Path
    frame: pl.DataFrame
    step: int
    clock: Clock
    partial: tuple[bool, bool]

    def rows(self) -> pl.LazyFrame:
        """The rows as ``series.buckets.bucket`` takes them."""
        counts = [pl.col(c).alias(n) for n, c in COUNT_COLUMNS.items() if c in self.frame.columns]
        if "In_flight" in self.frame.columns:
            counts.append((pl.col("In_flight") * self.step).round().cast(pl.Int64).alias(BUSY))
        return self.frame.lazy().select((pl.col("Timestamp") * SECOND).alias(TIME), *counts)


def read_guide_file(path: Path) -> GuideFile:
    """Read a second or minute file, CSV or Parquet, ours or one that the guide's own scripts wrote.

    Raises:
        DataError: It cannot be read, a count is missing, negative or not whole, or rows are missing in between.
    """
    file = open_file(path)
    known = [
        "Timestamp",
        "Time_interval",
        *COUNT_COLUMNS.values(),
        *AVERAGES.values(),
        "Partial",
        "In_flight",
    ]
    check_columns(file, ["Timestamp", *(COUNT_COLUMNS[name] for name in TRAINING)])
    with reading(path):
        frame = file.read([column for column in file.columns if column in known])
    if frame.is_empty():
        raise no_rows(path)
    whole = ["Timestamp", *(column for column in COUNT_COLUMNS.values() if column in frame.columns)]
    frame = frame.with_columns(_whole_numbers(frame[name], path) for name in whole).sort("Timestamp")
    step = _step_of(frame, path)
    clock = TimeForm(kind="number").clock(int(frame["Timestamp"][0]) * SECOND)
    flags = frame["Partial"].cast(pl.Boolean) if "Partial" in frame.columns else pl.Series([False])
    partial = bool(flags[0]), bool(flags[-1])
    return GuideFile(path=path, frame=frame, step=step, clock=clock, partial=partial)


def _whole_numbers(column: pl.Series, path: Path) -> pl.Series:
    where = f"{path}, column {column.name!r}"
    if not column.dtype.is_numeric():
        raise DataError(f"is {column.dtype}, not a number", where=where)
    whole = column.cast(pl.Int64, strict=False)
    bad = whole.is_null() | (whole != column)
    if column.name != "Timestamp":
        bad |= whole < 0
    if bad.any():
        row = int(bad.arg_true()[0])
        raise DataError(
            f"{column[row]} in row {row + 1} is not a whole number from 0",
            where=where,
            hint="Write the file again from the trace with `presurge prepare`.",
        )
    return whole


def _step_of(frame: pl.DataFrame, path: Path) -> int:
    """The distance of the rows; a file of one row says it in its column ``Time_interval``."""
    if len(frame) == 1:
        return int(frame["Time_interval"][0]) * SECOND if "Time_interval" in frame.columns else SECOND
    stamps = frame["Timestamp"].to_numpy()
    step = infer_step(stamps * SECOND)
    wrong = np.flatnonzero(np.diff(stamps) != step // SECOND)
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"the rows are {step // SECOND} s apart, but {stamps[row + 1]} follows {stamps[row]}",
            where=str(path),
            hint="A second or minute file has a row for every step. Write it again from the trace.",
        )
    return step
