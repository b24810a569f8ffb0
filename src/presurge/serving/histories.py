"""Histories that a client sends whole, as a panel of the channels that a model reads."""

import asyncio
import time
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np

from presurge.errors import ConfigError, HistoryError, PresurgeError
from presurge.models.forecaster import Forecaster, SeriesSpec
from presurge.models.history import followed, matching_channels, unfit_items
from presurge.models.tracking import IntervalTracker
from presurge.series.forecast import Forecast
from presurge.series.holidays import is_holidays
from presurge.series.panel import Channel, FloatArray, Panel
from presurge.serving.bodies import History
from presurge.serving.rows import moment
from presurge.workflows.predict import PredictConfig, forecast_items


class Histories(NamedTuple):
    """The rows of some items.

    Attributes:
        names: The channels.
        values: float32 [rows, channels] of each item.
        starts: Time of the first row of each item, in microseconds.
        items: Their names.
        features: The static features of each item that the model reads.
    """

    names: tuple[str, ...]
    values: list[FloatArray]
    starts: list[int]
    items: list[str]
    features: list[list[float]]

    @classmethod
    def of(cls, model: Forecaster, histories: Sequence[History], setting: str) -> "Histories":
        """What a request holds; a history without an end ended with the last whole step of the system clock.

        Raises:
            HistoryError: A channel or static feature is missing, columns are of different length, or an item is there twice.
            DataError: The time of the end is none.
        """
        spec = model.fitted_spec()
        names = channels_of(spec, histories[0].values, known=setting == "future")
        made = cls(names, [], [], [], [])
        for number, one in enumerate(histories):
            where = f"{setting}[{number}]"
            lacking = [name for name in names if name not in one.values]
            sizes = {len(one.values[name]) for name in names if name not in lacking}
            if lacking or len(sizes) != 1:
                what = (
                    f"there is no channel {lacking[0]!r}"
                    if lacking
                    else "the channels have different numbers of rows"
                )
                raise HistoryError(
                    what, where=where, hint=f"Give {', '.join(names)}, with a value for every row."
                )
            with np.errstate(over="ignore"):  # the panel refuses what becomes infinite
                rows = np.array([one.values[name] for name in names], np.float32).T
            end = now_of(spec) if one.end is None else moment(one.end, where=f"{where}.end")
            made.values.append(rows)
            made.starts.append(end - (len(rows) - 1) * spec.step)
            made.items.append(one.item)
            made.features.append([_feature(one, name, where) for name in spec.features])
        twice = [item for item in made.items if made.items.count(item) > 1] if len(made.items) < 1000 else []
        if twice or len({*made.items}) < len(made.items):
            hint = "Give each history an `item` of its own."
            raise HistoryError(
                f"two histories have the item {(twice or ['?'])[0]!r}", where=setting, hint=hint
            )
        return made

    @classmethod
    def joined(cls, parts: "Sequence[Histories]") -> "Histories":
        """Those of several requests for the same channels; items of the same name stay apart."""
        chained = (list(chain.from_iterable(part[k] for part in parts)) for k in range(1, 5))
        return cls(parts[0].names, *chained)  # type: ignore[arg-type]

    def panel(self, spec: SeriesSpec) -> Panel:
        """As a panel with the kinds of the model's channels."""
        kinds = {channel.name: channel for channel in spec.channels}
        for channel in spec.channels:
            kinds |= {
                part: Channel(part, kind=channel.kind)
                for part in channel.name.split("/")
                if part not in kinds
            }
        return Panel(
            values=np.concatenate(self.values),
            channels=tuple(kinds[name] for name in self.names),
            step=spec.step,
            start=np.array(self.starts),
            items=tuple(self.items),
            indptr=np.cumsum([0, *map(len, self.values)]),
            clock=spec.clock,
            features=np.array(self.features, np.float32).reshape(len(self.items), -1),
            feature_names=spec.features,
        )


def now_of(spec: SeriesSpec) -> int:
    """The beginning of the last step that the system clock has completed, in microseconds."""
    return (time.time_ns() // 1000 // spec.step - 1) * spec.step


def channels_of(spec: SeriesSpec, given: Container[str] = (), *, known: bool = False) -> tuple[str, ...]:
    """The channels to give of a history, or of the known future: all but holidays, which the times tell.

    A ratio comes as its two parts, unless it is given itself.
    """
    names: dict[str, None] = {}
    for channel in spec.known if known else spec.channels:
        if not is_holidays(channel.name):
            names |= dict.fromkeys([channel.name] if channel.name in given else channel.name.split("/"))
    return tuple(names)


def _feature(history: History, name: str, where: str) -> float:
    if name not in history.features:
        raise HistoryError(
            f"the static feature {name!r} is missing", where=where, hint="Give it in `features`."
        )
    return history.features[name]


@dataclass(eq=False)
class Asked:
    """A request for a forecast that waits for its batch."""

    model: Forecaster
    histories: Histories
    future: Histories | None
    config: PredictConfig
    answer: "asyncio.Future[Forecast]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


def answer(asked: Sequence[Asked]) -> None:
    """Answer requests; those of one model, horizon and levels together."""

    def kind(one: Asked) -> tuple[Any, ...]:
        return id(one.model), one.config.horizon or 0, one.config.levels or (), one.future is None

    for _, group in groupby(sorted(asked, key=kind), kind):
        together = [one for one in group if not one.answer.done()]
        try:
            for one, forecast in zip(together, _together(together), strict=True):
                one.answer.set_result(forecast)
        except PresurgeError:  # of one of them: each gets an answer of its own
            for one in together:
                _alone(one)
        except Exception as error:
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)


def _together(asked: Sequence[Asked]) -> list[Forecast]:
    """The forecasts of several requests of one model, horizon and levels; all of them are made in one call.

    Raises:
        PresurgeError: One does not fit as it is, or is no plain history.
    """
    first = asked[0]
    model, config = first.model, first.config
    if first.future is not None or len({one.histories.names for one in asked}) > 1:
        raise ConfigError("each is read for itself")
    spec = model.fitted_spec()
    joint = Histories.joined([one.histories for one in asked])
    history = matching_channels(
        joint.panel(spec).with_ratios(channel.name for channel in spec.channels), spec
    )
    for unfit in unfit_items(history, model.context).values():
        raise unfit
    series, origins = followed(history, None, spec, model.horizon)
    made = IntervalTracker(model, series, peaks=True).predict(origins)
    sizes = [len(one.histories.items) for one in asked]
    times_I = series.times_of(origins)
    return model.told(made, history.items, times_I, config.horizon, levels=config.levels, sizes=sizes)


def _alone(asked: Asked) -> None:
    """Answer a request with whatever can be forecast of it."""
    try:
        asked.answer.set_result(forecast_alone(asked))
    except Exception as error:
        asked.answer.set_exception(error)


def forecast_alone(asked: Asked) -> Forecast:
    """The forecast of one request; ``missing`` names the items that cannot be forecast."""
    spec = asked.model.fitted_spec()
    future = None if asked.future is None else asked.future.panel(spec)
    return forecast_items(asked.model, asked.histories.panel(spec), asked.config, future=future)
