"""Several predictors on the same data: train all, forecast with all, rank them by measured error.

Shapes: R rows, H horizon, 2 for request and response tokens.
"""

import math
import time
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from presurge.models.registry import BASELINES
from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.config import ModelConfig, Share, Whole, checked, logger
from presurge.predictor.frames import Frame, tokens_of
from presurge.predictor.interface import (
    BasePredictor,
    ModelRegistry,
    PredictionResult,
    TrainingResult,
    model_registry,
)
from presurge.predictor.ranking import Ranking, fingerprint, first_validation, rank, step_errors

ORIGINS = 50
"""Number of forecasts that measure the error of a predictor that does not measure it itself."""


class ModelManager:
    """Predictors by the ``model_name`` of their configuration.

    Attributes:
        active_models: All of them, trained or not.
        results: The last training of each.
        baseline_errors: Rolling errors of the naive models on the rows of the last training.
    """

    def __init__(self, registry: ModelRegistry = model_registry) -> None:
        self.registry = registry
        self.active_models: dict[str, BasePredictor] = {}
        self.results: dict[str, TrainingResult] = {}
        self.baseline_errors: dict[str, tuple[float, ...]] = {}
        self._rows = ""

    def add_model(self, config: ModelConfig) -> bool:
        """Make an untrained predictor, named by its type if it has no name, replacing one of the same name.

        Always returns True.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        self.keep(self.registry.make(config))
        return True

    def keep(self, model: BasePredictor) -> None:
        """Add a predictor under its name, replacing one of the same name."""
        self.active_models[model.model_name] = model
        self.results.pop(model.model_name, None)

    def train_all_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train every model on the same rows; the result of a model that fails holds the reason.

        Raises:
            ConfigError: ``validation_split`` is not between 0 and 1.
            DataError: It is not a data frame, or a column is missing.
        """
        part = checked(Share, validation_split, "validation_split")
        self._rows = fingerprint(data, part)
        self.results = {name: self._train(model, data, part) for name, model in self.active_models.items()}
        trained = [self.active_models[name] for name, result in self.results.items() if result.success]
        self.baseline_errors = _baseline_errors([model.config for model in trained], data, part)
        for model in trained:
            model.baseline_errors = self.baseline_errors
        ranking = self.ranking(list(self.active_models), 1)
        if ranking.best is not None and not ranking.beats_baselines:
            logger.warning("%s", ranking.verdict)
        return self.results

    def predict_all(self, data: Frame, steps: int | None = None) -> dict[str, PredictionResult]:
        """Forecast with every trained model; one that fails has no rows, and its reason in ``metadata["error"]``.

        Raises:
            ConfigError: ``steps`` is not a whole number from 1.
        """
        asked = checked(Whole | None, steps, "steps")
        trained = {name: model for name, model in self.active_models.items() if model.is_trained}
        return {name: forecast(model, data, asked) for name, model in trained.items()}

    def compare_models(self, data: Frame, steps: int | None = None) -> dict[str, Any]:
        """Forecast with every trained model and rank them.

        ``best_model`` has the lowest rolling error over the first ``steps`` steps, or over all that every model forecasts.
        Beside the published keys the summary holds the ``rolling_errors`` of the models, the ``baseline_errors``, the
        number of ``steps`` over which both are averaged, the models ``unranked`` with the reason, and a ``verdict`` in words.

        Raises:
            ConfigError: ``steps`` is not a whole number from 1.
        """
        predictions = self.predict_all(data, steps)
        good = {name: result for name, result in predictions.items() if result.error is None}
        known = [result.confidence for result in good.values() if not math.isnan(result.confidence)]
        ranking = self.ranking(list(good), steps)
        return {
            "model_count": len(predictions),
            "predictions": predictions,
            "model_info": {name: self.active_models[name].get_model_info() for name in predictions},
            "performance_summary": {
                "avg_confidence": fmean(known) if known else None,
                "max_confidence": max(known, default=None),
                "min_confidence": min(known, default=None),
                "best_model": ranking.best,
                "rolling_errors": ranking.errors,
                "baseline_errors": ranking.baselines,
                "steps": ranking.steps,
                "unranked": ranking.unranked,
                "verdict": ranking.verdict,
            },
        }

    def ranking(self, names: list[str], steps: int | None = None) -> Ranking:
        """Rank some models, on the rows of the last training if one of them was measured there."""
        return rank({name: self.active_models[name] for name in names}, steps, rows=self._rows)

    def _train(self, model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
        """Train and measure; after a failure the model is ranked as before."""
        before, model.rolling_errors = model.rolling_errors, ()
        result = train(model, data, validation_split)
        if not result.success:
            model.rolling_errors = before
            return result
        model.is_trained = True
        if not model.rolling_errors:
            model.rolling_errors = measured(model, data, validation_split)
        model.measured_on = self._rows
        return result


def train(model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
    """Train a model, which may be the user's own; a failure is a result with its reason."""
    began = time.perf_counter()
    try:
        result = model.train(data, validation_split)
        if not isinstance(result, TrainingResult):
            raise TypeError(f"train returned {type(result).__name__}, not a TrainingResult")
        if not (result.success or result.error_message):
            return replace(result, error_message="train failed and gave no reason")
        return result
    except Exception as error:
        reason = _reason(error, f"{model.model_name} was not trained")
        spent = time.perf_counter() - began
        return TrainingResult(False, spent, math.nan, math.nan, 0, early_stopped=False, error_message=reason)


def forecast(model: BasePredictor, data: Frame, steps: int | None) -> PredictionResult:
    """Forecast with a model, which may be the user's own; a failure is a result without rows and with its reason."""
    began, rows = time.perf_counter(), steps or model.config.prediction_horizon
    try:
        result = model.predict(data, steps)
        if not isinstance(result, PredictionResult):
            raise TypeError(f"predict returned {type(result).__name__}, not a PredictionResult")
        if (reason := result.error) is not None:
            raise ValueError(reason or "predict failed and gave no reason")
        for name in ("timestamps", "request_tokens", "response_tokens"):
            if (given := len(getattr(result, name))) != rows:
                raise ValueError(f"predict gave {given} {name} where {rows} were asked for")
        return replace(result, model_name=model.model_name)
    except Exception as error:
        failure = {"error": _reason(error, f"{model.model_name} gives no forecast")}
        return PredictionResult([], [], [], 0.0, model.model_name, time.perf_counter() - began, failure)


def _reason(error: Exception, what: str) -> str:
    """Log a failure and return what the error says, or its type if it says nothing."""
    reason = str(error) or type(error).__name__
    logger.warning("%s: %s", what, reason)
    logger.debug("where it failed", exc_info=True)
    return reason


def measured(model: BasePredictor, data: Frame, validation_split: float) -> tuple[float, ...]:
    """Rolling errors of a predictor, by its forecasts from evenly spaced rows of the validation part; () if one fails."""
    horizon, rows = model.config.prediction_horizon, len(data)
    first = max(first_validation(rows, validation_split), model.config.sequence_length + 1)
    actual_R2 = tokens_of(data).astype(np.float64)
    error_H2, size_H2 = np.zeros((2, horizon, 2))
    for end in np.unique(np.linspace(first, max(first, rows - horizon), ORIGINS).astype(int)).tolist():
        result = forecast(model, data.head(end), horizon)
        forecast_H2 = np.array([result.request_tokens, result.response_tokens], np.float64).T
        actual_H2 = actual_R2[end : end + horizon]
        if forecast_H2.shape != actual_H2.shape:
            logger.warning("The error of %s could not be measured, so it is not ranked", model.model_name)
            return ()
        error_H2 += np.abs(forecast_H2 - actual_H2)
        size_H2 += np.abs(actual_H2)
    wape_H2 = np.divide(error_H2, size_H2, out=np.full_like(error_H2, np.nan), where=size_H2 > 0)
    return step_errors(wape_H2)


def _baseline_errors(
    configs: list[ModelConfig], data: Frame, validation_split: float
) -> dict[str, tuple[float, ...]]:
    """Naive model -> rolling errors, with the shortest context and to the longest horizon of the models beside them."""
    errors = {}
    for name in BASELINES if configs else ():
        context = min(config.sequence_length for config in configs)
        horizon = max(config.prediction_horizon for config in configs)
        config = ModelConfig(name, name, sequence_length=context, prediction_horizon=horizon)
        baseline = ForecasterPredictor(config)
        if train(baseline, data, validation_split).success and baseline.rolling_errors:
            errors[name] = baseline.rolling_errors
    return errors
