"""The Forecast: times x target channels x (mean, median and quantiles), the one form of all output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from presurge.errors import required
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Clock, FloatArray, IntArray, Panel, time_column
from presurge.series.timestamps import Stamp, format_stamp

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTILE_LEVELS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99)
"""Levels of every interval: 50, 80, 90, 95 and 98 % around the median."""
SCHEMA_VERSION = 2
"""Version of the JSON form; it changes when a key changes its name or meaning. The forms before had none."""


class Peak(NamedTuple):
    """The largest value over the horizon, of I items; its quantiles are joint over the steps, not the largest quantiles.

    Attributes:
        mean_IC: float32, original units.
        median_IC: float32.
        quantiles_IQC: float32, of the forecast's levels.
    """

    mean_IC: FloatArray
    median_IC: FloatArray
    quantiles_IQC: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Forecast:
    """The forecasts of one origin for I items.

    Attributes:
        mean: float32 [I, H, C], the conditional mean in original units.
        median: float32 [I, H, C]; mean and median are the point forecast if the model was never calibrated.
        quantiles: float32 [I, H, Q, C] in original units; Q is 0 if the model was never calibrated.
        levels: The Q quantile levels, ascending.
        origin: int64 [I], time of the last row that the forecast knew (microseconds since the Unix epoch).
        channels: The C target channels.
        stamps: int64 [I, H], time of every row; None where the rows follow the origin a step apart.
        model: Name of the model.
        trained: When the model was trained, ISO 8601 in UTC; empty if that is unknown.
        peak: The largest value over the horizon; None if the model was never calibrated.
        missing: Item -> why it has no forecast.
        error: Measured error of the model, channel -> metric -> value, from the data that calibrated it.
        intervals: What the quantiles are based on: the calibration alone, or later errors too.
        flags: What the reader must know, for example that gaps in the context were interpolated.
    """

    mean: FloatArray
    median: FloatArray
    quantiles: FloatArray
    levels: tuple[float, ...]
    origin: IntArray
    step: int
    channels: tuple[Channel, ...]
    items: tuple[str, ...]
    clock: Clock
    model: str
    error: dict[str, dict[str, float]]
    intervals: str = ""
    flags: tuple[str, ...] = ()
    stamps: IntArray | None = None
    trained: str = ""
    peak: Peak | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def times(self) -> IntArray:
        """int64 [I, H], the time of every row in microseconds since the Unix epoch."""
        if self.stamps is not None:
            return self.stamps
        times: IntArray = self.origin[:, None] + self.step * np.arange(1, self.mean.shape[1] + 1)
        return times

    def __repr__(self) -> str:
        """The model and the frame, and what the reader must know."""
        notes = [
            *self.flags,
            *(f"no forecast of {item!r}: {reason}" for item, reason in self.missing.items()),
        ]
        frame = self.to_frame().select(pl.exclude("^q.*$"), pl.col("^q0.1$|^q0.9$"))
        return "\n".join([f"Forecast of {self.model}", str(frame), *notes])

    @property
    def named(self) -> bool:
        """Whether the items have names of their own, which every row then bears."""
        return self.items != ("",)

    def to_frame(self) -> pl.DataFrame:
        """Long form: ``item`` (if it has a name), ``timestamp``, ``channel``, ``mean``, ``median``, ``q0.1`` ...

        Of a model that was never calibrated there is no ``median``.
        """
        n_items, horizon, n_channels = self.mean.shape
        names = [channel.name for channel in self.channels]
        columns = [
            time_column(np.repeat(self.times().reshape(-1), n_channels), self.clock),
            pl.Series("channel", names * (n_items * horizon)),
            *value_columns(self.mean, self.median, self.quantiles, self.levels),
        ]
        if self.named:
            columns.insert(0, pl.Series("item", np.repeat(np.array(self.items), horizon * n_channels)))
        return pl.DataFrame(columns)

    def plot(self, history: Panel | None = None) -> "Figure":
        """Draw mean and intervals of the first items and channels, behind the last rows of a history if there is one.

        Raises:
            MissingDependencyError: Matplotlib is not installed.
        """
        with required("matplotlib", purpose="a plot", extra="plots"):
            from presurge.series.plots import drawn, forecast_figure
        return drawn(lambda: forecast_figure(self, history))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: ``origin``, ``step_seconds``, a flat list ``forecast`` of times and channels, a list ``peak``."""
        levels = [f"{level:g}" for level in self.levels]

        def row(
            item: str | None,
            timestamp: Stamp | None,
            channel: str,
            mean: float,
            median: float,
            quantiles: Any,
        ) -> dict[str, Any]:
            named = {} if item is None else {"item": item}
            timed = {} if timestamp is None else {"timestamp": timestamp}
            numbers = {"mean": mean, "median": median, "quantiles": dict(zip(levels, quantiles, strict=True))}
            return {**named, **timed, "channel": channel, **numbers}

        return self.document(row)

    def document(self, row: Callable[..., Any]) -> dict[str, Any]:
        """The JSON form with rows of another kind than dictionaries.

        Args:
            row: Makes a row of item (None if it has no name), time (None in a peak), channel, mean, median and the list of quantiles.
        """
        items = self.items if self.named else (None,)
        channels = [channel.name for channel in self.channels]
        stamps = [[format_stamp(time, self.clock) for time in times] for times in self.times().tolist()]
        by_item = zip(items, stamps, strict=True)
        names = [(item, time, channel) for item, times in by_item for time in times for channel in channels]
        tops = [(item, None, channel) for item in items for channel in channels]
        origins = [format_stamp(origin, self.clock) for origin in self.origin.tolist()]
        return {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "trained": self.trained or None,
            "origin": origins[0] if len(set(origins)) == 1 else dict(zip(self.items, origins, strict=True)),
            "step_seconds": self.step // SECOND,
            "error": self.error,
            "intervals": self.intervals,
            "flags": list(self.flags),
            "forecast": list(
                map(row, *zip(*names, strict=True), *_lists(self.mean, self.median, self.quantiles))
            ),
            "peak": list(map(row, *zip(*tops, strict=True), *_lists(*self.peak))) if self.peak else [],
            "missing": [{"item": item, "reason": reason} for item, reason in self.missing.items()],
        }


def _lists(mean_XC: FloatArray, median_XC: FloatArray, quantiles_XQC: FloatArray) -> list[list[Any]]:
    """Means, medians and lists of quantiles of all rows; whole arrays become lists much faster than their parts."""
    quantiles_RQ = quantiles_XQC.swapaxes(-1, -2).reshape(mean_XC.size, quantiles_XQC.shape[-2])
    return [mean_XC.reshape(-1).tolist(), median_XC.reshape(-1).tolist(), quantiles_RQ.tolist()]


def value_columns(
    mean_BHC: FloatArray, median_BHC: FloatArray, quantiles_BHQC: FloatArray | None, levels: tuple[float, ...]
) -> list[pl.Series]:
    """The columns ``mean``, ``median``, ``q0.1`` ... of a frame in long form; only ``mean`` without quantiles."""
    values = {"mean": mean_BHC}
    if quantiles_BHQC is not None and levels:
        values["median"] = median_BHC
        values |= {f"q{level:g}": quantiles_BHQC[:, :, q] for q, level in enumerate(levels)}
    return [pl.Series(name, value_BHC.reshape(-1)) for name, value_BHC in values.items()]
