"""The published results, and the base class of every predictor."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

from presurge.predictor.config import ModelConfig, ModelDevice, ModelType, config_of, usable_device
from presurge.predictor.frames import Frame, check_rows


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
            one: its squared validation error, in units of the variance of the training rows (of 1 for a constant column).
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
        config: The configuration, completed by name and device.
        model_name: The name in it.
        device: The device that was resolved, as text that torch takes.
        is_trained: Set by ``train`` and ``load_model``; the manager sets it after a training that succeeded.
        training_history: ``final_loss``, ``best_loss``, ``epochs_trained``, ``early_stopped`` after a training.
        rolling_errors: Measured on the validation rows, for each step ahead: the mean of the WAPE of request and response
            tokens, of one of them where the other is zero throughout. The manager measures it for a predictor that does not.
        measured_on: Fingerprint of those rows, see ``presurge.predictor.measuring.fingerprint``; empty where not known.
        baseline_errors: Rolling errors of the naive models on those rows; none where they were not measured.
    """

    def __init__(self, config: ModelConfig) -> None:
        config = config_of(config)
        self.model_name = config.model_name or str(config.model_type or type(self).__name__)
        self.config = replace(config, model_name=self.model_name, device=usable_device(config.device))
        self.model_type = self.config.model_type or ModelType.CUSTOM
        self.device = str(self.config.device)
        self.is_trained = False
        self.model: Any = None
        self.training_history: dict[str, Any] = {}
        self.rolling_errors: tuple[float, ...] = ()
        self.measured_on = ""
        self.baseline_errors: dict[str, tuple[float, ...]] = {}

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
        config = replace(self.config, device=usable_device(device))
        if hasattr(self.model, "to"):
            self.model = self.model.to(str(config.device))
        self.config, self.device = config, str(config.device)

    def validate_input_data(self, data: Frame) -> bool:
        """Return True for a frame with the columns and at least ``sequence_length`` rows.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        check_rows(data, self.config.sequence_length)
        return True
