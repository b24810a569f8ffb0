"""Calibrating the intervals of a fitted model on rows that it was not fitted to."""

import numpy as np

from presurge.errors import DataError
from presurge.models.calibration import Calibration
from presurge.models.forecaster import Forecaster, Prediction
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import (
    CHUNK,
    IntArray,
    WindowBatch,
    batch_of,
    chunks,
    complete,
    targets_of,
    window_origins,
)

MAX_WINDOWS = 20_000
"""More residuals than these move no quantile that anybody reads, and cost memory."""
_MAX_RESIDUALS = 1 << 23
_MIN_WINDOWS = 1_000
_VALUES_AT_ONCE = 1 << 21


def calibrate(forecaster: Forecaster, panel: Panel, span: Span) -> Calibration:
    """Measure the residuals of a fitted model over the windows of a span; the model is not changed.

    Of more than ``MAX_WINDOWS`` windows an evenly spaced part is taken. Windows with a missing value in the context
    are left out, as are missing targets.

    Raises:
        DataError: The span holds no window with a complete context.
    """
    origins = window_origins(panel, span, context=forecaster.context, horizon=forecaster.horizon)
    origins = origins[complete(panel, origins, before=forecaster.context, after=0).all(axis=1)]
    if len(origins) == 0:
        raise DataError(
            f"none of the {len(span):,} validation rows can calibrate the intervals of {forecaster.name}: it needs "
            f"{forecaster.context} rows of history without a gap and {forecaster.horizon} rows to compare with",
            hint="Give more validation rows, or a shorter context or horizon.",
        )
    per_window = forecaster.horizon * len(panel.channels)
    origins = _evenly_spaced(origins, min(MAX_WINDOWS, max(_MIN_WINDOWS, _MAX_RESIDUALS // per_window)))
    size = chunk_size(forecaster.context, forecaster.horizon, len(panel.channels))
    parts = [
        forecaster.predict(batch_of(panel, part, forecaster.context)).mean_BHC
        for part in chunks(origins, size)
    ]
    actual_BHC = targets_of(panel, origins, forecaster.horizon)
    return Calibration.measure(actual_BHC, np.concatenate(parts), panel.count_mask)


def predict_with_intervals(forecaster: Forecaster, batch: WindowBatch) -> Prediction:
    """The model's prediction, with calibrated quantiles where it learned none and was calibrated."""
    prediction = forecaster.predict(batch)
    if prediction.quantiles_BHQC is None and forecaster.calibration is not None:
        return Prediction(prediction.mean_BHC, forecaster.calibration.quantiles(prediction.mean_BHC))
    return prediction


def chunk_size(context: int, horizon: int, channels: int, levels: int = 7) -> int:
    """How many windows to hold at once, so that neither contexts nor quantiles outgrow a few tens of MiB."""
    per_window = channels * max(context, horizon * levels)
    return max(1, min(CHUNK, _VALUES_AT_ONCE // per_window))


def _evenly_spaced(origins: IntArray, most: int) -> IntArray:
    if len(origins) <= most:
        return origins
    picked: IntArray = origins[np.linspace(0, len(origins) - 1, most).round().astype(np.int64)]
    return picked
