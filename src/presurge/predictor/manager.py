"""Several predictors on the same data: train all, forecast with all, rank them by measured error."""

import math
import time
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from presurge.models.registry import BASELINES
from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.frames import Frame, tokens_of
from presurge.predictor.interface import (
    BasePredictor,
    ModelConfig,
    ModelType,
    PredictionResult,
    TrainingResult,
    logger,
)
from presurge.predictor.registry import ModelRegistry, model_registry

_ORIGINS = 50
"""Forecasts that measure the error of a predictor that does not measure it itself."""


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

    def add_model(self, config: ModelConfig) -> bool:
        """Make an untrained predictor; one of the same name is replaced. Always True.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        model = self.registry.class_of(config.model_type or ModelType.CUSTOM)(config)
        self.active_models[model.model_name] = model
        self.results.pop(model.model_name, None)
        return True

    def train_all_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train every model on the same rows; a failure is in its result, with the reason."""
        self.results = {
            name: _train(model, data, validation_split) for name, model in self.active_models.items()
        }
        self.baseline_errors = self._baselines(data, validation_split)
        errors, baselines = self.ranking(list(self.active_models), 1), self._baseline_ranking(1)
        if errors and not _beats(errors, baselines):
            logger.warning("%s", _verdict(errors, baselines))
        return self.results

    def predict_all(self, data: Frame, steps: int | None = None) -> dict[str, PredictionResult]:
        """Forecast with every trained model; a failure has no forecast and its reason in ``metadata["error"]``."""
        trained = {name: model for name, model in self.active_models.items() if model.is_trained}
        return {name: _predict(model, data, steps) for name, model in trained.items()}

    def compare_models(self, data: Frame, steps: int | None = None) -> dict[str, Any]:
        """Forecast with every trained model and rank them.

        ``best_model`` has the lowest rolling error over the first ``steps`` steps. Beside the published keys the summary
        holds the ``rolling_errors`` of models, the ``baseline_errors`` and a ``verdict`` in words.
        """
        predictions = self.predict_all(data, steps)
        good = [name for name, result in predictions.items() if "error" not in result.metadata]
        known = [predictions[name].confidence for name in good]
        known = [confidence for confidence in known if not math.isnan(confidence)]
        errors, baselines = self.ranking(good, steps), self._baseline_ranking(steps)
        return {
            "model_count": len(predictions),
            "predictions": predictions,
            "model_info": {name: self.active_models[name].get_model_info() for name in predictions},
            "performance_summary": {
                "avg_confidence": fmean(known) if known else None,
                "max_confidence": max(known, default=None),
                "min_confidence": min(known, default=None),
                "best_model": next(iter(errors), None),
                "rolling_errors": errors,
                "baseline_errors": baselines,
                "verdict": _verdict(errors, baselines),
            },
        }

    def ranking(self, names: list[str], steps: int | None = None) -> dict[str, float]:
        """Model -> rolling error over the first ``steps`` steps, the best first; those that were never measured left out."""
        errors = {name: self.active_models[name].rolling_error(steps) for name in names}
        measured = [(name, error) for name, error in errors.items() if not math.isnan(error)]
        return dict(sorted(measured, key=lambda pair: pair[1]))

    def _baseline_ranking(self, steps: int | None) -> dict[str, float]:
        errors = {name: fmean(error_H[:steps]) for name, error_H in self.baseline_errors.items()}
        return dict(sorted(errors.items(), key=lambda pair: pair[1]))

    def _baselines(self, data: Frame, validation_split: float) -> dict[str, tuple[float, ...]]:
        """The naive models of the shortest context and horizon in use, on the same validation rows."""
        configs = [self.active_models[name].config for name, result in self.results.items() if result.success]
        if not configs:
            return {}
        errors = {}
        for name in BASELINES:
            config = ModelConfig(
                model_type=name,
                model_name=name,
                sequence_length=min(config.sequence_length for config in configs),
                prediction_horizon=min(config.prediction_horizon for config in configs),
            )
            baseline = ForecasterPredictor(config)
            if _train(baseline, data, validation_split).success and baseline.rolling_errors:
                errors[name] = baseline.rolling_errors
        return errors


def _train(model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
    """Train; what a model of the user raises or returns instead of a result is a failure like any other."""
    began, before = time.perf_counter(), model.rolling_errors
    model.rolling_errors = ()
    try:
        result = model.train(data, validation_split)
        if not isinstance(result, TrainingResult):
            raise TypeError(f"train returned {type(result).__name__}, not a TrainingResult")
        model.is_trained = model.is_trained or result.success
        if result.success and not model.rolling_errors:
            model.rolling_errors = _measured(model, data, validation_split)
        return result
    except Exception as error:
        model.rolling_errors = before
        logger.warning("%s was not trained: %s", model.model_name, error)
        logger.debug("where it failed", exc_info=True)
        return TrainingResult(
            success=False,
            training_time=time.perf_counter() - began,
            final_loss=math.nan,
            best_loss=math.nan,
            epochs_trained=0,
            early_stopped=False,
            error_message=str(error),
        )


def _predict(model: BasePredictor, data: Frame, steps: int | None) -> PredictionResult:
    began = time.perf_counter()
    try:
        result = model.predict(data, steps)
        if not isinstance(result, PredictionResult):
            raise TypeError(f"predict returned {type(result).__name__}, not a PredictionResult")
        return replace(result, model_name=model.model_name)
    except Exception as error:
        logger.warning("%s gives no forecast: %s", model.model_name, error)
        logger.debug("where it failed", exc_info=True)
        return PredictionResult(
            timestamps=[],
            request_tokens=[],
            response_tokens=[],
            confidence=0.0,
            model_name=model.model_name,
            prediction_time=time.perf_counter() - began,
            metadata={"error": str(error)},
        )


def _measured(model: BasePredictor, data: Frame, validation_split: float) -> tuple[float, ...]:
    """Rolling errors of a predictor, by its forecasts from evenly spaced rows of the validation part; () if one fails."""
    horizon, rows = model.config.prediction_horizon, len(data)
    first = max(rows - int(rows * validation_split), model.config.sequence_length + 1)
    actual_R2 = tokens_of(data).astype(np.float64)
    error_H2, size_H2 = np.zeros((2, horizon, 2))
    for end in np.unique(np.linspace(first, max(first, rows - horizon), _ORIGINS).astype(int)).tolist():
        result = _predict(model, data.head(end), horizon)
        forecast_H2 = np.array([result.request_tokens, result.response_tokens], np.float64).T
        actual_H2 = actual_R2[end : end + horizon]
        if forecast_H2.shape != actual_H2.shape:
            logger.warning("The error of %s could not be measured, so it is not ranked", model.model_name)
            return ()
        error_H2 += np.abs(forecast_H2 - actual_H2)
        size_H2 += np.abs(actual_H2)
    return tuple(map(float, (error_H2 / size_H2).mean(axis=1))) if size_H2.all() else ()


def _beats(errors: dict[str, float], baselines: dict[str, float]) -> bool:
    """Whether the best model is better than every baseline; both with the best first."""
    return next(iter(errors.values())) < min(baselines.values(), default=math.inf)


def _verdict(errors: dict[str, float], baselines: dict[str, float]) -> str:
    if not errors or not baselines:
        return "no model or no baseline was measured"
    (model, error), (baseline, least) = next(iter(errors.items())), next(iter(baselines.items()))
    place = "below" if _beats(errors, baselines) else "not below"
    return f"{model} has a rolling error of {error:.1%}, {place} the {least:.1%} of {baseline}"
