"""What a service knows of the items of one model: their rows, and the state from which the next forecast is made.

A forecast equals that of ``presurge predict`` for the same rows, bit for bit, because it is made by the same code: where one
row follows the last, the interval tracker observes it in constant time; where anything else happened (a late row, a gap,
a first row), the model forecasts from the rows that are kept, which reach back as far as its intervals look.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.errors import ConfigError, DataError, HistoryError
from presurge.models.following import BLOCK
from presurge.models.forecaster import Forecaster
from presurge.models.history import followed, matching_channels
from presurge.models.tracking import IntervalTracker, Tracked
from presurge.series.forecast import Forecast
from presurge.series.holidays import is_holidays
from presurge.series.panel import Channel, FloatArray, IntArray, Panel
from presurge.series.timestamps import format_stamp
from presurge.series.windows import chunks, whole
from presurge.serving.live import Live, day_rows
from presurge.serving.rows import AHEAD, Rows, Shape, panel_of
from presurge.sources.table import Fill
from presurge.workflows.predict import GapRule, interpolate_context

_AT_ONCE = 64
"""Items whose rows are walked together, which bounds the memory."""
_CATCH_UP = 32
"""Rows that a tracker observes one after another; for more, forecasting from all rows is faster."""

State = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row or raw event of one item, as it came in.

    Attributes:
        item: Its item.
        time: Microseconds since the Unix epoch, or on the model's own clock.
        values: Channel -> value; None where it is missing.
        event: Whether it is one of many of its bucket, to be added up, rather than a whole bucket.
    """

    item: str
    time: int
    values: Mapping[str, float | None]
    event: bool = False


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
        rows: Its buckets.
        live: How wrong its forecasts were.
        latest: Its newest forecast, replaced as a whole: readers may be in another thread.
        state: What the tracker needs to go on from there; None if the rows before changed.
    """

    rows: Rows
    live: Live
    latest: Latest
    state: State | None = None


@dataclass(eq=False)
class Stream:
    """All items of one model.

    Attributes:
        model: The model.
        fill: What a bucket without a row holds, as in ``read_table``.
        fill_gaps: How to treat missing values in a context: interpolate and say so, or give no forecast.
        lateness: How long after its end a bucket of events stays open, in microseconds.
        window: Rows over which the live error is measured.
        most_items: How many items there may be.
    """

    model: Forecaster
    fill: Fill = "auto"
    fill_gaps: GapRule = "interpolate"
    lateness: int = 0
    window: int = 200
    most_items: int = 10_000
    items: dict[str, Item] = field(default_factory=dict)
    shape: Shape = field(init=False)
    dirty: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        spec = self.model.fitted_spec()
        made = [channel.name for channel in spec.known if is_holidays(channel.name)]
        self._ratios = any("/" in channel.name for channel in spec.channels)
        self._tracks = not self._ratios and not spec.known
        self.refusal = _refusal(self.model)
        self.shape = Shape(
            channels=_incoming([channel for channel in spec.channels if channel.name not in made]),
            step=spec.step,
            rows=self.model.horizon + max(self.model.context + 2 * BLOCK, day_rows(spec.step)),
            fill=self.fill,
        )

    def reads(self, values: Iterable[str], *, event: bool) -> bool:
        """Whether a row with these values has all channels; an event counts as a request by itself."""
        names = {channel.name for channel in self.shape.channels}
        return names <= {*values, *(("requests",) if event else ())}

    def add(self, row: Row, now: int) -> str:
        """Take a row in; returns what became of it: ``added``, ``late`` (added to a closed bucket) or ``too late``.

        Raises:
            ConfigError: The model needs more than rows.
            DataError: It lies in the future, or there are too many items.
        """
        if self.refusal:
            raise ConfigError(self.refusal, setting="model", hint="Send whole histories to forecast instead.")
        step = self.shape.step
        if now and row.time > now + step * (1 if row.event else 2) + 60_000_000:
            at = format_stamp(row.time, self.model.fitted_spec().clock)
            hint = "Check the unit of `time`, and the clocks of the two machines."
            raise DataError(f"{at} lies in the future", where=_place(row.item), hint=hint)
        item = self.items.get(row.item)
        if item is None:
            if len(self.items) >= self.most_items:
                hint = "Raise `max_items`, or name fewer items."
                raise DataError(
                    f"there are {self.most_items} items already", where=_place(row.item), hint=hint
                )
            rows = Rows.begin(self.shape, row.time, event=row.event)
            item = self.items[row.item] = Item(rows, Live.begin(self.model, self.window), Latest(rows.last))
        rows, bucket = item.rows, item.rows.bucket(row.time)
        if bucket < rows.first and rows.last - bucket < self.shape.rows:
            rows.first = bucket  # an older row than the first one
        elif bucket < rows.oldest:
            return "too late"
        if row.event and bucket - rows.last > AHEAD:
            rows.close(bucket - AHEAD)
        value_C = np.array([_number(row, channel.name) for channel in self.shape.channels], np.float64)
        late = bucket <= rows.last
        rows.add(bucket, value_C)
        if late:
            item.state, item.live.scored = None, min(item.live.scored, bucket - 1)
        elif not row.event:
            rows.close(bucket)
        self.dirty.add(row.item)
        return "late" if late else "added"

    def close(self, now: int) -> None:
        """Close the buckets of events that are over: by the clock where there is one, else by the events themselves."""
        for name, item in self.items.items():
            rows = item.rows
            seen = max(now, rows.start(rows.top))
            over = rows.bucket(seen - self.lateness) - 1
            if rows.last < over and rows.top > rows.last:
                rows.close(min(over, rows.top))
                self.dirty.add(name)

    def update(self) -> None:
        """Bring the forecasts of all items up to their last closed bucket."""
        changed = {name: self.items[name] for name in self.dirty}
        self.dirty.clear()
        behind = {
            name: item
            for name, item in changed.items()
            if item.state is None or not self._tracks or item.rows.last - item.latest.bucket > _CATCH_UP
        }
        for part in chunks(np.arange(len(behind)), _AT_ONCE):
            self._forecast({name: behind[name] for name in [*behind][part[0] : part[-1] + 1]})
        while due := {
            name: item
            for name, item in changed.items()
            if item.state is not None and item.latest.bucket < item.rows.last
        }:
            self._observe(due)

    def forecast(
        self, names: Sequence[str], horizon: int | None = None, levels: Sequence[float] | None = None
    ) -> Forecast:
        """The newest forecasts of some items; ``missing`` names those that have none.

        Raises:
            HistoryError: No item has one.
            ConfigError: A level cannot be used.
        """
        found = {name: self.items[name].latest for name in names if name in self.items}
        ready = {name: latest for name, latest in found.items() if latest.made is not None}
        missing = {
            name: found[name].reason if name in found else "nothing was observed"
            for name in names
            if name not in ready
        }
        if not ready:
            name, reason = next(iter(missing.items()))
            raise HistoryError(f"no forecast: {reason}", where=_place(name), hint="Observe more rows.")
        origin_I = np.array([self.items[name].rows.start(latest.bucket) for name, latest in ready.items()])
        made = Tracked.joined([latest.made for latest in ready.values() if latest.made is not None])
        (forecast,) = self.model.told(made, tuple(ready), origin_I, horizon, levels=levels)
        own = dict.fromkeys(flag for latest in ready.values() for flag in latest.flags)
        return replace(forecast, flags=(*forecast.flags, *own), missing=missing)

    def told(self, name: str, shown: int = 240) -> dict[str, Any]:
        """The last rows of an item, its newest forecast and its errors by row, as JSON values."""
        item, spec = self.items[name], self.model.fitted_spec()
        rows, latest, targets = item.rows, item.latest, [channel.name for channel in spec.targets]
        begin = max(rows.oldest, rows.last - shown + 1)
        value_BC = self._targets(rows, begin, rows.last + 1)
        stamps = [format_stamp(rows.start(bucket), spec.clock) for bucket in range(begin, rows.last + 1)]
        return {
            "item": name,
            "channels": targets,
            "rows": [
                {"timestamp": at, "values": values}
                for at, values in zip(stamps, value_BC.tolist(), strict=True)
            ],
            "forecast": None if latest.made is None else self.forecast([name]).to_dict(),
            "reason": None if latest.made is not None else latest.reason,
            "scores": dict(zip(targets, item.live.scores(), strict=True)),
            "errors": [
                {"timestamp": format_stamp(rows.start(bucket), spec.clock), **row}
                for bucket, row in item.live.by_row()
            ],
        }

    def _forecast(self, items: Mapping[str, Item]) -> None:
        """Forecast from all rows of some items."""
        filled = {name: item for name, item in items.items() if item.rows.last >= item.rows.first}
        if not filled:
            return
        model = self.model
        series, origins = followed(self._history(filled), None, model.fitted_spec(), model.horizon)
        fits = whole(series, origins, context=model.context, horizon=model.horizon)
        fits &= origins + 1 - series.indptr[:-1] >= model.context
        tracker = IntervalTracker(model, series, peaks=True)
        made = tracker.predict(origins[fits]) if fits.any() else None
        states = split(tracker.state()) if self._tracks else [None] * len(filled)
        place_I = np.cumsum(fits) - 1
        for number, (name, item) in enumerate(filled.items()):
            own = made.part(slice(place_I[number], place_I[number] + 1)) if made and fits[number] else None
            self._keep(name, item, item.rows.last, states[number], own)

    def _observe(self, items: Mapping[str, Item]) -> None:
        """Let the tracker observe the next row of some items."""
        model = self.model
        buckets = [item.latest.bucket + 1 for item in items.values()]
        pairs = [*zip(items.items(), buckets, strict=True)]
        row_IN = np.concatenate([item.rows.values(bucket, bucket + 1) for (_, item), bucket in pairs])
        times_I = np.array([item.rows.start(bucket) for (_, item), bucket in pairs])
        tracker = IntervalTracker(model, self._empty([*items], times_I), peaks=True)
        tracker.restore(joined_states([item.state for item in items.values() if item.state is not None]))
        made = tracker.observe(row_IN, times_I=times_I)
        for number, (((name, item), bucket), state) in enumerate(
            zip(pairs, split(tracker.state()), strict=True)
        ):
            gaps = np.isnan(state["context_ILN"]).any()
            self._keep(name, item, bucket, state, None if gaps else made.part(slice(number, number + 1)))

    def _keep(self, name: str, item: Item, bucket: int, state: State | None, made: Tracked | None) -> None:
        """Keep what was made of an item; where its context has gaps, forecast from rows between their neighbours."""
        flags: tuple[str, ...] = ()
        rows = bucket - item.rows.oldest + 1
        reason = f"{rows} of the {self.model.context} rows that the model reads were observed"
        if made is None and rows >= self.model.context:
            reason = f"a value is missing in the last {self.model.context} rows"
            if self.fill_gaps == "interpolate":
                made, flags = self._bridged(name, item)
        item.state, item.latest = state, Latest(bucket, made, flags, reason)
        item.live.add(bucket, made, partial(self._targets, item.rows))

    def _bridged(self, name: str, item: Item) -> tuple[Tracked | None, tuple[str, ...]]:
        """The forecast of an item from a context without its gaps, and the sentence that says so."""
        model = self.model
        history, flags = interpolate_context(self._history({name: item}), model)
        series, origins = followed(history, None, model.fitted_spec(), model.horizon)
        if not whole(series, origins, context=model.context, horizon=model.horizon).all():
            return None, ()
        return IntervalTracker(model, series, peaks=True).predict(origins), flags

    def adopt(self, other: "Stream") -> bool:
        """Go on with the rows of another model's stream, if they are of the same channels and step; the live error starts anew."""
        if (other.shape.channels, other.shape.step) != (self.shape.channels, self.shape.step):
            return False
        for name, item in other.items.items():
            rows = item.rows.resized(self.shape)
            self.items[name] = Item(rows, Live.begin(self.model, self.window), Latest(rows.last))
        self.dirty = {*self.items}
        return True

    def document(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        """Rows and live errors of all items: (JSON values, arrays)."""
        kept = [
            item.rows.kept() | {f"live.{name}": getattr(item.live, name)[None] for name in Live.KEPT}
            for item in self.items.values()
        ]
        config = {
            "items": [*self.items],
            "channels": [c.name for c in self.shape.channels],
            "step": self.shape.step,
        }
        return config, {
            name: np.concatenate([one[name] for one in kept]) for name in (kept[0] if kept else ())
        }

    def restore(self, config: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bool:
        """Go on from a document of the same channels and step."""
        mine = [c.name for c in self.shape.channels], self.shape.step
        if (config["channels"], config["step"]) != mine:
            return False
        at = 0
        for number, name in enumerate(config["items"]):
            own = {key: array[number : number + 1] for key, array in arrays.items()}
            end = at + int(own["ends"][0, 3] - own["ends"][0, 1]) + 1
            own |= {key: arrays[key][at:end] for key in ("total", "count", "seen")}
            rows, at = Rows.of(self.shape, own), end
            live = Live.begin(self.model, self.window)
            live.restore({key: own[f"live.{key}"][0] for key in Live.KEPT})
            self.items[name] = Item(rows, live, Latest(rows.last))
        self.dirty = {*self.items}
        return True

    def _history(self, items: Mapping[str, Item]) -> Panel:
        """The closed buckets of some items, as the model reads them."""
        spec = self.model.fitted_spec()
        panel = panel_of({name: item.rows for name, item in items.items()}, spec.clock)
        return matching_channels(panel.with_ratios(channel.name for channel in spec.channels), spec)

    def _targets(self, rows: Rows, begin: int, end: int) -> FloatArray:
        """What came of the targets in some buckets: [B, C], NaN where nothing was measured or is kept."""
        value_BN, names = rows.values(begin, end), [channel.name for channel in self.shape.channels]
        value_BN[: max(rows.oldest - begin, 0)] = np.nan
        columns = []
        for channel in self.model.fitted_spec().targets:
            over, *under = [value_BN[:, names.index(part)] for part in _parts(channel.name)]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns.append(np.where(under[0] != 0, over / under[0], np.nan) if under else over)
        return np.stack(columns, axis=1).astype(np.float32)

    def _empty(self, items: Sequence[str], start_I: IntArray) -> Panel:
        """A panel of items without rows."""
        return Panel(
            values=np.zeros((0, len(self.shape.channels)), np.float32),
            channels=self.shape.channels,
            step=self.shape.step,
            start=start_I,
            items=tuple(items),
            indptr=np.zeros(len(items) + 1, np.int64),
        )


def split(state: State) -> list[State]:
    """The states of single items."""
    number = len(next(iter(state.values())))
    return [{name: array[i : i + 1] for name, array in state.items()} for i in range(number)]


def joined_states(states: Sequence[State]) -> State:
    """The state of several items; an item that was never forecast has no learned quantiles yet."""
    centres = max(state["centres_IHHZC"].shape[3] for state in states)

    def wide(state: State) -> State:
        array = state["centres_IHHZC"]
        return state if array.shape[3] == centres else state | {"centres_IHHZC": np.repeat(array, centres, 3)}

    wider = [wide(state) for state in states]
    return {name: np.concatenate([state[name] for state in wider]) for name in wider[0]}


def _incoming(channels: Sequence[Channel]) -> tuple[Channel, ...]:
    """The channels that have to come in: of a ratio its two parts."""
    names: dict[str, Channel] = {}
    for channel in channels:
        parts = _parts(channel.name)
        names |= {part: replace(channel, name=part) for part in parts if part not in names}
    return tuple(names.values())


def _parts(channel: str) -> list[str]:
    """A channel, or the two that it is the ratio of."""
    return channel.split("/")


def _refusal(model: Forecaster) -> str:
    """Why a model cannot follow a stream of rows; empty if it can."""
    spec = model.fitted_spec()
    known = [channel.name for channel in spec.known if not is_holidays(channel.name)]
    if known:
        return f"the model needs the future of {', '.join(known)}, which no stream of rows holds"
    if spec.features:
        return f"the model needs the static features {', '.join(spec.features)}"
    return ""


def _number(row: Row, channel: str) -> float:
    """The value of a channel in a row; NaN where it is missing. Every event is a request."""
    value = row.values.get(channel, 1.0 if row.event and channel == "requests" else None)
    return np.nan if value is None else float(value)


def _place(item: str) -> str | None:
    return f"item {item!r}" if item else None
