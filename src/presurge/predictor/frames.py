"""Data frames at the door: pandas or Polars, one row a request or one row a minute, become a panel.

Shapes: H rows of a forecast, C channels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from presurge.errors import DataError, HistoryError
from presurge.jobs.guide_files import COUNT_COLUMNS, TRAINING
from presurge.jobs.prepared_files import CHANNELS
from presurge.series.frequency import SECOND
from presurge.series.panel import Clock, FloatArray, Panel
from presurge.series.timestamps import format_stamp
from presurge.sources.columns import read_numbers, read_stamps, without_blank
from presurge.sources.files import RowFrame
from presurge.sources.requests import REQUEST_CHANNELS
from presurge.sources.table import read_frame

Frame = Any
"""A ``pandas.DataFrame`` or a ``polars.DataFrame``, rows in the order of time."""
Level = Literal["request", "minute"]

TIME = "Timestamp"
TOKENS: dict[Level, tuple[str, str]] = {
    "request": ("Request tokens", "Response tokens"),
    "minute": (COUNT_COLUMNS["input_tokens"], COUNT_COLUMNS["output_tokens"]),
}
_NEEDED: dict[Level, tuple[str, ...]] = {
    "request": (TIME, *TOKENS["request"]),
    "minute": (TIME, *(COUNT_COLUMNS[name] for name in TRAINING)),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """A frame as a panel.

    Attributes:
        panel: At the request level one row a request but the first: time since the request before, request and response
            tokens, with a nominal step of one second. At the minute level requests and tokens of each step.
        level: Which of the two.
        clock: Of the stamps of the frame.
        last_us: Time of the last row.
    """

    panel: Panel
    level: Level
    clock: Clock
    last_us: int

    def stamps(self, mean_HC: FloatArray) -> list[str | int | float]:
        """When the forecast rows are: the inter-arrival times added up, or one step after another."""
        if self.level == "request":
            ahead = np.maximum(mean_HC[:, 0].astype(np.float64), 0).cumsum() * SECOND
        else:
            ahead = np.arange(1.0, len(mean_HC) + 1) * self.panel.step
        return [format_stamp(self.last_us + round(us), self.clock) for us in ahead.tolist()]


def level_of(data: Frame) -> Level:
    """Whether the rows are requests or minutes, told by the columns.

    Raises:
        DataError: It is no data frame, or the columns fit neither.
    """
    if not (hasattr(data, "columns") and hasattr(data, "head")):
        raise DataError(
            f"{type(data).__name__} is no data frame",
            hint="Give a pandas or Polars DataFrame, one row a request.",
        )
    for level, needed in _NEEDED.items():
        if set(needed) <= set(data.columns):
            return level
    raise DataError(
        f"the columns fit neither requests nor minutes: {', '.join(map(str, data.columns))}",
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
        raise HistoryError(
            f"the frame has {len(data)} rows, and {least} are needed", hint="Give a longer history."
        )
    return level


def read_history(data: Frame) -> History:
    """Read a frame; columns beside the needed ones are ignored.

    Raises:
        DataError: A column is missing, or holds something that is no time or no number of tokens.
    """
    level = check_rows(data, 2)
    frame = _to_polars(data, _NEEDED[level])
    return _requests(frame) if level == "request" else _minutes(frame)


def tokens_of(data: Frame) -> FloatArray:
    """Request and response tokens of every row, float32 [rows, 2]."""
    return _to_polars(data, TOKENS[level_of(data)]).to_numpy().astype(np.float32)


def last_row(data: Frame) -> dict[str, Any]:
    """The last row as a prediction names it: ``timestamp``, ``request_tokens``, ``response_tokens``."""
    names = (TIME, *TOKENS[level_of(data)])
    row = _to_polars(data.tail(1), names).row(0)
    return dict(zip(("timestamp", "request_tokens", "response_tokens"), row, strict=True))


def _to_polars(data: Frame, names: tuple[str, ...]) -> pl.DataFrame:
    if isinstance(data, pl.DataFrame):
        return data.select(names)
    return pl.DataFrame([_column(name, data[name]) for name in names])


def _column(name: str, column: Any) -> pl.Series:
    """A column of pandas; what NumPy has no type for (text, zones, whole numbers with gaps) goes by its objects."""
    values = column.to_numpy()
    if values.dtype != object:
        return pl.Series(name, values, nan_to_null=True)
    return pl.Series(
        name, [None if gone else v for v, gone in zip(values, column.isna(), strict=True)], strict=False
    )


def _requests(frame: pl.DataFrame) -> History:
    rows = without_blank(RowFrame.of(frame), frame)
    stamp_N, form = read_stamps(rows, TIME, None)
    order = np.argsort(stamp_N, kind="stable")
    values = np.empty((len(order), 3), np.float32)
    values[1:, 0] = np.diff(stamp_N[order]) / SECOND
    for place, column in enumerate(TOKENS["request"], start=1):
        numbers = read_numbers(rows, column)
        wrong = numbers.is_null() | (numbers < 0)
        if wrong.any():
            raise rows.complain("{} is no number of tokens", column, wrong, "Mend or remove this row.")
        values[:, place] = numbers.to_numpy()[order]
    panel = Panel(
        values=values[1:],
        channels=REQUEST_CHANNELS,
        step=SECOND,
        start=np.zeros(1, np.int64),
        clock="relative",
    )
    ordered = stamp_N[order]
    return History(panel=panel, level="request", clock=form.clock(int(ordered[0])), last_us=int(ordered[-1]))


def _minutes(frame: pl.DataFrame) -> History:
    columns = _NEEDED["minute"][1:]
    table = read_frame(frame, time=TIME, values=columns, kinds=dict.fromkeys(columns, "count"))
    panel = table.panel.replace(values=table.panel.values, channels=CHANNELS)
    return History(panel=panel, level="minute", clock=panel.clock, last_us=int(panel.times()[-1]))
