"""Answers of the request predictor as plain dictionaries that JSON can hold."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from presurge.predictor.calls import is_good
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult


def rows_of(result: PredictionResult, method: str) -> list[dict[str, Any]]:
    """A forecast, one dictionary a row; ``confidence`` is None where no error was measured."""
    columns = zip(result.timestamps, result.request_tokens, result.response_tokens, strict=True)
    confidence = None if math.isnan(result.confidence) else result.confidence
    return [
        {
            "timestamp": stamp,
            "request_tokens": request,
            "response_tokens": response,
            "confidence": confidence,
            "method": method,
        }
        for stamp, request, response in columns
    ]


def failures(
    models: Mapping[str, BasePredictor],
    results: Mapping[str, PredictionResult],
    trainings: Mapping[str, TrainingResult],
) -> dict[str, dict[str, str]]:
    """The reason for every model that gave no forecast."""
    reasons = {name: result.metadata["error"] for name, result in results.items() if not is_good(result)}
    for name in models:
        if name not in results:
            training = trainings.get(name)
            reasons[name] = (training and training.error_message) or "it was not trained yet"
    return {name: {"error": reason} for name, reason in reasons.items()}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
