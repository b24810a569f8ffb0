"""The one walk over models, a panel and origins: forecasts beside what came, in pieces that bound the memory.

Shapes: B windows, L context, H horizon, C channels, Q quantiles, N rows, T hours of the day.
"""

import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from presurge.evaluation.metrics import Float64Array
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES
from presurge.models.tracking import IntervalTracker
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.frequency import DAY, HOUR
from presurge.series.panel import Channel, Clock, FloatArray, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import CHUNK, batch_of, chunks, targets_of, whole, window_origins

_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The forecasts of one model from some of the origins.

    Attributes:
        model: Name of the model.
        panel: The series.
        origins_B: Row of each origin.
        mean_BHC: float32, the conditional means in original units.
        median_BHC: float32, the medians; both are the point forecasts of a model that was never calibrated.
        quantiles_BHQC: float32; None for a model without intervals.
        levels: The Q levels, ascending.
        cpu_seconds: Processor time that the forecasts took.
    """

    model: str
    panel: Panel
    origins_B: IntArray
    mean_BHC: FloatArray
    median_BHC: FloatArray
    quantiles_BHQC: FloatArray | None
    levels: tuple[float, ...]
    cpu_seconds: float

    def centre(self) -> FloatArray:
        """The means beside the quantiles, if there are any: float32 [B, H, 1 + Q, C]."""
        mean_BHZC = self.mean_BHC[:, :, None]
        if self.quantiles_BHQC is None:
            return mean_BHZC
        return np.concatenate((mean_BHZC, self.quantiles_BHQC), axis=2)

    def actual(self) -> FloatArray:
        """What came: float32 [B, H, C], NaN where missing. Every origin needs H rows after it."""
        return targets_of(self.panel, self.origins_B, self.mean_BHC.shape[1])


def walk(models: Sequence[Forecaster], panel: Panel, origins: IntArray) -> Iterator[Piece]:
    """Forecast from every origin with every model, as each would have forecast at the time.

    A baseline is what its name says: its point is both mean and median, whatever its calibration adds, and only its
    quantiles are calibrated.

    Models with the same context share the windows that are gathered; each context has pieces of its own size, because a
    season of a week leaves room for few windows at once.

    Args:
        models: Fitted models of one horizon.
        panel: Holds the models' channels.
        origins: Rows to forecast from, ascending, each with a complete context.
    """
    horizon, channels = models[0].horizon, len(panel.channels)
    for context in sorted({model.context for model in models}):
        trackers = [(model, IntervalTracker(model, panel)) for model in models if model.context == context]
        for part in chunks(origins, chunk_size(context, horizon, channels)):
            batch = batch_of(panel, part, context, horizon)
            for model, tracker in trackers:
                began = time.process_time()
                mean_BHC, median_BHC, quantiles_BHQC, _, levels, _ = tracker.predict(part, batch)
                if model.name in BASELINES:
                    mean_BHC = median_BHC = model.predict(batch).point_BHC
                spent = time.process_time() - began
                quantiles = quantiles_BHQC if levels else None
                yield Piece(model.name, panel, part, mean_BHC, median_BHC, quantiles, levels, spent)


def usable_origins(model: Forecaster, panel: Panel, span: Span, *, stride: int = 1) -> IntArray:
    """Every ``stride``-th origin of a span whose context has no missing value.

    If there is none, a model that tolerates gaps takes the origins whose last row is complete.
    """
    origins = window_origins(panel, span, context=model.context, horizon=model.horizon, stride=stride)
    usable = origins[whole(panel, origins, context=model.context, horizon=model.horizon)]
    if len(usable) or not model.tolerates_gaps:
        return usable
    return origins[whole(panel, origins, context=1, horizon=model.horizon)]


def uncalibrated(model: Forecaster) -> Forecaster:
    """The same model without intervals of its own, whose walk yields what it learned and costs less."""
    bare = copy(model)
    bare.calibration = None
    return bare


def chunk_size(context: int, horizon: int, channels: int) -> int:
    """How many windows to hold at once, so that neither contexts nor quantiles outgrow a few tens of MiB."""
    return max(1, min(CHUNK, _VALUES_AT_ONCE // (channels * max(context, horizon * len(QUANTILE_LEVELS)))))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RollingForecast:
    """The rows of one item in a span with the forecast of each; NaN where none was possible.

    Attributes:
        times_us: int64 [N], microseconds since the Unix epoch.
        actual_NC: float32, NaN where missing.
        mean_NC: float32.
        quantiles_NQC: float32; Q is 0 for a model without intervals.
        levels: The Q levels, ascending.
        channels: The C channels.
        clock: What the times mean.
    """

    times_us: IntArray
    actual_NC: FloatArray
    mean_NC: FloatArray
    quantiles_NQC: FloatArray
    levels: tuple[float, ...]
    channels: tuple[Channel, ...]
    clock: Clock

    @classmethod
    def empty(cls, panel: Panel, span: Span, item: int, levels: tuple[float, ...]) -> Self:
        """The rows of an item before any of them has a forecast."""
        rows, targets = np.arange(span.first[item], span.last[item]), panel.targets
        return cls(
            times_us=panel.times_of(rows),
            actual_NC=panel.values[rows][:, targets],
            mean_NC=np.full((len(rows), len(targets)), np.nan, np.float32),
            quantiles_NQC=np.full((len(rows), len(levels), len(targets)), np.nan, np.float32),
            levels=levels,
            channels=tuple(panel.channels[column] for column in targets),
            clock=panel.clock,
        )


def rolling_forecast(
    model: Forecaster, panel: Panel, span: Span, *, lead: int | None = None, item: int = 0
) -> RollingForecast:
    """Forecast every row of one item of a span as it would have been forecast at the time.

    Args:
        model: A fitted model.
        panel: Exactly the model's channels.
        span: The rows.
        lead: Forecast each row from ``lead`` rows before it (1 to H); None lays blocks of H rows one after another, each
            forecast from the row before it.
        item: Which item.
    """
    begin, first, last = int(panel.indptr[item]), int(span.first[item]), int(span.last[item])
    steps = np.arange(model.horizon) if lead is None else np.array([lead - 1])
    earliest = max(first - 1 - int(steps[0]), begin + model.context - 1)
    origins = np.arange(earliest, last - 1 - int(steps[0]), len(steps))
    origins = origins[whole(panel, origins, context=model.context, horizon=model.horizon)]

    found = RollingForecast.empty(panel, span, item, model.calibration.levels if model.calibration else ())
    for piece in walk([model], panel, origins):
        rows = piece.origins_B[:, None] + 1 + steps - first
        inside = rows < last - first  # the last block may reach beyond the span
        found.mean_NC[rows[inside]] = piece.mean_BHC[:, steps][inside]
        if piece.quantiles_BHQC is not None and found.levels:
            found.quantiles_NQC[rows[inside]] = piece.quantiles_BHQC[:, steps][inside]
    return found


class HourlyError(NamedTuple):
    """Errors and load by hour of the day of the target: UTC, or the trace's own clock modulo 24 h.

    Attributes:
        mae_TC: float64 [24, C], mean absolute error over all horizon steps; NaN where an hour has no target.
        load_TC: float64 [24, C], mean absolute actual value.
    """

    mae_TC: Float64Array
    load_TC: Float64Array


def error_by_hour(model: Forecaster, panel: Panel, span: Span, *, stride: int = 1) -> HourlyError:
    """Average the absolute errors of a model over every ``stride``-th window of a span by hour of the day."""
    error_TC, load_TC, count_TC = np.zeros((3, 24, len(panel.targets)))
    for piece in walk([uncalibrated(model)], panel, usable_origins(model, panel, span, stride=stride)):
        actual_BHC = piece.actual().astype(np.float64)
        hour_BH = panel.times_of(piece.origins_B[:, None] + np.arange(1, model.horizon + 1)) % DAY // HOUR
        np.add.at(error_TC, hour_BH, np.nan_to_num(np.abs(piece.median_BHC - actual_BHC)))
        np.add.at(load_TC, hour_BH, np.nan_to_num(np.abs(actual_BHC)))
        np.add.at(count_TC, hour_BH, ~np.isnan(actual_BHC))
    seen_TC = np.where(count_TC > 0, count_TC, np.nan)
    return HourlyError(error_TC / seen_TC, load_TC / seen_TC)
