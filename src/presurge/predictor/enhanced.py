"""The request predictor: models by a short name, the next requests as plain dictionaries."""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from presurge.errors import ConfigError, ModelError, PresurgeError
from presurge.predictor.answers import failures, mean, rows_of
from presurge.predictor.calls import is_good
from presurge.predictor.config import (
    ModelConfig,
    ModelDevice,
    config_of,
    logger,
    model_type_of,
    named,
    usable_device,
    whole,
)
from presurge.predictor.frames import Frame, check_rows, last_row, level_of
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.manager import ModelManager
from presurge.predictor.params import PRESETS
from presurge.predictor.registry import model_registry

MIN_ROWS = 10


class EnhancedRequestPredictor:
    """Trains, compares, stores and asks several models.

    A model answers to the name it was added under and to its ``model_name``. Both mean one model: a name that would mean
    two is refused. Where a name is given to a second model, the first answers to its ``model_name`` only.

    Args:
        device: Of models that are added without a configuration; cuda, mps or cpu, the first there is, where None.
        allow_fallback: Take the cpu where a device that was asked for does not exist.

    Attributes:
        model_manager: Holds the models.
        device: What ``device`` came to.
        last_error: What the last ``add_models``, ``save_model``, ``load_model`` or ``switch_device`` failed of, where it did.

    Raises:
        ConfigError: There is no such device.
    """

    def __init__(self, device: ModelDevice | str | None = None, *, allow_fallback: bool = False) -> None:
        self.allow_fallback = allow_fallback
        self.device = usable_device(device, allow_fallback=allow_fallback)
        self.model_manager = ModelManager()
        self.last_error: Exception | None = None
        self._given: dict[str, str] = {}  # model_name -> the name it was added under, the latest last

    @property
    def supported_models(self) -> list[str]:
        """Names that ``add_model`` takes without a configuration."""
        return [str(each) for each in model_registry.get_available_model_types()]

    def add_model(self, name: str, config: ModelConfig | None = None) -> bool:
        """Add an untrained model under a name; with a preset where no configuration is given. Always True.

        Raises:
            ConfigError: There is no such model or device, the model refuses the configuration, or the name means another.
        """
        config = self._completed(name, config)
        self._check_names(name, str(config.model_name))
        self.model_manager.add_model(config)
        self._keep_names(name, str(config.model_name))
        return True

    def add_models(self, names: Iterable[str]) -> dict[str, bool]:
        """Add several; False, with the reason in the log and ``last_error``, for one that cannot be.

        Raises:
            ConfigError: They are no list of names.
        """
        return {name: self._attempt(partial(self.add_model, name)) for name in _listed(names)}

    def train_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train all models on the same rows, the last ``validation_split`` of which only measure.

        Returns:
            One result a ``model_name``; that of a failure says why.

        Raises:
            DataError: It is no data frame, or a column is missing.
            HistoryError: It has fewer than ten rows.
            ConfigError: No model was added, or ``validation_split`` is not between 0 and 1.
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
        rows = {name: each[0] for name, each in self._rows(results).items()}
        good = list(rows)
        return {
            "predictions": {**rows, **self._failures(results)},
            "summary": {
                "historical_data_size": len(historical_data),
                "last_request": last_row(historical_data),
                "models_used": good,
                "next_prediction_summary": {
                    "avg_confidence": mean(row["confidence"] for row in rows.values()),
                    "avg_request_tokens": mean(row["request_tokens"] for row in rows.values()),
                    "avg_response_tokens": mean(row["response_tokens"] for row in rows.values()),
                    "best_model": self.model_manager.ranking(good, 1).best,
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
            ConfigError: ``num_requests`` is no whole number from 1.
        """
        if short := _too_short(historical_data):
            return short
        number = whole(num_requests, "num_requests")
        results = self.model_manager.predict_all(historical_data, number)
        numbered = {
            name: [{"step": k, **row} for k, row in enumerate(rows, 1)]
            for name, rows in self._rows(results).items()
        }
        return {
            "predictions": {**numbered, **self._failures(results)},
            "num_requests": number,
            "historical_data_size": len(historical_data),
        }

    def compare_models(self, historical_data: Frame, steps: int = 1) -> dict[str, Any]:
        """Forecasts of every trained model and their ranking, see ``ModelManager.compare_models``.

        Raises:
            DataError: It is no data frame, or a column is missing.
            ConfigError: ``steps`` is no whole number from 1.
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

        def save() -> bool:
            done = self._model(name).save_model(os.fspath(path))
            return _succeeded(done, "save_model", name)

        return self._attempt(save)

    def load_model(self, name: str, path: str, config: ModelConfig | None = None) -> bool:
        """Read a model and add it under a name. False where ``last_error`` says why; what was there before then stays.

        What is stored overrides the configuration, except for type, name and device. Without one, they are those of the
        model that has the name already, else those of ``add_model``.
        """

        def load() -> bool:
            known = self._find(name) if config is None else None
            given = self._given.get(known.model_name, name) if known else name
            complete = self._completed(given, known.config if known else config)
            self._check_names(given, str(complete.model_name))
            model = self.model_manager.registry.make(complete)
            _succeeded(model.load_model(os.fspath(path)), "load_model", name)
            model.is_trained = True
            self.model_manager.keep(model)
            self._keep_names(given, model.model_name)
            return True

        return self._attempt(load)

    def switch_device(self, device: ModelDevice | str) -> bool:
        """Train on another device from now on. False, and nothing changed, where ``last_error`` says why."""

        def switch() -> bool:
            found = usable_device(device, allow_fallback=self.allow_fallback)
            before = [(model, model.device) for model in self.model_manager.active_models.values()]
            try:
                for model, _ in before:
                    model.to_device(found)
            except Exception:
                for model, old in before:
                    try:
                        model.to_device(old)
                    except (
                        Exception
                    ) as error:  # the one that failed may fail again, and the others still go back
                        logger.warning("%s could not go back to %s: %s", model.model_name, old, error)
                raise
            self.device = found
            return True

        return self._attempt(switch)

    def _completed(self, name: str, config: ModelConfig | None) -> ModelConfig:
        """A configuration with type, name and a device that exists."""
        if config is None:
            preset = PRESETS.get(str(model_type_of(named(name, "name"))), {})
            return ModelConfig(model_type=name, model_name=f"{name}_default", device=self.device, **preset)
        return replace(
            config_of(config),
            model_type=config.model_type or named(name, "name"),
            model_name=config.model_name or named(name, "name"),
            device=usable_device(config.device, allow_fallback=self.allow_fallback),
        )

    def _check_names(self, name: str, model_name: str) -> None:
        """Refuse to add a model under a name, or with a ``model_name``, that another model answers to."""
        names = {given for given in self._given.values() if given != name}
        active = self.model_manager.active_models
        if model_name in names or self._given.get(model_name, name) != name:
            taken = model_name
        elif name in active and name != model_name:
            taken = name
        else:
            return
        raise ConfigError(
            f"the name {taken!r} belongs to another model",
            where=f"model {name!r}, model_name {model_name!r}",
            hint=f"Choose others than: {', '.join(sorted({*names, *active}))}.",
        )

    def _keep_names(self, name: str, model_name: str) -> None:
        self._given.pop(model_name, None)
        self._given[model_name] = name

    def _find(self, name: str) -> BasePredictor | None:
        latest = (own for own, given in reversed(self._given.items()) if given == name)
        return self.model_manager.active_models.get(next(latest, name))

    def _model(self, name: str) -> BasePredictor:
        found = self._find(name)
        if found is None:
            known = ", ".join(sorted({*self._given.values(), *self.get_active_models()})) or "none yet"
            raise ConfigError(f"there is no model {name!r}", hint=f"There are: {known}.")
        return found

    def _rows(self, results: dict[str, PredictionResult]) -> dict[str, list[dict[str, Any]]]:
        """Model -> rows, of those that gave a forecast."""
        methods = {name: str(model.model_type) for name, model in self.model_manager.active_models.items()}
        return {name: rows_of(result, methods[name]) for name, result in results.items() if is_good(result)}

    def _failures(self, results: dict[str, PredictionResult]) -> dict[str, dict[str, str]]:
        manager = self.model_manager
        return failures(manager.active_models, results, manager.results)

    def _attempt(self, action: Callable[[], bool]) -> bool:
        """Whether something succeeded; a model of the user may fail of anything."""
        try:
            done = action()
        except Exception as error:
            logger.warning("%s", error, exc_info=not isinstance(error, PresurgeError))
            self.last_error = error
            return False
        self.last_error = None
        return done


def create_enhanced_predictor(
    models: Iterable[str] = ("lstm", "dlinear"),
    device: ModelDevice | str | None = None,
    *,
    allow_fallback: bool = False,
) -> EnhancedRequestPredictor:
    """A predictor with the named models in their presets.

    Raises:
        ConfigError: There is no such model or device, or ``models`` is no list of names.
    """
    predictor = EnhancedRequestPredictor(device, allow_fallback=allow_fallback)
    for name in _listed(models):
        predictor.add_model(name)
    return predictor


def _too_short(data: Frame) -> dict[str, Any] | None:
    level_of(data)
    if len(data) >= MIN_ROWS:
        return None
    reason = f"the history has {len(data)} rows, and at least {MIN_ROWS} are needed"
    return {"error": reason, "min_required": MIN_ROWS, "actual": len(data)}


def _listed(names: Iterable[str]) -> list[str]:
    """The names of some models; one alone may be given as it is."""
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        raise ConfigError(f"must be a list of names, not {names!r}", where="models")
    return list(names)


def _succeeded(done: Any, what: str, name: str) -> bool:
    """True for what a method of a predictor, which may be the user's own, returns after success."""
    if not done:
        raise ModelError(f"{what} of the model {name!r} returned {done!r} and gave no reason")
    return True
