"""The request predictor: models by a short name, the next requests as plain dictionaries."""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from statistics import fmean
from typing import Any, Concatenate, ParamSpec

from presurge.errors import ConfigError, ModelError, PresurgeError
from presurge.predictor import config as cfg
from presurge.predictor.frames import Frame, check_rows, last_row, level_of
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult, model_registry
from presurge.predictor.manager import ModelManager

MIN_ROWS = 10
P = ParamSpec("P")


def attempt(
    method: Callable[Concatenate["EnhancedRequestPredictor", P], Any],
) -> Callable[Concatenate["EnhancedRequestPredictor", P], bool]:
    """Make a method return whether it succeeded; the log and ``last_error`` say why not. Models of users may raise anything."""

    @wraps(method)
    def tried(self: "EnhancedRequestPredictor", *args: P.args, **named: P.kwargs) -> bool:
        try:
            method(self, *args, **named)
        except Exception as error:
            cfg.logger.warning("%s", error, exc_info=not isinstance(error, PresurgeError))
            self.last_error = error
            return False
        self.last_error = None
        return True

    return tried  # type: ignore[return-value]


class EnhancedRequestPredictor:
    """Trains, compares, stores and queries several models.

    A model answers to the name it was added under and to its ``model_name``. Both mean one model: a name that would mean
    two is refused. If a name is given to a second model, the first answers to its ``model_name`` only.

    Args:
        device: Device of models that are added without a configuration; if None, the first available of cuda, mps and cpu.
        allow_fallback: Use the CPU if a requested device does not exist.

    Attributes:
        model_manager: Holds the models.
        device: The resolved device.
        last_error: Why the last ``add_models``, ``save_model``, ``load_model`` or ``switch_device`` failed; None if it succeeded.

    Raises:
        ConfigError: This machine has no such device.
    """

    def __init__(self, device: cfg.ModelDevice | str | None = None, *, allow_fallback: bool = False) -> None:
        self.allow_fallback = allow_fallback
        self.device = cfg.usable_device(device, allow_fallback=allow_fallback)
        self.model_manager = ModelManager()
        self.last_error: Exception | None = None
        self._given: dict[str, str] = {}  # model_name -> the name it was added under, the latest last

    @property
    def supported_models(self) -> list[str]:
        """Names that ``add_model`` accepts without a configuration."""
        return [str(each) for each in model_registry.get_available_model_types()]

    def add_model(self, name: str, config: cfg.ModelConfig | None = None) -> bool:
        """Add an untrained model under a name; without a configuration, with a preset. Always returns True.

        Raises:
            ConfigError: There is no such model or device, the model refuses the configuration, or the name means another.
        """
        config = self._completed(name, config)
        self._check_names(name, str(config.model_name))
        self.model_manager.add_model(config)
        self._keep_names(name, str(config.model_name))
        return True

    _try_to_add = attempt(add_model)

    def add_models(self, names: Iterable[str]) -> dict[str, bool]:
        """Add several models; False for one that cannot be added, with the reason in the log and in ``last_error``.

        Raises:
            ConfigError: They are not a list of names.
        """
        return {name: self._try_to_add(name) for name in _listed(names)}

    def train_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train all models on the same rows, the last ``validation_split`` of which only measure.

        Returns:
            One result per ``model_name``; the result of a failure says why.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            HistoryError: It has fewer than ten rows.
            ConfigError: No model was added, or ``validation_split`` is not between 0 and 1.
        """
        check_rows(data, MIN_ROWS)
        if not self.model_manager.active_models:
            raise ConfigError("there is no model to train", hint="Add one first: add_model('dlinear').")
        return self.model_manager.train_all_models(data, validation_split)

    def predict_next_request(self, historical_data: Frame) -> dict[str, Any]:
        """Forecast the next request (or minute) with every model.

        Returns:
            ``predictions`` (model -> ``timestamp``, ``request_tokens``, ``response_tokens``, ``confidence``, ``method``, or
            ``error``), ``summary`` and ``model_info``; ``error``, ``min_required``, ``actual`` for fewer than ten rows.

        Raises:
            DataError: It is not a data frame, or a column is missing.
        """
        if short := _too_short(historical_data):
            return short
        rows, failures = self._forecast(historical_data, 1)
        first = {name: each[0] for name, each in rows.items()}
        averages = {
            f"avg_{key}": _mean([row[key] for row in first.values()])
            for key in ("confidence", "request_tokens", "response_tokens")
        }
        manager = self.model_manager
        return {
            "predictions": {**first, **failures},
            "summary": {
                "historical_data_size": len(historical_data),
                "last_request": last_row(historical_data),
                "models_used": list(first),
                "next_prediction_summary": {**averages, "best_model": manager.ranking(list(first), 1).best},
            },
            "model_info": {name: model.get_model_info() for name, model in manager.active_models.items()},
        }

    def predict_multiple_requests(self, historical_data: Frame, num_requests: int = 5) -> dict[str, Any]:
        """Forecast the next ``num_requests`` requests (or minutes) with every model.

        Returns:
            ``predictions`` (model -> a list of what ``predict_next_request`` gives, each with its ``step`` from 1, or
            ``error``), ``num_requests``, ``historical_data_size``.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            ConfigError: ``num_requests`` is not a whole number from 1.
        """
        if short := _too_short(historical_data):
            return short
        number = cfg.checked(cfg.Whole, num_requests, "num_requests")
        rows, failures = self._forecast(historical_data, number)
        numbered = {
            name: [{"step": k, **row} for k, row in enumerate(each, 1)] for name, each in rows.items()
        }
        return {
            "predictions": {**numbered, **failures},
            "num_requests": number,
            "historical_data_size": len(historical_data),
        }

    def compare_models(self, historical_data: Frame, steps: int = 1) -> dict[str, Any]:
        """Forecast with every trained model and rank them, see ``ModelManager.compare_models``.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            ConfigError: ``steps`` is not a whole number from 1.
        """
        return _too_short(historical_data) or self.model_manager.compare_models(historical_data, steps)

    def get_available_models(self) -> list[str]:
        """Names that ``add_model`` accepts without a configuration."""
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

    @attempt
    def save_model(self, name: str, path: str) -> None:
        """Write a trained model: a ``.pt`` or ``.pth`` file, or a model directory. False if it fails; see ``last_error``."""
        _require(self._model(name).save_model(os.fspath(path)), "save_model", name)

    @attempt
    def load_model(self, name: str, path: str, config: cfg.ModelConfig | None = None) -> None:
        """Read a model and add it under a name. False if it fails; see ``last_error``. What was there before then stays.

        What is stored overrides the configuration, except for type, name and device. Without one, they are those of the
        model that has the name already, or else those of ``add_model``.
        """
        known = self._find(name) if config is None else None
        given = self._given.get(known.model_name, name) if known else name
        complete = self._completed(given, known.config if known else config)
        self._check_names(given, str(complete.model_name))
        model = self.model_manager.registry.make(complete)
        _require(model.load_model(os.fspath(path)), "load_model", name)
        model.is_trained = True
        self.model_manager.keep(model)
        self._keep_names(given, model.model_name)

    @attempt
    def switch_device(self, device: cfg.ModelDevice | str) -> None:
        """Train on another device from now on. False, and nothing changed, if it fails; see ``last_error``."""
        found = cfg.usable_device(device, allow_fallback=self.allow_fallback)
        before = [(model, model.device) for model in self.model_manager.active_models.values()]
        try:
            for model, _ in before:
                model.to_device(found)
        except Exception:
            for model, old in before:
                try:
                    model.to_device(old)
                except Exception as error:  # the one that failed may fail again; the others still go back
                    cfg.logger.warning("%s could not go back to %s: %s", model.model_name, old, error)
            raise
        self.device = found

    def _completed(self, name: str, config: cfg.ModelConfig | None) -> cfg.ModelConfig:
        """A configuration with type, name and a device that exists."""
        if config is None:
            preset = cfg.PRESETS.get(str(cfg.model_type_of(cfg.checked(cfg.Name, name, "name"))), {})
            return cfg.ModelConfig(name, f"{name}_default", self.device, **preset)
        device = cfg.usable_device(
            cfg.checked(cfg.Given, config, "config").device, allow_fallback=self.allow_fallback
        )
        kind, own = (
            given or cfg.checked(cfg.Name, name, "name") for given in (config.model_type, config.model_name)
        )
        return replace(config, model_type=kind, model_name=own, device=device)

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
        if found := self._find(name):
            return found
        known = ", ".join(sorted({*self._given.values(), *self.get_active_models()})) or "none yet"
        raise ConfigError(f"there is no model {name!r}", hint=f"There are: {known}.")

    def _forecast(
        self, data: Frame, steps: int
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, str]]]:
        """Model -> rows that JSON can hold, of those that gave a forecast; and model -> ``error`` of the others."""
        rows, failures = {}, {}
        results = self.model_manager.predict_all(data, steps)
        for name, model in self.model_manager.active_models.items():
            if name not in results:
                training = self.model_manager.results.get(name)
                failures[name] = {"error": (training and training.error_message) or "it was not trained yet"}
            elif (reason := results[name].error) is not None:
                failures[name] = {"error": reason}
            else:
                rows[name] = _rows(results[name], str(model.model_type))
        return rows, failures


def create_enhanced_predictor(
    models: Iterable[str] = ("lstm", "dlinear"),
    device: cfg.ModelDevice | str | None = None,
    *,
    allow_fallback: bool = False,
) -> EnhancedRequestPredictor:
    """A predictor with the named models in their presets.

    Raises:
        ConfigError: There is no such model or device, or ``models`` is not a list of names.
    """
    predictor = EnhancedRequestPredictor(device, allow_fallback=allow_fallback)
    for name in _listed(models):
        predictor.add_model(name)
    return predictor


def _rows(result: PredictionResult, method: str) -> list[dict[str, Any]]:
    confidence = None if math.isnan(result.confidence) else result.confidence
    columns = zip(result.timestamps, result.request_tokens, result.response_tokens, strict=True)
    keys = ("timestamp", "request_tokens", "response_tokens")
    return [
        {**dict(zip(keys, row, strict=True)), "confidence": confidence, "method": method} for row in columns
    ]


def _mean(values: list[float | None]) -> float | None:
    """The mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _too_short(data: Frame) -> dict[str, Any] | None:
    level_of(data)
    if len(data) >= MIN_ROWS:
        return None
    reason = f"the history has {len(data)} rows, and at least {MIN_ROWS} are needed"
    return {"error": reason, "min_required": MIN_ROWS, "actual": len(data)}


def _listed(names: Iterable[str]) -> list[str]:
    """A list of names; a single one may be given by itself."""
    if not isinstance(names, Iterable):
        raise ConfigError(f"must be a list of names, not {names!r}", setting="models")
    return [names] if isinstance(names, str) else list(names)


def _require(done: Any, what: str, name: str) -> None:
    """Refuse the return value of a method, which may be the user's own, that reports failure."""
    if not done:
        raise ModelError(f"{what} of the model {name!r} returned {done!r} and gave no reason")
