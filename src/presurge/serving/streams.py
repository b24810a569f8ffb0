"""What a service knows of the items of one model: their rows, and the state from which the next forecast is made.

A forecast equals that of ``presurge predict`` for the same rows, bit for bit, because it is made by the same code: where one
row follows the last, the interval tracker observes it in constant time; where anything else happened (a late row, a gap,
a first row), the model forecasts from the rows that are kept, which reach back as far as its intervals look. There it also
makes the forecasts that the live scores miss, so that these are the same after a restart.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.errors import ConfigError, DataError, HistoryError, PresurgeError
from presurge.models.following import BLOCK
from presurge.models.forecaster import Forecaster
from presurge.models.history import followed, matching_channels
from presurge.models.tracking import IntervalTracker, Tracked
from presurge.series.forecast import Forecast
from presurge.series.frequency import SECOND
from presurge.series.holidays import holidays_after, is_holidays
from presurge.series.panel import Channel, FloatArray, Panel
from presurge.series.timestamps import format_stamp
from presurge.series.windows import whole
from presurge.serving.config import ServeConfig
from presurge.serving.live import Live, day_rows
from presurge.serving.rows import Rows, Shape
from presurge.workflows.predict import interpolate_context

_AT_ONCE = 64
"""Items whose rows are walked together, which bounds the memory."""
_CATCH_UP = 32
"""Rows that a tracker observes one after another; for more, forecasting from all rows is faster."""
_SCORED = 20_000
"""Forecasts that are made only to be scored, of all items together: after a restart of many items there are more to make."""
_AHEAD = 60 * SECOND
"""How far the clock of a client may be ahead."""
_log = logging.getLogger("presurge.serving")

State = dict[str, npt.NDArray[Any]]
Document = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
"""JSON values and arrays."""


class Latest(NamedTuple):
    """The newest forecast of an item.

    Attributes:
        bucket: The last row that it knew.
        made: The forecast; None if there is none.
        flags: What its reader must know.
        reason: Why there is none.
    """

    bucket: int
    made: Tracked | None = None
    flags: tuple[str, ...] = ()
    reason: str = "no whole row was observed yet"


@dataclass(eq=False)
class Item:
    """One item.

    Attributes:
        name: Its name.
        rows: Its buckets.
        live: How wrong its forecasts were.
        latest: Its newest forecast, replaced as a whole: readers may be in another thread.
        known: The last row that the state knows; one before the newest closed one where a forecast is due.
        state: What the tracker needs to go on from there; None if the rows before changed.
        before: The state one row earlier: the newest row is the one that is most often added to.
    """

    name: str
    rows: Rows
    live: Live
    latest: Latest
    known: int
    state: State | None = None
    before: State | None = None


@dataclass(eq=False)
class Stream:
    """All items of one model.

    Attributes:
        model: The model.
        config: How to treat rows.
        items: The items by name.
        shape: What their rows have in common.
        refusal: Why the model cannot follow a stream of rows; empty if it can.
    """

    model: Forecaster
    config: ServeConfig
    items: dict[str, Item] = field(default_factory=dict)
    shape: Shape = field(init=False)
    refusal: str = field(init=False)

    def __post_init__(self) -> None:
        model, spec, config = self.model, self.model.fitted_spec(), self.config
        self._dirty, self._timed = set[str](), spec.clock == "utc"
        self._made = [channel.name for channel in spec.known if is_holidays(channel.name)]
        incoming: dict[str, Channel] = {}
        for channel in spec.channels:
            for part in [] if channel.name in self._made else _parts(channel.name):
                incoming.setdefault(part, replace(channel, name=part))
        self._names = [*incoming]
        self._ratios = [
            (place, *map(self._names.index, _parts(channel.name)))
            for place, channel in enumerate(spec.channels)
            if channel.name not in (*self._made, *self._names)
        ]
        self._tangled = {over for _, over, _ in self._ratios} & {under for *_, under in self._ratios}
        self._window = len(Live.begin(model, config.window).bucket_W) + model.horizon
        reach = max(model.context + 2 * BLOCK, day_rows(spec.step))
        self.shape = Shape(
            channels=tuple(incoming.values()),
            step=spec.step,
            rows=model.horizon + reach + self._window,
            ahead=(config.lateness + _AHEAD) // spec.step + 4,
            fill=config.fill,
        )
        known = [f"the future of {channel.name}" for channel in spec.known if channel.name not in self._made]
        lacking = ", ".join([*known, *spec.features])
        self.refusal = f"the model needs {lacking}, which no stream of rows holds" if lacking else ""

    def reads(self, values: Iterable[str], *, event: bool) -> bool:
        """Whether a row with these values has all channels; an event counts as a request by itself."""
        return {*self._names} <= {*values, *(("requests",) if event else ())}

    def add(
        self, name: str, time: int, values: Mapping[str, float | None], *, event: bool = False, now: int = 0
    ) -> bool:
        """Take a row in; returns whether it is late: added to a closed bucket.

        Args:
            name: Its item.
            time: Microseconds since the Unix epoch, or on the model's own clock.
            values: Channel -> value; None where it is missing.
            event: Whether it is one of many of its bucket, to be added up, rather than a whole bucket.
            now: What time it is; 0 if nobody knows.

        Raises:
            ConfigError: The model needs more than rows.
            DataError: It lies in the future or too far in the past, or there are too many items.
        """
        if self.refusal:
            raise ConfigError(self.refusal, setting="model", hint="Send whole histories to forecast instead.")
        spec, bucket = self.model.fitted_spec(), time // self.shape.step
        if self._timed and now and time > now + spec.step + _AHEAD:
            hint = "Check the unit of `time`, and the clocks of the two machines."
            what = f"{format_stamp(time, spec.clock)} lies in the future"
            raise DataError(what, where=_place(name), hint=hint)
        item = self.items.get(name) or self._begin(name, 0 if event else time % spec.step, bucket)
        rows = item.rows
        if bucket < rows.oldest and (rows.oldest > rows.first or rows.last - bucket >= self.shape.rows):
            what = f"too late: no row before {format_stamp(rows.start(rows.oldest), spec.clock)} is kept"
            raise DataError(what, where=_place(name))
        moved, late = rows.phase not in (0, time % spec.step), bucket <= rows.last
        rows.phase, rows.first = 0 if moved else rows.phase, min(bucket, rows.first)
        numbers = [values.get(one, 1.0 if event and one == "requests" else None) for one in self._names]
        rows.add(bucket, numbers)
        if not (event or late):
            rows.close(bucket)
        if late:
            item.live.scored = min(item.live.scored, bucket - 1)
        if moved or (late and bucket <= item.known):
            again = bucket == item.known and not moved
            item.state, item.before = item.before if again else None, None
            item.known = min(item.known, rows.last) - 1
        self._dirty.add(name)
        return late

    def _begin(self, name: str, phase: int, bucket: int) -> Item:
        """An item without rows; no forecast is scored that reaches back to rows that the model learned from."""
        if len(self.items) >= self.config.max_items:
            hint = "Raise `max_items`, or name fewer items."
            raise DataError(f"there are {len(self.items)} items already", where=_place(name), hint=hint)
        learned = self.model.calibration.until.get(name) if self.model.calibration else None
        until = bucket - 1 if learned is None else max(bucket - 1, learned // self.shape.step)
        return self._put(name, Rows.begin(self.shape, phase, bucket), until)

    def _put(self, name: str, rows: Rows, scored: int) -> Item:
        """An item that is forecast as soon as a row is closed; the forecasts up to a row are scored, or never will be."""
        live = Live.begin(self.model, self.config.window)
        item = self.items[name] = Item(name, rows, live, Latest(scored), rows.last - 1)
        self._dirty.add(name)
        return item

    def update(self, now: int = 0) -> None:
        """Close the buckets of events that are over, by the clock or by later events, and forecast what follows the last of each item."""
        for name, item in self.items.items():
            rows, seen = item.rows, item.rows.start(item.rows.top)
            over = rows.bucket(max(now if self._timed else 0, seen) - self.config.lateness) - 1
            if rows.last < min(over, rows.top):
                rows.close(min(over, rows.top))
                self._dirty.add(name)
        changed, self._dirty = [self.items[name] for name in self._dirty], set()
        while due := [item for item in changed if item.known < item.rows.last >= item.rows.first]:
            ready, rest = list[Item](), list[Item]()
            for item in due:
                (ready if self._follows(item) else rest).append(item)
            self._back = max(1, min(self._window, _SCORED // max(1, len(rest))))
            self._guarded(self._observe, ready)
            for at in range(0, len(rest), _AT_ONCE):
                self._guarded(self._forecast, rest[at : at + _AT_ONCE])

    def _follows(self, item: Item) -> bool:
        """Whether the tracker can observe the next row: a ratio that no row had yet is carried back to the first row."""
        if item.state is None or item.rows.last - item.known > _CATCH_UP or self._tangled:
            return False
        last_N = item.state["context_ILN"][0, -1]
        return not any(np.isnan(last_N[place]) for place, *_ in self._ratios)

    def _guarded(self, work: Callable[[Sequence[Item]], None], items: Sequence[Item]) -> None:
        """Work on items; the fault of one costs no other its forecast."""
        try:
            if items:
                work(items)
        except Exception as error:
            if len(items) > 1:
                for item in items:
                    if item.known < item.rows.last:
                        self._guarded(work, [item])
                return
            (item,), what = items, error.what if isinstance(error, PresurgeError) else repr(error)
            latest, before = Latest(item.rows.last, None, (), f"the model failed: {what}"), item.latest
            if latest.reason != before.reason:
                _log.error("item %r cannot be forecast", item.name, exc_info=error)
            item.latest, item.known, item.state, item.before = latest, latest.bucket, None, None
            if before.bucket < latest.bucket - 1:  # it may be an earlier row that the model fails at
                self._guarded(self._forecast, items)

    def forecast(
        self, names: Sequence[str], horizon: int | None = None, levels: Sequence[float] | None = None
    ) -> Forecast:
        """The newest forecasts of some items; ``missing`` names those that have none.

        Raises:
            HistoryError: No item has one.
            ConfigError: A level cannot be used.
        """
        unknown = Latest(0, reason="nothing was observed")
        latest = {name: self.items[name].latest if name in self.items else unknown for name in names}
        made = {name: one.made for name, one in latest.items() if one.made is not None}
        missing = {name: one.reason for name, one in latest.items() if one.made is None}
        if not made:
            name, reason = next(iter(missing.items()))
            raise HistoryError(f"no forecast: {reason}", where=_place(name), hint="Observe more rows.")
        origin_I = np.array([self.items[name].rows.start(latest[name].bucket) for name in made])
        joint = Tracked.joined([*made.values()])
        forecast = self.model.told(joint, tuple(made), origin_I, horizon, levels=levels)
        own = dict.fromkeys(flag for name in made for flag in latest[name].flags)
        return replace(forecast, flags=(*forecast.flags, *own), missing=missing)

    def told(self, name: str, shown: int = 240) -> dict[str, Any]:
        """The last rows of an item, its newest forecast and its errors by row, as JSON values."""
        item, spec = self.items[name], self.model.fitted_spec()
        rows, made, targets = item.rows, item.latest.made, [channel.name for channel in spec.targets]
        begin = max(rows.oldest, rows.last - shown + 1)
        values = self._targets(rows, begin, rows.last + 1).tolist()

        def at(bucket: int) -> dict[str, Any]:
            return {"timestamp": format_stamp(rows.start(bucket), spec.clock)}

        return {
            "item": name,
            "channels": targets,
            "rows": [at(begin + number) | {"values": row} for number, row in enumerate(values)],
            "forecast": None if made is None else self.forecast([name]).to_dict(),
            "reason": item.latest.reason if made is None else None,
            "scores": dict(zip(targets, item.live.scores(), strict=True)),
            "errors": [at(bucket) | row for bucket, row in item.live.by_row()],
        }

    def _forecast(self, items: Sequence[Item]) -> None:
        """Forecast from all rows of some items: after the last one, and after those whose forecasts the live scores miss."""
        model, spec = self.model, self.model.fitted_spec()
        history = matching_channels(self._history(items), spec)
        series, last_I = followed(history, None, spec, model.horizon)
        size_I = [self._missing(item) for item in items]
        origins = np.concatenate(
            [np.arange(last - n, last) + 1 for last, n in zip(last_I, size_I, strict=True)]
        )
        fits = origins + 1 - np.repeat(series.indptr[:-1], size_I) >= model.context
        fits[fits] = whole(series, origins[fits], context=model.context, horizon=model.horizon)
        tracker = IntervalTracker(model, series, peaks=True)
        tracked = tracker.predict(origins[fits]) if fits.any() else None
        states, place = split(tracker.state(last_I)), np.cumsum(fits) - 1
        made = [
            tracked.part(slice(p, p + 1)) if tracked and ok else None
            for p, ok in zip(place, fits, strict=True)
        ]
        for item, state, end, size in zip(items, states, np.cumsum(size_I).tolist(), size_I, strict=True):
            for ago in range(size - 1, 0, -1):
                item.live.add(item.rows.last - ago, made[end - 1 - ago], partial(self._targets, item.rows))
            item.before = None
            self._keep(item, item.rows.last, state, made[end - 1])

    def _missing(self, item: Item) -> int:
        """From how many of the last rows to forecast: at least from the last one."""
        rows = item.rows
        return max(1, rows.last - max(item.latest.bucket, rows.last - self._back, rows.oldest - 1))

    def _observe(self, items: Sequence[Item]) -> None:
        """Let the tracker observe the next row of some items."""
        spec = self.model.fitted_spec()
        states = [item.state for item in items if item.state is not None]
        row_IKC = np.stack([item.rows.values(item.known + 1, item.known + 2) for item in items])
        before = int(bool(self._ratios))
        if before:  # a row with the ratios of the last one, from which they are carried
            before_I1C = np.zeros_like(row_IKC)
            for place, over, under in self._ratios:
                before_I1C[:, 0, over] = [state["context_ILN"][0, -1, place] for state in states]
                before_I1C[:, 0, under] = 1
            row_IKC = np.concatenate((before_I1C, row_IKC), axis=1)
        starts = [item.rows.start(item.known + 1 - before) for item in items]
        row = matching_channels(self._panel([item.name for item in items], [*row_IKC], starts), spec)
        times_I = row.times_of(row.indptr[1:] - 1)
        future_IHK = None
        if self._made:
            future = holidays_after(row, self.model.horizon, self._made).select([c.name for c in spec.known])
            future_IHK = future.values.reshape(len(items), self.model.horizon, -1)
        tracker = IntervalTracker(self.model, row, peaks=True)
        tracker.restore(joined(states))
        made = tracker.observe(
            row.values[before :: 1 + before],
            times_I=times_I,
            future_IHK=future_IHK,
            carried_IN=None if row.carried is None else row.carried[before :: 1 + before],
        )
        for number, (item, state) in enumerate(zip(items, split(tracker.state()), strict=True)):
            gaps, item.before = np.isnan(state["context_ILN"]).any(), item.state
            own = None if gaps else made.part(slice(number, number + 1))
            self._keep(item, item.known + 1, state, own)

    def _keep(self, item: Item, bucket: int, state: State, made: Tracked | None) -> None:
        """Keep what was made of an item; where its context has gaps, forecast from rows between their neighbours."""
        flags, rows = tuple[str, ...](), bucket - item.rows.oldest + 1
        reason = f"{rows} of the {self.model.context} rows that the model reads were observed"
        if made is None and rows >= self.model.context:
            reason = f"a value is missing in the last {self.model.context} rows"
            if self.config.fill_gaps == "interpolate" and bucket == item.rows.last:
                made, flags = self._bridged(item)
        item.state, item.known = state, bucket
        item.latest = Latest(bucket, made, flags, reason)
        item.live.add(bucket, made, partial(self._targets, item.rows))

    def _bridged(self, item: Item) -> tuple[Tracked | None, tuple[str, ...]]:
        """The forecast of an item from a context without its gaps, and the sentence that says so."""
        model, spec = self.model, self.model.fitted_spec()
        history, flags = interpolate_context(self._history([item]), model)
        series, origins = followed(matching_channels(history, spec), None, spec, model.horizon)
        if not whole(series, origins, context=model.context, horizon=model.horizon).all():
            return None, ()
        return IntervalTracker(model, series, peaks=True).predict(origins), flags

    def document(self) -> Document:
        """Rows and live errors of all items."""
        config: dict[str, Any] = {"channels": self._incoming(), "step": self.shape.step, "items": {}}
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for item in self.items.values():
            ends, total, count = item.rows.kept()
            config["items"][item.name] = [*ends, item.latest.bucket]
            arrays = {f"live.{name}": getattr(item.live, name)[None] for name in Live.KEPT}
            for name, array in {**arrays, "total": total, "count": count}.items():
                parts.setdefault(name, []).append(array)
        return config, {name: np.concatenate(part) for name, part in parts.items()}

    def restore(
        self, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], *, live: bool = True
    ) -> bool:
        """Go on from a document of the same channels and step, with its live errors or without; otherwise return False."""
        if (config["channels"], config["step"]) != (self._incoming(), self.shape.step):
            return False
        at = 0
        for number, (name, (*ends, latest)) in enumerate(config["items"].items()):
            begin, at = at, at + ends[3] - ends[1] + 1
            rows = Rows.of(self.shape, ends, arrays["total"][begin:at], arrays["count"][begin:at])
            item = self._put(name, rows, latest if live else rows.last)
            if live:
                item.live.restore({key: arrays[f"live.{key}"][number] for key in Live.KEPT})
        return True

    def _incoming(self) -> list[list[str]]:
        return [[channel.name, channel.kind] for channel in self.shape.channels]

    def _history(self, items: Sequence[Item]) -> Panel:
        """The closed buckets of some items."""
        parts = [item.rows.values(item.rows.oldest, item.rows.last + 1) for item in items]
        starts = [item.rows.start(item.rows.oldest) for item in items]
        return self._panel([item.name for item in items], parts, starts)

    def _panel(self, names: Sequence[str], parts: Sequence[FloatArray], starts: Sequence[int]) -> Panel:
        """Rows of some items, and their ratios."""
        spec = self.model.fitted_spec()
        panel = Panel(
            values=np.concatenate(parts),
            channels=self.shape.channels,
            step=spec.step,
            start=np.array(starts),
            items=tuple(names),
            indptr=np.cumsum([0, *map(len, parts)]),
            clock=spec.clock,
        )
        return panel.with_ratios(channel.name for channel in spec.channels)

    def _targets(self, rows: Rows, begin: int, end: int) -> FloatArray:
        """What came of the targets in some buckets: [B, C], NaN where nothing was measured or is kept."""
        value_BN, columns = rows.values(begin, end), []
        for channel in self.model.fitted_spec().targets:
            over, *under = [value_BN[:, self._names.index(part)] for part in _parts(channel.name)]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns.append(np.where(under[0] != 0, over / under[0], np.nan) if under else over)
        return np.stack(columns, axis=1).astype(np.float32)


def split(state: State) -> list[State]:
    """The states of single items."""
    number = len(next(iter(state.values())))
    return [{name: array[i : i + 1] for name, array in state.items()} for i in range(number)]


def joined(states: Sequence[State]) -> State:
    """The state of several items; an item that was never forecast has no learned quantiles yet."""
    most = max(state["centres_IHHZC"].shape[3] for state in states)

    def wide(name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.repeat(array, most, 3) if name == "centres_IHHZC" and array.shape[3] < most else array

    return {name: np.concatenate([wide(name, state[name]) for state in states]) for name in states[0]}


def _parts(channel: str) -> list[str]:
    """A channel, or the two that it is the ratio of."""
    parts = channel.split("/")
    return parts if len(parts) == 2 else [channel]


def _place(item: str) -> str | None:
    return f"item {item!r}" if item else None
