"""Models by name: Presurge's own, those of other packages, and those that a file of yours registers.

A model's module is imported when the model is requested, so listing models is free and needs no torch.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

from presurge import store
from presurge.errors import ConfigError, MissingDependencyError, ModelError, PresurgeError, within
from presurge.models.forecaster import Forecaster
from presurge.models.plugins import adopt

ENTRY_POINTS = "presurge.models"
"""Group of the entry points under which other packages offer models: the name of the model, and ``module:Class``."""


_OWN: dict[str, tuple[str, str]] = {
    "zero": ("naive:Zero", "forecasts no load at all"),
    "last-value": ("naive:LastValue", "repeats the last observed value"),
    "recent-mean": ("naive:RecentMean", "repeats the mean of the last rows"),
    "recent-median": ("naive:RecentMedian", "repeats the median of the last rows"),
    "drift": ("naive:Drift", "extends the line through the ends of the context"),
    "seasonal-naive": ("naive:SeasonalNaive", "repeats the last season"),
    "day-ago": ("naive:DayAgo", "repeats the value of a day ago"),
    "week-ago": ("naive:WeekAgo", "repeats the value of a week ago"),
    "ses": ("smoothing:SimpleSmoothing", "simple exponential smoothing"),
    "damped-trend": ("smoothing:DampedTrend", "exponential smoothing with a damped trend"),
    "dlinear": ("linear.dlinear:DLinear", "linear maps of season and trend, solved exactly"),
    "linear": ("linear.linear:Linear", "exact linear map on the best scale, with calendar"),
    "auto": ("auto:Auto", "transform, ridge, solver and baseline chosen by rolling validation"),
    "lstm": (
        "networks.recurrent:LSTM",
        "recurrent network with long short-term memory, all channels at once",
    ),
    "gru": ("networks.recurrent:GRU", "recurrent network with gated units, all channels at once"),
    "transformer": (
        "networks.transformer:Transformer",
        "attention between patches of rows, all channels at once",
    ),
    "mlp": ("networks.mlp:MLP", "linear map and small perceptron, every channel on its own"),
}
"""Presurge's own models by name: where the class is, and its summary, which is available before the class is imported."""
BASELINES = (
    *("zero", "last-value", "recent-mean", "recent-median", "drift"),
    *("seasonal-naive", "day-ago", "week-ago"),
)
"""The models that every accuracy table includes, those of an earlier time where the rows hold it."""
LAGGED = BASELINES[-2:]
"""The baselines of an earlier time: a day and a week ago."""

_registered: dict[str, type[Forecaster]] = {}
F = TypeVar("F", bound=type[Forecaster])


def register(kind: F) -> F:
    """Register a Forecaster class under its ``name``; works as a decorator. A later class of the same name replaces it.

    Raises:
        ConfigError: The name is one of Presurge's own, or the class lacks something.
    """
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    adopt(kind, Path(file).name if file else kind.__module__)
    if kind.name in _OWN:
        what = f"the name {kind.name!r} belongs to a model of Presurge"
        raise ConfigError(what, where=kind.__qualname__, hint="Choose another.")
    _registered[kind.name] = kind
    return kind


