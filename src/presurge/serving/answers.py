"""The JSON of forecasts, written from structs: msgspec makes and writes them faster than the dictionaries of ``to_dict``."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from presurge.models.forecaster import Caveats
from presurge.series.forecast import Forecast
from presurge.series.timestamps import Stamp, format_stamp
from presurge.serving.bodies import encode


class Row(msgspec.Struct, gc=False):
    """A row of a forecast."""

    item: str | UnsetType
    timestamp: Stamp | UnsetType
    channel: str
    mean: float
    median: float
    quantiles: Any


def written(forecast: Forecast) -> bytes:
    """``encode(forecast.to_dict())``, byte for byte."""
    return encode(forecast.document(_row(forecast, ())))


def written_apart(forecast: Forecast, caveats: Sequence[Caveats]) -> list[bytes]:
    """The same of every item as a forecast of its own, with the caveats of each."""
    told = forecast.document(_row(forecast, ("",)))
    rows, peaks, found = told["forecast"], told["peak"], []
    size, channels = len(rows) // len(caveats), len(peaks) // len(caveats)
    for number, (origin, (intervals, flags)) in enumerate(
        zip(forecast.origin.tolist(), caveats, strict=True)
    ):
        told["origin"], told["intervals"] = format_stamp(origin, forecast.clock), intervals
        told["flags"] = flags
        told["forecast"] = rows[number * size : (number + 1) * size]
        told["peak"] = peaks[number * channels : (number + 1) * channels]
        found.append(encode(told))
    return found


def _row(forecast: Forecast, nameless: tuple[str, ...]) -> Callable[..., Row]:
    """What makes the rows of a forecast, which bear the names of items that have one."""
    quantiles_of = _quantiles(forecast.levels)

    def row(
        item: str | None, timestamp: Stamp | None, channel: str, mean: float, median: float, numbers: Any
    ) -> Row:
        own = UNSET if item is None or item in nameless else item
        at = UNSET if timestamp is None else timestamp
        return Row(own, at, channel, mean, median, quantiles_of(*numbers))

    return row


@lru_cache(64)
def _quantiles(levels: tuple[float, ...]) -> Callable[..., Any]:
    """What holds the quantiles of some levels by their names."""
    names = [f"{level:g}" for level in levels]
    if len({*names}) < len(names):  # levels that differ after the sixth digit
        return lambda *numbers: dict(zip(names, numbers, strict=True))
    fields = [(f"q{number}", float) for number in range(len(names))]
    own = {field: name for (field, _), name in zip(fields, names, strict=True)}
    return msgspec.defstruct("Quantiles", fields, rename=own, gc=False)
