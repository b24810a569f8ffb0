"""The service without its doors: models, streams, the log, and one writer that changes them.

Everything that changes a stream waits for one lock. What comes in together is logged in one write and acknowledged only then.
Forecasts from whole histories that arrive together are made together.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from presurge.errors import ConfigError, DataError, ModelError, PresurgeError, StorageError
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.models.tracking import IntervalTracker
from presurge.series.forecast import Forecast
from presurge.series.frequency import SECOND
from presurge.series.panel import Panel
from presurge.series.timestamps import format_stamp
from presurge.serving.bodies import ForecastRequest, ObserveRequest, Record, encode, finite, read_record
from presurge.serving.config import ServeConfig
from presurge.serving.histories import Asked, Histories, answer, forecast_alone, written_alone
from presurge.serving.journal import Journal
from presurge.serving.rows import moment
from presurge.serving.streams import Stream
from presurge.workflows.predict import GapRule, PredictConfig

IDS = 100_000
"""How many identifiers of observations are remembered."""
MOST_NUMBERS = 2_000_000
"""How many numbers one answer may hold."""
_INLINE = 64
"""Windows that are forecast in the event loop; more go to a thread, so that nobody waits for them."""
_RETRY = 2.0
"""Seconds between two tries to save what the disk refused."""
T = TypeVar("T")
_log = logging.getLogger("presurge.serving")


class NotFoundError(PresurgeError):
    """There is no such model or item."""


@dataclass(eq=False)
class Served:
    """A model that is served; ``loaded`` is when it was loaded, in seconds since 1970."""

    name: str
    path: Path
    model: Forecaster
    record: dict[str, Any]
    stream: Stream
    loaded: float


class Service:
    """Models by name, what they know of their items, and how to ask them.

    Args:
        config: What to serve.

    Attributes:
        storage: What the file system refuses; empty while it takes everything.
        warnings: What could not be read at the start.
        sources: What a source that is asked for rows last said, by its name; empty if it answers.

    Raises:
        ModelError: A model cannot be loaded.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.served = {name: self._load(name, path) for name, path in config.models.items()}
        self.journal: Journal | None = None
        self.storage, self.warnings, self.sources = "", list[str](), dict[str, str]()
        self.ready = self.stopping = False
        self._offset = time.time() - time.monotonic()
        self._ids: dict[str, None] = {}
        self._lock = asyncio.Lock()
        self._records: list[tuple[Record, asyncio.Future[dict[str, Any]]]] = []
        self._asked: list[Asked] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retry = 0.0

    async def start(self) -> None:
        """Read what is on disk, and begin to answer.

        Raises:
            ConfigError: Another service uses the state directory.
            StorageError: The state directory cannot be written.
        """
        if self.config.state is not None:
            self.journal = Journal(self.config.state)
            await asyncio.to_thread(self._restore, self.journal)
        self._ticking = asyncio.create_task(self._tick())
        self.ready = True

    async def stop(self) -> None:
        """Finish what is in flight and save a snapshot."""
        self.stopping = True
        self._ticking.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._lock:
            if self.journal is not None:
                await asyncio.to_thread(self._snapshot, self.journal)
                self.journal.close()

    def now(self) -> int:
        """What time it is, in microseconds: it goes on where the system clock jumps back."""
        return int(max(time.time(), self._offset + time.monotonic()) * SECOND)

    def named(self, name: str | None) -> Served:
        """A model by name; without one, the only model.

        Raises:
            NotFoundError: There is no such model.
            ConfigError: There are several, and none was named.
        """
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        known = ", ".join(self.served)
        if name is None:
            raise ConfigError("several models are served", setting="model", hint=f"Name one of: {known}.")
        if name not in self.served:
            raise NotFoundError(
                f"there is no model {name!r}", setting="model", hint=f"The models are: {known}."
            )
        return self.served[name]

    async def forecast(self, request: ForecastRequest) -> bytes:
        """The JSON of the forecast that follows the histories of a request; single ones that come together are made together.

        Raises:
            HistoryError: A history does not fit the model.
            ConfigError: The horizon or a level cannot be used.
            NotFoundError: There is no such model.
        """
        served, number = self.named(request.model), len(request.history)
        self._check_number("histories", number)
        self._check_answer(served, number, request.horizon, request.levels)
        levels = None if request.levels is None else tuple(request.levels)
        config = _predicting(request.horizon, levels, self.config.fill_gaps)
        if number > 1 or request.future:
            work = partial(written_alone, served.model, request, config)
            return work() if number <= _INLINE else await asyncio.to_thread(work)
        loop, histories = asyncio.get_running_loop(), Histories.of(served.model, request.history, "history")
        if not self._asked:
            loop.call_soon(loop.call_soon, self._answer)  # the next turn brings more
        asked = Asked(served.model, histories, config, loop.create_future())
        self._asked.append(asked)
        return await asked.answer

    async def forecast_histories(
        self, served: Served, histories: Histories, future: Histories | None = None
    ) -> Forecast:
        """The forecast that follows histories.

        Raises:
            HistoryError: A history does not fit the model.
        """
        self._check_number("histories", len(histories.items))
        self._check_answer(served, len(histories.items))
        config = _predicting(None, None, self.config.fill_gaps)
        work = partial(forecast_alone, served.model, histories, future, config)
        return work() if len(histories.items) <= _INLINE else await asyncio.to_thread(work)

    def _check_answer(
        self, served: Served, windows: int, horizon: int | None = None, levels: Sequence[float] | None = None
    ) -> None:
        model, spec = served.model, served.model.fitted_spec()
        each = 2 + len(levels or (model.calibration.levels if model.calibration else ()))
        size = windows * (horizon or model.horizon) * len(spec.targets) * each
        if size > MOST_NUMBERS:
            what = f"the answer would hold {size:,} numbers, and {MOST_NUMBERS:,} are allowed"
            raise ConfigError(what, hint="Send several requests, or ask for fewer `levels`.")

    async def observe(self, request: ObserveRequest) -> dict[str, Any]:
        """Take rows and events in; returns what became of them once the disk holds them.

        Raises:
            DataError: A time or value is none, or no model reads a row.
            NotFoundError: There is no such model.
        """
        served = [*self.served.values()] if request.model is None else [self.named(request.model)]
        self._check_number("rows", len(request.rows) + len(request.events))
        rows, known = [], set[Any]()
        for kind in ("rows", "events"):
            for number, one in enumerate(getattr(request, kind)):
                where, event = f"{kind}[{number}]", kind == "events"
                if (names := (event, *one.values)) not in known:
                    _check_read(served, one.values, event, where)
                    known.add(names)
                for value in one.values.values():
                    finite(value, where=where)
                rows.append((one.item, moment(one.time, where=where), one.values, event))
        return await self.write(Record(self.now(), rows, request.model, request.id))

    async def write(self, record: Record) -> dict[str, Any]:
        """Log a record with those that come at the same time, take it in, and forecast."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._records.append((record, answer))
        if len(self._records) == 1:
            self._spawn(self._write_all())
        return await answer

    async def reload(self, name: str) -> Served:
        """Load a model again from where it came from; the old one serves until the new one has forecast once.

        Raises:
            ModelError: It cannot be loaded, or does not forecast.
            NotFoundError: There is no such model.
        """
        return await asyncio.shield(self._spawn(self._reload(self.named(name))))

    async def _reload(self, old: Served) -> Served:
        new = await asyncio.to_thread(self._load, old.name, old.path)
        await asyncio.to_thread(_try, new.model)
        async with self._lock:
            before = self.served[old.name].stream
            kept = await asyncio.to_thread(lambda: new.stream.restore(*before.document(), live=False))
            await asyncio.to_thread(new.stream.update)
            self.served = self.served | {old.name: new}
        if not kept and before.items:
            self.warnings.append(
                f"model {old.name!r} reads other channels or another step now: its rows begin anew"
            )
        return new

    def described(self, served: Served) -> dict[str, Any]:
        """What a model is, reads and forecasts, and how wrong it was when it was measured."""
        model, spec = served.model, served.model.fitted_spec()
        return {
            "name": served.name,
            "model": model.name,
            "trained": model.trained or None,
            "loaded": format_stamp(int(served.loaded * SECOND), "utc"),
            "step_seconds": spec.step // SECOND,
            "context": model.context,
            "horizon": model.horizon,
            "channels": [asdict(channel) for channel in spec.channels],
            "observe": [channel.name for channel in served.stream.shape.channels],
            "features": spec.features,
            "error": model.error,
            "items": len(served.stream.items),
        }

    def live(self, served: Served, item: str | None) -> dict[str, Any]:
        """The items of a model and their live scores; or the rows, forecast and errors of one.

        Raises:
            NotFoundError: There is no such item.
        """
        stream, targets = served.stream, [channel.name for channel in served.model.fitted_spec().targets]
        if item is None:
            items = [
                {
                    "item": name,
                    "scores": dict(zip(targets, one.live.scores(), strict=True)),
                    "reason": (one.latest.made is None and one.latest.reason) or None,
                }
                for name, one in [*stream.items.items()][: self.config.exported]
            ]
            return {"model": served.name, "items": items, "more": max(0, len(stream.items) - len(items))}
        if item not in stream.items:
            raise NotFoundError(f"nothing was observed of item {item!r}")
        return stream.told(item)

    def state(self) -> dict[str, Any]:
        """What is ready, and what is not."""
        failing = {name: text for name, text in self.sources.items() if text}
        good = not self.storage and not failing
        status = (
            "stopping" if self.stopping else "starting" if not self.ready else "ready" if good else "degraded"
        )
        return {
            "status": status,
            "models": {name: served.model.name for name, served in self.served.items()},
            "storage": self.storage
            or ("ok" if self.journal else "none: observations are kept in memory alone"),
            "sources": {name: text or "ok" for name, text in self.sources.items()},
            "warnings": self.warnings,
        }

    def _load(self, name: str, path: Path) -> Served:
        model, record = registry.load(path)
        return Served(name, path, model, record, Stream(model, self.config), time.time())

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_number(self, what: str, given: int) -> None:
        if given > self.config.max_windows:
            most = f"{given:,} {what} in one request, and {self.config.max_windows:,} are allowed"
            raise ConfigError(most, hint="Send several requests.")

    async def _write_all(self) -> None:
        """Log and take in the records that are waiting; whatever happens, each gets an answer."""
        async with self._lock:
            batch, self._records = self._records, []
            results: Sequence[dict[str, Any] | Exception]
            try:
                results = await asyncio.to_thread(self._commit, [record for record, _ in batch])
            except Exception as error:
                _log.exception("observations were not taken in")
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results, strict=True):
                if answer.done():  # the client went away
                    continue
                if isinstance(result, Exception):
                    answer.set_exception(result)
                else:
                    answer.set_result(result)

    def _commit(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """Log records, take them in and forecast; if the disk refuses, forecasting goes on from memory."""
        journal, durable = self.journal, self.journal is not None
        try:
            if journal is not None and records:
                journal.append([encode(record) for record in records])
        except StorageError as error:
            durable = self._refused(error)
        answers = [self._take(record) | {"durable": durable} for record in records]
        for served in self.served.values():
            served.stream.update(self.now())
        again = self.storage and time.monotonic() > self._retry
        if journal is not None and (again or journal.size > self.config.snapshot_mb << 20):
            self._snapshot(journal)
        return answers

    def _refused(self, error: PresurgeError) -> bool:
        """Say so; a snapshot is tried until the disk takes it, because the log lacks what came meanwhile."""
        self.storage, self._retry = f"{error.where}: {error.what}", time.monotonic() + _RETRY
        return False

    def _take(self, record: Record) -> dict[str, Any]:
        """Take a record into the streams of its models."""
        counts, refused = {"accepted": 0, "late": 0, "duplicate": 0}, list[dict[str, Any]]()
        if record.id is not None and record.id in self._ids:
            return counts | {"duplicate": len(record.rows), "refused": refused}
        if record.id is not None:
            self._ids[record.id] = None
            if len(self._ids) > IDS:
                del self._ids[next(iter(self._ids))]
        for name, at, values, event in record.rows:
            late, reasons = list[bool](), list[str]()
            for served in self.served.values():
                stream = served.stream
                if record.model in (None, served.name) and stream.reads(values, event=event):
                    try:
                        late.append(stream.add(name, at, values, event=event, now=record.now))
                    except Exception as error:
                        what = error.what if isinstance(error, PresurgeError) else repr(error)
                        reasons.append(f"{served.name}: {what}")
            counts["accepted"] += bool(late)
            counts["late"] += any(late)
            refused += [{"item": name, "time": at / SECOND, "reason": reason} for reason in reasons]
        return counts | {"refused": refused}

    async def _tick(self) -> None:
        """Let the clock close buckets of events that nobody adds to any more, and the disk take what it refused before."""
        while True:
            await asyncio.sleep(0.5)
            await asyncio.shield(self._spawn(self._write_all()))  # it may hold records of clients

    def _answer(self) -> None:
        """Answer the forecasts that were asked for since the last turn of the loop."""
        asked, self._asked = self._asked, []
        answer(asked)

    def _restore(self, journal: Journal) -> None:
        """Take in the snapshot and the logs of the state directory."""
        loaded = journal.load()
        if loaded is not None:
            config, arrays = loaded
            self._ids = dict.fromkeys(config["ids"])
            for name, part in config["streams"].items():
                own = {
                    key.removeprefix(f"{name}/"): a for key, a in arrays.items() if key.startswith(f"{name}/")
                }
                if name not in self.served or not self.served[name].stream.restore(part, own):
                    journal.warnings.append(
                        f"the rows of model {name!r} do not fit the models that are served: left out"
                    )
        for record in journal.replay(read_record):
            self._take(record)
        for served in self.served.values():
            served.stream.update(self.now())
        self.warnings += journal.warnings

    def _snapshot(self, journal: Journal) -> None:
        """Save everything, so that the logs before are no longer needed."""
        parts = {name: served.stream.document() for name, served in self.served.items()}
        config = {"ids": [*self._ids], "streams": {name: own for name, (own, _) in parts.items()}}
        arrays = {f"{name}/{key}": array for name, (_, own) in parts.items() for key, array in own.items()}
        try:
            journal.save(journal.rotate(), config, arrays)
            self.storage = ""
        except PresurgeError as error:
            self._refused(error)


@lru_cache(256)
def _predicting(horizon: int | None, levels: tuple[float, ...] | None, fill_gaps: GapRule) -> PredictConfig:
    return PredictConfig(horizon=horizon, levels=levels, fill_gaps=fill_gaps)


def _try(model: Forecaster) -> None:
    """Let a model forecast once.

    Raises:
        ModelError: What it gives is no number.
    """
    spec, rows = model.fitted_spec(), model.context + model.horizon
    panel = Panel(
        values=np.ones((rows, len(spec.channels)), np.float32),
        channels=spec.channels,
        step=spec.step,
        start=np.zeros(1, np.int64),
        features=np.ones((1, len(spec.features)), np.float32),
        feature_names=spec.features,
    )
    made = IntervalTracker(model, panel).predict(np.array([model.context - 1]))
    if not np.isfinite(made.mean_BHC).all():
        raise ModelError("forecasts something that is no number", hint="Train it again.")


def _check_read(served: Sequence[Served], values: Iterable[str], event: bool, where: str) -> None:
    if any(one.stream.reads(values, event=event) for one in served):
        return
    needed = "; ".join(
        f"{one.name}: {', '.join(channel.name for channel in one.stream.shape.channels)}" for one in served
    )
    hint = f"The models read {needed}. Send null where a value is missing."
    raise DataError("no model reads these channels", where=where, hint=hint)
