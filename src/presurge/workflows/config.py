"""The configuration of a training run, and the one place that resolves it from flags, a file, presets and defaults."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from presurge.config import Config, read_mapping, validated
from presurge.errors import ConfigError
from presurge.models import plugins
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES, model_class
from presurge.series.frequency import parse_step
from presurge.training.config import TrainerConfig, TrainingConfig, require_torch

PRESETS: dict[str, dict[str, Any]] = {
    "minute-3": {"context": 120, "horizon": 3},
    "long-20": {"context": 100, "horizon": 20},
}
"""minute-3 looks two hours back and three minutes ahead, the time a replica takes to start; long-20 looks further ahead."""

DEFAULT_PRESET = "minute-3"

DEFAULT_MODEL = "auto"

GUIDE_MODEL = "dlinear"
"""The model of the training guide: for its presets, its configuration file and the settings in ``MODEL_KEYS``."""

_GUIDE_NAMES = {
    "sequence_length": "context",
    "prediction_horizon": "horizon",
    "early_stopping_patience": "patience",
}
"""Keys of the training guide's configuration file, and what Presurge calls them."""

MODEL_KEYS = ("individual", "kernel_size", "solver", "loss")
"""Model settings that may stand at the top of a configuration; all others belong in ``model_settings``."""