def load_plugin(path: Path) -> None:
    """Run a Python file that registers models with ``register``; it may import files beside it.

    Raises:
        ConfigError: There is no such file, or it fails.
        MissingDependencyError: It needs torch, which is not installed.
    """
    path = Path(path)
    spec = spec_from_file_location(f"presurge_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        hint = "Name the FILE.py that registers a model."
        raise ConfigError("is not a Python file", where=str(path), hint=hint)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    with _importing(f"the model file {path.name}", where=str(path), hint="Run it with python to see more."):
        spec.loader.exec_module(module)


@contextmanager
def _importing(what: str, *, where: str, hint: str) -> Iterator[None]:
    """Report a failing import as an error that names the model, and the extra that brings torch if that is missing.

    Raises:
        ConfigError: The import failed.
        MissingDependencyError: It needs torch, which is not installed.
    """
    try:
        yield
    except PresurgeError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise MissingDependencyError("torch", purpose=what, extra="train") from error
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{what} cannot be imported: {reason}", where=where, hint=hint) from error


@cache
def _offered() -> dict[str, EntryPoint]:
    """Models of packages by name: Presurge's own, and those of other packages under names of their own."""
    own = {name: EntryPoint(name, f"presurge.models.{at}", ENTRY_POINTS) for name, (at, _) in _OWN.items()}
    return own | {point.name: point for point in entry_points(group=ENTRY_POINTS) if point.name not in own}


def model_names() -> tuple[str, ...]:
    """Names of all models: Presurge's own, those of other packages, registered ones."""
    return tuple(dict.fromkeys([*_offered(), *_registered]))


def summary(name: str) -> str:
    """What a model is, or why it cannot be used, in one line; does not import Presurge's own models.

    Raises:
        ConfigError: There is no model of that name.
    """
    if name in _OWN:
        return _OWN[name][1]
    try:
        return model_class(name).summary
    except ConfigError as error:
        if name not in _offered():
            raise
        return f"unusable: {error.what}"


def model_class(name: str) -> type[Forecaster]:
    """The class of a model.

    Raises:
        ConfigError: There is no model of that name, or the package that offers it is broken.
        MissingDependencyError: It needs a package that is not installed.
    """
    if name not in _registered and name in _offered():
        _registered[name] = _class_of(_offered()[name])
    if name not in _registered:
        raise ConfigError(
            f"there is no model {name!r}",
            setting="model",
            hint=f"Choose one of: {', '.join(sorted(model_names()))}. To use a file of your own: `plugin=FILE.py`",
        )
    return _registered[name]


def _class_of(point: EntryPoint) -> type[Forecaster]:
    """The class that an entry point names; a package other than Presurge is named as its provider."""
    package = f"the package {point.dist.name} {point.dist.version}" if point.dist else point.module
    what = f"the model {point.name}" + ("" if point.name in _OWN else f" of {package}")
    with _importing(what, where=point.value, hint="Repair or remove the package."):
        kind: object = point.load()
    if not (
        isinstance(kind, type) and issubclass(kind, Forecaster) and point.name == getattr(kind, "name", "")
    ):
        what = f"{package} offers {point.name!r}, which is not a Forecaster of that name"
        raise ConfigError(what, where=point.value)
    if point.name not in _OWN:
        # Whatever its module registers comes from the package too.
        for each in {kind, *(other for other in _registered.values() if other.__module__ == kind.__module__)}:
            adopt(each, package)
    return kind


def load(path: Path) -> tuple[Forecaster, dict[str, Any]]:
    """Load a model from a model directory or a run directory: (model, its configuration).

    Raises:
        ModelError: The directory is damaged, unsafe, of a newer format, or of an unknown model.
    """
    directory = store.find_model(Path(path))
    config, arrays = store.load_model(directory)
    return from_document(config, arrays, where=str(directory / store.CONFIG_FILE)), config


def from_document(config: dict[str, Any], arrays: store.Arrays, *, where: str) -> Forecaster:
    """Rebuild a model from its configuration and arrays, wherever they were stored.

    Raises:
        ModelError: They do not describe a model, or describe one that is unknown here.
        MissingDependencyError: The model needs a package that is not installed.
    """
    name, provider = config.get("model"), str(config.get("provider") or "")
    if name not in model_names():
        hint = f"It came from {provider}: install that first."
        if not provider:
            known = ", ".join(sorted(model_names()))
            hint = f"Known models: {known}. A newer Presurge or another package may provide it."
        elif provider.endswith(".py"):
            hint = f"It was registered by {provider}: name that file in `plugin`."
        what = f"is a model of the kind {name!r}, which this installation does not know"
        raise ModelError(what, where=where, hint=hint)
    with within(where):
        try:
            return model_class(str(name)).from_config(config, arrays)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            what = f"does not describe a {name} model: {' '.join(str(error).split())}"
            raise ModelError(what, hint="If another version of Presurge wrote it, train it again.") from error
