"""Calls of predictors, which may be the user's own: whatever one raises or returns becomes a result that can be used."""

import math
import time
from dataclasses import replace
from typing import Any

from presurge.predictor.config import logger, plain
from presurge.predictor.frames import Frame
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult


def train(model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
    """Train; a failure is a result with its reason."""
    began = time.perf_counter()
    try:
        result = model.train(data, validation_split)
        if not isinstance(result, TrainingResult):
            raise TypeError(f"train returned {type(result).__name__}, not a TrainingResult")
    except Exception as error:
        logger.warning("%s was not trained: %s", model.model_name, reason(error))
        logger.debug("where it failed", exc_info=True)
        return TrainingResult(
            success=False,
            training_time=time.perf_counter() - began,
            final_loss=math.nan,
            best_loss=math.nan,
            epochs_trained=0,
            early_stopped=False,
            error_message=reason(error),
        )
    if not (result.success or result.error_message):
        return replace(result, error_message="train failed and gave no reason")
    return result


def forecast(model: BasePredictor, data: Frame, steps: int | None) -> PredictionResult:
    """Forecast; a failure, also an answer that is none, is a result without rows and with its reason."""
    began = time.perf_counter()
    try:
        result = model.predict(data, steps)
        return _checked(result, steps or model.config.prediction_horizon, model.model_name)
    except Exception as error:
        logger.warning("%s gives no forecast: %s", model.model_name, reason(error))
        logger.debug("where it failed", exc_info=True)
        return PredictionResult(
            timestamps=[],
            request_tokens=[],
            response_tokens=[],
            confidence=0.0,
            model_name=model.model_name,
            prediction_time=time.perf_counter() - began,
            metadata={"error": reason(error)},
        )


def reason(error: Exception) -> str:
    """What an error says; its type where it says nothing."""
    return str(error) or type(error).__name__


def is_good(result: PredictionResult) -> bool:
    """Whether it is a forecast."""
    return "error" not in result.metadata


def _checked(result: Any, rows: int, name: str) -> PredictionResult:
    """The answer of ``predict`` under the name of its model, as plain lists of so many rows.

    Raises:
        TypeError: It is no answer.
        ValueError: Its rows, tokens or confidence cannot be.
    """
    if not isinstance(result, PredictionResult):
        raise TypeError(f"predict returned {type(result).__name__}, not a PredictionResult")
    if not isinstance(result.metadata, dict):
        raise TypeError(f"predict gave {result.metadata!r} as metadata, not a dictionary")
    if not is_good(result):
        raise ValueError(str(result.metadata["error"]) or "predict failed and gave no reason")
    lists = {key: list(getattr(result, key)) for key in ("timestamps", "request_tokens", "response_tokens")}
    for key, values in lists.items():
        if len(values) != rows:
            raise ValueError(f"predict gave {len(values)} {key} where {rows} were asked")
    confidence = plain(result.confidence)
    if not _is_number(confidence) or confidence < 0 or confidence > 1:
        raise ValueError(f"predict gave {confidence!r} as confidence, not a number from 0 to 1")
    return replace(
        result,
        timestamps=plain(lists["timestamps"]),
        request_tokens=_tokens(lists["request_tokens"]),
        response_tokens=_tokens(lists["response_tokens"]),
        confidence=confidence,
        model_name=name,
    )


def _tokens(values: list[Any]) -> list[float]:
    numbers = plain(values)
    for number in numbers:
        if not (_is_number(number) and math.isfinite(number)):
            raise ValueError(f"predict gave {number!r} as a number of tokens")
    return [float(number) for number in numbers]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
