"""The request predictor: models by a short name, the next requests as plain dictionaries."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

from presurge.errors import ConfigError, HistoryError, ModelError, PresurgeError
from presurge.predictor import config as cfg
from presurge.predictor.frames import Frame, last_row, level_of
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult, model_registry
from presurge.predictor.manager import ModelManager
from presurge.progress import Progress, silent

MIN_ROWS = 10


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

    def __init__(self, device: cfg.Device = None, *, allow_fallback: bool = False) -> None:
        self.allow_fallback = allow_fallback
        self.device = cfg.usable_device(device, allow_fallback=allow_fallback)
        self.model_manager = ModelManager()
        self.last_error: Exception | None = None
        self._given: dict[str, str] = {}  # model_name -> the name it was added under, the latest last

    def add_model(self, name: str, config: cfg.ModelConfig | None = None) -> bool:
        """Add an untrained model under a name; without a configuration, with a preset. Always returns True.

        Raises:
            ConfigError: There is no such model or device, the model refuses the configuration, or the name means another.
        """
        self._keep(name, model_registry.make(self._completed(name, config)))
        return True

    def add_models(self, names: Iterable[str]) -> dict[str, bool]:
        """Add several models; False for one that cannot be added, with the reason in the log and in ``last_error``.

        Raises:
            ConfigError: They are not a list of names.
        """
        added = {}
        for name in _listed(names):
            with self._attempt():
                self.add_model(name)
            added[name] = self.last_error is None
        return added

    def train_models(
        self, data: Frame, validation_split: float = 0.2, *, progress: Progress = silent
    ) -> dict[str, TrainingResult]:
        """Train all models on the same rows, the last ``validation_split`` of which only measure.

        ``progress`` is called with a phase, which names the model, and the share of the work that is done.

        Returns:
            One result per ``model_name``; the result of a failure says why.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            HistoryError: It has fewer than ten rows.
            ConfigError: No model was added, or ``validation_split`` is not between 0 and 1.
        """
        level_of(data, MIN_ROWS)
        self._need_models()
        return self.model_manager.train_all_models(data, validation_split, progress=progress)

    def predict_next_request(self, historical_data: Frame) -> dict[str, Any]:
        """Forecast the next request (or minute) with every model.

        Returns:
            ``predictions`` (model -> ``timestamp``, ``time_error``, ``request_tokens``, ``response_tokens``, ``confidence``,
            ``method``, or ``error``), ``summary`` and ``model_info``; ``error``, ``min_required``, ``actual`` for fewer than ten rows.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            ConfigError: There is no model.
        """
        if short := self._too_short(historical_data):
            return short
        found = self._forecast(historical_data, 1)
        predictions = {name: rows if "error" in rows else rows[0] for name, rows in found.items()}
        good = {name: row for name, row in predictions.items() if "error" not in row}
        averages = {}
        for key in ("confidence", "request_tokens", "response_tokens"):
            known = [row[key] for row in good.values() if row[key] is not None]
            averages[f"avg_{key}"] = fmean(known) if known else None
        manager = self.model_manager
        return {
            "predictions": predictions,
            "summary": {
                "historical_data_size": len(historical_data),
                "last_request": last_row(historical_data),
                "models_used": list(good),
                "next_prediction_summary": {**averages, "best_model": manager.ranking(good, 1)["best_model"]},
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
            ConfigError: There is no model, or ``num_requests`` is not a whole number from 1.
        """
        if short := self._too_short(historical_data):
            return short
        number = cfg.checked(cfg.Whole, num_requests, "num_requests")
        numbered = {
            name: rows if "error" in rows else [{"step": k, **row} for k, row in enumerate(rows, 1)]
            for name, rows in self._forecast(historical_data, number).items()
        }
        return {"predictions": numbered, "num_requests": number, "historical_data_size": len(historical_data)}

    def compare_models(self, historical_data: Frame, steps: int = 1) -> dict[str, Any]:
        """Forecast with every trained model and rank them, see ``ModelManager.compare_models``.

        Raises:
            DataError: It is not a data frame, or a column is missing.
            ConfigError: There is no model, or ``steps`` is not a whole number from 1.
        """
        return self._too_short(historical_data) or self.model_manager.compare_models(historical_data, steps)

    def get_available_models(self) -> list[str]:
        """Names that ``add_model`` accepts without a configuration."""
        return model_registry.get_available_model_types()

    supported_models = property(get_available_models)

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
        """Write a trained model: a ``.pt`` or ``.pth`` file, or a model directory. False if it fails; see ``last_error``."""
        with self._attempt():
            _require(self._model(name).save_model(os.fspath(path)), "save_model", name)
        return self.last_error is None

    def load_model(self, name: str, path: str, config: cfg.ModelConfig | None = None) -> bool:
        """Read a model and add it under a name. False if it fails; see ``last_error``. What was there before then stays.

        What is stored overrides the configuration, except for name and device: whatever the model is called here, a file
        of Presurge tells its type. Without a configuration, name and device are those of the model that has the name
        already, or else those of ``add_model``. A file of a class of your own needs the type of that class.
        """
        with self._attempt():
            known = self._find(name) if config is None else None
            if known:
                name, config = self._given.get(known.model_name, name), known.config
            config = self._completed(name, config)
            if config.model_type not in model_registry.get_available_model_types():
                config = replace(config, model_type="last-value")  # until the file tells
            model = model_registry.make(config)
            _require(model.load_model(os.fspath(path)), "load_model", name)
            model.is_trained = True
            self._keep(name, model)
        return self.last_error is None

    def switch_device(self, device: cfg.Device) -> bool:
        """Train on another device from now on. False, and nothing changed, if it fails; see ``last_error``."""
        with self._attempt():
            found = cfg.usable_device(device, allow_fallback=self.allow_fallback)
            before = [(model, model.device) for model in self.model_manager.active_models.values()]
            try:
                for model, _ in before:
                    model.to_device(found)
            except Exception:
                for model, old in before:
                    with suppress(Exception):  # the one that failed may fail again; the others still go back
                        model.to_device(old)
                raise
            self.device = found
        return self.last_error is None

    def _need_models(self) -> None:
        if not self.model_manager.active_models:
            hint = "Add one first, add_model('dlinear'), or load one: load_model('dlinear', path)."
            raise ConfigError("the predictor holds no model", hint=hint)

    def _too_short(self, data: Frame) -> dict[str, Any] | None:
        self._need_models()
        try:
            level_of(data, MIN_ROWS)
        except HistoryError as error:
            return {"error": error.what, "min_required": MIN_ROWS, "actual": len(data)}
        return None

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Remember whether the body failed instead of raising; models of users may raise anything."""
        self.last_error = None
        try:
            yield
        except Exception as error:
            cfg.logger.warning("%s", error, exc_info=not isinstance(error, PresurgeError))
            self.last_error = error

    def _completed(self, name: str, config: cfg.ModelConfig | None) -> cfg.ModelConfig:
        """A configuration with a type, a device that exists, and a name, none of which belongs to another model."""
        cfg.checked(cfg.Name, name, "name")
        if config is None:
            preset = cfg.PRESETS.get(cfg.model_type_of(name), {})
            config = cfg.ModelConfig(name, f"{name}_default", self.device, **preset)
        device = cfg.checked(cfg.Given, config, "config").device
        model_name = config.model_name or name
        # The models that stay answer to their model_name and to the name that they were given, unless it is given again.
        others = {own: given for own, given in self._given.items() if (own, given) != (model_name, name)}
        if taken := {name, model_name} & {*others, *(given for given in others.values() if given != name)}:
            what = f"the name {min(taken)!r} belongs to another model"
            where = f"model {name!r}, model_name {model_name!r}"
            raise ConfigError(what, where=where, hint=f"Choose others than: {', '.join(self._names())}.")
        usable = cfg.usable_device(device, allow_fallback=self.allow_fallback)
        return replace(config, model_type=config.model_type or name, model_name=model_name, device=usable)

    def _keep(self, name: str, model: BasePredictor) -> None:
        self.model_manager.keep(model)
        self._given.pop(model.model_name, None)
        self._given[model.model_name] = name

    def _names(self) -> list[str]:
        return sorted({*self._given.values(), *self.get_active_models()})

    def _find(self, name: str) -> BasePredictor | None:
        latest = (own for own, given in reversed(self._given.items()) if given == name)
        return self.model_manager.active_models.get(next(latest, name))

    def _model(self, name: str) -> BasePredictor:
        if found := self._find(name):
            return found
        hint = f"There are: {', '.join(self._names()) or 'none yet'}."
        raise ConfigError(f"there is no model {name!r}", hint=hint)

    def _forecast(self, data: Frame, steps: int) -> dict[str, Any]:
        """Model -> the rows of its forecast in values that JSON can hold, or ``{"error": reason}``."""
        manager, found = self.model_manager, dict[str, Any]()
        why = {name: training.error_message for name, training in manager.results.items()}
        for name in manager.active_models:
            found[name] = {"error": why.get(name) or "it was not trained yet"}
        for name, result in manager.predict_all(data, steps).items():
            method = str(manager.active_models[name].model_type)
            found[name] = {"error": result.error} if result.error else _rows(result, method)
        return found


def create_enhanced_predictor(
    models: Iterable[str] = ("lstm", "dlinear"), device: cfg.Device = None, *, allow_fallback: bool = False
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
    """The rows of a forecast as values that JSON can hold."""
    late = result.metadata.get("time_errors") or [None] * len(result.timestamps)
    columns = zip(result.timestamps, late, result.request_tokens, result.response_tokens, strict=True)
    rest = {"confidence": None if math.isnan(result.confidence) else result.confidence, "method": method}
    return [
        {"timestamp": at, "time_error": off, "request_tokens": sent, "response_tokens": got, **rest}
        for at, off, sent, got in columns
    ]


def _listed(names: Iterable[str]) -> list[str]:
    """A list of names; a single one may be given by itself."""
    return [names] if isinstance(names, str) else cfg.checked(list[Any], names, "models")


def _require(done: Any, what: str, name: str) -> None:
    """Refuse the return value of a method, which may be the user's own, that reports failure."""
    if not done:
        raise ModelError(f"{what} of the model {name!r} returned {done!r} and gave no reason")
