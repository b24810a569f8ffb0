"""What to train, how and where: model types, devices, presets and the configuration, which is checked when it is made."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from enum import StrEnum
from functools import wraps
from importlib.util import find_spec
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from presurge import errors
from presurge.config import refusal
from presurge.errors import ConfigError, PresurgeError
from presurge.models.registry import model_names
from presurge.training.config import require_torch

logger = logging.getLogger("presurge.predictor")

ALLOW_FALLBACK = "PRESURGE_ALLOW_FALLBACK"
"""Environment variable: 1 uses the CPU wherever the requested device does not exist."""

PRESETS: dict[str, dict[str, Any]] = {
    "lstm": {"epochs": 30},
    "transformer": {"epochs": 50, "learning_rate": 5e-4, "batch_size": 16},
    "gru": {"epochs": 30, "sequence_length": 30, "prediction_horizon": 5},
}
"""How models that are added without a configuration differ from the defaults of ``ModelConfig``. Their layers are the
defaults of the models."""

FIELDS = {"model": "model_type", "context": "sequence_length", "horizon": "prediction_horizon"}
FIELDS |= {name: name for name in ("batch_size", "epochs", "learning_rate", "patience")}
"""Setting of a training run -> the field of ``ModelConfig`` that means the same."""

_LOADER = "presurge.models.registry.load_plugin"
_NAMES = {**FIELDS, "plugin": _LOADER, "allow_fallback": f"allow_fallback=True, or {ALLOW_FALLBACK}=1"}
SAVED = "Name a file or directory that save_model wrote, or the directory of a training run."
_BAD_ROW = "Mend or remove this row, or what else is wrong with the data frame."
_HINTS = {
    "another `step`": "Give rows of the step that the model was trained on.",
    "`fill_gaps": "Fill the gaps first: with zeros for minutes without load, or with the data frame's interpolate().",
    "`kind": _BAD_ROW,
    "`step=": _BAD_ROW,
    "`time_unit`": _BAD_ROW,
    "`presurge train`": SAVED,
}
"""Words in a hint that speak of what this interface lacks -> the hint to give here."""
T = TypeVar("T")


@contextmanager
def own_words() -> Iterator[None]:
    """Spell the settings in errors raised inside as this interface does, such as ``sequence_length`` for ``context``."""

    def spell(setting: str, value: str | None = None) -> str:
        return errors.plain(_NAMES.get(setting, setting), value)

    try:
        yield
    except PresurgeError as error:
        hint = next((hint for words, hint in _HINTS.items() if words in (error.hint or "")), error.hint)
        error.what, error.hint = errors.spelled(error.what, spell), hint and errors.spelled(hint, spell)
        error.setting = error.setting and spell(error.setting)
        raise


class ModelDevice(StrEnum):
    """Where a model trains; ``auto`` picks cuda, then mps, then cpu."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"

    @classmethod
    def _missing_(cls, value: object) -> Self:
        name = str(value).lower().removesuffix(":0")  # torch uses the first one anyway
        if name not in set(cls):
            hint = f"Choose one of: {', '.join(cls)}. To use another GPU, set CUDA_VISIBLE_DEVICES=1."
            raise ConfigError(f"there is no device {value!r}", setting="device", hint=hint)
        return cls(name)


class ModelType(StrEnum):
    """The published types. Name any other model of Presurge, or one that you registered, by its text."""

    LSTM = "lstm"
    DLINEAR = "dlinear"
    TRANSFORMER = "transformer"
    GRU = "gru"
    CNN = "cnn"
    PROPHET = "prophet"
    CUSTOM = "custom"


Device = ModelDevice | str | None
"""A device or its text; None means ``auto``."""


def model_type_of(value: ModelType | str) -> ModelType | str:
    """The type of that name, ignoring case if that finds one; otherwise the name itself."""
    name, known = str(value), [*map(str, ModelType), *model_names()]
    if name not in known:
        name = {each.lower(): each for each in known}.get(name.lower(), name)
    return ModelType(name) if name in set(ModelType) else name


def plain(value: Any) -> Any:
    """Copy containers and turn NumPy numbers into Python numbers, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


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
@dataclass(frozen=True, slots=True, config={"extra": "forbid"})
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
        patience: Number of those epochs; None never stops early either.
        custom_params: Settings of the model (``d_model``, ``hidden_size`` ...) and of the training loop
            (``weight_decay``, ``clip_norm`` ...); ``mixed_precision`` and ``amp`` mean ``precision="bf16"``. A model
            refuses settings that it does not know.

    Raises:
        ConfigError: A value is impossible.
    """

    model_type: Annotated[Name, AfterValidator(model_type_of)] | None = None
    model_name: Name | None = None
    device: ModelDevice = ModelDevice.CPU
    sequence_length: Whole = 50
    prediction_horizon: Whole = 10
    batch_size: Whole = 32
    learning_rate: Annotated[Number, Field(gt=0, allow_inf_nan=False)] = 1e-3
    epochs: Whole = 100
    early_stopping: Annotated[bool, BeforeValidator(plain), Field(strict=True)] = True
    patience: Whole | None = 10
    custom_params: Annotated[dict[str, Any], BeforeValidator(plain)] = Field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


Given = InstanceOf[ModelConfig]
"""An argument that must be a ModelConfig already."""


@own_words()
def usable_device(device: Device, *, allow_fallback: bool = False) -> ModelDevice:
    """The device to use for the requested one.

    Args:
        device: The requested device.
        allow_fallback: Use the CPU if the device does not exist; so does ``PRESURGE_ALLOW_FALLBACK=1``.

    Raises:
        ConfigError: This machine has no such device.
        MissingDependencyError: The device needs torch, which is not installed.
    """
    wanted = ModelDevice.AUTO if device is None else ModelDevice(device)
    if wanted is ModelDevice.CPU or (wanted is ModelDevice.AUTO and find_spec("torch") is None):
        return ModelDevice.CPU
    require_torch(f"the device {wanted}")
    from presurge.training.devices import resolve_device

    allowed = allow_fallback or os.environ.get(ALLOW_FALLBACK) == "1"
    found = ModelDevice(resolve_device(wanted.value, allow_fallback=allowed).type)  # type: ignore[arg-type]
    if wanted not in (ModelDevice.AUTO, found):
        logger.warning("This machine has no %s device; using the CPU instead", wanted)
    return found
