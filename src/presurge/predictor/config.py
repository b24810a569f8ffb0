"""What to train, how and where: model types, devices, presets and the configuration, which is checked when it is made."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import StrEnum
from functools import wraps
from importlib.util import find_spec
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from presurge import errors
from presurge.config import Config, refusal, validated
from presurge.errors import ConfigError, PresurgeError
from presurge.models.forecaster import Forecaster
from presurge.models.registry import model_names
from presurge.training.config import TrainerConfig, TrainingConfig, require_torch

logger = logging.getLogger("presurge.predictor")

ALLOW_FALLBACK = "PRESURGE_ALLOW_FALLBACK"
"""Environment variable: 1 uses the CPU wherever the requested device does not exist."""

MAX_EPOCHS = "PRESURGE_MAX_EPOCHS"
"""Environment variable: the maximum number of epochs of any training, for smoke runs; each cut is logged as a warning."""

PRESETS: dict[str, dict[str, Any]] = {
    "lstm": {"epochs": 30},
    "transformer": {
        "epochs": 50,
        "learning_rate": 5e-4,
        "batch_size": 16,
        "custom_params": {"d_model": 64, "nhead": 4, "num_layers": 2, "dim_feedforward": 256, "dropout": 0.1},
    },
    "gru": {
        "sequence_length": 30,
        "prediction_horizon": 5,
        "epochs": 30,
        "custom_params": {"hidden_size": 64, "num_layers": 2},
    },
}
"""How models that are added without a configuration differ from the defaults of ``ModelConfig``."""

FIELDS_OF_CONFIG = {"epochs", "batch_size", "learning_rate", "patience", "device"}
"""Settings of the training loop that are fields of ``ModelConfig``."""

_NAMES = {"context": "sequence_length", "horizon": "prediction_horizon", "model": "model_type"}
_NAMES |= {"plugin": "presurge.models.registry.load_plugin"}
T = TypeVar("T")


class ModelDevice(StrEnum):
    """Where a model trains; ``auto`` picks cuda, then mps, then cpu."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class ModelType(StrEnum):
    """The published types. Name any other model of Presurge, or one that you registered, by its text."""

    LSTM = "lstm"
    DLINEAR = "dlinear"
    TRANSFORMER = "transformer"
    GRU = "gru"
    CNN = "cnn"
    PROPHET = "prophet"
    CUSTOM = "custom"


def plain(value: Any) -> Any:
    """Copy containers and turn NumPy numbers into Python numbers, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def model_type_of(value: ModelType | str) -> ModelType | str:
    """The type of that name, ignoring case if that finds one; otherwise the name itself."""
    name, known = str(value), [*map(str, ModelType), *model_names()]
    if name not in known:
        name = {each.lower(): each for each in known}.get(name.lower(), name)
    return ModelType(name) if name in set(ModelType) else name


def _device_of(value: Any) -> ModelDevice:
    name = str(value).lower().removesuffix(":0")  # torch uses the first one anyway
    if name not in set(ModelDevice):
        hint = f"Choose one of: {', '.join(ModelDevice)}. To use another GPU, set CUDA_VISIBLE_DEVICES=1."
        raise ConfigError(f"there is no device {value!r}", setting="device", hint=hint)
    return ModelDevice(name)


Number = Annotated[float, BeforeValidator(plain), Field(strict=True)]
Whole = Annotated[int, BeforeValidator(plain), Field(strict=True, ge=1)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Name = Annotated[str, Field(strict=True, min_length=1)]


def checked(kind: Any, value: Any, setting: str) -> Any:
    """Validate one argument.

    Raises:
        ConfigError: The value does not fit the type; the message names the setting.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise refusal(error, key=setting) from error


def raises_plainly(kind: type[T]) -> type[T]:
    """Make a pydantic data class raise ConfigError."""
    make, names = kind.__init__, [each.name for each in fields(kind)]  # type: ignore[arg-type]

    @wraps(make)
    def init(self: T, *args: Any, **values: Any) -> None:
        try:
            make(self, **dict(zip(names, args, strict=False)), **values)
        except ValidationError as error:
            raise refusal(error, where=kind.__name__, known=names) from error

    setattr(kind, "__init__", init)  # noqa: B010 - mypy refuses the assignment
    return kind


