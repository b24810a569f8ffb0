"""The edges of a series: rows that its log covers only in part, and rows whose step is not over."""

import time
from pathlib import Path

import numpy as np

from presurge.errors import DataError
from presurge.series.frequency import SECOND, format_step
from presurge.series.panel import Clock, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.timestamps import format_stamp

_FRESH = 3
"""Steps after the present within which a stamp still belongs to it: clocks differ, and some logs stamp the end of a step."""


def covered_rows(panel: Panel, partial: tuple[bool, bool], where: Path) -> Span:
    """The rows of a series that its log covers completely: without the first and the last moment of all where these are partial.

    Raises:
        DataError: There are none.
    """
    begin, end = panel.indptr[:-1], panel.indptr[1:]
    ends = panel.times_of(end - 1)
    first = begin + (partial[0] & (panel.start == panel.start.min()))
    covered = Span(first, np.maximum(first, end - (partial[1] & (ends == ends.max()))))
    if not len(covered):
        raise DataError(
            f"no bucket of {format_step(panel.step)} is covered completely ({len(panel)} rows in all)",
            where=str(where),
            hint="The trace is too short for this step: use a longer trace or a smaller `step`.",
        )
    return covered


def rows_over(panel: Panel, now: int | None, where: str) -> tuple[Span, str | None, int]:
    """The rows of a series that are over: (rows, a note on the others, what time it is).

    A row covers the step that its stamp begins. Where a channel counts, rows whose step is not over are left out: half a
    minute of requests would look like a drop in load. Gauges are left out from the first row that is stamped after a
    ``now`` that is given.

    Args:
        panel: The series.
        now: Microseconds since the Unix epoch, or on the clock of the series; by default the system clock, for stamps that
            are dates and at most a few steps from it.
        where: The source of the series.

    Raises:
        DataError: No row is over.
    """
    moment, counts = moment_of(now), panel.count_mask.any()
    if panel.stamps is not None or (now is None and not counts):
        return panel.full_span(), None, moment
    ends = panel.start + np.diff(panel.indptr) * panel.step  # of the last steps
    late = steps_left(ends - (0 if counts else panel.step), panel.step, panel.clock, now)
    over = Span(panel.indptr[:-1], np.maximum(panel.indptr[:-1], panel.indptr[1:] - late))
    if len(over) == len(panel):
        return over, None, moment
    dropped = len(panel) - len(over)
    first = int((ends - late * panel.step)[late > 0].min())
    return over, note_on(dropped, len(panel), first, moment, panel.clock, where), moment


def moment_of(now: int | None) -> int:
    """What time it is in microseconds: ``now``, or by the system clock."""
    return int(time.time() * SECOND) if now is None else now


def steps_left(ends: IntArray, step: int, clock: Clock, now: int | None) -> IntArray:
    """How many of the last steps of some series, which end at ``ends``, are not over; arguments as of ``rows_over``."""
    if now is None and clock != "utc":
        return np.zeros_like(ends)
    late: IntArray = np.maximum(-((moment_of(now) - ends) // step), 0)
    return late if now is not None else np.where(late > _FRESH, 0, late)


def note_on(dropped: int, rows: int, first: int, moment: int, clock: Clock, where: str) -> str:
    """Say how many of some rows are left out, because they were not over at a moment.

    Raises:
        DataError: None is left.
    """
    if dropped == rows:
        raise DataError(
            f"no row was over at {format_stamp(moment, clock)}",
            setting="now",
            where=where,
            hint="Give a later time, or data that begin earlier.",
        )
    left = "1 row" if dropped == 1 else f"{dropped:,} rows"
    verb = "was" if dropped == 1 else "were"
    seconds = format_stamp(moment // SECOND * SECOND, clock)
    return f"left out {left} from {format_stamp(first, clock)} on, which {verb} not over at {seconds} (`now`)"
