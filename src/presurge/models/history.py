"""Check that a history fits a model, and join the known rows of the time after it."""

from typing import TYPE_CHECKING

import numpy as np

from presurge.errors import HistoryError
from presurge.series.frequency import format_step
from presurge.series.panel import IntArray, Panel
from presurge.series.timestamps import format_stamp

if TYPE_CHECKING:
    from presurge.models.forecaster import SeriesSpec


def matching_history(panel: Panel, spec: "SeriesSpec", context: int) -> Panel:
    """The channels of a history that the model reads.

    Raises:
        HistoryError: Another step, a missing channel or static feature, fewer rows than the context, or a missing value
            in it.
    """
    if panel.step != spec.step:
        raise HistoryError(
            f"the history has a step of {format_step(panel.step)}, the model one of {format_step(spec.step)}",
            hint=f"Bring the history to {format_step(spec.step)} first: prepare it with another `step`.",
        )
    names = [channel.name for channel in spec.channels]
    missing = [name for name in names if name not in panel.channel_names]
    if missing:
        raise HistoryError(
            f"the history has no channel {', '.join(map(repr, missing))}",
            hint=f"The model needs {', '.join(names)}; the history has {', '.join(panel.channel_names)}.",
        )
    missing = [name for name in spec.features if name not in panel.feature_names]
    if missing:
        raise HistoryError(
            f"the history has no static feature {', '.join(map(repr, missing))}",
            hint=f"The model needs {', '.join(spec.features)}.",
        )
    history = spec.view(panel)
    for item, (begin, end) in enumerate(zip(history.indptr[:-1], history.indptr[1:], strict=True)):
        where = _item_place(history, item)
        if end - begin < context:
            raise HistoryError(
                f"the history has {end - begin} rows, and the model reads {context}",
                where=where,
                hint="Give a longer history: Presurge fills in no missing rows.",
            )
        holes = int((~history.observed[end - context : end]).any(axis=1).sum())
        if holes:
            raise HistoryError(
                f"{holes} of the last {context} rows have a missing value",
                where=where,
                hint="Repair the history, or have short gaps interpolated and flagged: `fill_gaps=interpolate`",
            )
    return history


def followed(
    history: Panel, future: Panel | None, spec: "SeriesSpec", horizon: int
) -> tuple[Panel, IntArray]:
    """The history with the known channels of the rows after it, and the last row of the history of every item.

    Raises:
        HistoryError: The future lacks a known channel, an item or a value, or its stamps are not those of the ``horizon``
            rows after the history.
    """
    last = history.indptr[1:] - 1
    if not spec.known:
        return history, last
    names = [channel.name for channel in spec.known]
    if future is None:
        raise HistoryError(
            f"the model needs the future of {', '.join(map(repr, names))}, {horizon} rows after the history",
            setting="future",
            hint="Give what is known of the rows to forecast in `future`.",
        )
    missing = [name for name in names if name not in future.channel_names]
    if missing:
        raise HistoryError(
            f"the future has no channel {', '.join(map(repr, missing))}",
            setting="future",
            hint=f"The model needs {', '.join(names)}; the future has {', '.join(future.channel_names)}.",
        )
    places = [_future_rows(history, item, future, names, horizon) for item in range(len(history.items))]
    known = [history.channel_names.index(name) for name in names]
    ahead = np.full((len(places), horizon, len(history.channels)), np.nan, np.float32)
    for item, rows in enumerate(places):
        ahead[item][:, known] = future.select(names).values[rows]
    pieces = [(history.values[history.rows_of(i)], ahead[i]) for i in range(len(places))]
    stamps = None
    if history.stamps is not None:
        times = future.times()
        stamps = np.concatenate(
            [
                part
                for i, rows in enumerate(places)
                for part in (history.stamps[history.rows_of(i)], times[rows])
            ]
        )
    longer = np.arange(len(history.indptr)) * horizon
    series = history.replace(
        values=np.concatenate([part for piece in pieces for part in piece]),
        indptr=history.indptr + longer,
        stamps=stamps,
    )
    return series, last + longer[:-1]


def _future_rows(history: Panel, item: int, future: Panel, names: list[str], horizon: int) -> slice:
    """The rows of the future that follow an item of the history.

    Raises:
        HistoryError: They are not there, or miss a value.
    """
    name, where = history.items[item], _item_place(history, item)
    if name not in future.items and len(future.items) == len(history.items) == 1:
        place = 0
    elif name in future.items:
        place = future.items.index(name)
    else:
        raise HistoryError(f"the future has no item {name!r}", setting="future")
    rows = future.rows_of(place)
    times = future.times()[rows]
    origin = int(history.times()[history.indptr[item + 1] - 1])
    wanted = origin + history.step * np.arange(1, horizon + 1)
    fits = len(times) == horizon and (
        times[0] > origin if history.stamps is not None else np.array_equal(times, wanted)
    )
    if not fits:
        first, last = (format_stamp(int(time), history.clock) for time in wanted[[0, -1]])
        given = [format_stamp(int(time), future.clock) for time in times[[0, -1]]] if len(times) else []
        raise HistoryError(
            f"the future has {len(times)} rows{f' from {given[0]} to {given[1]}' if given else ''}, "
            f"and the model needs {horizon}: every {format_step(history.step)} from {first} to {last}",
            setting="future",
            where=where,
        )
    holes_HK = ~future.select(names).observed[rows]
    if holes_HK.any():
        h, k = np.argwhere(holes_HK)[0]
        raise HistoryError(
            f"the future of {names[k]!r} misses {int(holes_HK[:, k].sum())} of {horizon} rows, the first at "
            f"{format_stamp(int(times[h]), future.clock)}",
            setting="future",
            where=where,
        )
    return rows


def _item_place(panel: Panel, item: int) -> str | None:
    return f"item {panel.items[item]!r}" if len(panel.items) > 1 else None


def check_horizon(asked: int, possible: int) -> int:
    """Return ``asked`` if the model reaches that far.

    Raises:
        HistoryError: The model does not reach that far.
    """
    if not 1 <= asked <= possible:
        raise HistoryError(
            f"a horizon of {asked} was asked of a model that forecasts {possible} rows",
            hint=f"Ask for 1 to {possible}, or train with `horizon={asked}`.",
        )
    return asked
