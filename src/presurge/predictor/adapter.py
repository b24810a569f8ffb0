"""A Forecaster as a predictor of requests: frames in, the next requests or minutes out, trained models in files."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from presurge.config import validated
from presurge.errors import ConfigError, HistoryError, MissingDependencyError, ModelError
from presurge.evaluation.backtest import Evaluation, evaluate
from presurge.evaluation.fit import Fitted, fit_model
from presurge.models import plugins, registry
from presurge.models.forecaster import Forecaster
from presurge.predictor import config as cfg
from presurge.predictor.frames import Frame, History, check_rows, latest, level_of, read_history
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.ranking import fingerprint, step_errors
from presurge.series.dataset import Dataset
from presurge.series.forecast import Forecast
from presurge.series.frequency import format_step
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.training.config import TrainerConfig, require_torch
from presurge.workflows.train import measured_error

TORCH_SUFFIXES = (".pt", ".pth")
_TOKENS = ("input_tokens", "output_tokens")
_STEP_ROWS = 100
"""Least number of minutes to read, so that their step can be inferred even if some are missing."""


class Record(BaseModel):
    """What is stored of a predictor beside its Forecaster, or of a model that ``presurge train`` wrote.

    Attributes:
        predictor: The fields of its configuration.
        training_history: Like the next three, an attribute of ``BasePredictor``.
        rolling_errors: For each step.
        measured_on: Fingerprint of the rows.
        baseline_errors: Naive model -> rolling error for each step.
        settings: Settings of the training run.
        data: What the run was trained on.
        split: How the run split its data.
        rows: Number of rows in each part.
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


_KEPT = ("training_history", "rolling_errors", "measured_on", "baseline_errors")


