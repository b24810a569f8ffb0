"""A Forecaster as a predictor of requests: frames in, the next requests or minutes out, trained models in files."""

import json
import os
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import Field, PositiveInt

from presurge.config import Config, validated
from presurge.errors import ConfigError, DataError, ModelError
from presurge.evaluation.metrics import ScoreSums
from presurge.evaluation.walk import usable_origins, walk
from presurge.models import plugins, registry
from presurge.models.following import BLOCK
from presurge.models.forecaster import Forecaster
from presurge.predictor import config as cfg
from presurge.predictor.frames import Frame, History, fingerprint, level_of, read_history
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.panel import IntArray, Panel
from presurge.training.config import TrainerConfig, require_torch
from presurge.workflows.config import TrainConfig
from presurge.workflows.evaluate import fit, score_fitted
from presurge.workflows.train import measured_error

MAX_EPOCHS = "PRESURGE_MAX_EPOCHS"
"""Environment variable: the maximum number of epochs of any training, for smoke runs; each cut is logged as a warning."""

_TOKENS = ("input_tokens", "output_tokens")
_LOOP = TrainerConfig.model_fields.keys() - {*cfg.FIELDS, "device"}
"""Settings of the training loop that are not fields of ``ModelConfig``."""

_FOLLOWED, _STEP_ROWS = 2 * BLOCK, 100
"""Rows before the context of a forecast whose errors it follows, and the fewest that tell the step of minutes."""


class Record(Config, extra="ignore"):
    """What is stored of a predictor beside its Forecaster.

    Attributes:
        predictor: The fields of its configuration; empty in a model that ``presurge train`` wrote.
        training_history: Like the next three, an attribute of ``BasePredictor``.
        rolling_errors: For each step.
        measured_on: Fingerprint of the rows.
        baseline_errors: Naive model -> rolling error for each step.
        time_errors: Mean absolute error in seconds of the time between each of the next requests and the one before it.
        trained_until: Time of the last row of the training in microseconds; errors of later rows are followed.
    """

    predictor: dict[str, Any] = Field(default_factory=dict)
    training_history: dict[str, Any] = Field(default_factory=dict)
    rolling_errors: tuple[float, ...] = ()
    measured_on: str = ""
    baseline_errors: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    time_errors: tuple[float, ...] = ()
    trained_until: int = (1 << 63) - 1


_KEPT = [name for name in Record.model_fields if name != "predictor"]


