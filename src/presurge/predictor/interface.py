"""The published types: devices, model types, configuration, results, and the base class of every predictor."""

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, TypeVar

from presurge.errors import ConfigError
from presurge.models.plan import require_torch
from presurge.predictor.frames import Frame, check_rows

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


E = TypeVar("E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What to train and how; checked when it is made.

    Attributes:
        model_type: A ``ModelType`` or the name of a model; told by the name it is added under where None.
        model_name: Key of the model in ``ModelManager.active_models``; the name it is added under where None.
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
        object.__setattr__(self, "device", _device(self.device))
        if self.model_type is not None:
            object.__setattr__(self, "model_type", model_type_of(self.model_type))
        for name in ("sequence_length", "prediction_horizon", "batch_size", "epochs", "patience"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"must be a whole number from 1, not {value!r}", where=f"ModelConfig.{name}"
                )
        if not self.learning_rate > 0:
            raise ConfigError(
                f"must be above 0, not {self.learning_rate!r}", where="ModelConfig.learning_rate"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(slots=True)
class PredictionResult:
    """Forecasts of the next rows.

    Attributes:
        timestamps: In the form that the stamps came in: numbers of seconds, or ISO-8601 in UTC.
        request_tokens: Tokens of the next requests, or their sums in the next minutes.
        response_tokens: The same of the responses.
        confidence: ``1 / (1 + error)``, see ``BasePredictor.confidence``; NaN where no error was measured.
        prediction_time: Seconds that the forecast took.
        metadata: ``error``, the reason, where there is no forecast; else what else the model says.
    """

    timestamps: list[Any]
    request_tokens: list[float]
    response_tokens: list[float]
    confidence: float
    model_name: str
    prediction_time: float
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class TrainingResult:
    """What a training did.

    Attributes:
        training_time: Seconds.
        final_loss: Validation loss of the last epoch, on the model's scale. A model that is solved in closed form has
            one: its squared validation error, in units of the variance of the training rows.
        best_loss: Validation loss of the epoch that was kept.
        epochs_trained: 0 for a model that is solved in closed form.
        early_stopped: It ended before the epochs asked for.
        error_message: Why it failed.
    """

    success: bool
    training_time: float
    final_loss: float
    best_loss: float
    epochs_trained: int
    early_stopped: bool
    model_path: str | None = None
    error_message: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class BasePredictor(ABC):
    """Base of every predictor; a model of your own derives from it and is registered with ``register_model``.

    Attributes:
        device: The device that was resolved, as text that torch takes.
        is_trained: Set by ``train`` and ``load_model``; the manager sets it after a training that succeeded.
        training_history: ``final_loss``, ``best_loss``, ``epochs_trained``, ``early_stopped`` after a training.
        rolling_errors: Measured on the validation rows, for each step ahead: the mean of the WAPE of request and response
            tokens. The manager measures it for a predictor that does not.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = replace(config, device=usable_device(config.device))
        self.model_name = config.model_name or type(self).__name__
        self.model_type = config.model_type or ModelType.CUSTOM
        self.device = str(self.config.device)
        self.is_trained = False
        self.model: Any = None
        self.training_history: dict[str, Any] = {}
        self.rolling_errors: tuple[float, ...] = ()

    @abstractmethod
    def prepare_data(self, data: Frame) -> Any:
        """Turn a data frame into what the model reads."""

    @abstractmethod
    def build_model(self) -> Any:
        """Make the untrained model."""

    @abstractmethod
    def train(self, data: Frame, validation_split: float = 0.2) -> TrainingResult:
        """Learn from all but the last ``validation_split`` of the rows, and measure on those."""

    @abstractmethod
    def predict(self, data: Frame, steps: int | None = None) -> PredictionResult:
        """Forecast the ``steps`` rows (the horizon where None) after the last one."""

    @abstractmethod
    def save_model(self, path: str) -> bool:
        """Write the trained model."""

    @abstractmethod
    def load_model(self, path: str) -> bool:
        """Read what ``save_model`` wrote."""

    def rolling_error(self, steps: int | None = None) -> float:
        """Mean of the first ``steps`` rolling errors (of all where None); NaN where none was measured."""
        known = self.rolling_errors[:steps]
        return sum(known) / len(known) if known else math.nan

    def confidence(self, steps: int | None = None) -> float:
        """``1 / (1 + rolling_error(steps))``: 1 for no error, 0.5 for errors as large as the values; higher is better."""
        return 1 / (1 + self.rolling_error(steps))

    def get_model_info(self) -> dict[str, Any]:
        """Name, type, device, whether it is trained, configuration and training history, as plain values."""
        return {
            "model_name": self.model_name,
            "model_type": str(self.model_type),
            "device": self.device,
            "is_trained": self.is_trained,
            "config": self.config.to_dict(),
            "training_history": self.training_history,
        }

    def to_device(self, device: ModelDevice | str) -> None:
        """Choose where the model trains from now on; a torch module in ``self.model`` is moved there.

        Raises:
            ConfigError: The device does not exist here.
        """
        self.config = replace(self.config, device=usable_device(device))
        self.device = str(self.config.device)
        if hasattr(self.model, "to"):
            self.model = self.model.to(self.device)

    def validate_input_data(self, data: Frame) -> bool:
        """Return True for a frame with the columns and at least ``sequence_length`` rows.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        check_rows(data, self.config.sequence_length)
        return True


def model_type_of(value: ModelType | str) -> ModelType | str:
    """The published type of that name, or the name itself."""
    name = str(value).lower()
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
    wanted = ModelDevice.AUTO if device is None else _device(device)
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


def _device(value: ModelDevice | str) -> ModelDevice:
    if value not in set(ModelDevice):
        raise ConfigError(
            f"{value!r} is no device", where="device", hint=f"Choose one of: {', '.join(ModelDevice)}."
        )
    return ModelDevice(value)
