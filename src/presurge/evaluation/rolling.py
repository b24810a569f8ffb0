"""Forecasts laid along the rows of a span: what the pictures show, and errors by hour of the day."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from presurge.evaluation.intervals import chunk_size
from presurge.evaluation.metrics import Float64Array
from presurge.models.forecaster import Forecaster
from presurge.models.tracking import IntervalTracker
from presurge.series.frequency import DAY, HOUR
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import IntArray, batch_of, chunks, complete, targets_of, window_origins


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RollingForecast:
    """One item's rows of a span with what was forecast for each; NaN where nothing could be forecast.

    Attributes:
        times_us: int64 [N], microseconds since the Unix epoch.
        actual_NC: float32, NaN where missing.
        mean_NC: float32.
        quantiles_NQC: float32; Q is 0 for a model without intervals.
        levels: The Q levels, ascending.
        lead: How many steps before each row its forecast was made; None for blocks of the whole horizon.
    """

    times_us: IntArray
    actual_NC: FloatArray
    mean_NC: FloatArray
    quantiles_NQC: FloatArray
    levels: tuple[float, ...]
    lead: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HourlyError:
    """Errors and load by hour of the day of the target: UTC, or the trace's own clock modulo 24 h.

    Attributes:
        mae_TC: float64 [24, C], mean absolute error over all horizon steps; NaN where an hour has no target.
        load_TC: float64 [24, C], mean absolute actual value.
        count_TC: int64 [24, C], targets.
    """

    mae_TC: Float64Array
    load_TC: Float64Array
    count_TC: npt.NDArray[np.int64]


def rolling_forecast(
    forecaster: Forecaster, panel: Panel, span: Span, *, lead: int | None = None, item: int = 0
) -> RollingForecast:
    """Forecast every row of one item of a span as it would have been forecast at the time.

    Args:
        forecaster: A fitted model.
        panel: Exactly the model's channels.
        span: The rows.
        lead: Take each row's forecast from ``lead`` steps before it (1 to H); None lays blocks of H rows one after
            another, each forecast from the row before it.
        item: Which item.
    """
    first, last = int(span.first[item]), int(span.last[item])
    begin = int(panel.indptr[item])
    steps = np.arange(forecaster.horizon) if lead is None else np.array([lead - 1])
    origins = np.arange(
        max(first - 1 - int(steps[0]), begin + forecaster.context - 1), last - 1 - int(steps[0])
    )
    origins = origins[:: len(steps)]
    origins = origins[complete(panel, origins, before=forecaster.context, after=0).all(axis=1)]

    channels = len(panel.channels)
    levels = forecaster.calibration.levels if forecaster.calibration else ()
    mean_NC = np.full((last - first, channels), np.nan, np.float32)
    quantiles_NQC = np.full((last - first, len(levels), channels), np.nan, np.float32)
    tracker = IntervalTracker(forecaster, panel)
    for part in chunks(origins, chunk_size(forecaster.context, forecaster.horizon, channels)):
        mean_BHC, quantiles_BHQC, _ = tracker.predict(part)
        rows = part[:, None] + 1 + steps - first
        inside = (rows >= 0) & (rows < last - first)  # the last block may reach beyond the span
        mean_NC[rows[inside]] = mean_BHC[:, steps][inside]
        if quantiles_BHQC is not None and levels:
            quantiles_NQC[rows[inside]] = quantiles_BHQC[:, steps][inside]
    times_us = panel.start[item] + (np.arange(first, last) - begin) * panel.step
    return RollingForecast(
        times_us=times_us,
        actual_NC=panel.values[first:last],
        mean_NC=mean_NC,
        quantiles_NQC=quantiles_NQC,
        levels=levels,
        lead=lead,
    )


def error_by_hour(forecaster: Forecaster, panel: Panel, span: Span, *, stride: int = 1) -> HourlyError:
    """Collect the absolute errors of a model over a span by the hour of the day that the target lies in.

    Args:
        forecaster: A fitted model.
        panel: Exactly the model's channels.
        span: The rows to score.
        stride: Rows between two origins.
    """
    context, horizon, channels = forecaster.context, forecaster.horizon, len(panel.channels)
    origins = window_origins(panel, span, context=context, horizon=horizon, stride=stride)
    origins = origins[complete(panel, origins, before=context, after=0).all(axis=1)]
    error_TC, load_TC = np.zeros((2, 24, channels))
    count_TC = np.zeros((24, channels), np.int64)
    for part in chunks(origins, chunk_size(context, horizon, channels)):
        batch = batch_of(panel, part, context)
        actual_BHC = targets_of(panel, part, horizon)
        mean_BHC = forecaster.predict(batch).mean_BHC
        times_BH = batch.origin_B[:, None] + panel.step * np.arange(1, horizon + 1)
        hour = (times_BH % DAY // HOUR).reshape(-1)
        for c in range(channels):
            actual = actual_BHC[:, :, c].reshape(-1).astype(np.float64)
            known = ~np.isnan(actual)
            error = np.abs(mean_BHC[:, :, c].reshape(-1)[known] - actual[known])
            error_TC[:, c] += np.bincount(hour[known], error, minlength=24)
            load_TC[:, c] += np.bincount(hour[known], np.abs(actual[known]), minlength=24)
            count_TC[:, c] += np.bincount(hour[known], minlength=24)
    seen = np.where(count_TC > 0, count_TC, np.nan)
    return HourlyError(mae_TC=error_TC / seen, load_TC=load_TC / seen, count_TC=count_TC)
