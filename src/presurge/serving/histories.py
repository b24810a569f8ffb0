"""Histories that a client sends whole, as a panel of the channels that a model reads."""

import asyncio
import time
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from presurge.errors import HistoryError
from presurge.models.forecaster import Forecaster, SeriesSpec
from presurge.models.history import followed, matching_channels, unfit_items
from presurge.models.tracking import IntervalTracker
from presurge.series.forecast import Forecast
from presurge.series.holidays import is_holidays
from presurge.series.panel import Channel, FloatArray, Panel
from presurge.serving.answers import written, written_apart
from presurge.serving.bodies import ForecastRequest, History
from presurge.serving.rows import moment
from presurge.workflows.predict import PredictConfig, forecast_items

_UNEVEN = "the channels have different numbers of rows"


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
            columns = [one.values.get(name) for name in names]
            if None in columns or len({len(column) for column in columns if column is not None}) != 1:
                lacking = [name for name, column in zip(names, columns, strict=True) if column is None]
                what = f"there is no channel {lacking[0]!r}" if lacking else _UNEVEN
                hint = f"Give {', '.join(names)}, with a value for every row."
                raise HistoryError(what, where=where, hint=hint)
            with np.errstate(over="ignore"):  # the panel refuses what becomes infinite
                rows = np.array(columns, np.float32).T
            end = now_of(spec) if one.end is None else moment(one.end, where=f"{where}.end")
            made.values.append(rows)
            made.starts.append(end - (len(rows) - 1) * spec.step)
            made.items.append(one.item)
            made.features.append([_feature(one, name, where) for name in spec.features])
        if len({*made.items}) < len(made.items):
            twice = Counter(made.items).most_common(1)[0][0]
            hint = "Give each history an `item` of its own."
            raise HistoryError(f"two histories have the item {twice!r}", where=setting, hint=hint)
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


@dataclass(eq=False, slots=True)
class Asked:
    """A request for the forecast of one item that waits for those that come with it."""

    model: Forecaster
    histories: Histories
    config: PredictConfig
    answer: "asyncio.Future[bytes]"


def answer(asked: Sequence[Asked]) -> None:
    """Answer requests with JSON; those of one model, horizon and levels together."""
    groups: dict[Any, list[Asked]] = {}
    for one in asked:
        if not one.answer.done():
            kind = id(one.model), one.config.horizon, one.config.levels, one.histories.names
            groups.setdefault(kind, []).append(one)
    for together in groups.values():
        try:
            _together(together)
        except Exception:  # of one of them: each gets an answer of its own
            for one in together:
                _alone(one)


def _together(asked: Sequence[Asked]) -> None:
    """Answer requests of one model, horizon and levels with forecasts that are made in one call."""
    model, config = asked[0].model, asked[0].config
    spec = model.fitted_spec()
    joint = Histories.joined([one.histories for one in asked])
    panel = joint.panel(spec).with_ratios(channel.name for channel in spec.channels)
    history = matching_channels(panel, spec)
    if unfit := unfit_items(history, model.context):
        for number in unfit:
            _alone(asked[number])
        answer(asked)
        return
    series, origins = followed(history, None, spec, model.horizon)
    made = IntervalTracker(model, series, peaks=True).predict(origins)
    told = model.told(made, history.items, series.times_of(origins), config.horizon, levels=config.levels)
    caveats = model.caveats(made, history.items, told.mean.shape[1], told.levels, sizes=[1] * len(asked))
    for one, text in zip(asked, written_apart(told, caveats), strict=True):
        one.answer.set_result(text)


def _alone(asked: Asked) -> None:
    """Answer a request with whatever can be forecast of it."""
    try:
        asked.answer.set_result(written(forecast_alone(asked.model, asked.histories, None, asked.config)))
    except Exception as error:
        asked.answer.set_exception(error)


def written_alone(model: Forecaster, request: ForecastRequest, config: PredictConfig) -> bytes:
    """The JSON of the forecast of a request of several histories, or with a known future."""
    histories = Histories.of(model, request.history, "history")
    future = Histories.of(model, request.future, "future") if request.future else None
    return written(forecast_alone(model, histories, future, config))


def forecast_alone(
    model: Forecaster, histories: Histories, future: Histories | None, config: PredictConfig
) -> Forecast:
    """The forecast of one request; ``missing`` names the items that cannot be forecast."""
    spec = model.fitted_spec()
    known = None if future is None else future.panel(spec)
    return forecast_items(model, histories.panel(spec), config, future=known)
