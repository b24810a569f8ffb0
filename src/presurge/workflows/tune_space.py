"""What a search may vary: the space that a model declares, or one from a file."""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, model_validator

from presurge.config import Config, read_mapping, validated
from presurge.errors import ConfigError, MissingDependencyError
from presurge.models.registry import model_class
from presurge.workflows.config import TrainConfig, check_model, resolve_config

if TYPE_CHECKING:
    import optuna

TRAINING_KEYS = (
    "accumulate", "batch_size", "clip_norm", "context", "epochs", "learning_rate", "optimizer", "patience",
    "plateau_patience", "schedule", "warmup_steps", "weight_decay",
)  # fmt: skip
"""Settings of a training that may be searched beside those of the model."""

Plain = bool | int | float | str | None
Number = StrictInt | StrictFloat
_EXAMPLE = (
    'For example: {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "kernel_size": [5, 13, 25]}'
)


class Knob(Config):
    """The values that a setting may take: a list of choices, or a range.

    Attributes:
        choices: The values; empty for a range.
        low: The smallest value of a range.
        high: The largest; if both are integers, the range is one of integers.
        log: Draw from a logarithmic scale: all factors are equally likely.
        step: Distance between values; None draws any value.
        only_with: Other settings, and the values of them with which this setting has an effect and is drawn.
    """

    choices: Annotated[tuple[Plain, ...], AfterValidator(lambda found: tuple(dict.fromkeys(found)))] = ()
    low: Number = 0
    high: Number = 0
    log: bool = False
    step: Number | None = None
    only_with: dict[str, tuple[Plain, ...]] = Field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, where: str | None = None) -> Self:
        """Read a knob as a space file or a model class writes it.

        Raises:
            ConfigError: The value is neither a list of values nor a range.
        """
        if isinstance(value, list) and value:
            value = {"choices": value}
        if not isinstance(value, dict):
            raise ConfigError("must be a list of values or a range", where=where, hint=_EXAMPLE)
        return validated(cls, value, where=where)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.choices:
            return self
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a range with log starts above zero and has no step")
        if self.step is not None and (self.step <= 0 or (self.whole and not isinstance(self.step, int))):
            raise ValueError(f"the step {self.step} does not suit the range")
        return self

    @property
    def whole(self) -> bool:
        """Whether the range is one of integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def holds(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        if self.choices:
            return value in self.choices
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or (value - self.low) % self.step == 0

    def extremes(self) -> tuple[Plain, ...]:
        """The ends of a range, or all choices: if they are possible settings, so is every value that can be drawn."""
        return self.choices or (self.low, self.high)

    def applies(self, drawn: dict[str, Any]) -> bool:
        """Whether the setting has an effect beside these."""
        return all(drawn.get(name) in values for name, values in self.only_with.items())

    def draw(self, trial: "optuna.Trial", name: str) -> None:
        """Draw a value for a trial."""
        if self.choices:
            trial.suggest_categorical(name, self.choices)
        elif self.whole:
            trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        else:
            trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def to_json(self) -> Any:
        """The knob as a space file writes it."""
        if self.choices:
            return list(self.choices)
        more = self.model_dump(include={"log", "step"}, exclude_defaults=True)
        return {"low": self.low, "high": self.high, **more}


Space = dict[str, Knob]
"""Setting -> values, the settings that depend on others last."""


def space_of(settings: TrainConfig, path: Path | None = None, *, fixed: Collection[str] = ()) -> Space:
    """What to search: what a file names, or what the model declares without the names that are fixed.

    A file is JSON, such as ``{"learning_rate": {"low": 1e-4, "high": 1e-2, "log": true}, "kernel_size": [5, 13]}``.

    Raises:
        ConfigError: The file cannot be read, a name or a value is not a setting, or there is nothing to search.
        MissingDependencyError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise MissingDependencyError("optuna", purpose="hyper-parameter search", extra="tune")
    check_model(settings)
    kind = model_class(settings.model)
    known = {*TRAINING_KEYS, *kind.config_class.model_fields}
    declared = {name: Knob.of(value) for name, value in kind.search_space.items() if name in known}
    if path is not None:
        space = _from_file(path, settings, declared, known)
    else:
        own, gone = settings.own().model_dump(), {*fixed, *settings.model_settings}
        if find_spec("torch") is None:  # then nothing can be trained by gradient
            own, gone = own | {"solver": "exact"}, gone | {"solver"}
        space = {name: knob for name, knob in declared.items() if name not in gone}
        # Of a setting that means something only beside others, those that are searched decide, else those that are fixed.
        while idle := [
            name
            for name, knob in space.items()
            if not (knob.only_with.keys() <= space.keys() or knob.applies(own))
        ]:
            space = {name: knob for name, knob in space.items() if name not in idle}
    if not space:
        raise ConfigError(
            f"there is nothing to search for {settings.model}",
            hint='Name settings and their values in a file, and give it: `space=FILE.json`, such as {"context": [60, 120]}.',
        )
    for name, knob in space.items():
        if not knob.only_with.keys() <= space.keys():
            space[name] = knob.model_copy(update={"only_with": {}})
    return dict(sorted(space.items(), key=lambda item: bool(item[1].only_with)))


def _from_file(path: Path, settings: TrainConfig, declared: Space, known: set[str]) -> Space:
    document = read_mapping(path)
    if not document:
        raise ConfigError("names no setting", where=str(path), hint=_EXAMPLE)
    if unknown := [name for name in document if name not in known]:
        raise ConfigError(
            f"{settings.model} has no setting {', '.join(map(repr, unknown))} that can be searched",
            where=str(path),
            hint=f"Choose from: {', '.join(sorted(known))}.",
        )
    own = {key: value for key, value in settings.model_settings.items() if key not in document}
    base, space = settings.model_copy(update={"model_settings": own}), {}
    for name, value in document.items():
        knob = Knob.of(value, where=f"{path}: {name}")
        # Refuse a value that is wrong whatever stands beside it; only a trial finds values that do not go together.
        for extreme in knob.extremes():
            try:
                check_model(applied(base, {name: extreme}))
            except ConfigError as error:
                error.where, error.setting = f"{path}: {error.setting or name}", None
                raise
        if name in declared and not knob.only_with:
            knob = knob.model_copy(update={"only_with": declared[name].only_with})
        space[name] = knob
    return space


def applied(settings: TrainConfig, drawn: dict[str, Any]) -> TrainConfig:
    """The settings with the drawn values in their places.

    Raises:
        ConfigError: A value of the training is impossible.
    """
    loop = {name: value for name, value in drawn.items() if name in TRAINING_KEYS}
    own = {name: value for name, value in drawn.items() if name not in TRAINING_KEYS}
    values = settings.model_dump() | loop | {"model_settings": settings.model_settings | own}
    return validated(TrainConfig, values)


def usual_values(space: Space, settings: TrainConfig) -> dict[str, Any]:
    """The values that the settings have without a search, as far as the space contains them: the first trial."""
    values, usual = settings.model_dump() | settings.own().model_dump(), dict[str, Any]()
    for name, knob in space.items():
        value = values[name]
        if value == "auto" and knob.choices and not knob.holds(value):
            value = knob.choices[0]
        if knob.holds(value):
            usual[name] = value
    return usual


def brief(settings: TrainConfig) -> dict[str, Any]:
    """The settings that differ from the defaults of the model, as ``presurge train`` reads them."""
    usual = resolve_config({"model": settings.model}).model_dump(mode="json")
    return {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if name in ("model", "context", "horizon") or value != usual[name]
    }
