"""The models by name. A model's module is imported when the model is asked for, so that listing them costs nothing."""

from importlib import import_module
from pathlib import Path
from typing import Any

from presurge import store
from presurge.errors import ConfigError, ModelError
from presurge.models.forecaster import Forecaster

_MODELS: dict[str, str] = {
    "last-value": "presurge.models.naive:LastValue",
    "recent-mean": "presurge.models.naive:RecentMean",
    "drift": "presurge.models.naive:Drift",
    "seasonal-naive": "presurge.models.naive:SeasonalNaive",
    "dlinear": "presurge.models.dlinear:DLinear",
    "linear": "presurge.models.linear:Linear",
    "auto": "presurge.models.auto:Auto",
}
BASELINES = ("last-value", "recent-mean", "drift", "seasonal-naive")
"""The models that every accuracy table holds beside the others."""


def model_names() -> tuple[str, ...]:
    """Names of all models."""
    return tuple(_MODELS)


def model_class(name: str) -> type[Forecaster]:
    """The class of a model.

    Raises:
        ConfigError: There is no model of that name.
    """
    if name not in _MODELS:
        raise ConfigError(
            f"there is no model {name!r}",
            where="--model",
            hint=f"Choose one of: {', '.join(sorted(_MODELS))}.",
        )
    module, attribute = _MODELS[name].split(":")
    found: type[Forecaster] = getattr(import_module(module), attribute)
    return found


def load(path: Path) -> tuple[Forecaster, dict[str, Any]]:
    """Load a model from a model directory or a run directory: (model, its configuration).

    Raises:
        ModelError: The directory is damaged, unsafe, of a newer format, or of an unknown model.
    """
    directory = store.find_model(Path(path))
    config, arrays = store.load_model(directory)
    name = config.get("model")
    if name not in _MODELS:
        raise ModelError(
            f"is a model of the kind {name!r}, which this installation does not know",
            where=str(directory / store.CONFIG_FILE),
            hint=f"Known are: {', '.join(sorted(_MODELS))}. A newer Presurge or another package may bring it.",
        )
    try:
        return model_class(name).from_config(config, arrays), config
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"does not describe a {name} model: {error}", where=str(directory / store.CONFIG_FILE)
        ) from error
