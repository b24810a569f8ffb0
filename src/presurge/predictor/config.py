"""What to train, how and where: model types, devices and the configuration, checked when it is made."""

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

import numpy as np

from presurge.errors import ConfigError
from presurge.models.registry import model_names
from presurge.training.config import require_torch

logger = logging.getLogger("presurge.predictor")

ALLOW_FALLBACK = "PRESURGE_ALLOW_FALLBACK"
"""Environment variable: 1 takes the cpu wherever a device is asked for that this machine does not have."""


class ModelDevice(StrEnum):
    """Where a model trains; ``auto`` takes cuda, then mps, then cpu."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class ModelType(StrEnum):
    """The published types. Every other model of Presurge, and every registered one, is named by its text."""

    LSTM = "lstm"
    DLINEAR = "dlinear"
    TRANSFORMER = "transformer"
    GRU = "gru"
    CNN = "cnn"
    PROPHET = "prophet"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What to train and how; checked when it is made, and a copy of what it is made of.

    Attributes:
        model_type: A ``ModelType`` or the name of a model; told by the name it is added under where None.
        model_name: Key of the model in ``ModelManager.active_models``; the name it is added under, else its type, where None.
        device: A ``ModelDevice`` or its text.
        sequence_length: Rows of history (requests, or minutes) that one forecast reads.
        prediction_horizon: Rows that one forecast gives.
        batch_size: Windows of a training step.
        learning_rate: Peak learning rate.
        epochs: Passes over the training windows at most.
        early_stopping: Stop after ``patience`` epochs without a lower validation loss.
        patience: Those epochs.
        custom_params: Settings of the model (``d_model``, ``hidden_size`` ...) and of the training loop
            (``weight_decay``, ``clip_norm`` ...); ``mixed_precision`` and ``amp`` mean ``precision="bf16"``. A model
            refuses what it does not know.

    Raises:
        ConfigError: A value is impossible.
    """

    model_type: ModelType | str | None = None
    model_name: str | None = None
    device: ModelDevice | str = ModelDevice.CPU
    sequence_length: int = 50
    prediction_horizon: int = 10
    batch_size: int = 32
    learning_rate: float = 1e-3
    epochs: int = 100
    early_stopping: bool = True
    patience: int = 10
    custom_params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, checked in _CHECKS.items():
            object.__setattr__(self, name, checked(getattr(self, name), f"ModelConfig.{name}"))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def config_of(value: Any) -> ModelConfig:
    """Return a configuration.

    Raises:
        ConfigError: It is something else.
    """
    if not isinstance(value, ModelConfig):
        raise ConfigError(
            f"must be a ModelConfig, not {type(value).__name__}",
            where="config",
            hint="Write ModelConfig(epochs=30, ...).",
        )
    return value


def model_type_of(value: ModelType | str) -> ModelType | str:
    """The type of that name, whatever the case of its letters where there is one; else the name itself."""
    name, known = str(value), [*map(str, ModelType), *model_names()]
    if name not in known:
        name = {each.lower(): each for each in known}.get(name.lower(), name)
    return ModelType(name) if name in set(ModelType) else name


def usable_device(device: ModelDevice | str | None, *, allow_fallback: bool = False) -> ModelDevice:
    """The device to use for the one asked for (None means ``auto``).

    Args:
        device: What was asked for.
        allow_fallback: Take the cpu where it does not exist; so does ``PRESURGE_ALLOW_FALLBACK=1``.

    Raises:
        ConfigError: There is no such device here.
        MissingDependencyError: It needs torch, which is not installed.
    """
    wanted = ModelDevice.AUTO if device is None else _device(device, "device")
    if wanted is ModelDevice.CPU or (wanted is ModelDevice.AUTO and find_spec("torch") is None):
        return ModelDevice.CPU
    require_torch(f"the device {wanted}")
    from presurge.training.devices import available_devices

    kinds = available_devices()
    if wanted is ModelDevice.AUTO or wanted in kinds:
        return ModelDevice(kinds[0]) if wanted is ModelDevice.AUTO else wanted
    if not (allow_fallback or os.environ.get(ALLOW_FALLBACK) == "1"):
        raise ConfigError(
            f"this machine has no {wanted} device",
            where="device",
            hint=f"Take 'auto' or 'cpu', or let it fall back: allow_fallback=True, or {ALLOW_FALLBACK}=1.",
        )
    logger.warning("This machine has no %s device; the cpu is taken instead", wanted)
    return ModelDevice.CPU


def whole(value: Any, where: str) -> int:
    """A whole number from 1, of NumPy too.

    Raises:
        ConfigError: It is something else.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(f"must be a whole number from 1, not {value!r}", where=where)
    return number


def share(value: Any, where: str) -> float:
    """A part of the rows, between 0 and 1.

    Raises:
        ConfigError: It is something else.
    """
    number = plain(value)
    if not (isinstance(number, float) and 0 < number < 1):
        raise ConfigError(f"must be between 0 and 1, not {value!r}", where=where, hint="0.2 is usual.")
    return number


def named(value: Any, where: str) -> str:
    """A name: text that is not empty.

    Raises:
        ConfigError: It is something else.
    """
    if not (isinstance(value, str) and value):
        raise ConfigError(f"must be a name, not {value!r}", where=where)
    return value


def plain(value: Any) -> Any:
    """A copy in which containers are new and the numbers of NumPy are those of Python, which JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _type(value: Any, where: str) -> ModelType | str | None:
    return None if value is None else model_type_of(named(value, where))


def _name(value: Any, where: str) -> str | None:
    return None if value is None else named(value, where)


def _device(value: Any, where: str) -> ModelDevice:
    name = str(value).lower().removesuffix(":0")  # the first is the one that torch takes by itself
    if name not in set(ModelDevice):
        raise ConfigError(
            f"{value!r} is no device",
            where=where,
            hint=f"Choose one of: {', '.join(ModelDevice)}. Another than the first GPU: CUDA_VISIBLE_DEVICES=1.",
        )
    return ModelDevice(name)


def _rate(value: Any, where: str) -> float:
    number = plain(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not (is_number and 0 < number < math.inf):
        raise ConfigError(f"must be a number above 0, not {value!r}", where=where)
    return float(number)


def _flag(value: Any, where: str) -> bool:
    flag = plain(value)
    if not isinstance(flag, bool):
        raise ConfigError(f"must be True or False, not {value!r}", where=where)
    return flag


def _params(value: Any, where: str) -> dict[str, Any]:
    if not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise ConfigError(f"must be a dictionary with names as keys, not {value!r}", where=where)
    return dict(plain(value))


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "model_type": _type,
    "model_name": _name,
    "device": _device,
    "sequence_length": whole,
    "prediction_horizon": whole,
    "batch_size": whole,
    "learning_rate": _rate,
    "epochs": whole,
    "early_stopping": _flag,
    "patience": whole,
    "custom_params": _params,
}
"""What each field of a configuration has to be: the value to keep, or an error that names the place."""
