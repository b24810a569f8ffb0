"""Data frames at the door: pandas or Polars, one row per request or per minute, become a panel.

Shapes: N rows of a frame, H rows of a forecast, C channels.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError, HistoryError
from presurge.series.frequency import SECOND
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.timestamps import PER_SECOND, TimeForm, format_stamp
from presurge.sources.columns import Rows, read_numbers, read_stamps, without_blank
from presurge.sources.files import RowFrame
from presurge.sources.formats import BURSTGPT, GUIDE_COUNTS, GUIDE_TIME, REQUEST_CHANNELS
from presurge.sources.frames import as_polars, is_frame
from presurge.sources.table import read_guide_csv

Frame = Any
"""A ``pandas.DataFrame`` or a ``polars.DataFrame``; rows need not be in chronological order."""
Level = Literal["request", "minute"]

TIME = GUIDE_TIME
_NEEDED: dict[Level, tuple[str, ...]] = {"request": BURSTGPT.needs, "minute": (TIME, *GUIDE_COUNTS.values())}
"""Level -> the columns that it needs: the time first, request and response tokens last."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """A frame as a panel.

    Attributes:
        panel: At the request level one row for every request but the first: time since the previous request, request and
            response tokens, with a nominal step of one second. At the minute level requests and tokens of each step.
        level: Which of the two.
        form: How the frame writes its stamps.
        times_us: int64, the time of every row.
    """

    panel: Panel
    level: Level
    form: TimeForm
    times_us: IntArray

    def stamps(self, mean_HC: FloatArray) -> list[str | int | float]:
        """When the forecast rows are: cumulative inter-arrival times, or one step after another."""
        if self.level == "request":
            ahead = np.maximum(mean_HC[:, 0].astype(np.float64), 0).cumsum() * SECOND
        else:
            ahead = np.arange(1.0, len(mean_HC) + 1) * self.panel.step
        return [_written(int(self.times_us[-1]) + round(us), self.form) for us in ahead.tolist()]


def level_of(data: Frame, least: int = 0) -> Level:
    """Whether the rows are requests or minutes, according to the columns.

    Raises:
        DataError: It is not a data frame, or the columns fit neither.
        HistoryError: There are fewer than ``least`` rows.
    """
    if isinstance(data, pl.LazyFrame) or not is_frame(data):
        hint = "Give a pandas or Polars DataFrame, one row per request; collect() a LazyFrame first."
        raise DataError(f"{type(data).__name__} is not a data frame", hint=hint)
    columns = list(data.columns)
    level = next((level for level, needed in _NEEDED.items() if set(needed) <= set(columns)), None)
    if level is None:
        needs = " ".join(f"A {level} needs {', '.join(needed)}." for level, needed in _NEEDED.items())
        what = f"the columns fit neither requests nor minutes: {', '.join(map(str, columns))}"
        raise DataError(what, where="data frame", hint=needs)
    if twice := [name for name in _NEEDED[level] if columns.count(name) > 1]:
        raise DataError(f"two columns are named {twice[0]!r}", where="data frame", hint="Drop one.")
    if len(data) < least:
        what = f"the frame has {len(data)} rows, and {least} are needed"
        raise HistoryError(what, hint="Give a longer history.")
    return level


def read_history(data: Frame, last: int | None = None) -> History:
    """Read a frame, ignoring columns beyond the needed ones.

    Args:
        data: The frame.
        last: How many of its last rows to read; None reads all.

    Raises:
        DataError: A column is missing, or holds something that is not a time or not a number of tokens.
        HistoryError: There are fewer than two rows.
    """
    level = level_of(data, 2)
    recent = data if last is None else latest(data, last)
    frame = as_polars(recent, _NEEDED[level])
    place = "data frame" if len(recent) == len(data) else f"last {len(recent)} rows of the data frame"
    file = RowFrame.of(frame, place)
    return _requests(file) if level == "request" else _minutes(file)


def in_order(data: Frame) -> Frame:
    """The frame with its rows sorted by time."""
    if isinstance(data, pl.DataFrame):
        return data.sort(TIME, maintain_order=True)
    return data.sort_values(TIME, kind="stable")


def latest(data: Frame, rows: int) -> Frame:
    """The last rows; all of them if their stamps are not sorted, so that their reader can sort them."""
    stamps = data[TIME]
    ordered = stamps.is_sorted() if isinstance(data, pl.DataFrame) else stamps.is_monotonic_increasing
    return data.tail(rows) if ordered else data


def tokens_of(data: Frame) -> npt.NDArray[np.float64]:
    """Request and response tokens of every row, float64 [N, 2]; NaN for anything but a number."""
    frame = as_polars(data, _NEEDED[level_of(data)][-2:])
    return frame.select(pl.all().cast(pl.Float64, strict=False)).to_numpy()


def fingerprint(data: Frame, validation_split: float) -> str:
    """Identify the validation rows: a checksum of their tokens."""
    tokens_N2 = tokens_of(data)[-int(len(data) * validation_split) :]
    return hashlib.sha256(tokens_N2.astype(np.float32).tobytes()).hexdigest()


def last_row(data: Frame) -> dict[str, Any]:
    """The latest row as a prediction names it: ``timestamp``, ``request_tokens``, ``response_tokens``.

    What is not a time or not a number becomes None; the models say why nothing can be forecast from it.
    """
    recent = latest(data, 1)
    frame, place, stamp = as_polars(recent, (TIME,)), -1, None
    try:
        stamp_N, form = read_stamps(Rows(RowFrame.of(frame), frame, np.arange(len(frame))), TIME, None)
        place = len(frame) - 1 - int(stamp_N[::-1].argmax())
        stamp = _written(int(stamp_N[place]), form)
    except DataError:
        pass
    numbers = tokens_of(recent)[place].tolist()
    tokens = [int(n) if n.is_integer() else n if math.isfinite(n) else None for n in numbers]
    return {"timestamp": stamp, "request_tokens": tokens[0], "response_tokens": tokens[1]}


def _requests(file: RowFrame) -> History:
    frame = file.frame
    if frame[TIME].dtype.is_integer():  # numbers, though a few of them may look like dates such as 20240131
        frame = frame.with_columns(pl.col(TIME).cast(pl.Float64))
    rows = without_blank(file, frame)
    stamp_N, form = read_stamps(rows, TIME, None)
    order = np.argsort(stamp_N, kind="stable")
    columns = [np.diff(stamp_N[order]) / SECOND]
    for name in _NEEDED["request"][1:]:
        numbers = read_numbers(rows, name)
        wrong = numbers.is_null() | (numbers < 0)
        if wrong.any():
            raise rows.complain("{} is not a number of tokens", name, wrong, "Mend or remove this row.")
        columns.append(numbers.to_numpy()[order[1:]])
    values, start = np.column_stack(columns).astype(np.float32), np.zeros(1, np.int64)
    panel = Panel(values=values, channels=REQUEST_CHANNELS, step=SECOND, start=start, clock="relative")
    return History(panel=panel, level="request", form=form, times_us=stamp_N[order[1:]])


def _minutes(file: RowFrame) -> History:
    # A minute that is not there is not known to be one without load.
    table = read_guide_csv(file, fill="missing")
    if count := table.counts.duplicates:
        what = f"rows with the {TIME} of another row, whose load would count twice: {count}"
        raise DataError(what, where="data frame", hint="Drop them, or sum them up, first.")
    _, form = read_stamps(without_blank(file, file.frame), TIME, None)
    return History(panel=table.panel, level="minute", form=form, times_us=table.panel.times())


def _written(stamp: int, form: TimeForm) -> str | int | float:
    """Write a time (microseconds) as the frame writes its own: a number in the same unit, or ISO-8601 in UTC."""
    if form.kind != "number":
        return format_stamp(stamp, "relative" if form.kind == "duration" else "utc")
    scaled = stamp * PER_SECOND[form.unit]
    return scaled / SECOND if scaled % SECOND else scaled // SECOND