class ForecasterPredictor(BasePredictor):
    """Any model of Presurge behind the published interface.

    The last part of the rows validates: it stops a training by gradient, calibrates the intervals and gives the rolling
    errors, but it shapes no weight.

    Attributes:
        run: The configuration, as one of ``presurge train``.
        progress: Called while it trains.
        time_errors: As in ``Record``, like ``trained_until``.
    """

    model: Forecaster
    progress: Progress | None = None
    time_errors: tuple[float, ...] = ()
    trained_until: int = (1 << 63) - 1

    def __init__(self, config: cfg.ModelConfig) -> None:
        super().__init__(config)
        self.model = self.build_model()

    @cfg.own_words()
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
        config, where = self.config, f"custom_params of {self.model_name}"
        kind, own = registry.model_class(str(self.model_type)), dict(config.custom_params)
        mixed = [own.pop(name, False) for name in ("mixed_precision", "amp")]
        loop = {key: own.pop(key) for key in sorted(_LOOP & own.keys())}
        if any(mixed):
            loop.setdefault("precision", "bf16")
        limit = cfg.checked(PositiveInt, os.environ.get(MAX_EPOCHS) or config.epochs, MAX_EPOCHS)
        if limit < config.epochs:
            cfg.logger.warning(
                "%s: at most %d of %d epochs (%s)", self.model_name, limit, config.epochs, MAX_EPOCHS
            )
        values = {**kind.training_defaults, **loop, "model_settings": own, "device": self.device}
        values |= {setting: getattr(config, field) for setting, field in cfg.FIELDS.items()}
        values["epochs"] = min(limit, config.epochs)
        if not config.early_stopping:
            values["patience"] = None
        self.run = run = validated(TrainConfig, values, where=where)
        settings, training = validated(kind.config_class, own, where=where), run.training()
        model = plugins.make(
            kind, context=run.context, horizon=run.horizon, config=settings, training=training
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
        history = self.prepare_data(data)
        panel = history.panel
        train, validation = panel.full_span().cut_tail(part)
        # The validation rows stay out of fitting, so that they measure; there are no others to test on.
        dataset = Dataset(
            panel=panel, train=train, validation=validation, test=validation, validation_given=True, source={}
        )
        fitted = fit(dataset, self.run, training=self.model.training, progress=self.progress)
        self.model, report = fitted.model, fitted.report
        evaluation = score_fitted([fitted], dataset)
        self.model.error = measured_error(evaluation, self.model.name)
        scores = evaluation.scores[self.model.name]
        self.measure(panel, usable_origins(self.model, panel, validation))
        self.measured_on, self.baseline_errors = fingerprint(data, part), {}
        self.trained_until = int(history.times_us[-1])
        losses = [epoch.get("validation_loss", epoch.get("train_loss", np.nan)) for epoch in report.history]
        if not losses:  # a closed form has one, the squared error in units of the variance
            spread_C = np.nanvar(panel.take(train).values, axis=0)
            losses = [float(np.nanmean(scores["mse"] / np.where(spread_C > 0, spread_C, 1)))]
        outcome: dict[str, Any] = {
            "final_loss": losses[-1],
            "best_loss": min(losses),
            "epochs_trained": len(report.history),
            "early_stopped": 0 < len(report.history) < self.model.training.epochs,
        }
        self.training_history, self.is_trained = {**outcome, "epochs": list(report.history)}, True
        return TrainingResult(
            success=True,
            training_time=time.perf_counter() - began,
            **outcome,
            metadata={
                "windows": report.n_windows,
                "parameters": report.n_parameters,
                "chosen": report.chosen,
                "notes": list(report.notes),
                "validation": self.model.error,
            },
        )

    def measure(self, panel: Panel, origins: IntArray) -> None:
        """Measure what ``predict`` gives from some rows: the means, as one number each."""
        sums = ScoreSums(self.model.horizon, (), np.ones(len(panel.channels)))
        for piece in walk([self.model], panel, origins):
            sums.add(piece.actual(), piece.mean_BHC, piece.mean_BHC)
        scores = sums.scores()
        self.keep_errors(scores["wape"][:, -2:])  # both levels end with the tokens
        timed = panel.channel_names[0] == "inter_arrival"
        self.time_errors = tuple(scores["mae"][:, 0].tolist()) if timed else ()

    def predict(self, data: Frame, steps: int | None = None) -> PredictionResult:
        """Forecast what follows the last row; the rows before the context tell how large the latest errors were.

        Raises:
            DataError: A row that is needed cannot be used.
            HistoryError: There are too few rows, see ``validate_input_data``, they are of the other level or have a
                missing value, or ``steps`` is beyond the horizon.
            ModelError: The model is not trained.
        """
        began, context = time.perf_counter(), self.model.context
        with cfg.own_words():
            try:
                history = read_history(data, _FOLLOWED + context + 1)
            except DataError:  # an earlier row is bad, and no error need be followed
                history = read_history(data, max(context + 1, _STEP_ROWS))
            panel, calibration = history.panel, self.model.calibration
            if history.level == "request" and calibration is not None:
                # Rows are numbered on from those of the training.
                known = int(np.searchsorted(history.times_us, self.trained_until, side="right"))
                last = calibration.until.get("", 0)
                panel = panel.replace(start=np.array([last + (1 - known) * panel.step]))
            forecast = self.model.forecast(panel, steps)
        mean_HC = forecast.mean[0]
        columns = {channel.name: mean_HC[:, c].tolist() for c, channel in enumerate(forecast.channels)}
        levels = [f"{level:g}" for level in forecast.levels]
        quantiles = {
            channel.name: dict(zip(levels, forecast.quantiles[0, :, :, c].T.tolist(), strict=True))
            for c, channel in enumerate(forecast.channels)
        }
        metadata = {
            "level": history.level,
            **columns,
            "quantiles": quantiles,
            "intervals": forecast.intervals,
        }
        if self.time_errors:
            metadata["time_errors"] = list(self.time_errors[: len(mean_HC)])
        return PredictionResult(
            timestamps=history.stamps(mean_HC),
            request_tokens=metadata.pop("input_tokens"),
            response_tokens=metadata.pop("output_tokens"),
            confidence=self.confidence(len(mean_HC)),
            model_name=self.model_name,
            prediction_time=time.perf_counter() - began,
            metadata=metadata,
        )

    def validate_input_data(self, data: Frame) -> bool:
        """Return True for a frame with the columns and the rows that one forecast reads.

        That is ``sequence_length`` rows, and at the request level one more: the first request has no inter-arrival time.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        level_of(data, self.model.context + (level_of(data) == "request"))
        return True

    def to_device(self, device: cfg.Device) -> None:
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
        if _is_torch_file(path):
            from presurge.models.networks.torch_file import write_torch_file

            write_torch_file(Path(path), self.model, record)
        else:
            self.model.save(Path(path), training=record)
        return True

    @cfg.own_words()
    def load_model(self, path: str) -> bool:
        """Read a model file, a model directory or a run directory.

        The stored type and configuration replace this one, except for name and device.

        Raises:
            ModelError: It does not exist, is damaged, or holds anything but tensors and text.
            MissingDependencyError: It needs a package that is not installed.
        """
        where = str(path)
        if not Path(path).exists():
            raise ModelError("does not exist", where=where, hint=cfg.SAVED)
        if _is_torch_file(where):
            from presurge.models.networks.torch_file import read_torch_file

            document, arrays = read_torch_file(Path(path))
            model = registry.from_document(document, arrays, where=where)
        else:
            model, document = registry.load(Path(path))
        if missing := set(_TOKENS) - {channel.name for channel in model.fitted_spec().channels}:
            raise ModelError(f"does not forecast {' and '.join(sorted(missing))}", where=where)
        try:
            record = _record(model, document)
            own = {"model_type": model.name, "model_name": self.model_name, "device": self.config.device}
            lengths = {"sequence_length": model.context, "prediction_horizon": model.horizon}
            config = cfg.ModelConfig(**{**record.predictor, **own, **lengths})
            twin = ForecasterPredictor(config)
            model.training = twin.model.training
        except Exception as error:  # content that passes its checksum and makes no sense may fail in any way
            what = f"does not describe a model that can be rebuilt: {getattr(error, 'what', error)}"
            raise ModelError(what, where=where, hint="Save or train it again.") from error
        self.model, self.config, self.run, self.is_trained = model, config, twin.run, True
        self.model_type = twin.model_type
        for name in _KEPT:
            setattr(self, name, getattr(record, name))
        return True


def _is_torch_file(path: str) -> bool:
    """Whether the name is that of a file of tensors.

    Raises:
        MissingDependencyError: It is, and torch is not installed.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in (".pt", ".pth"):
        return False
    require_torch(f"a {suffix} file")
    return True


def _record(model: Forecaster, document: dict[str, Any]) -> Record:
    """What is stored beside a model; of a run of ``presurge train``, what makes a predictor of it.

    The test error of a run counts for each step.
    """
    training = document["training"]
    record = Record.model_validate(training)
    if record.predictor:
        return record
    settings, rows = training.get("settings", {}), training.get("rows", {}).get("test")
    usual = TrainerConfig(**model.training_defaults).model_dump(mode="json", include=_LOOP)
    further = {key: settings[key] for key in usual if settings.get(key, usual[key]) != usual[key]}
    params = document["settings"] | ({} if model.refits else further)
    shared = {field: settings[key] for key, field in cfg.FIELDS.items() if key in settings}
    found: dict[str, Any] = {"predictor": {**shared, "custom_params": params}}
    errors = [model.error[name]["wape"] for name in _TOKENS if "wape" in model.error.get(name, {})]
    if errors and training.get("data"):
        measured_on = json.dumps([training["data"], training.get("split"), rows], sort_keys=True)
        found |= {"rolling_errors": (fmean(errors),) * model.horizon, "measured_on": measured_on}
    return record.model_copy(update=found)
