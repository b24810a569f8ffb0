"""Check that a history fits a model, and join the known rows of the time after it."""

from typing import TYPE_CHECKING

import numpy as np

from presurge.errors import DataError, HistoryError
from presurge.series.frequency import format_step
from presurge.series.holidays import holidays_after, is_holidays, with_holidays
from presurge.series.panel import Clock, IntArray, Panel, columns_of
from presurge.series.timestamps import format_stamp

if TYPE_CHECKING:
    from presurge.models.forecaster import SeriesSpec


def matching_channels(panel: Panel, spec: "SeriesSpec") -> Panel:
    """The channels of a history that the model reads, whatever its rows hold.

    Raises:
        HistoryError: Another step, or a missing channel or static feature.
    """
    if panel.step != spec.step:
        raise HistoryError(
            f"the history has a step of {format_step(panel.step)}, the model one of {format_step(spec.step)}",
            hint=f"Bring the history to {format_step(spec.step)} first: prepare it with another `step`.",
        )
    try:
        return spec.view(panel)
    except DataError as error:
        needed = ", ".join([*(channel.name for channel in spec.channels), *spec.features])
        hint = f"The model needs {needed}. {error.hint}"
        raise HistoryError(f"the history has {error.what}", hint=hint) from error


def unfit_items(history: Panel, context: int) -> dict[int, HistoryError]:
    """The items that a model cannot read, by number, and why: fewer rows than the context, or a missing value in it."""
    found = dict[int, HistoryError]()
    if history.observed.all() and (np.diff(history.indptr) >= context).all():
        return found
    for item, (begin, end) in enumerate(zip(history.indptr[:-1], history.indptr[1:], strict=True)):
        holes = int((~history.observed[max(begin, end - context) : end]).any(axis=1).sum())
        if end - begin < context:
            what = f"the history has {end - begin} rows, and the model reads {context}"
            hint = "Give a longer history: Presurge fills in no missing rows."
        elif holes:
            what = f"{holes} of the last {context} rows have a missing value"
            hint = "Repair the history, or have short gaps interpolated and flagged: `fill_gaps=interpolate`"
        else:
            continue
        found[item] = HistoryError(what, where=_item_place(history, item), hint=hint)
    return found


def followed(
    history: Panel, future: Panel | None, spec: "SeriesSpec", horizon: int
) -> tuple[Panel, IntArray]:
    """The history with the known channels of the rows after it, and the last row of the history of every item.

    Raises:
        HistoryError: The future lacks a known channel, an item or a value, or its stamps are not those of the ``horizon``
            rows after the history.
    """
    if not spec.known:
        return history, history.indptr[1:] - 1
    names = [channel.name for channel in spec.known]
    unmade = [name for name in names if not is_holidays(name)]
    if future is None and history.stamps is None and not unmade:
        future = holidays_after(history, horizon, names)
    if future is None:
        raise HistoryError(
            f"the model needs the future of {', '.join(map(repr, unmade or names))}, {horizon} rows after the history",
            setting="future",
            hint="Give what is known of the rows to forecast in `future`.",
        )
    try:
        future = with_holidays(future, names).select(names)
    except DataError as error:
        hint = f"The model needs {', '.join(names)}. {error.hint}"
        raise HistoryError(f"the future has {error.what}", setting="future", hint=hint) from error
    items = range(len(history.items))
    row_F = np.concatenate([future_rows(history, item, future, horizon) for item in items])
    ahead_FN = np.full((len(row_F), len(history.channels)), np.nan, np.float32)
    ahead_FN[:, columns_of(history.channels, "known")] = future.values[row_F]
    after_F = np.repeat(history.indptr[1:], horizon)
    stamps = history.stamps
    series = history.replace(
        values=np.insert(history.values, after_F, ahead_FN, axis=0),
        indptr=history.indptr + horizon * np.arange(len(history.indptr)),
        stamps=None if stamps is None else np.insert(stamps, after_F, future.times_of(row_F)),
        carried=None if history.carried is None else np.insert(history.carried, after_F, False, axis=0),
    )
    return series, series.indptr[1:] - 1 - horizon


def future_rows(history: Panel, item: int, future: Panel, horizon: int) -> IntArray:
    """The rows of the future that follow an item of the history.

    Raises:
        HistoryError: They are not there, or miss a value.
    """
    name = history.items[item]
    items = history.items if len(future.items) == len(history.items) == 1 else future.items
    if name not in items:
        raise HistoryError(f"the future has no item {name!r}", setting="future")
    rows = future.rows_of(items.index(name))
    times, step = future.times()[rows], history.step
    origin = int(history.times_of(history.indptr[[item + 1]] - 1)[0])
    wanted = origin + step * np.arange(1, horizon + 1)
    regular = np.array_equal(times, wanted)
    later = history.stamps is not None and len(times) == horizon and times[0] > origin
    holes_HK = ~future.observed[rows]
    if not (regular or later):
        given = f"{len(times)} rows from {_period(times, future.clock)}" if len(times) else "no rows"
        what = (
            f"the future has {given}, and the model needs {horizon}: every {format_step(step)} from "
            f"{_period(wanted, history.clock)}"
        )
    elif holes_HK.any():
        h, k = np.argwhere(holes_HK)[0]
        what = (
            f"the future of {future.channel_names[k]!r} misses {int(holes_HK[:, k].sum())} of {horizon} rows, the first "
            f"at {format_stamp(int(times[h]), future.clock)}"
        )
    else:
        return np.arange(rows.start, rows.stop)
    raise HistoryError(what, setting="future", where=_item_place(history, item))


def _period(times: IntArray, clock: Clock) -> str:
    return " to ".join(str(format_stamp(int(time), clock)) for time in times[[0, -1]])


def _item_place(panel: Panel, item: int) -> str | None:
    return f"item {panel.items[item]!r}" if len(panel.items) > 1 else None
