"""The files of the training guide for BurstGPT: names, columns, and how they become buckets and back.

A second file has one row per second, a minute file one row per step, whatever the step. Timestamps are whole seconds since
the trace's own zero, or since the Unix epoch.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError
from presurge.series.buckets import BUSY, TIME, Buckets, Totals
from presurge.series.frequency import SECOND, infer_step
from presurge.series.panel import Channel, IntArray
from presurge.sources.columns import Rows, exact_totals, read_numbers, without_blank
from presurge.sources.files import RowFile, check_columns, reading
from presurge.sources.formats import GUIDE_COLUMNS, GUIDE_COUNTS, GUIDE_TIME

Values = npt.NDArray[np.int64] | npt.NDArray[np.float64]

NAME = "BurstGPT_1"
"""Prefix of the names of the guide's own files."""
DENSE = "dense_timeseries"

COUNTS = GUIDE_COUNTS | {"failures": "Failures"}
COLUMNS = COUNTS | {"in_flight": "In_flight"}
"""Channel -> column; ``Failures`` and ``In_flight`` are not in the guide."""

PARTS = {
    "train": "burstgpt_predictor_train_minute",
    "val": "burstgpt_predictor_val_minute",
    "rl": "burstgpt_rl_train_minute",
    "test": "burstgpt_final_test_minute",
}
"""The parts of a split and the guide's names for their files, which do not depend on the step."""

_INTERVAL = GUIDE_COLUMNS[1]
_AVERAGES = {
    "requests": "Avg_concurrent_requests",
    "input_tokens": "Avg_request_tokens_per_sec",
    "output_tokens": "Avg_response_tokens_per_sec",
}
_ENDINGS = re.compile(r"(\.(csv|tsv|txt|parquet|jsonl|ndjson|json|gz|zst))+$", re.IGNORECASE)
_STEPS = re.compile(rf"_({DENSE}|compressed_\d+s)$")


def name_of(file: Path) -> str:
    """Prefix of the names of the files made from this one: its own name, without its endings and its step."""
    return _STEPS.sub("", _ENDINGS.sub("", file.name)) or file.name


def compressed(seconds: int | str) -> str:
    """Suffix of the name of a minute file, before ``.csv``; that of a second file is `DENSE`."""
    return f"compressed_{seconds}s"


def part_name(name: str, part: str) -> str:
    """File name of a part of the split, without its ending: the guide's name for a BurstGPT trace."""
    return f"split/{PARTS[part] if name.lower().startswith('burstgpt') else f'{name}_{part}'}"


def channel_values(buckets: Buckets, begin: int = 0, end: int | None = None) -> dict[str, Values]:
    """The buckets ``begin:end`` by channel: int64 counts, and the mean number in flight if elapsed times are known."""
    values: dict[str, Values] = {n: buckets.column(n, begin, end) for n in COUNTS if n in buckets.sums}
    if BUSY in buckets.sums:
        values["in_flight"] = buckets.column(BUSY, begin, end) / buckets.step
    return values


def dense_frame(buckets: Buckets, begin: int, end: int) -> pl.DataFrame:
    """Some rows of the second file: the guide's five columns (or three, for a trace without tokens), then ours."""
    values = channel_values(buckets, begin, end)
    stamps = {GUIDE_TIME: buckets.starts(begin, end) // SECOND, _INTERVAL: np.ones(end - begin)}
    return pl.DataFrame(stamps | {COLUMNS[name]: column for name, column in values.items()})


def compressed_frame(buckets: Buckets, partial: tuple[bool, bool]) -> pl.DataFrame:
    """The minute file: the guide's columns (without tokens that the trace has not), then ``Failures``, ``Partial`` and ``In_flight`` where they are known.

    As in the guide, an average is the sum divided by the seconds of the bucket that the trace covers. ``partial`` tells
    whether the trace covers the first and the last bucket only in part.
    """
    values, seconds = channel_values(buckets), buckets.seconds_present()
    flags = np.zeros(len(buckets), np.bool_)
    flags[0] = partial[0]
    flags[-1] |= partial[1]
    columns = {
        GUIDE_TIME: buckets.starts() // SECOND,
        _INTERVAL: np.full(len(buckets), buckets.step / SECOND),
        **{column: values[name] for name, column in GUIDE_COUNTS.items() if name in values},
        **{column: values[name] / seconds for name, column in _AVERAGES.items() if name in values},
        **({"Failures": values["failures"]} if "failures" in values else {}),
        "Partial": flags,
        **({"In_flight": values["in_flight"]} if "in_flight" in values else {}),
    }
    return pl.DataFrame(columns)


def frame_totals(frame: pl.DataFrame) -> Totals:
    """Exact sums of the count columns of a guide file."""
    return {name: int(frame[column].sum()) for name, column in COUNTS.items() if column in frame.columns}


def series_frame(compressed: pl.DataFrame) -> pl.DataFrame:
    """The columns of ``series.parquet`` from a minute file."""
    partial = pl.col("Partial") if "Partial" in compressed.columns else pl.lit(False)
    return compressed.select(
        (pl.col(GUIDE_TIME) * SECOND).alias(TIME),
        *(pl.col(column).alias(name) for name, column in COLUMNS.items() if column in compressed.columns),
        partial.alias("partial"),
    )


def guide_sums(frame: pl.DataFrame, step: int) -> dict[str, IntArray]:
    """The sums of a second or minute file, int64 [R] by name, as ``Buckets`` has them."""
    sums = {name: frame[column].to_numpy() for name, column in COUNTS.items() if column in frame.columns}
    if "In_flight" in frame.columns:
        sums[BUSY] = (frame["In_flight"] * step).round().cast(pl.Int64).to_numpy()
    return sums


def guide_columns(file: RowFile) -> tuple[pl.DataFrame, int]:
    """Read the columns of a second or minute file, CSV or Parquet, written by Presurge or by the guide's own scripts.

    Returns:
        The columns in chronological order, the counts as Int64, and the time between two rows in microseconds.

    Raises:
        DataError: It cannot be read, a count is missing, negative or not whole, or rows are missing in between.
    """
    check_columns(file, [GUIDE_TIME, GUIDE_COUNTS["requests"]])
    known = {GUIDE_TIME, _INTERVAL, *COLUMNS.values(), *_AVERAGES.values(), "Partial"}
    with reading(file.path, file.data):
        rows = without_blank(file, file.read([column for column in file.columns if column in known]))
    whole = [GUIDE_TIME, *(column for column in COUNTS.values() if column in file.columns)]
    frame = rows.frame.with_columns(_whole_numbers(rows, name) for name in whole).sort(GUIDE_TIME)
    return frame, _step_of(frame, file.path)


def _whole_numbers(rows: Rows, column: str) -> pl.Series:
    numbers = read_numbers(rows, column)
    bad = numbers.is_null() | (numbers % 1 != 0)
    if column != GUIDE_TIME:
        bad |= numbers < 0
    if bad.any():
        hint = "Write the file again from the trace with `presurge prepare`."
        raise rows.complain("{} is not a whole number from 0", column, bad, hint)
    exact_totals(rows, [Channel(column, kind="count")], [numbers])
    return numbers.cast(pl.Int64)


def _step_of(frame: pl.DataFrame, path: Path) -> int:
    """The time between two rows; a file with a single row states it in its column ``Time_interval``."""
    if len(frame) == 1:
        return int(frame[_INTERVAL][0]) * SECOND if _INTERVAL in frame.columns else SECOND
    stamps = frame[GUIDE_TIME].to_numpy()
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
