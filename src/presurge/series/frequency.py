"""Steps of regular series: parse them ("60s", "5m", "1h"), format them, and infer them from time stamps."""

import re

import numpy as np

from presurge.errors import ConfigError, DataError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

_UNITS = {"sec": SECOND, "s": SECOND, "min": MINUTE, "m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}
_PATTERN = re.compile(rf"\s*(\d+)\s*({'|'.join(_UNITS)})?\s*", re.IGNORECASE)


def parse_step(text: str | int) -> int:
    """Turn ``"60s"``, ``"5m"``, ``"1h"``, ``"1d"``, ``"1w"`` or a number of seconds into microseconds.

    Raises:
        ConfigError: The text is not a step, or the step is not between 1 second and 1 week.
    """
    match = _PATTERN.fullmatch(str(text))
    if match is None:
        raise ConfigError(
            f"{text!r} is not a step",
            setting="step",
            hint="Write a number and a unit: 1s, 60s, 5m, 1h, 1d or 1w.",
        )
    return check_step(int(match[1]) * _UNITS[(match[2] or "s").lower()])


def check_step(step: int) -> int:
    """Return ``step`` (microseconds) if it is a whole number of seconds from 1 s to 1 week.

    Raises:
        ConfigError: The step is anything else.
    """
    if not SECOND <= step <= WEEK or step % SECOND:
        raise ConfigError(
            f"a step of {step / SECOND:g} s cannot be used",
            setting="step",
            hint="Presurge works with whole seconds, from 1 s to 1 w.",
        )
    return step


def format_step(step: int) -> str:
    """Write a step in its largest whole unit: ``60_000_000`` becomes ``"1m"``."""
    return next(f"{step // size}{unit}" for unit, size in reversed(_UNITS.items()) if step % size == 0)


def infer_step(stamps: np.ndarray) -> int:
    """Infer the step of sorted stamps (int64 microseconds): the most frequent positive difference.

    Differences are rounded to whole seconds, so a jitter of milliseconds does not matter.

    Raises:
        DataError: There are fewer than two distinct stamps, or the step is outside 1 s to 1 week.
    """
    gaps = np.diff(stamps)
    gaps = gaps[gaps > 0]
    if gaps.size == 0:
        raise DataError(
            "the step cannot be inferred from fewer than two different time stamps",
            hint="Give it: `step=60s`",
        )
    seconds, counts = np.unique(np.maximum(1, np.round(gaps / SECOND)).astype(np.int64), return_counts=True)
    step = int(seconds[counts.argmax()]) * SECOND
    if step > WEEK:
        raise DataError(
            f"time stamps are mostly {step / DAY:g} days apart, more than one week",
            hint="Check that the time column is the right one, or give the step: `step=1w`",
        )
    return step
