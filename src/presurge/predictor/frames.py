"""Data frames at the door: pandas or Polars, one row per request or per minute, become a panel.

Shapes: H rows of a forecast, C channels.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from presurge.errors import DataError, HistoryError
from presurge.series.frequency import SECOND
from presurge.series.panel import FloatArray, Panel
from presurge.series.timestamps import TimeForm, TimeUnit, format_stamp
from presurge.sources.columns import Rows, read_numbers, read_stamps, without_blank
from presurge.sources.files import RowFrame
from presurge.sources.formats import BURSTGPT, GUIDE_COUNTS, GUIDE_TIME, LOAD_CHANNELS, REQUEST_CHANNELS
from presurge.sources.table import read_frame

Frame = Any
"""A ``pandas.DataFrame`` or a ``polars.DataFrame``; rows need not be in chronological order."""
Level = Literal["request", "minute"]

TIME = GUIDE_TIME
TOKENS: dict[Level, tuple[str, str]] = {
    "request": (BURSTGPT.input_tokens, BURSTGPT.output_tokens),
    "minute": (GUIDE_COUNTS["input_tokens"], GUIDE_COUNTS["output_tokens"]),
}
_NEEDED: dict[Level, tuple[str, ...]] = {
    "request": BURSTGPT.needs,
    "minute": (TIME, *GUIDE_COUNTS.values()),
}
_UNITS: dict[TimeUnit, int] = {"s": SECOND, "ms": SECOND // 1000, "us": 1}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """A frame as a panel.

    Attributes:
        panel: At the request level one row for every request but the first: time since the previous request, request and
            response tokens, with a nominal step of one second. At the minute level requests and tokens of each step.
        level: Which of the two.
        form: How the frame writes its stamps.
        last_us: Time of the last row.
    """

    panel: Panel
    level: Level
    form: TimeForm
    last_us: int

    def stamps(self, mean_HC: FloatArray) -> list[str | int | float]:
        """When the forecast rows are: cumulative inter-arrival times, or one step after another."""
        if self.level == "request":
            ahead = np.maximum(mean_HC[:, 0].astype(np.float64), 0).cumsum() * SECOND
        else:
            ahead = np.arange(1.0, len(mean_HC) + 1) * self.panel.step
        return [_written(self.last_us + round(us), self.form) for us in ahead.tolist()]


def level_of(data: Frame) -> Level:
    """Whether the rows are requests or minutes, according to the columns.

    Raises:
        DataError: It is not a data frame, or the columns fit neither.
    """
    pandas = sys.modules.get("pandas")
    if not isinstance(data, pl.DataFrame) and (pandas is None or not isinstance(data, pandas.DataFrame)):
        hint = "Give a pandas or Polars DataFrame, one row per request; collect() a LazyFrame first."
        raise DataError(f"{type(data).__name__} is not a data frame", hint=hint)
    columns = list(data.columns)
    for level, needed in _NEEDED.items():
        if set(needed) <= set(columns):
            if twice := [name for name in needed if columns.count(name) > 1]:
                raise DataError(f"two columns are named {twice[0]!r}", where="data frame", hint="Drop one.")
            return level
    raise DataError(
        f"the columns fit neither requests nor minutes: {', '.join(map(str, columns))}",
        where="data frame",
        hint=f"Requests need {', '.join(_NEEDED['request'])}; minutes need {', '.join(_NEEDED['minute'])}.",
    )


def check_rows(data: Frame, least: int) -> Level:
    """Check columns and number of rows.

    Raises:
        DataError: A column is missing.
        HistoryError: There are fewer rows.
    """
    level = level_of(data)
    if len(data) < least:
        what = f"the frame has {len(data)} rows, and {least} are needed"
        raise HistoryError(what, hint="Give a longer history.")
    return level


def read_history(data: Frame) -> History:
    """Read a frame, ignoring columns beyond the needed ones.

    Raises:
        DataError: A column is missing, or holds something that is not a time or not a number of tokens.
    """
    level = check_rows(data, 2)
    frame = _to_polars(data, _NEEDED[level])
    try:
        return _requests(frame) if level == "request" else _minutes(frame)
    except DataError as error:
        if error.hint and "`" in error.hint:  # a setting that only a reader of files has
            error.hint = "Mend or remove this row, or what else is wrong with the data frame."
        raise


def latest(data: Frame, rows: int) -> Frame:
    """The last rows; all of them if their stamps are not sorted, so that their reader can sort them.

    Raises:
        DataError: A column is missing.
    """
    level_of(data)
    stamps = data[TIME]
    ordered = stamps.is_sorted() if isinstance(data, pl.DataFrame) else stamps.is_monotonic_increasing
    return data.tail(rows) if ordered else data


def tokens_of(data: Frame) -> FloatArray:
    """Request and response tokens of every row, float32 [rows, 2]; NaN for anything but a number."""
    frame = _to_polars(data, TOKENS[level_of(data)])
    return frame.select(pl.all().cast(pl.Float32, strict=False)).to_numpy()


def last_row(data: Frame) -> dict[str, Any]:
    """The latest row as a prediction names it: ``timestamp``, ``request_tokens``, ``response_tokens``.

    What is not a time or not a number becomes None; the models say why nothing can be forecast from it.
    """
    names = TOKENS[level_of(data)]
    frame, place, stamp = _to_polars(latest(data, 1), (TIME, *names)), -1, None
    try:
        stamp_N, form = read_stamps(Rows(RowFrame.of(frame), frame, np.arange(len(frame))), TIME, None)
    except DataError:
        pass
    else:
        place = len(frame) - 1 - int(stamp_N[::-1].argmax())
        stamp = _written(int(stamp_N[place]), form)
    numbers = frame.select(pl.col(names).cast(pl.Float64, strict=False)).row(place)
    tokens = [None if n is None or not math.isfinite(n) else int(n) if n.is_integer() else n for n in numbers]
    return {"timestamp": stamp, "request_tokens": tokens[0], "response_tokens": tokens[1]}


def _to_polars(data: Frame, names: tuple[str, ...]) -> pl.DataFrame:
    if isinstance(data, pl.DataFrame):
        return data.select(names)
    return pl.DataFrame([_column(name, data[name]) for name in names])


def _column(name: str, column: Any) -> pl.Series:
    """A pandas column; types that NumPy lacks (text, zones, integers with gaps) are read object by object."""
    values = column.to_numpy()
    if values.dtype != object:
        return pl.Series(name, values, nan_to_null=True)
    cells = [None if gone else v for v, gone in zip(values, column.isna(), strict=True)]
    return pl.Series(name, cells, strict=False)


def _requests(frame: pl.DataFrame) -> History:
    if frame[TIME].dtype.is_integer():  # numbers, though a few of them may look like dates such as 20240131
        frame = frame.with_columns(pl.col(TIME).cast(pl.Float64))
    rows = without_blank(RowFrame.of(frame), frame)
    stamp_N, form = read_stamps(rows, TIME, None)
    order = np.argsort(stamp_N, kind="stable")
    ordered = stamp_N[order]
    values = np.empty((len(order), 3), np.float32)
    values[1:, 0] = np.diff(ordered) / SECOND
    for place, column in enumerate(TOKENS["request"], start=1):
        numbers = read_numbers(rows, column)
        wrong = numbers.is_null() | (numbers < 0)
        if wrong.any():
            raise rows.complain("{} is not a number of tokens", column, wrong, "Mend or remove this row.")
        values[:, place] = numbers.to_numpy()[order]
    start = np.zeros(1, np.int64)
    panel = Panel(values=values[1:], channels=REQUEST_CHANNELS, step=SECOND, start=start, clock="relative")
    return History(panel=panel, level="request", form=form, last_us=int(ordered[-1]))


def _minutes(frame: pl.DataFrame) -> History:
    columns = _NEEDED["minute"][1:]
    table = read_frame(frame, time=TIME, values=columns, kinds=dict.fromkeys(columns, "count"))
    if count := table.counts.duplicates:
        what = f"rows with the {TIME} of another row, whose load would count twice: {count}"
        raise DataError(what, where="data frame", hint="Drop them, or sum them up, first.")
    _, form = read_stamps(without_blank(RowFrame.of(frame), frame), TIME, None)
    panel = table.panel.replace(values=table.panel.values, channels=LOAD_CHANNELS)
    return History(panel=panel, level="minute", form=form, last_us=int(panel.times()[-1]))


def _written(stamp: int, form: TimeForm) -> str | int | float:
    """Write a time (microseconds) as the frame writes its own: a number in the same unit, or ISO-8601 in UTC."""
    if form.kind != "number":
        return format_stamp(stamp, "relative" if form.kind == "duration" else "utc")
    if form.unit == "ns":
        return stamp * 1000
    whole, rest = divmod(stamp, _UNITS[form.unit])
    return stamp / _UNITS[form.unit] if rest else whole
