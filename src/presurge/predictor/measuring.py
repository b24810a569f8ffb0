"""Rolling errors on the validation rows, and what those rows are.

Shapes: R rows, H horizon, 2 for request and response tokens.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from presurge.predictor import calls
from presurge.predictor.config import logger
from presurge.predictor.frames import Frame, tokens_of
from presurge.predictor.interface import BasePredictor

ORIGINS = 50
"""Forecasts that measure the error of a predictor that does not measure it itself."""


def fingerprint(data: Frame, validation_split: float) -> str:
    """What tells whether errors were measured on the same rows: a checksum of the tokens of the last rows."""
    tokens_R2 = tokens_of(data)
    return hashlib.sha256(tokens_R2[_first(len(tokens_R2), validation_split) :].tobytes()).hexdigest()


def step_errors(wape_H2: npt.NDArray[np.floating]) -> tuple[float, ...]:
    """The mean of both WAPE for each step, of the one that is known where the other is not; () where neither is.

    A WAPE is undefined where all values are zero, as those of a column of failures are.
    """
    known = np.isfinite(wape_H2).all(axis=0)
    return tuple(wape_H2[:, known].mean(axis=1).tolist()) if known.any() else ()


def measured(model: BasePredictor, data: Frame, validation_split: float) -> tuple[float, ...]:
    """Rolling errors of a predictor, by its forecasts from evenly spaced rows of the validation part; () if one fails."""
    horizon, rows = model.config.prediction_horizon, len(data)
    first = max(_first(rows, validation_split), model.config.sequence_length + 1)
    actual_R2 = tokens_of(data).astype(np.float64)
    error_H2, size_H2 = np.zeros((2, horizon, 2))
    for end in np.unique(np.linspace(first, max(first, rows - horizon), ORIGINS).astype(int)).tolist():
        result = calls.forecast(model, data.head(end), horizon)
        forecast_H2 = np.array([result.request_tokens, result.response_tokens], np.float64).T
        actual_H2 = actual_R2[end : end + horizon]
        if forecast_H2.shape != actual_H2.shape:
            logger.warning("The error of %s could not be measured, so it is not ranked", model.model_name)
            return ()
        error_H2 += np.abs(forecast_H2 - actual_H2)
        size_H2 += np.abs(actual_H2)
    wape_H2 = np.divide(error_H2, size_H2, out=np.full_like(error_H2, np.nan), where=size_H2 > 0)
    return step_errors(wape_H2)


def _first(rows: int, validation_split: float) -> int:
    """The first validation row."""
    return rows - int(rows * validation_split)
