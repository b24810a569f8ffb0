"""Predictor classes by model type, and predictors by name."""

from collections.abc import Callable
from typing import TypeVar

from presurge.errors import ConfigError, PresurgeError
from presurge.models.registry import model_names
from presurge.predictor.config import ModelConfig, ModelType, config_of, logger, model_type_of
from presurge.predictor.interface import BasePredictor

P = TypeVar("P", bound=type[BasePredictor])


class ModelRegistry:
    """Classes of predictors by type, and the predictors made with ``create_model`` by name.

    A type that nobody registered is a model of Presurge of that name, where there is one.
    """

    def __init__(self) -> None:
        self._classes: dict[str, type[BasePredictor]] = {}
        self._models: dict[str, BasePredictor] = {}

    def register_model_class(self, model_type: ModelType | str, model_class: type) -> None:
        """Make a class known; a class that the type had before is replaced.

        Raises:
            ValueError: The class does not derive from ``BasePredictor``.
        """
        if BasePredictor not in getattr(model_class, "__mro__", ()):
            raise ValueError(f"{model_class!r} does not derive from BasePredictor")
        key = model_type_of(model_type)
        if key in self._classes:
            logger.info("%s replaces %s as %s", model_class.__name__, self._classes[key].__name__, key)
        self._classes[key] = model_class

    def class_of(self, model_type: ModelType | str) -> type[BasePredictor]:
        """The class of a type, whatever the case of its letters.

        Raises:
            ConfigError: There is no model of that type; the message names those that exist.
        """
        from presurge.predictor.adapter import ForecasterPredictor

        key = model_type_of(model_type)
        alike = {own.lower(): own for own in self._classes}
        if own := key if key in self._classes else alike.get(key.lower()):
            return self._classes[own]
        if key in model_names():
            return ForecasterPredictor
        raise ConfigError(
            f"there is no model of the type {str(key)!r}",
            where="model_type",
            hint=f"There are: {', '.join(map(str, self.get_available_model_types()))}. "
            "A class of your own becomes one with @register_model(type).",
        )

    def make(self, config: ModelConfig) -> BasePredictor:
        """Make an untrained predictor; its name is that of the configuration, whatever the class says.

        Raises:
            ConfigError: There is no such model, it refuses the configuration, or its class cannot be made into one.
        """
        kind = self.class_of(config_of(config).model_type or ModelType.CUSTOM)
        try:
            model = kind(config)
            model.model_name = str(model.config.model_name)
            if not hasattr(model, "rolling_errors"):
                raise TypeError("its __init__ does not call super().__init__(config)")
        except PresurgeError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{kind.__name__} cannot be made: {type(error).__name__}: {error}",
                where=f"model type {str(config.model_type)!r}",
                hint="A predictor of your own takes a ModelConfig and has every method of BasePredictor.",
            ) from error
        return model

    def create_model(self, config: ModelConfig) -> BasePredictor:
        """Make an untrained predictor and keep it under its name.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        if config_of(config).model_type is None:
            raise ConfigError("is not given", where="ModelConfig.model_type", hint="Say which model to make.")
        model = self.make(config)
        self._models[model.model_name] = model
        return model

    def get_model(self, name: str) -> BasePredictor | None:
        """The predictor of that name; None where there is none."""
        return self._models.get(name)

    def list_models(self) -> list[str]:
        """Names of the predictors that were made."""
        return list(self._models)

    def remove_model(self, name: str) -> bool:
        """Forget a predictor; whether there was one."""
        return self._models.pop(name, None) is not None

    def get_available_model_types(self) -> list[ModelType | str]:
        """Everything that ``create_model`` can make."""
        return [model_type_of(name) for name in dict.fromkeys([*model_names(), *self._classes])]


model_registry = ModelRegistry()
"""The registry that ``register_model`` fills and that every manager asks."""


def register_model(model_type: ModelType | str) -> Callable[[P], P]:
    """Register the class below under a type: ``@register_model(ModelType.CUSTOM)`` or any name of your own.

    Raises:
        ValueError: The class does not derive from ``BasePredictor``.
    """

    def register(model_class: P) -> P:
        model_registry.register_model_class(model_type, model_class)
        return model_class

    return register
