"""Columns of a table as times, items and numbers; an error names the first cell at fault."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError
from presurge.series.panel import Channel, ChannelKind
from presurge.series.timestamps import TimeForm, TimeUnit, check_unit, detect_form, stamp_expr
from presurge.sources.files import RowFile, no_rows, quoted

_EXACT = 2**53
_LEVEL = re.compile(r"(?<![a-z])(w|watts?|temp(erature)?|celsius|percent|pct|cpu|util(i[sz]ation)?)(?![a-z])")
"""Words in the name of a column that stand for a level, which is measured and not counted."""
_TRUTH = {"true": 1, "false": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Some columns of a file in memory; ``number`` holds the position of each row in the file."""

    file: RowFile
    frame: pl.DataFrame
    number: npt.NDArray[np.int64]

    def complain(self, what: str, column: str, at: pl.Series, hint: str) -> DataError:
        """An error about the first row where ``at`` is true; ``{}`` in ``what`` becomes the value found there."""
        row = int(at.arg_true()[0])
        where = self.file.where(int(self.number[row]), column)
        return DataError(what.format(quoted(self.frame[column][row])), where=where, hint=hint)


def without_blank(file: RowFile, frame: pl.DataFrame) -> Rows:
    """Leave out rows without any value, such as the empty lines of a text file.

    Raises:
        DataError: No row is left.
    """
    blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    rows = Rows(file, frame.filter(~blank) if blank.any() else frame, np.flatnonzero(~blank.to_numpy()))
    if rows.frame.is_empty():
        raise no_rows(file.path)
    return rows


def read_stamps(rows: Rows, column: str, unit: TimeUnit | None) -> tuple[npt.NDArray[np.int64], TimeForm]:
    """The time column as int64 microseconds, and how it was written.

    Raises:
        DataError: A stamp is missing or cannot be read, or the column holds no times.
    """
    where = f"{rows.file.path}, column {column!r}"
    form = detect_form(rows.frame[column], unit=unit, where=where)
    stamps = rows.frame.select(stamp_expr(column, form)).to_series()
    if stamps.null_count():
        raise rows.complain(
            "{} is not a time", column, stamps.is_null(), "Every row needs a time: fix or remove this one."
        )
    check_unit(form, int(stamps.min()), int(stamps.max()), where=where)  # type: ignore[arg-type]
    return stamps.to_numpy(), form


def read_items(rows: Rows, column: str | None) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """The item of each row as a number, and the names of the items in their natural order.

    Raises:
        DataError: A row does not name its item.
    """
    if column is None:
        return np.zeros(len(rows.frame), np.int64), ("",)
    items = rows.frame[column]
    if items.null_count():
        raise rows.complain(
            "{} is not an item", column, items.is_null(), "Every row needs the name of its item."
        )
    names = items.unique().sort().cast(pl.String)
    codes = items.cast(pl.String).cast(pl.Enum(names)).to_physical()
    return codes.cast(pl.Int64).to_numpy(), tuple(names)


def read_numbers(rows: Rows, column: str) -> pl.Series:
    """A value column as Int64 if all its numbers are whole, else as Float64; missing values and NaN become null.

    Raises:
        DataError: The column holds something other than numbers, an infinite value, or no value at all.
    """
    raw, where = rows.frame[column], f"{rows.file.path}, column {column!r}"
    hint = f"A value column holds numbers. The columns are: {', '.join(rows.file.columns)}."
    numbers = _from_text(rows, column, hint) if raw.dtype == pl.String else raw
    if not (numbers.dtype.is_numeric() or numbers.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"holds {raw.dtype}, not numbers", where=where, hint=hint)
    if not numbers.dtype.is_integer() and numbers.dtype != pl.Boolean:
        numbers = numbers.cast(pl.Float64).fill_nan(None)
        infinite = numbers.is_infinite()
        if infinite.any():
            raise rows.complain("the value is infinite ({})", column, infinite, "Fix or remove this row.")
    if numbers.null_count() == len(numbers):
        raise DataError("no row has a value", where=where, hint="Leave the column out.")
    if numbers.dtype.is_float():
        whole = bool((numbers == numbers.floor()).all()) and numbers.abs().max() <= _EXACT  # type: ignore[operator]
        return numbers.cast(pl.Int64) if whole else numbers
    integers = numbers.cast(pl.Int64, strict=False)
    lost = integers.is_null() & numbers.is_not_null()
    if lost.any():
        raise rows.complain("{} does not fit into 64 bits", column, lost, "Fix or remove this row.")
    return integers


def _from_text(rows: Rows, column: str, hint: str) -> pl.Series:
    """Text as Float64, or as Boolean where it says true and false."""
    text = rows.frame[column].str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    foreign = numbers.is_null() & text.is_not_null()
    if not foreign.any():
        return numbers
    truth = text.str.to_lowercase().replace_strict(_TRUTH, default=None, return_dtype=pl.Int64)
    if truth.null_count() == text.null_count():
        return truth.cast(pl.Boolean)
    raise rows.complain("{} is not a number", column, foreign, hint)


def choose_kind(rows: Rows, column: str, numbers: pl.Series, declared: ChannelKind | None) -> ChannelKind:
    """Tell a count, a column of whole numbers that are never negative, from a gauge.

    Truth values are a gauge, and so is a column with the name of a level, such as ``gpu_temp``.

    Raises:
        DataError: The column was declared a count and has a negative value.
    """
    negative = numbers < 0
    if declared == "count" and negative.any():
        raise rows.complain(
            "a count cannot be negative ({})", column, negative, f"Declare it a gauge: `kind={column}=gauge`"
        )
    if declared is not None:
        return declared
    truth = rows.frame[column].dtype == pl.Boolean
    whole = numbers.dtype.is_integer() and not truth and not negative.any()
    return "count" if whole and not _is_level(column) else "gauge"


def doubt_about(column: str, numbers: pl.Series, kind: ChannelKind) -> str | None:
    """Why the kind that was chosen for a column of whole numbers may be wrong, and the setting that settles it."""
    low, high = float(numbers.min()), float(numbers.max())  # type: ignore[arg-type]
    if not numbers.dtype.is_integer() or low < 0:
        return None
    if kind == "gauge" and _is_level(column):
        return f"{column} is read as a gauge because of its name; if it counts events: `kind={column}=count`"
    if kind == "count" and low > 0 and high <= 2 * low:
        never = f"{column} is read as a count, but never falls below half of its largest value"
        return f"{never}; if it is a level: `kind={column}=gauge`"
    return None


def _is_level(column: str) -> bool:
    return _LEVEL.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).lower()) is not None


def exact_totals(rows: Rows, channels: Sequence[Channel], numbers: Sequence[pl.Series]) -> dict[str, int]:
    """The sums of the counts that are whole numbers.

    Raises:
        DataError: One does not fit into 64 bits.
    """
    totals = {}
    for channel, column in zip(channels, numbers, strict=True):
        if channel.kind == "count" and column.dtype.is_integer():
            if float(column.cast(pl.Float64).sum()) >= 2.0**63:
                raise DataError(
                    "the sum of the values does not fit into 64 bits",
                    where=f"{rows.file.path}, column {channel.name!r}",
                    hint=f"Declare it a gauge: `kind={channel.name}=gauge`",
                )
            totals[channel.name] = int(column.sum())
    return totals
