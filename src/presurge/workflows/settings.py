"""What a training run was asked to do: presets, and settings where an unknown key is an error that names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from presurge.config import read_mapping, validated
from presurge.errors import ConfigError
from presurge.models.registry import BASELINES, model_class
from presurge.training.config import TrainerConfig, TrainingConfig, require_torch

PRESETS: dict[str, dict[str, Any]] = {
    "minute-3": {"context": 120, "horizon": 3},
    "long-20": {"context": 100, "horizon": 20},
}
"""minute-3 looks two hours back and three minutes ahead, the time that a replica takes to start; long-20 looks further."""

DEFAULT_PRESET = "minute-3"

DEFAULT_MODEL = "dlinear"

_OTHER_NAMES = {
    "sequence_length": "context",
    "prediction_horizon": "horizon",
    "early_stopping_patience": "patience",
}
"""Names of the training guide for what Presurge calls otherwise."""

MODEL_KEYS = ("individual", "kernel_size", "solver", "loss")
"""Settings of a model that have a flag and a key of their own; the others are given in ``model_settings``."""


class TrainConfig(TrainerConfig):
    """Resolved settings of a training run, written to ``training_config.json``; it can be read back as a configuration file.

    The settings of the training loop (``epochs``, ``learning_rate`` ...) matter to models that learn by gradient only.

    Attributes:
        model: Name of the model.
        preset: Where context and horizon come from if nothing else says.
        context: Rows of history.
        horizon: Rows of forecast.
        channels: How many channels the data must have; None takes any number.
        model_settings: The model's own settings.
        use_wandb: Send curves, metrics and pictures to Weights & Biases.
        wandb_project: Its project.
        wandb_entity: Its team.
        wandb_run_name: The name of the run there.
        loggers: Further metric loggers by name.
    """

    model: str = DEFAULT_MODEL
    preset: str = DEFAULT_PRESET
    context: int = Field(120, ge=1)
    horizon: int = Field(3, ge=1)
    channels: int | None = Field(None, ge=1)
    model_settings: dict[str, Any] = Field(default_factory=dict)
    use_wandb: bool = False
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_run_name: str | None = None
    loggers: tuple[Literal["wandb", "tensorboard", "mlflow"], ...] = ()

    def training(self) -> TrainingConfig:
        """How to train by gradient, without checkpoints or loggers."""
        return TrainingConfig(**{name: getattr(self, name) for name in TrainerConfig.model_fields})


def resolve_settings(flags: dict[str, Any], config_file: Path | None = None) -> TrainConfig:
    """Settings by precedence: flag over file over preset over what suits the model over default.

    Args:
        flags: What was given on the command line; None means not given.
        config_file: A JSON file of settings.

    Raises:
        ConfigError: An unknown key, preset or model, or an impossible value; the message names the key and where it
            stood.
        MissingDependencyError: The model needs a package that is not installed.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    from_file = read_mapping(config_file) if config_file is not None else {}
    from_file = {_OTHER_NAMES.get(key, key): value for key, value in from_file.items()}
    preset = given.get("preset") or from_file.get("preset") or DEFAULT_PRESET
    if preset not in PRESETS:
        raise ConfigError(
            f"there is no preset {preset!r}", setting="preset", hint=f"Choose one of: {', '.join(PRESETS)}."
        )
    own = _model_settings(from_file) | _model_settings(given)
    model = given.get("model") or from_file.get("model") or DEFAULT_MODEL
    kind = model_class(str(model))
    both = TrainerConfig.model_fields.keys() & kind.config_class.model_fields.keys() & given.keys()
    own = {key: given[key] for key in both} | own  # the epochs of what auto tries, say
    suited = kind.training_defaults
    merged = {**suited, **PRESETS[preset], "preset": preset, **from_file, **given, "model_settings": own}
    values = {key: value for key, value in merged.items() if key not in MODEL_KEYS}
    where = str(config_file) if config_file is not None else None
    return validated(TrainConfig, values, where=where, known=MODEL_KEYS)


def resolve_each(
    models: Sequence[str], training: dict[str, Any], own: dict[str, Any]
) -> dict[str, TrainConfig]:
    """Settings of several models by name.

    Args:
        models: Their names. The baselines, which are always compared, have settings too, but only by their names.
        training: Settings of every training; None means not given.
        own: Models' own settings. ``"gru:stride"`` is one of ``gru``, and ``"stride"`` one of each that has it.

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
        resolved[name] = resolve_settings({**training, "model": name, "model_settings": values})
        check_model(resolved[name])
    if left:
        raise ConfigError(
            f"none of {', '.join(models)} has the setting {min(left)!r}",
            setting="set",
            hint="Write KEY=VALUE or MODEL:KEY=VALUE, with a model that is compared.",
        )
    return resolved


def _model_settings(values: dict[str, Any]) -> dict[str, Any]:
    own = values.get("model_settings")
    return {**(own or {}), **{key: values[key] for key in MODEL_KEYS if key in values}}


def check_model(settings: TrainConfig) -> None:
    """Refuse an unknown model, a wrong setting of it or a device that is not there before any data are read.

    Raises:
        ConfigError: There is no such model, it has no such setting, or this machine has no such device.
        MissingDependencyError: A device other than the cpu was asked for, and torch is not installed.
    """
    kind = model_class(settings.model)
    validated(kind.config_class, settings.model_settings, where=f"settings of {settings.model}")
    if settings.device not in ("auto", "cpu"):
        require_torch(f"the device {settings.device}")
        from presurge.training.devices import resolve_device

        resolve_device(settings.device, allow_fallback=settings.allow_fallback)
