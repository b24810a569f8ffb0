"""The published results, the base class of every predictor, and the registry of predictor classes."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field, replace
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.dataclasses import dataclass

from presurge.errors import ConfigError, PresurgeError
from presurge.models.registry import model_names
from presurge.predictor import config as cfg
from presurge.predictor.frames import Frame, level_of


def _share_or_nan(value: float) -> float:
    if value < 0 or value > 1:
        raise ValueError("must be a number from 0 to 1, or NaN")
    return value


Values = Annotated[list[Any], BeforeValidator(lambda values: cfg.plain(list(values)))]
Tokens = Annotated[list[Annotated[cfg.Number, Field(allow_inf_nan=False)]], BeforeValidator(list)]


@cfg.raises_plainly
@dataclass(slots=True, config={"extra": "forbid", "validate_assignment": True})
class PredictionResult:
    """Forecasts of the next rows; columns may be lists or arrays and become lists of Python numbers.

    Attributes:
        timestamps: In the form of the input: numbers of seconds, or ISO-8601 in UTC.
        request_tokens: Tokens of the next requests, or their sums over the next minutes.
        response_tokens: The same for the responses.
        confidence: ``1 / (1 + error)``, see ``BasePredictor.confidence``; NaN if no error was measured.
        prediction_time: Seconds that the forecast took.
        metadata: ``error``, the reason, if there is no forecast; otherwise whatever else the model reports.

    Raises:
        ConfigError: A token count is not finite, or a field has an impossible value.
    """

    timestamps: Values
    request_tokens: Tokens
    response_tokens: Tokens
    confidence: Annotated[cfg.Number, AfterValidator(_share_or_nan)]
    model_name: str
    prediction_time: float
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def error(self) -> str | None:
        """Why there is no forecast; None if there is one."""
        return None if "error" not in self.metadata else str(self.metadata["error"])


@dataclass(slots=True)
class TrainingResult:
    """What a training did.

    Attributes:
        training_time: Seconds.
        final_loss: Validation loss of the last epoch, on the model's scale. A model that is solved in closed form has
            one: its squared validation error, in units of the variance of the training rows (of 1 for a constant column).
        best_loss: Validation loss of the epoch that was kept.
        epochs_trained: 0 for a model that is solved in closed form.
        early_stopped: Whether training ended before the requested number of epochs.
        error_message: Why it failed.
    """

    success: bool
    training_time: float
    final_loss: float
    best_loss: float
    epochs_trained: int
    early_stopped: bool
    model_path: str | None = None
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class BasePredictor(ABC):
    """Base of every predictor; derive your own model from it and register the class with ``register_model``.

    Attributes:
        config: The configuration, completed with name and device.
        model_name: The name in it.
        device: The resolved device, as text that torch accepts.
        is_trained: Set by ``train`` and ``load_model``; the manager sets it after a successful training.
        training_history: ``final_loss``, ``best_loss``, ``epochs_trained`` and ``early_stopped`` after a training.
        rolling_errors: Measured on the validation rows, for each step ahead: the mean of the WAPE of request and response
            tokens, or the WAPE of one if the other is zero throughout. The manager measures a predictor that does not.
        measured_on: Fingerprint of those rows, see ``presurge.predictor.frames.fingerprint``; empty if unknown.
        baseline_errors: Rolling errors of the naive models on those rows; empty if they were not measured.
    """

    def __init__(self, config: cfg.ModelConfig) -> None:
        config = cfg.checked(cfg.Given, config, "config")
        self.model_name = config.model_name or str(config.model_type or type(self).__name__)
        self.config = replace(config, model_name=self.model_name, device=cfg.usable_device(config.device))
        self.model_type = self.config.model_type or cfg.ModelType.CUSTOM
        self.device = str(self.config.device)
        self.is_trained = False
        self.model: Any = None
        self.training_history: dict[str, Any] = {}
        self.rolling_errors: tuple[float, ...] = ()
        self.measured_on = ""
        self.baseline_errors: dict[str, tuple[float, ...]] = {}

    @abstractmethod
    def prepare_data(self, data: Frame) -> Any:
        """Turn a data frame into what the model reads."""

    @abstractmethod
    def build_model(self) -> Any:
        """Build the untrained model."""

    @abstractmethod
    def train(self, data: Frame, validation_split: float = 0.2) -> TrainingResult:
        """Learn from all but the last ``validation_split`` of the rows, and measure on those."""

    @abstractmethod
    def predict(self, data: Frame, steps: int | None = None) -> PredictionResult:
        """Forecast the ``steps`` rows after the last one (the whole horizon if None)."""

    @abstractmethod
    def save_model(self, path: str) -> bool:
        """Write the trained model."""

    @abstractmethod
    def load_model(self, path: str) -> bool:
        """Read what ``save_model`` wrote."""

    def keep_errors(self, wape_H2: npt.NDArray[np.floating]) -> None:
        """Keep rolling errors: at each step the mean of both WAPEs, or the one that is defined, or none if neither is.

        A WAPE is undefined where all values are zero, as in the tokens of failed requests.
        """
        known = np.isfinite(wape_H2).all(axis=0)
        self.rolling_errors = tuple(wape_H2[:, known].mean(axis=1).tolist()) if known.any() else ()

    def rolling_error(self, steps: int | None = None) -> float:
        """Mean of the first ``steps`` rolling errors (of all if None); NaN if none was measured."""
        known = self.rolling_errors[:steps]
        return sum(known) / len(known) if known else math.nan

    def confidence(self, steps: int | None = None) -> float:
        """``1 / (1 + rolling_error(steps))``: 1 for no error, 0.5 for errors as large as the values; higher is better."""
        return 1 / (1 + self.rolling_error(steps))

    def get_model_info(self) -> dict[str, Any]:
        """Name, type, device, whether it is trained, configuration and training history, as plain values."""
        return {
            "model_name": self.model_name,
            "model_type": str(self.model_type),
            "device": self.device,
            "is_trained": self.is_trained,
            "config": self.config.to_dict(),
            "training_history": self.training_history,
        }

    def to_device(self, device: cfg.Device) -> None:
        """Choose where the model trains from now on, and move a torch module in ``self.model`` there.

        Raises:
            ConfigError: This machine has no such device.
        """
        config = replace(self.config, device=cfg.usable_device(device))
        if hasattr(self.model, "to"):
            self.model = self.model.to(str(config.device))
        self.config, self.device = config, str(config.device)

    def validate_input_data(self, data: Frame) -> bool:
        """Return True for a frame with the columns and at least ``sequence_length`` rows.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        level_of(data, self.config.sequence_length)
        return True