class ForecasterPredictor(BasePredictor):
    """Any model of Presurge behind the published interface.

    The last part of the rows validates: it stops a training by gradient, calibrates the intervals and gives the rolling
    errors, but it shapes no weight.
    """

    model: Forecaster

    def __init__(self, config: cfg.ModelConfig) -> None:
        super().__init__(config)
        self.model = self.build_model()

    def prepare_data(self, data: Frame) -> History:
        """Read a frame."""
        return read_history(data)

    @cfg.own_words()
    def build_model(self) -> Forecaster:
        """Make the untrained Forecaster.

        Raises:
            ConfigError: There is no such model, or it does not know one of ``custom_params``.
            MissingDependencyError: It needs torch, which is not installed.
        """
        kind, where = registry.model_class(str(self.model_type)), f"custom_params of {self.model_name}"
        own, loop = cfg.sorted_params(self.config.custom_params)
        if "gradient_checkpointing" in own and "gradient_checkpointing" not in kind.config_class.model_fields:
            what = f"{kind.name} keeps its activations: it has no gradient checkpointing"
            hint = "Leave gradient_checkpointing out; a smaller batch_size needs less memory."
            raise ConfigError(what, where=where, hint=hint)
        model = plugins.make(
            kind,
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            config=cfg.settings_of(self.config, kind),
            training=cfg.training_of(self.config, kind),
        )
        if loop and model.refits:
            what = f"{', '.join(loop)}: {model.name} is solved in closed form and has no training loop"
            hint = "Leave it out, or train dlinear by gradient: custom_params={'solver': 'sgd'}."
            raise ConfigError(what, where=where, hint=hint)
        return model

    @cfg.own_words()
    def train(self, data: Frame, validation_split: float = 0.2) -> TrainingResult:
        """Fit, calibrate and measure.

        Raises:
            ConfigError: ``validation_split`` is not between 0 and 1.
            DataError: The frame cannot be used or holds too few rows.
        """
        began, part = time.perf_counter(), cfg.checked(cfg.Share, validation_split, "validation_split")
        panel = self.prepare_data(data).panel
        train, validation = panel.full_span().cut_tail(part)
        fitted = fit_model(
            self.model.name,
            # The validation rows stay out of fitting, so that they measure; there are no others to test on.
            Dataset(
                panel=panel,
                train=train,
                validation=validation,
                test=validation,
                validation_given=True,
                source={},
            ),
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            settings=self.model.config.model_dump(exclude_unset=True),
            training=self.model.training,
        )
        evaluation = evaluate([fitted.model], panel, validation, train=train)
        self.model = fitted.model
        self.model.error = measured_error(evaluation, self.model.name)
        tokens = [panel.channel_names.index(name) for name in _TOKENS]
        self.rolling_errors = step_errors(evaluation.scores[self.model.name]["wape"][:, tokens])
        self.measured_on = fingerprint(data, part)
        self.baseline_errors = {}
        losses = _losses(fitted, evaluation, panel, train)
        epochs = len(fitted.report.history)
        outcome: dict[str, Any] = {
            "final_loss": losses[-1],
            "best_loss": min(losses),
            "epochs_trained": epochs,
            "early_stopped": 0 < epochs < self.model.training.epochs,
        }
        if outcome["early_stopped"]:
            cfg.logger.info("%s stopped early, after %d epochs", self.model.name, epochs)
        self.training_history = {**outcome, "epochs": list(fitted.report.history)}
        self.is_trained = True
        return TrainingResult(
            success=True,
            training_time=time.perf_counter() - began,
            **outcome,
            metadata={
                "windows": fitted.report.n_windows,
                "parameters": fitted.report.n_parameters,
                "chosen": fitted.report.chosen,
                "notes": list(fitted.report.notes),
                "validation": self.model.error,
            },
        )

    def predict(self, data: Frame, steps: int | None = None) -> PredictionResult:
        """Forecast what follows the last row, ignoring rows earlier than the model needs.

        Raises:
            DataError: A row that is needed cannot be used.
            HistoryError: There are too few rows, see ``validate_input_data``, they are of the other level or have a
                missing value, or ``steps`` is beyond the horizon.
            ModelError: The model is not trained.
        """
        began, spec, context = time.perf_counter(), self.model.fitted_spec(), self.model.context
        rows = latest(data, max(context + 1, _STEP_ROWS))
        place = "data frame" if len(rows) == len(data) else f"last {len(rows)} rows of the data frame"
        with cfg.own_words(place):
            history = self.prepare_data(rows)
            panel = history.panel
            recent = panel.take(Span(np.array([max(0, len(panel) - context)]), np.array([len(panel)])))
            if panel.step != spec.step:
                steps_of = f"a step of {format_step(panel.step)}, the model one of {format_step(spec.step)}"
                hint = "Give rows of the step that the model was trained on."
                raise HistoryError(f"the data frame has {steps_of}", hint=hint)
            if not recent.observed.all():
                hint = "Fill the gaps first, for example with the data frame's interpolate()."
                raise HistoryError("a needed row has a missing value", where="data frame", hint=hint)
            forecast = self.model.forecast(recent, steps)
        mean_HC = forecast.mean[0]
        columns = {channel.name: mean_HC[:, c].tolist() for c, channel in enumerate(forecast.channels)}
        return PredictionResult(
            timestamps=history.stamps(mean_HC),
            request_tokens=columns.pop("input_tokens"),
            response_tokens=columns.pop("output_tokens"),
            confidence=self.confidence(len(mean_HC)),
            model_name=self.model_name,
            prediction_time=time.perf_counter() - began,
            metadata={"level": history.level, **columns, "quantiles": _quantiles(forecast)},
        )

    def validate_input_data(self, data: Frame) -> bool:
        """Return True for a frame with the columns and the rows that one forecast reads.

        That is ``sequence_length`` rows, and at the request level one more: the first request has no inter-arrival time.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        check_rows(data, self.model.context + (level_of(data) == "request"))
        return True

    def to_device(self, device: cfg.ModelDevice | str) -> None:
        """Choose where the model trains from now on; a trained model forecasts on the CPU."""
        super().to_device(device)
        self.model.training = self.model.training.model_copy(update={"device": self.device})

    def save_model(self, path: str) -> bool:
        """Write a ``.pt`` or ``.pth`` file (tensors and text), or with any other name a model directory.

        Raises:
            ModelError: The model is not trained.
            StorageError: The file system refused.
            ConfigError: There is a directory of that name that holds something else.
        """
        record = {"predictor": self.config.to_dict(), **{name: getattr(self, name) for name in _KEPT}}
        if Path(path).suffix.lower() in TORCH_SUFFIXES:
            require_torch(f"a {Path(path).suffix} file")
            from presurge.models.networks.torch_file import write_torch_file

            write_torch_file(Path(path), self.model, record)
        else:
            self.model.save(Path(path), training=record)
        return True

    @cfg.own_words()
    def load_model(self, path: str) -> bool:
        """Read a model file, a model directory or a run directory.

        The stored configuration replaces this one, except for name and device.

        Raises:
            ModelError: It is damaged, holds anything but tensors and text, or is a model of another type.
            MissingDependencyError: It needs a package that is not installed.
        """
        try:
            model, config, record = self._read(Path(path))
        except (ModelError, MissingDependencyError):
            raise
        except (
            Exception
        ) as error:  # content that passes its checksum and makes no sense may fail in almost any way
            what = f"does not describe a model that can be rebuilt: {getattr(error, 'what', error)}"
            raise ModelError(what, where=str(path), hint="Save or train it again.") from error
        if model.name != self.model_type:
            what = f"is a model of the type {model.name!r}, not {str(self.model_type)!r}"
            raise ModelError(what, where=str(path), hint=f"Give ModelConfig(model_type={model.name!r}).")
        if missing := set(_TOKENS) - {channel.name for channel in model.fitted_spec().channels}:
            raise ModelError(f"does not forecast {' and '.join(sorted(missing))}", where=str(path))
        self.model, self.config = model, config
        for name in _KEPT:
            setattr(self, name, getattr(record, name))
        if not record.rolling_errors:
            self.rolling_errors, self.measured_on = _measured_by_run(record, model)
        self.is_trained = True
        return True

    def _read(self, path: Path) -> tuple[Forecaster, cfg.ModelConfig, Record]:
        if not path.exists():
            hint = "Name a file or directory that save_model wrote, or the directory of a training run."
            raise ModelError("does not exist", where=str(path), hint=hint)
        if path.suffix.lower() in TORCH_SUFFIXES:
            require_torch(f"a {path.suffix} file")
            from presurge.models.networks.torch_file import read_torch_file

            document, arrays = read_torch_file(path)
            model = registry.from_document(document, arrays, where=str(path))
        else:
            model, document = registry.load(path)
        record = Record.model_validate(document["training"])
        values = record.predictor or _values_of_run(record, model, document["settings"])
        values |= {"sequence_length": model.context, "prediction_horizon": model.horizon}
        values |= {"model_type": model.name, "model_name": self.model_name, "device": self.config.device}
        config = cfg.ModelConfig(**values)
        cfg.settings_of(config, type(model))
        model.training = cfg.training_of(config, type(model))
        return model, config, record


def _losses(fitted: Fitted, evaluation: Evaluation, panel: Panel, train: Span) -> list[float]:
    """The validation loss of each epoch; of a closed form its squared error in units of the variance."""
    history = fitted.report.history
    if history:
        return [epoch.get("validation_loss", epoch.get("train_loss", np.nan)) for epoch in history]
    spread_C = np.nanvar(panel.take(train).values, axis=0)
    squared_HC = evaluation.scores[fitted.model.name]["mse"]
    return [float(np.nanmean(squared_HC / np.where(spread_C > 0, spread_C, 1)))]


def _quantiles(forecast: Forecast) -> dict[str, dict[str, list[float]]]:
    """Channel -> level -> one value per step."""
    return {
        channel.name: {
            f"{q:g}": forecast.quantiles[0, :, k, c].tolist() for k, q in enumerate(forecast.levels)
        }
        for c, channel in enumerate(forecast.channels)
    }


def _values_of_run(record: Record, model: Forecaster, own: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that trains as ``presurge train`` did; those not recorded keep their defaults."""
    known = {key: record.settings[key] for key in TrainerConfig.model_fields if key in record.settings}
    if not known:
        return {"custom_params": own}
    loop = validated(TrainerConfig, known)
    usual = TrainerConfig(**type(model).training_defaults)
    changed = {key for key in known if getattr(loop, key) != getattr(usual, key)} - cfg.FIELDS_OF_CONFIG
    further = {} if model.refits else {key: getattr(loop, key) for key in sorted(changed)}
    stopping = {"early_stopping": False} if loop.patience is None else {"patience": loop.patience}
    shared = loop.model_dump(include={"epochs", "learning_rate", "batch_size"})
    return {**shared, **stopping, "custom_params": {**own, **further}}


def _measured_by_run(record: Record, model: Forecaster) -> tuple[tuple[float, ...], str]:
    """The test error that ``presurge train`` stores, the same for each step, and the fingerprint of its rows."""
    known = [model.error[name]["wape"] for name in _TOKENS if "wape" in model.error.get(name, {})]
    if not known or not record.data:
        return (), ""
    parts = {part: record.rows.get(part) for part in ("train", "validation", "test")}
    rows = json.dumps([record.data, record.split, parts], sort_keys=True)
    return (sum(known) / len(known),) * model.horizon, hashlib.sha256(rows.encode()).hexdigest()
