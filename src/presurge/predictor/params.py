"""From a ModelConfig to the settings of a model and of the training loop."""

import os
from collections.abc import Mapping
from typing import Any

from presurge.config import Config, validated
from presurge.errors import ConfigError
from presurge.models.forecaster import Forecaster
from presurge.predictor.config import ModelConfig, logger
from presurge.training.config import TrainerConfig, TrainingConfig

PRESETS: dict[str, dict[str, Any]] = {
    "lstm": {"epochs": 30},
    "dlinear": {},
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
"""Where a configuration of a model that is added by name alone differs from the defaults of ``ModelConfig``."""

MAX_EPOCHS = "PRESURGE_MAX_EPOCHS"
"""Environment variable: no training by gradient makes more epochs, for smoke runs; each cut is logged as a warning."""

FIELDS_OF_CONFIG = {"epochs", "batch_size", "learning_rate", "patience", "device"}
"""Settings of the training loop that are fields of ``ModelConfig``."""
_MIXED = ("mixed_precision", "amp")


def sorted_params(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``custom_params`` in two: settings of the model, and of the training loop."""
    names = set(TrainerConfig.model_fields) - FIELDS_OF_CONFIG
    own = {key: value for key, value in params.items() if key not in names and key not in _MIXED}
    loop = {key: value for key, value in params.items() if key in names}
    if any(params.get(key) for key in _MIXED):
        loop.setdefault("precision", "bf16")
    return own, loop


def settings_of(config: ModelConfig, kind: type[Forecaster]) -> Config:
    """The settings of the model itself.

    Raises:
        ConfigError: It does not know one of them, or a value is impossible.
    """
    own, _ = sorted_params(config.custom_params)
    return validated(kind.config_class, own, where=f"custom_params of {config.model_name}")


def training_of(config: ModelConfig, kind: type[Forecaster]) -> TrainingConfig:
    """How to train; what ``ModelConfig`` does not say, such as clipping, is as suits the model."""
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
    limit = os.environ.get(MAX_EPOCHS, "")
    if not limit:
        return config.epochs
    if not limit.isdecimal() or int(limit) < 1:
        raise ConfigError(
            f"{limit!r} is no number of epochs", where=MAX_EPOCHS, hint="Unset it, or give 1 or more."
        )
    if int(limit) < config.epochs:
        logger.warning(
            "%s: at most %s of %d epochs (%s)", config.model_name, limit, config.epochs, MAX_EPOCHS
        )
    return min(config.epochs, int(limit))