P = TypeVar("P", bound=type[BasePredictor])


class ModelRegistry:
    """Predictor classes by type, and the predictors made with ``create_model`` by name.

    A type that nobody registered means the model of Presurge with that name, if there is one.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[BasePredictor]] = {}
        self._models: dict[str, BasePredictor] = {}

    def register_model_class(self, model_type: cfg.ModelType | str, model_class: type) -> None:
        """Register a class under a type, replacing any class that the type had before.

        Raises:
            ValueError: The class does not derive from ``BasePredictor``.
        """
        if BasePredictor not in getattr(model_class, "__mro__", ()):
            raise ValueError(f"{model_class!r} does not derive from BasePredictor")
        self._classes[cfg.model_type_of(model_type)] = model_class

    def class_of(self, model_type: cfg.ModelType | str) -> type[BasePredictor]:
        """The class of a type, ignoring case.

        Raises:
            ConfigError: There is no model of that type; the message lists those that exist.
        """
        wanted = cfg.model_type_of(model_type)
        own = {name.lower(): model_class for name, model_class in self._classes.items()}
        if wanted.lower() in own:
            return own[wanted.lower()]
        if wanted in model_names():
            from presurge.predictor.adapter import ForecasterPredictor

            return ForecasterPredictor
        types = self.get_available_model_types()
        hint = f"Choose one of: {', '.join(types)}. Register a class of your own with @register_model(type)."
        raise ConfigError(f"there is no model of the type {str(wanted)!r}", setting="model_type", hint=hint)

    def make(self, config: cfg.ModelConfig) -> BasePredictor:
        """Make an untrained predictor, named as its configuration says whatever the class does.

        Raises:
            ConfigError: There is no such model, it refuses the configuration, or its class cannot be instantiated.
        """
        config = cfg.checked(cfg.Given, config, "config")
        kind = self.class_of(config.model_type or cfg.ModelType.CUSTOM)
        try:
            model = kind(config)
            model.model_name = str(model.config.model_name)
            if not hasattr(model, "rolling_errors"):
                raise TypeError("its __init__ does not call super().__init__(config)")
        except PresurgeError:
            raise
        except Exception as error:
            what = f"{kind.__name__} cannot be made: {type(error).__name__}: {error}"
            hint = "A predictor of your own takes a ModelConfig and defines every method of BasePredictor."
            raise ConfigError(what, where=f"model type {str(config.model_type)!r}", hint=hint) from error
        return model

    def create_model(self, config: cfg.ModelConfig) -> BasePredictor:
        """Make an untrained predictor and keep it under its name.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        model = self.make(config)
        self._models[model.model_name] = model
        return model

    def get_model(self, name: str) -> BasePredictor | None:
        """The predictor of that name, or None."""
        return self._models.get(name)

    def list_models(self) -> list[str]:
        """Names of the predictors that were made."""
        return list(self._models)

    def remove_model(self, name: str) -> bool:
        """Forget a predictor; return whether there was one."""
        return self._models.pop(name, None) is not None

    def get_available_model_types(self) -> list[str]:
        """Everything that ``create_model`` can make."""
        return list(map(str, dict.fromkeys([*model_names(), *self._classes])))


model_registry = ModelRegistry()
"""The registry that ``register_model`` fills and that every manager uses."""


def register_model(model_type: cfg.ModelType | str) -> Callable[[P], P]:
    """Register the class below under a type: ``@register_model(ModelType.CUSTOM)`` or any name of your own.

    Raises:
        ValueError: The class does not derive from ``BasePredictor``.
    """

    def register(model_class: P) -> P:
        model_registry.register_model_class(model_type, model_class)
        return model_class

    return register