@raises_plainly
@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class ModelConfig:
    """What to train and how: checked when it is made, and independent of the objects it was made from.

    Attributes:
        model_type: A ``ModelType`` or the name of a model; if None, the name under which the model is added.
        model_name: Key of the model in ``ModelManager.active_models``; if None, the name under which it is added, else its type.
        device: A ``ModelDevice`` or its text.
        sequence_length: Rows of history (requests, or minutes) that one forecast reads.
        prediction_horizon: Rows that one forecast gives.
        batch_size: Windows per training step.
        learning_rate: Peak learning rate.
        epochs: Maximum number of passes over the training windows.
        early_stopping: Stop after ``patience`` epochs without a lower validation loss.
        patience: Number of those epochs.
        custom_params: Settings of the model (``d_model``, ``hidden_size`` ...) and of the training loop
            (``weight_decay``, ``clip_norm`` ...); ``mixed_precision`` and ``amp`` mean ``precision="bf16"``. A model
            refuses settings that it does not know.

    Raises:
        ConfigError: A value is impossible.
    """

    model_type: Annotated[Name, AfterValidator(model_type_of)] | None = None
    model_name: Name | None = None
    device: Annotated[ModelDevice, BeforeValidator(_device_of)] = ModelDevice.CPU
    sequence_length: Whole = 50
    prediction_horizon: Whole = 10
    batch_size: Whole = 32
    learning_rate: Annotated[Number, Field(gt=0, allow_inf_nan=False)] = 1e-3
    epochs: Whole = 100
    early_stopping: Annotated[bool, BeforeValidator(plain), Field(strict=True)] = True
    patience: Whole = 10
    custom_params: Annotated[dict[str, Any], BeforeValidator(plain)] = Field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


Given = InstanceOf[ModelConfig]
"""An argument that must be a ModelConfig already."""


def usable_device(device: ModelDevice | str | None, *, allow_fallback: bool = False) -> ModelDevice:
    """The device to use for the requested one (None means ``auto``).

    Args:
        device: The requested device.
        allow_fallback: Use the CPU if the device does not exist; so does ``PRESURGE_ALLOW_FALLBACK=1``.

    Raises:
        ConfigError: This machine has no such device.
        MissingDependencyError: The device needs torch, which is not installed.
    """
    wanted = ModelDevice.AUTO if device is None else _device_of(device)
    if wanted is ModelDevice.CPU or (wanted is ModelDevice.AUTO and find_spec("torch") is None):
        return ModelDevice.CPU
    require_torch(f"the device {wanted}")
    from presurge.training.devices import available_devices

    kinds = available_devices()
    if wanted in (ModelDevice.AUTO, *kinds):
        return ModelDevice(kinds[0]) if wanted is ModelDevice.AUTO else wanted
    if not (allow_fallback or os.environ.get(ALLOW_FALLBACK) == "1"):
        hint = f"Choose 'auto' or 'cpu', or allow a fallback: allow_fallback=True, or {ALLOW_FALLBACK}=1."
        raise ConfigError(f"this machine has no {wanted} device", setting="device", hint=hint)
    logger.warning("This machine has no %s device; using the CPU instead", wanted)
    return ModelDevice.CPU


def sorted_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split ``custom_params`` into settings of the model and settings of the training loop."""
    names, mixed = set(TrainerConfig.model_fields) - FIELDS_OF_CONFIG, ("mixed_precision", "amp")
    own = {key: value for key, value in params.items() if key not in names and key not in mixed}
    loop = {key: value for key, value in params.items() if key in names}
    if any(params.get(key) for key in mixed):
        loop.setdefault("precision", "bf16")
    return own, loop


def settings_of(config: ModelConfig, kind: type[Forecaster]) -> Config:
    """The model's own configuration.

    Raises:
        ConfigError: The model does not know a setting, or a value is impossible.
    """
    own, _ = sorted_params(config.custom_params)
    return validated(kind.config_class, own, where=f"custom_params of {config.model_name}")


def training_of(config: ModelConfig, kind: type[Forecaster]) -> TrainingConfig:
    """How to train; settings that ``ModelConfig`` leaves open, such as clipping, are those that suit the model."""
    values = {
        **kind.training_defaults,
        **sorted_params(config.custom_params)[1],
        "epochs": _epochs(config),
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "patience": config.patience if config.early_stopping else None,
        "device": str(config.device),
    }
    return validated(TrainingConfig, values, where=f"configuration of {config.model_name}")


def _epochs(config: ModelConfig) -> int:
    limit = os.environ.get(MAX_EPOCHS) or str(config.epochs)
    if not limit.isdecimal() or int(limit) < 1:
        hint = "Unset it, or set it to 1 or more."
        raise ConfigError(f"{limit!r} is not a number of epochs", where=MAX_EPOCHS, hint=hint)
    if int(limit) < config.epochs:
        cut = (config.model_name, limit, config.epochs, MAX_EPOCHS)
        logger.warning("%s: at most %s of %d epochs (%s)", *cut)
    return min(config.epochs, int(limit))


def spell(setting: str, value: str | None = None) -> str:
    """Spell a setting as this interface does: ``sequence_length`` for ``context``."""
    return errors.plain(_NAMES.get(setting, setting), value)


@contextmanager
def own_words(frame: str = "data frame") -> Iterator[None]:
    """Spell the settings in errors raised inside as this interface does.

    Args:
        frame: What to call the rows that a message counts.
    """
    try:
        yield
    except PresurgeError as error:
        error.what = errors.spelled(error.what, spell)
        error.hint = error.hint and errors.spelled(error.hint, spell)
        error.setting = error.setting and spell(error.setting)
        error.where = error.where and error.where.replace("data frame", frame, 1)
        raise
