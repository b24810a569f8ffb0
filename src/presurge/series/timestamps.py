"""Read any column that a person would call a time as int64 microseconds since the Unix epoch.

The magnitude of numbers tells their unit: below 1e8 they are *relative* seconds (counted from an unknown origin, as in
BurstGPT), below 1e11 seconds since 1970, below 1e14 milliseconds, below 1e17 microseconds, and above that nanoseconds.
As dates, each of the four ranges runs from 1973 to 5138. Text is ISO-8601 or similar, in UTC unless it names a zone.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import polars as pl

from presurge.errors import DataError
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND
from presurge.series.panel import Clock

Stamp = str | int | float
"""A time as JSON writes it."""
TimeUnit = Literal["s", "ms", "us", "ns"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT_NAMES: dict[TimeUnit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_RELATIVE_BELOW = 10**8
_BELOW: dict[TimeUnit, float] = {"s": 1e11, "ms": 1e14, "us": 1e17}
_COMPACT_DATE = "%Y%m%d"
_TIMES_OF_DAY = (" %H:%M:%S%.f", "T%H:%M:%S%.f", " %H:%M", "T%H:%M", "")
_NAIVE_PATTERNS = tuple(date + time for date in ("%Y-%m-%d", "%Y/%m/%d") for time in _TIMES_OF_DAY)
_ZONED_PATTERNS = ("%+", "%d/%b/%Y:%H:%M:%S %z")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeForm:
    """How the stamps of one column are written.

    Attributes:
        kind: Numbers, text, datetimes (dates too) or durations.
        unit: Of numbers.
        given: Whether the unit came from the user or the format rather than from the magnitude.
        patterns: Of text, to be tried in turn.
        zoned: The stamps name their zone.
    """

    kind: Literal["number", "text", "datetime", "duration"]
    unit: TimeUnit = "s"
    given: bool = False
    patterns: tuple[str, ...] = ()
    zoned: bool = False

    def clock(self, first_us: int) -> Clock:
        """The clock of the stamps, judged by the earliest of them."""
        relative = self.kind == "duration" or (self.kind == "number" and first_us < _RELATIVE_BELOW * SECOND)
        return "relative" if relative else "utc"

    def describe(self, clock: Clock) -> str:
        """Describe in words how the column was read."""
        if self.kind == "number":
            since = "since 1970 (UTC)" if clock == "utc" else "from an unknown origin"
            return f"{_UNIT_NAMES[self.unit]} {since}"
        if self.kind == "duration":
            return "durations from an unknown origin"
        zone = "with a zone, converted to" if self.zoned else "without a zone, taken as"
        return f"date and time {zone} UTC"


def detect_form(sample: pl.Series, *, unit: TimeUnit | None = None, where: str) -> TimeForm:
    """Detect how the stamps of a column are written.

    Args:
        sample: The first rows of the column, or all of it, in the type that it was stored in or as text.
        unit: Unit of numbers (default: judged by their magnitude).
        where: Place that an error names.

    Raises:
        DataError: The column does not contain times.
    """
    known = sample.drop_nulls()
    dtype = known.dtype
    if dtype in (pl.Date, pl.Datetime):
        return TimeForm(kind="datetime", zoned=getattr(dtype, "time_zone", None) is not None)
    if dtype == pl.Duration:
        return TimeForm(kind="duration")
    if known.is_empty():
        raise DataError("the time column is empty", where=where, hint="Check that it is the right column.")
    if dtype.is_numeric():
        return _number_form(known, unit)
    form = _text_form(known, unit) if dtype == pl.String else None
    if form is None:
        row = int(sample.is_not_null().arg_true()[0]) + 1
        raise DataError(
            f"{known[0]!r} in row {row} cannot be read as a time",
            where=where,
            hint="Times are numbers or text such as 2024-05-01 13:00:00, 2024-05-01T13:00:00.5Z or …+02:00.",
        )
    return form


def check_unit(form: TimeForm, first_us: int, last_us: int, *, where: str) -> None:
    """Refuse numbers whose inferred unit fits only one end of the column.

    Raises:
        DataError: The magnitudes at the two ends imply different units.
    """
    if form.kind != "number" or form.given:
        return
    first, last = (abs(stamp) * PER_SECOND[form.unit] / SECOND for stamp in (first_us, last_us))
    if _magnitude(first) != _magnitude(last):
        raise DataError(
            f"the unit of the time stamps is ambiguous: they run from {first:g} to {last:g}",
            where=where,
            hint="Set `time_unit` to s, ms, us or ns.",
        )


def stamp_expr(column: str, form: TimeForm) -> pl.Expr:
    """The column as int64 microseconds, null where unreadable. Fractions of a microsecond are cut off or rounded."""
    value = pl.col(column)
    if form.kind == "datetime":
        return value.dt.epoch("us")
    if form.kind == "duration":
        return value.dt.total_microseconds()
    if form.kind == "text":
        text = value.cast(pl.String).str.strip_chars()
        return pl.coalesce([_parse(text, pattern) for pattern in form.patterns])
    if form.unit == "ns":  # beyond the 53 bits of a float, so in integers
        return value.cast(pl.Int64, strict=False) // 1000
    factor = SECOND // PER_SECOND[form.unit]
    return (value.cast(pl.Float64, strict=False) * factor).round().cast(pl.Int64, strict=False)


@lru_cache(4096)  # those who ask at the same time are told the same times
def format_stamp(stamp: int, clock: Clock) -> Stamp:
    """Format a time (microseconds): ISO-8601 in UTC, or a number of seconds on a relative clock."""
    if clock == "utc":
        return (_EPOCH + timedelta(microseconds=stamp)).isoformat().replace("+00:00", "Z")
    return stamp // SECOND if stamp % SECOND == 0 else stamp / SECOND


def stamp_words(stamp: int, clock: Clock) -> str:
    """Write a time (microseconds) for people: ISO-8601 in UTC, or ``day 3, 04:00`` on a relative clock.

    Day 1 begins at second 0 of a relative clock. Seconds are written where there are any.
    """
    if clock == "utc":
        return str(format_stamp(stamp, clock))
    day, rest = divmod(stamp, DAY)
    seconds = f":{rest % MINUTE // SECOND:02}" if rest % MINUTE else ""
    return f"day {day + 1:,}, {rest // HOUR:02}:{rest % HOUR // MINUTE:02}{seconds}"


def _magnitude(value: float) -> tuple[TimeUnit, bool]:
    """The unit that a time of this size implies, and whether it is relative."""
    return next((unit for unit, limit in _BELOW.items() if value < limit), "ns"), value < _RELATIVE_BELOW


def _number_form(known: pl.Series, unit: TimeUnit | None) -> TimeForm:
    """How numbers, or text that writes numbers, are meant."""
    if unit is not None:
        return TimeForm(kind="number", unit=unit, given=True)
    numbers = known.cast(pl.Float64)
    if numbers.is_between(19_000_101, 21_001_231).all() and numbers.n_unique() > 1:
        # Consecutive seconds soon leave the calendar; whole numbers that do not are dates such as 20240131.
        dates = known.cast(pl.String).str.to_date(_COMPACT_DATE, strict=False)
        if not dates.has_nulls():
            return TimeForm(kind="text", patterns=(_COMPACT_DATE,))
    return TimeForm(kind="number", unit=_magnitude(abs(float(numbers[0])))[0])


def _text_form(known: pl.Series, unit: TimeUnit | None) -> TimeForm | None:
    """How text is written, with the fewest patterns that read every readable stamp: each costs a pass over the text.

    A column may mix forms (with and without a fraction or a time of day), but not stamps with and without zones.
    """
    text = known.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.count() * 2 >= len(numbers):
        return _number_form(text.filter(numbers.is_not_null()), unit)
    for zoned, patterns in ((True, _ZONED_PATTERNS), (False, _NAIVE_PATTERNS)):
        read = {p: pl.select(_parse(pl.lit(text), p).is_not_null()).to_series() for p in patterns}
        useful, so_far = [], pl.repeat(False, len(text), dtype=pl.Boolean, eager=True)
        for pattern in sorted(patterns, key=lambda p: read[p].sum(), reverse=True):
            if (read[pattern] & ~so_far).any():
                useful.append(pattern)
                so_far |= read[pattern]
        if useful:
            return TimeForm(kind="text", patterns=tuple(useful), zoned=zoned)
    return None


def _parse(text: pl.Expr, pattern: str) -> pl.Expr:
    return text.str.to_datetime(pattern, time_unit="us", strict=False).dt.epoch("us")
