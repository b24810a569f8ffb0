"""The Forecast: times x target channels x (mean + quantiles), the one form of all output."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Clock, FloatArray, IntArray
from presurge.series.timestamps import format_stamp

QUANTILE_LEVELS = (0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975)
"""Levels of every interval: 50, 80 and 95 % around the median."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """The forecasts of one origin for I items.

    Attributes:
        mean: float32 [I, H, C], the point forecast in original units.
        quantiles: float32 [I, H, Q, C] in original units; Q is 0 if the model was never calibrated.
        levels: The Q quantile levels, ascending.
        origin: int64 [I], time of the last row that the forecast knew (microseconds since the Unix epoch).
        channels: The C target channels.
        stamps: int64 [I, H], time of every row; None where the rows follow the origin a step apart.
        model: Name of the model.
        error: Measured error of the model, channel -> metric -> value, from the data that calibrated it.
        intervals: What the quantiles are based on: the calibration alone, or later errors too.
        flags: What the reader must know, for example that gaps in the context were interpolated.
    """

    mean: FloatArray
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

    def times(self) -> IntArray:
        """int64 [I, H], the time of every row in microseconds since the Unix epoch."""
        if self.stamps is not None:
            return self.stamps
        times: IntArray = self.origin[:, None] + self.step * np.arange(1, self.mean.shape[1] + 1)
        return times

    def to_frame(self) -> pl.DataFrame:
        """Long form: ``item`` (if there are several), ``timestamp``, ``channel``, ``mean``, ``q0.1`` ..."""
        n_items, horizon, n_channels = self.mean.shape
        stamps = pl.Series("timestamp", np.repeat(self.times().reshape(-1), n_channels))
        stamps = stamps.cast(pl.Datetime("us", "UTC")) if self.clock == "utc" else stamps / SECOND
        columns = [stamps, pl.Series("channel", [c.name for c in self.channels] * (n_items * horizon))]
        if n_items > 1:
            columns.insert(0, pl.Series("item", np.repeat(np.array(self.items), horizon * n_channels)))
        columns.append(pl.Series("mean", self.mean.reshape(-1)))
        columns += [
            pl.Series(f"q{level:g}", self.quantiles[:, :, index].reshape(-1))
            for index, level in enumerate(self.levels)
        ]
        return pl.DataFrame(columns)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: ``origin``, ``step_seconds`` and a flat list ``forecast`` of times and channels."""
        rows, times = [], self.times()
        for i, item in enumerate(self.items):
            for h in range(self.mean.shape[1]):
                stamp = format_stamp(int(times[i, h]), self.clock)
                for c, channel in enumerate(self.channels):
                    row: dict[str, Any] = {"item": item} if len(self.items) > 1 else {}
                    row |= {"timestamp": stamp, "channel": channel.name, "mean": float(self.mean[i, h, c])}
                    row["quantiles"] = {
                        f"{q:g}": float(self.quantiles[i, h, k, c]) for k, q in enumerate(self.levels)
                    }
                    rows.append(row)
        origins = [format_stamp(int(origin), self.clock) for origin in self.origin]
        return {
            "origin": origins[0] if len(set(origins)) == 1 else dict(zip(self.items, origins, strict=True)),
            "step_seconds": self.step // SECOND,
            "model": self.model,
            "error": self.error,
            "intervals": self.intervals,
            "flags": list(self.flags),
            "forecast": rows,
        }
