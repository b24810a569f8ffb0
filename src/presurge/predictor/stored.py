"""Trained models in files: what stands beside the model itself, and the configuration that it brings back."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from presurge.config import validated
from presurge.errors import MissingDependencyError, ModelError
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.predictor.config import ModelConfig, ModelDevice
from presurge.predictor.interface import BasePredictor
from presurge.predictor.params import FIELDS_OF_CONFIG, settings_of, training_of
from presurge.training.config import TrainerConfig, require_torch

TORCH_SUFFIXES = (".pt", ".pth")
_TOKENS = ("input_tokens", "output_tokens")


class Record(BaseModel):
    """What is stored of a predictor beside its Forecaster; of a model of ``presurge train``, what it stores instead.

    Attributes:
        predictor: The fields of its configuration.
        training_history: As those of ``BasePredictor``, like the next three.
        rolling_errors: For each step.
        measured_on: Fingerprint of the rows.
        baseline_errors: Naive model -> for each step.
        settings: Settings of the training run.
        data: What the run was trained on.
        split: How the run cut its data.
        rows: How many rows each part has.
    """

    model_config = ConfigDict(frozen=True)

    predictor: dict[str, Any] | None = None
    training_history: dict[str, Any] = {}
    rolling_errors: tuple[float, ...] = ()
    measured_on: str = ""
    baseline_errors: dict[str, tuple[float, ...]] = {}
    settings: dict[str, Any] = {}
    data: dict[str, Any] = {}
    split: dict[str, Any] = {}
    rows: dict[str, int] = {}


class Stored(NamedTuple):
    """A model that was read, its configuration, and what stood beside it."""

    model: Forecaster
    config: ModelConfig
    record: Record


def write_model(path: Path, predictor: BasePredictor) -> None:
    """Write a ``.pt`` or ``.pth`` file, or with any other name a model directory.

    Raises:
        ModelError: The model is not trained.
        StorageError: The file system refused.
        ConfigError: There is a directory of that name that holds something else.
    """
    record = {
        "predictor": predictor.config.to_dict(),
        "training_history": predictor.training_history,
        "rolling_errors": list(predictor.rolling_errors),
        "measured_on": predictor.measured_on,
        "baseline_errors": {name: list(error_H) for name, error_H in predictor.baseline_errors.items()},
    }
    if path.suffix.lower() not in TORCH_SUFFIXES:
        predictor.model.save(path, training=record)
        return
    require_torch(f"a {path.suffix} file")
    from presurge.models.networks.torch_file import write_torch_file

    write_torch_file(path, predictor.model, record)


def read_model(path: Path, *, name: str, device: ModelDevice | str) -> Stored:
    """Read a model file, a model directory or a run directory, under a name and for a device.

    Raises:
        ModelError: It is damaged, or does not describe a model that can be rebuilt.
        MissingDependencyError: It needs a package that is not installed.
    """
    try:
        model, document = _read(path)
        record = Record.model_validate(document["training"])
        values = record.predictor or _values_of_run(record, model, document["settings"])
        shape = {"sequence_length": model.context, "prediction_horizon": model.horizon}
        config = ModelConfig(
            **{**values, **shape, "model_type": model.name, "model_name": name, "device": device}
        )
        settings_of(config, type(model))
        model.training = training_of(config, type(model))
    except (ModelError, MissingDependencyError):
        raise
    except Exception as error:  # what passes its checksum and yet makes no sense may fail in almost any way
        what = f"does not describe a model that can be rebuilt: {getattr(error, 'what', error)}"
        raise ModelError(what, where=str(path), hint="Save or train it again.") from error
    if not record.rolling_errors:
        record = record.model_copy(update=_measured_by_run(record, model))
    return Stored(model, config, record)


def _read(path: Path) -> tuple[Forecaster, dict[str, Any]]:
    if path.suffix.lower() not in TORCH_SUFFIXES:
        return registry.load(path)
    require_torch(f"a {path.suffix} file")
    from presurge.models.networks.torch_file import read_torch_file

    config, arrays = read_torch_file(path)
    return registry.from_document(config, arrays, where=str(path)), config


def _values_of_run(record: Record, model: Forecaster, own: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that trains as ``presurge train`` did; defaults where it is not told."""
    known = {key: record.settings[key] for key in TrainerConfig.model_fields if key in record.settings}
    if not known:
        return {"custom_params": own}
    loop = validated(TrainerConfig, known)
    usual = TrainerConfig(**type(model).training_defaults)
    changed = {key for key in known if getattr(loop, key) != getattr(usual, key)} - FIELDS_OF_CONFIG
    further = {} if model.refits else {key: getattr(loop, key) for key in sorted(changed)}
    stopping = {"early_stopping": False} if loop.patience is None else {"patience": loop.patience}
    return {
        "epochs": loop.epochs,
        "learning_rate": loop.learning_rate,
        "batch_size": loop.batch_size,
        **stopping,
        "custom_params": {**own, **further},
    }


def _measured_by_run(record: Record, model: Forecaster) -> dict[str, Any]:
    """The test error that ``presurge train`` stores, the same for each step, and what it was measured on."""
    known = [model.error[name]["wape"] for name in _TOKENS if "wape" in model.error.get(name, {})]
    if not known or not record.data:
        return {}
    parts = {part: record.rows.get(part) for part in ("train", "validation", "test")}
    rows = json.dumps([record.data, record.split, parts], sort_keys=True)
    return {
        "rolling_errors": (sum(known) / len(known),) * model.horizon,
        "measured_on": hashlib.sha256(rows.encode()).hexdigest(),
    }
