"""What a search may vary: a small declared space for each model, or one from a file."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from presurge.config import validated
from presurge.errors import ConfigError
from presurge.models.registry import model_class
from presurge.workflows.config import TrainConfig, check_model

TRAINING_KEYS = (
    "accumulate",
    "batch_size",
    "clip_norm",
    "context",
    "epochs",
    "learning_rate",
    "optimizer",
    "patience",
    "plateau_patience",
    "schedule",
    "warmup_steps",
    "weight_decay",
)
"""Settings of a training that may be searched beside those of the model."""

Plain = bool | int | float | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting and the values that it may take: some that are named, or a range.

    Attributes:
        name: The setting, of the training or of the model.
        choices: The values; empty for a range.
        low: The least value of a range.
        high: Its largest; both whole numbers make a range of whole numbers.
        log: Every factor is as likely as every other, instead of every difference.
        step: Distance of the values; None takes every value.
        only_with: Another setting and its values without which this one means nothing, so that it is not drawn.
    """

    name: str
    choices: tuple[Plain, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None
    only_with: tuple[str, tuple[Plain, ...]] | None = None

    @property
    def whole(self) -> bool:
        """Whether the range is one of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or (value - self.low) % self.step == 0

    def extremes(self) -> tuple[Plain, ...]:
        """Values that are possible settings only if all that can be drawn are."""
        return self.choices or (self.low, self.high)

    def applies(self, settings: dict[str, Any]) -> bool:
        """Whether it means something beside these settings."""
        return self.only_with is None or settings.get(self.only_with[0]) in self.only_with[1]

    def to_json(self) -> Any:
        """The form that it has in a file."""
        if self.choices:
            return list(self.choices)
        rest = {"log": True} if self.log else {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **rest}


Space = tuple[Knob, ...]

_BY_GRADIENT = (
    Knob(name="learning_rate", low=1e-4, high=1e-2, log=True),
    Knob(name="batch_size", choices=(32, 64, 128, 256, 512)),
)
_SGD = ("solver", ("sgd",))
_SPACES: dict[str, Space] = {
    "dlinear": (
        Knob(name="solver", choices=("exact", "sgd")),
        Knob(name="transform", choices=("identity", "sqrt", "log1p")),
        Knob(name="normalisation", choices=("none", "last", "mean")),
        Knob(name="individual", choices=(True, False)),
        Knob(
            name="ridge",
            choices=(None, 10.0, 100.0, 1_000.0, 10_000.0),
            only_with=("solver", ("auto", "exact")),
        ),
        Knob(name="loss", choices=("mse", "mae", "huber"), only_with=_SGD),
        Knob(name="scaler", choices=("standard", "robust"), only_with=_SGD),
        Knob(name="kernel_size", choices=(5, 13, 25, 49), only_with=_SGD),
        Knob(name="learning_rate", low=1e-4, high=1e-2, log=True, only_with=_SGD),
        Knob(name="batch_size", choices=(32, 128, 512), only_with=_SGD),
    ),
    "linear": (
        Knob(name="transform", choices=("auto", "identity", "sqrt", "log1p")),
        Knob(name="calendar", choices=("auto", "on", "off")),
        Knob(name="ridge", choices=(None, 10.0, 100.0, 1_000.0, 10_000.0)),
    ),
    "auto": (Knob(name="margin", low=0.0, high=0.3), Knob(name="folds", low=2, high=6)),
    "recent-mean": (Knob(name="window", low=2, high=120, log=True),),
}
_OF_NETWORKS: Space = (
    Knob(name="hidden_size", choices=(16, 32, 64, 128)),
    Knob(name="d_model", choices=(32, 64, 128)),
    Knob(name="num_layers", low=1, high=3),
    Knob(name="dropout", low=0.0, high=0.5),
    Knob(name="normalisation", choices=("none", "last", "mean", "revin")),
    Knob(name="transform", choices=("auto", "identity", "log1p")),
)
"""Settings that networks share; a network that lacks one is searched without it."""


def default_space(settings: TrainConfig, fixed: Collection[str] = ()) -> Space:
    """The declared space of a model, without the names that are fixed and what means nothing beside them.

    Raises:
        ConfigError: None is declared, or nothing is left of it.
    """
    fixed = {*fixed, *settings.model_settings}
    left = tuple(knob for knob in _declared(settings.model) if knob.name not in fixed)
    if find_spec("torch") is None:
        left = tuple(knob for knob in left if knob.name != "solver" and knob.only_with != _SGD)
    drawn = {knob.name for knob in left}
    left = tuple(
        replace(knob, only_with=None) if knob.only_with and knob.only_with[0] not in drawn else knob
        for knob in left
        if knob.only_with is None or knob.only_with[0] in drawn or knob.applies(settings.model_settings)
    )
    if not left:
        raise ConfigError(
            f"there is nothing to search for {settings.model}",
            hint='Name settings and their values in a file, and give it: `space=FILE.json`, such as {"context": [60, 120]}.',
        )
    return left


def _declared(model: str) -> Space:
    own = model_class(model).config_class.model_fields
    if model in _SPACES or "loss" not in own:
        return _SPACES.get(model, ())
    return (*(knob for knob in _OF_NETWORKS if knob.name in own), *_BY_GRADIENT)


def read_space(path: Path, settings: TrainConfig) -> Space:
    """A space from a JSON file: ``{"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "kernel_size": [5, 13]}``.

    Raises:
        ConfigError: The file cannot be read, or a name or a value in it is no setting.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise ConfigError(f"is no valid JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict) or not document:
        raise ConfigError("is not one JSON object of settings", where=str(path), hint=_EXAMPLE)
    known = (*TRAINING_KEYS, *model_class(settings.model).config_class.model_fields)
    unknown = [name for name in document if name not in known]
    if unknown:
        raise ConfigError(
            f"{settings.model} has no setting {', '.join(map(repr, unknown))} that can be searched",
            where=str(path),
            hint=f"There are: {', '.join(sorted(known))}.",
        )
    conditions = {knob.name: knob.only_with for knob in _declared(settings.model) if knob.only_with}
    space = tuple(
        replace(_knob(name, value, path), only_with=conditions[name])
        if name in conditions and conditions[name][0] in document
        else _knob(name, value, path)
        for name, value in document.items()
    )
    _check_values(space, settings, path)
    return space


_EXAMPLE = (
    'For example: {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "kernel_size": [5, 13, 25]}'
)


def _knob(name: str, value: Any, path: Path) -> Knob:
    if isinstance(value, list) and value and all(isinstance(one, Plain) for one in value):
        return Knob(name=name, choices=tuple(dict.fromkeys(value)))
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: is neither a list of values nor a range", where=str(path), hint=_EXAMPLE)
    odd = value.keys() - {"low", "high", "log", "step"}
    if odd or not {"low", "high"} <= value.keys():
        what = f"a range has no {', '.join(sorted(odd))}" if odd else "a range has a low and a high"
        raise ConfigError(f"{name}: {what}", where=str(path), hint=_EXAMPLE)
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    numbers = [low, high, *([] if step is None else [step])]
    if any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers) or low >= high:
        raise ConfigError(f"{name}: low must be a number below high", where=str(path), hint=_EXAMPLE)
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise ConfigError(
            f"{name}: log is true or false; a range with log begins above zero and has no step",
            where=str(path),
        )
    if step is not None and (step <= 0 or (isinstance(low, int) and not isinstance(step, int))):
        raise ConfigError(f"{name}: the step {step} does not suit the range", where=str(path))
    return Knob(name=name, low=low, high=high, log=log, step=step)


def _check_values(space: Space, settings: TrainConfig, path: Path) -> None:
    """Refuse a value that is wrong whatever stands beside it; what does not go together is found by its trial."""
    names = {knob.name for knob in space}
    own = {key: value for key, value in settings.model_settings.items() if key not in names}
    base = settings.model_copy(update={"model_settings": own})
    for knob in space:
        for value in knob.extremes():
            try:
                check_model(applied(base, {knob.name: value}))
            except ConfigError as error:
                raise ConfigError(
                    error.what, where=f"{path}: {error.setting or knob.name}", hint=error.hint
                ) from error


def applied(settings: TrainConfig, drawn: dict[str, Any]) -> TrainConfig:
    """The settings with the drawn values in their places.

    Raises:
        ConfigError: A value of the training is impossible.
    """
    own = {name: value for name, value in drawn.items() if name not in TRAINING_KEYS}
    values = settings.model_dump() | {name: value for name, value in drawn.items() if name in TRAINING_KEYS}
    values["model_settings"] = settings.model_settings | own
    return validated(TrainConfig, values)


def usual_values(space: Iterable[Knob], settings: TrainConfig) -> dict[str, Any]:
    """What the space holds of the settings as they are: the trial that the others have to beat."""
    model = model_class(settings.model).config_class.model_fields
    usual: dict[str, Any] = {}
    for knob in in_order(space):
        default = model[knob.name].default if knob.name in model else getattr(settings, knob.name)
        value = settings.model_settings.get(knob.name, default)
        if value == "auto" and not knob.holds(value) and knob.choices:
            value = knob.choices[0]
        if knob.holds(value) and knob.applies(settings.model_settings | usual):
            usual[knob.name] = value
    return usual


def in_order(space: Iterable[Knob]) -> Sequence[Knob]:
    """Those that others depend on come first."""
    return sorted(space, key=lambda knob: knob.only_with is not None)
