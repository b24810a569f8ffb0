"""The request predictor: models by a short name, the next requests as plain dictionaries."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any

from presurge.errors import ConfigError, PresurgeError
from presurge.predictor.frames import Frame, check_rows, last_row, level_of
from presurge.predictor.interface import (
    BasePredictor,
    ModelConfig,
    ModelDevice,
    PredictionResult,
    TrainingResult,
    logger,
    usable_device,
)
from presurge.predictor.manager import ModelManager
from presurge.predictor.params import PRESETS
from presurge.predictor.registry import model_registry

MIN_ROWS = 10


class EnhancedRequestPredictor:
    """Trains, compares, stores and asks several models.

    A model answers to the name it was added under and to its ``model_name``.

    Args:
        device: Of models that are added without a configuration; cuda, mps or cpu, the first there is, where None.
        allow_fallback: Take the cpu where a device that was asked for does not exist.

    Attributes:
        model_manager: Holds the models.
        device: What ``device`` came to.
        last_error: What the last ``save_model``, ``load_model`` or ``switch_device`` that returned False failed of.

    Raises:
        ConfigError: There is no such device.
    """

    def __init__(self, device: ModelDevice | str | None = None, *, allow_fallback: bool = False) -> None:
        self.allow_fallback = allow_fallback
        self.device = usable_device(device, allow_fallback=allow_fallback)
        self.model_manager = ModelManager()
        self.last_error: Exception | None = None
        self._model_names: dict[str, str] = {}

    @property
    def supported_models(self) -> list[str]:
        """Names that ``add_model`` takes without a configuration."""
        return [str(each) for each in model_registry.get_available_model_types()]

    def add_model(self, name: str, config: ModelConfig | None = None) -> bool:
        """Add an untrained model under a name; with a preset where no configuration is given. Always True.

        Raises:
            ConfigError: There is no such model or device, or the model refuses the configuration.
        """
        config = self._completed(name, config)
        self.model_manager.add_model(config)
        self._model_names[name] = str(config.model_name)
        return True

    def add_models(self, names: Iterable[str]) -> dict[str, bool]:
        """Add several; False, with the reason in the log and ``last_error``, for one that cannot be."""
        return {name: self._attempt(partial(self.add_model, name)) for name in names}

    def train_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train all models on the same rows, the last ``validation_split`` of which only measure.

        Returns:
            One result a ``model_name``; that of a failure says why.

        Raises:
            DataError: It is no data frame, or a column is missing.
            HistoryError: It has fewer than ten rows.
            ConfigError: No model was added.
        """
        check_rows(data, MIN_ROWS)
        if not self.model_manager.active_models:
            raise ConfigError("there is no model to train", hint="Add one first: add_model('dlinear').")
        return self.model_manager.train_all_models(data, validation_split)

    def predict_next_request(self, historical_data: Frame) -> dict[str, Any]:
        """The next request (or minute) by every model.

        Returns:
            ``predictions`` (model -> ``timestamp``, ``request_tokens``, ``response_tokens``, ``confidence``, ``method``, or
            ``error``), ``summary`` and ``model_info``; ``error``, ``min_required``, ``actual`` for less than ten rows.

        Raises:
            DataError: It is no data frame, or a column is missing.
        """
        if short := _too_short(historical_data):
            return short
        results = self.model_manager.predict_all(historical_data, 1)
        rows = {name: self._rows(result)[0] for name, result in results.items() if _is_good(result)}
        good = list(rows)
        return {
            "predictions": {**rows, **self._failures(results)},
            "summary": {
                "historical_data_size": len(historical_data),
                "last_request": last_row(historical_data),
                "models_used": good,
                "next_prediction_summary": {
                    "avg_confidence": _mean(row["confidence"] for row in rows.values()),
                    "avg_request_tokens": _mean(row["request_tokens"] for row in rows.values()),
                    "avg_response_tokens": _mean(row["response_tokens"] for row in rows.values()),
                    "best_model": next(iter(self.model_manager.ranking(good, 1)), None),
                },
            },
            "model_info": {name: m.get_model_info() for name, m in self.model_manager.active_models.items()},
        }

    def predict_multiple_requests(self, historical_data: Frame, num_requests: int = 5) -> dict[str, Any]:
        """The next ``num_requests`` requests (or minutes) by every model.

        Returns:
            ``predictions`` (model -> a list of what ``predict_next_request`` gives, each with its ``step`` from 1, or
            ``error``), ``num_requests``, ``historical_data_size``.

        Raises:
            DataError: It is no data frame, or a column is missing.
        """
        if short := _too_short(historical_data):
            return short
        results = self.model_manager.predict_all(historical_data, num_requests)
        rows = {name: self._rows(result) for name, result in results.items() if _is_good(result)}
        numbered = {
            name: [{"step": k, **row} for k, row in enumerate(each, 1)] for name, each in rows.items()
        }
        return {
            "predictions": {**numbered, **self._failures(results)},
            "num_requests": num_requests,
            "historical_data_size": len(historical_data),
        }

    def compare_models(self, historical_data: Frame, steps: int = 1) -> dict[str, Any]:
        """Forecasts of every trained model and their ranking, see ``ModelManager.compare_models``.

        Raises:
            DataError: It is no data frame, or a column is missing.
        """
        return _too_short(historical_data) or self.model_manager.compare_models(historical_data, steps)

    def get_available_models(self) -> list[str]:
        """Names that ``add_model`` takes without a configuration."""
        return self.supported_models

    def get_active_models(self) -> list[str]:
        """The ``model_name`` of every model that was added."""
        return list(self.model_manager.active_models)

    def get_model_info(self, name: str) -> dict[str, Any]:
        """What one model is, see ``BasePredictor.get_model_info``.

        Raises:
            ConfigError: There is no model of that name.
        """
        return self._model(name).get_model_info()

    def save_model(self, name: str, path: str) -> bool:
        """Write a trained model: a ``.pt`` or ``.pth`` file, or a model directory. False where ``last_error`` says why."""
        return self._attempt(lambda: self._model(name).save_model(str(path)))

    def load_model(self, name: str, path: str, config: ModelConfig | None = None) -> bool:
        """Read a model and add it under a name. False where ``last_error`` says why; what was there before then stays.

        What is stored overrides the configuration, except for type, name and device.
        """

        def load() -> bool:
            complete = self._completed(name, config)
            model = self.model_manager.registry.class_of(complete.model_type or name)(complete)
            if not model.load_model(str(path)):
                return False
            model.is_trained = True
            self.model_manager.active_models[model.model_name] = model
            self._model_names[name] = model.model_name
            return True

        return self._attempt(load)

    def switch_device(self, device: ModelDevice | str) -> bool:
        """Train on another device from now on. False, and nothing changed, where ``last_error`` says why."""

        def switch() -> bool:
            found = usable_device(device, allow_fallback=self.allow_fallback)
            for model in self.model_manager.active_models.values():
                model.to_device(found)
            self.device = found
            return True

        return self._attempt(switch)

    def _completed(self, name: str, config: ModelConfig | None) -> ModelConfig:
        """A configuration with type, name and a device that exists."""
        if config is None:
            preset = PRESETS.get(name, {})
            return ModelConfig(model_type=name, model_name=f"{name}_default", device=self.device, **preset)
        return replace(
            config,
            model_type=config.model_type or name,
            model_name=config.model_name or name,
            device=usable_device(config.device, allow_fallback=self.allow_fallback),
        )

    def _model(self, name: str) -> BasePredictor:
        models = self.model_manager.active_models
        found = models.get(self._model_names.get(name, name))
        if found is None:
            known = ", ".join(sorted({*self._model_names, *models})) or "none yet"
            raise ConfigError(f"there is no model {name!r}", hint=f"There are: {known}.")
        return found

    def _rows(self, result: PredictionResult) -> list[dict[str, Any]]:
        method = str(self.model_manager.active_models[result.model_name].model_type)
        columns = zip(result.timestamps, result.request_tokens, result.response_tokens, strict=True)
        return [
            {
                "timestamp": stamp,
                "request_tokens": request,
                "response_tokens": response,
                "confidence": result.confidence,
                "method": method,
            }
            for stamp, request, response in columns
        ]

    def _failures(self, results: dict[str, PredictionResult]) -> dict[str, dict[str, str]]:
        """The reason for every model that gave no forecast."""
        reasons = {name: r.metadata["error"] for name, r in results.items() if not _is_good(r)}
        for name in self.model_manager.active_models:
            if name not in results:
                training = self.model_manager.results.get(name)
                reasons[name] = (training and training.error_message) or "it was not trained yet"
        return {name: {"error": reason} for name, reason in reasons.items()}

    def _attempt(self, action: Callable[[], bool]) -> bool:
        """Whether something succeeded; a model of the user may fail of anything."""
        try:
            done = action()
        except Exception as error:
            logger.warning("%s", error, exc_info=not isinstance(error, PresurgeError))
            self.last_error = error
            return False
        self.last_error = None
        return bool(done)


def create_enhanced_predictor(
    models: Iterable[str] = ("lstm", "dlinear"),
    device: ModelDevice | str | None = None,
    *,
    allow_fallback: bool = False,
) -> EnhancedRequestPredictor:
    """A predictor with the named models in their presets.

    Raises:
        ConfigError: There is no such model or device.
    """
    predictor = EnhancedRequestPredictor(device, allow_fallback=allow_fallback)
    for name in models:
        predictor.add_model(name)
    return predictor


def _too_short(data: Frame) -> dict[str, Any] | None:
    level_of(data)
    if len(data) >= MIN_ROWS:
        return None
    reason = f"the history has {len(data)} rows, and at least {MIN_ROWS} are needed"
    return {"error": reason, "min_required": MIN_ROWS, "actual": len(data)}


def _is_good(result: PredictionResult) -> bool:
    return "error" not in result.metadata


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else None
