"""Calibrating the intervals of a fitted model on rows that it was not fitted to."""

from collections.abc import Sequence

import numpy as np

from presurge.errors import DataError
from presurge.models.calibration import Calibration
from presurge.models.forecaster import Forecaster
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import (
    CHUNK,
    IntArray,
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
_VALUES_AT_ONCE = 1 << 22


def calibrate(
    forecaster: Forecaster,
    panel: Panel,
    span: Span,
    *,
    earlier: Sequence[tuple[Forecaster, Span]] = (),
) -> Calibration:
    """Measure the residuals of a fitted model over the windows of a span; the model is not changed.

    Of more than ``MAX_WINDOWS`` windows an evenly spaced part is taken. Windows with a missing value in the context
    are left out, as are missing targets.

    Args:
        forecaster: A model that has not seen the span.
        panel: Exactly the model's channels.
        span: The last rows that the model will ever learn from; what comes later is followed.
        earlier: The same kind of model fitted to earlier rows, with spans that they have not seen, whose residuals are
            pooled with the others; the last span alone may have been a quiet one.

    Raises:
        DataError: The span holds no window with a complete context.
    """
    pairs = [
        _forecasts(forecaster, panel, span),
        *(_forecasts(model, panel, part) for model, part in earlier),
    ]
    if len(pairs[0][0]) == 0:
        raise DataError(
            f"none of the {len(span):,} validation rows can calibrate the intervals of {forecaster.name}: it needs "
            f"{forecaster.context} rows of history without a gap and {forecaster.horizon} rows to compare with",
            hint="Give more validation rows, or a shorter context or horizon.",
        )
    actual_BHC, centre = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    last_us = panel.start + (span.last - panel.indptr[:-1] - 1) * panel.step
    until = dict(zip(panel.items, map(int, last_us), strict=True))
    return Calibration.measure(actual_BHC, centre, panel.count_mask, until=until)


def _forecasts(forecaster: Forecaster, panel: Panel, span: Span) -> tuple[FloatArray, FloatArray]:
    """Targets [B, H, C] of the windows of a span, and their forecasts: learned quantiles, or else points."""
    context, horizon, channels = forecaster.context, forecaster.horizon, len(panel.channels)
    origins = window_origins(panel, span, context=context, horizon=horizon)
    origins = origins[complete(panel, origins, before=context, after=0).all(axis=1)]
    most = min(MAX_WINDOWS, max(_MIN_WINDOWS, _MAX_RESIDUALS // (horizon * channels)))
    origins = _evenly_spaced(origins, most)
    parts = []
    for part in chunks(origins, chunk_size(context, horizon, channels)):
        mean_BHC, quantiles_BHQC = forecaster.predict(batch_of(panel, part, context))
        parts.append(mean_BHC if quantiles_BHQC is None else quantiles_BHQC)
    centre = np.concatenate(parts) if parts else np.zeros((0, horizon, channels), np.float32)
    return targets_of(panel, origins, horizon), centre


def chunk_size(context: int, horizon: int, channels: int, levels: int = 7) -> int:
    """How many windows to hold at once, so that neither contexts nor quantiles outgrow a few tens of MiB."""
    per_window = channels * max(context, horizon * levels)
    return max(1, min(CHUNK, _VALUES_AT_ONCE // per_window))


def _evenly_spaced(origins: IntArray, most: int) -> IntArray:
    if len(origins) <= most:
        return origins
    picked: IntArray = origins[np.linspace(0, len(origins) - 1, most).round().astype(np.int64)]
    return picked