class TrainConfig(TrainerConfig):
    """The resolved configuration of a training run, saved as ``training_config.json``, which can be read back as a file.

    The keys of ``TrainerConfig`` (``epochs``, ``learning_rate`` ...) matter only to models that learn by gradient.

    Attributes:
        model: Name of the model.
        preset: Sets context and horizon if nothing else does.
        context: Rows of history.
        horizon: Rows of forecast.
        season: Period of the seasonal baseline, such as ``1d``; None detects it.
        final_fit: Fit to all rows after scoring; None does so for ``auto``.
        channels: Number of channels that the data must have; None accepts any.
        model_settings: The model's own settings.
        use_wandb: Send curves, metrics and pictures to Weights & Biases.
        wandb_project: Weights & Biases project.
        wandb_entity: Weights & Biases team.
        wandb_run_name: Name of the run in Weights & Biases.
        loggers: Further metric loggers by name.
    """

    model: str = DEFAULT_MODEL
    preset: str = DEFAULT_PRESET
    context: int = Field(120, ge=1)
    horizon: int = Field(3, ge=1)
    season: str | None = None
    final_fit: bool | None = None
    channels: int | None = Field(None, ge=1)
    model_settings: dict[str, Any] = Field(default_factory=dict)
    use_wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_run_name: str | None = None
    loggers: tuple[Literal["wandb", "tensorboard", "mlflow"], ...] = ()

    @field_validator("season")
    @classmethod
    def _is_a_step(cls, season: str | None) -> str | None:
        try:
            parse_step(1 if season is None else season)
        except ConfigError as error:
            raise ValueError(f"{error.what}. {error.hint}") from error
        return season

    def __str__(self) -> str:
        """The model, the windows and whatever differs from the defaults, in one line."""
        skipped = {"model", "preset", "context", "horizon", "model_settings"}
        others = self.model_dump(mode="json", exclude_defaults=True, exclude=skipped) | self.model_settings
        words = [
            f"{self.model}, {self.context} rows to {self.horizon}",
            *(f"{k}={v}" for k, v in others.items()),
        ]
        return ", ".join(words)

    @property
    def fits_all_rows(self) -> bool:
        """Whether to fit to all rows after scoring."""
        return self.model == "auto" if self.final_fit is None else self.final_fit

    def own(self) -> Config:
        """The model's own settings, defaults included.

        Raises:
            ConfigError: There is no such model, or it has no such setting.
        """
        known = model_class(self.model).config_class
        return validated(known, self.model_settings, where=f"settings of {self.model}")

    def new_model(self, **more: Any) -> Forecaster:
        """A model to fit; ``more`` adds checkpoints and loggers to how it is trained."""
        return plugins.make(
            model_class(self.model),
            context=self.context,
            horizon=self.horizon,
            config=self.own(),
            training=self.training(**more),
        )

    def training(self, **more: Any) -> TrainingConfig:
        """How to train by gradient; ``more`` adds checkpoints and loggers."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainerConfig.model_fields}, **more)


def resolve_config(
    given: Mapping[str, Any], file: Path | None = None, *, usual: str = DEFAULT_MODEL
) -> TrainConfig:
    """Resolve a configuration: what is given overrides the file, the file the preset, and that the defaults of the model.

    Args:
        given: What the caller asks for, by key; None means not given.
        file: A JSON or YAML file with the same keys, or with those of the training guide.
        usual: The model if none is named. A named preset, a file with keys of the training guide and settings in
            ``MODEL_KEYS`` mean that of the guide, DLinear.

    Raises:
        ConfigError: An unknown key, preset or model, or an impossible value. The error names the setting if the caller
            gave it, and else the key in the file.
        MissingDependencyError: The model needs a package that is not installed.
    """
    given = {key: value for key, value in given.items() if value is not None}
    written = read_mapping(file) if file is not None else {}
    from_file = {_GUIDE_NAMES.get(key, key): value for key, value in written.items()}
    places = {_GUIDE_NAMES.get(key, key): f"{file}: {key}" for key in written}
    with _blamed_on(places, {key: key for key in given}, unknown=None if file is None else str(file)):
        preset = given.get("preset") or from_file.get("preset") or DEFAULT_PRESET
        if preset not in PRESETS:
            hint = f"Choose one of: {', '.join(PRESETS)}."
            raise ConfigError(f"there is no preset {preset!r}", setting="preset", hint=hint)
        own_given, own_from_file = _own_settings(given), _own_settings(from_file)
        named = given.get("preset") or from_file.get("preset") or _GUIDE_NAMES.keys() & written.keys()
        if named or {*MODEL_KEYS} & {*own_given, *own_from_file}:
            usual = GUIDE_MODEL
        name = str(given.get("model") or from_file.get("model") or usual)
        kind = model_class(name)
        # Such as the epochs of the networks that `auto` tries.
        shared = TrainerConfig.model_fields.keys() & kind.config_class.model_fields.keys() & given.keys()
        own = {key: given[key] for key in shared} | own_from_file | own_given
        merged = {**kind.training_defaults, **PRESETS[preset], "preset": preset, **from_file, **given}
        values = {key: value for key, value in merged.items() if key not in MODEL_KEYS}
        config = validated(TrainConfig, {**values, "model": name, "model_settings": own}, known=MODEL_KEYS)
    places = {key: places.get(key, f"{file}: model_settings.{key}") for key in own_from_file}
    ours = file is None or own_given.keys() - kind.config_class.model_fields.keys()
    names = {key: key if key in given else f"model_settings.{key}" for key in own_given}
    with _blamed_on(places, names, unknown=f"settings of {name}" if ours else f"{file}: model_settings"):
        validated(kind.config_class, own)
    return config


@contextmanager
def _blamed_on(places: Mapping[str, str], given: Mapping[str, str], *, unknown: str | None) -> Iterator[None]:
    """Name a bad value as the caller did, or else by its place in a file; an unknown key has a place of its own."""
    try:
        yield
    except ConfigError as error:
        key, dot, rest = (error.setting or "").partition(".")
        if key in given:
            error.setting = given[key] + dot + rest
        elif key in places:
            error.where, error.setting = places[key] + dot + rest, None
        elif not key:
            error.where = unknown
        raise


def resolve_each(
    models: Sequence[str], training: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, TrainConfig]:
    """Build the configurations of several models, by name.

    Args:
        models: Their names. The baselines are always added; a setting reaches them only by their names.
        training: Settings of every training; None means not given.
        own: The models' own settings: ``"gru:stride"`` is for ``gru``, and ``"stride"`` for each model that has it.

    Raises:
        ConfigError: There is no such model, none of them has such a setting, or a value is impossible.
    """
    left, resolved = set(own), {}
    for name in dict.fromkeys([*models, *BASELINES]):
        known = model_class(name).config_class.model_fields if name in models else ()
        taken = {key: key for key in own if key in known}
        taken |= {key: bare for key in own for who, _, bare in [key.partition(":")] if bare and who == name}
        left -= set(taken)
        values = {bare: own[key] for key, bare in taken.items()}
        resolved[name] = resolve_config({**training, "model": name, "model_settings": values})
        check_model(resolved[name])
    if left:
        raise ConfigError(
            f"none of {', '.join(models)} has the setting {min(left)!r}",
            setting="set",
            hint="Write KEY=VALUE or MODEL:KEY=VALUE, with a model that is compared.",
        )
    return resolved


def _own_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own settings among some values, at the top or in ``model_settings``."""
    own = values.get("model_settings") or {}
    if not isinstance(own, dict):
        raise ConfigError(f"must hold keys and values (got {own!r})", setting="model_settings")
    return {**own, **{key: values[key] for key in MODEL_KEYS if key in values}}


def check_model(config: TrainConfig) -> None:
    """Refuse an unknown model, a bad setting of it or a device that does not exist before any data are read.

    Raises:
        ConfigError: There is no such model, it has no such setting or no final fit, or this machine has no such device.
        MissingDependencyError: The device is not the CPU, and torch is not installed.
    """
    config.own()
    if config.device not in ("auto", "cpu"):
        require_torch(f"the device {config.device}")
        from presurge.training.devices import resolve_device

        resolve_device(config.device, allow_fallback=config.allow_fallback)
    if config.final_fit and not config.new_model().refits:
        raise ConfigError(
            f"{config.model} learns by gradient, and only a model that is solved is fitted again to all rows",
            setting="final_fit",
            hint="Leave it out; a smaller `test_fraction` gives the weights more rows.",
        )
