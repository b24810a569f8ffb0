"""A Forecaster as a predictor of requests: frames in, the next requests or minutes out."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from presurge import store
from presurge.errors import ConfigError, ModelError
from presurge.evaluation.backtest import Evaluation, evaluate
from presurge.jobs.data import Dataset
from presurge.jobs.fitting import Fitted, fit_model
from presurge.jobs.settings import validated
from presurge.jobs.train import measured_error
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.models.plan import require_torch
from presurge.predictor.frames import Frame, History, read_history
from presurge.predictor.interface import (
    BasePredictor,
    ModelConfig,
    PredictionResult,
    TrainingResult,
    logger,
)
from presurge.predictor.params import plan_of, sorted_params
from presurge.series.forecast import Forecast
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span

_TOKENS = ("input_tokens", "output_tokens")
_TORCH_SUFFIXES = (".pt", ".pth")


class ForecasterPredictor(BasePredictor):
    """Any model of Presurge behind the published interface.

    The last part of the rows validates: it stops a training by gradient, calibrates the intervals and gives the rolling
    errors, and shapes no weight.
    """

    model: Forecaster

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.model = self.build_model()

    def prepare_data(self, data: Frame) -> History:
        """Read a frame."""
        return read_history(data)

    def build_model(self) -> Forecaster:
        """Make the untrained Forecaster.

        Raises:
            ConfigError: There is no such model, or it does not know one of ``custom_params``.
            MissingDependencyError: It needs torch, which is not installed.
        """
        kind = registry.model_class(str(self.model_type))
        where = f"custom_params of {self.model_name}"
        own, loop = sorted_params(self.config.custom_params)
        if (
            "gradient_checkpointing" in own
            and "gradient_checkpointing" not in kind.settings_class.model_fields
        ):
            raise ConfigError(
                f"{kind.name} keeps its activations: it has no gradient checkpointing",
                where=where,
                hint="Leave gradient_checkpointing out; a smaller batch_size takes less memory.",
            )
        settings = validated(kind.settings_class, own, where=where)
        model = kind(
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            settings=settings,
            plan=plan_of(self.config, kind),
        )
        if loop and model.refits:
            raise ConfigError(
                f"{', '.join(loop)}: {model.name} is solved in closed form and has no training loop",
                where=where,
                hint="Leave it out; dlinear trains by gradient with solver='sgd'.",
            )
        return model

    def train(self, data: Frame, validation_split: float = 0.2) -> TrainingResult:
        """Fit, calibrate and measure.

        Raises:
            DataError: The frame cannot be used or holds too few rows.
        """
        began = time.perf_counter()
        panel = self.prepare_data(data).panel
        train, validation = panel.full_span().cut_tail(validation_split)
        fitted = fit_model(
            str(self.model_type),
            _dataset(panel, train, validation),
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            settings=sorted_params(self.config.custom_params)[0],
            plan=self.model.plan,
        )
        model = fitted.model
        evaluation = evaluate([model], panel, validation, train=train)
        model.error = measured_error(evaluation, model.name)
        places = [panel.channel_names.index(name) for name in _TOKENS]
        self.model = model
        self.rolling_errors = _finite(evaluation.scores[model.name]["wape"][:, places].mean(axis=1))
        result = _result(fitted, evaluation, panel, train, time.perf_counter() - began)
        self.training_history = {
            "final_loss": result.final_loss,
            "best_loss": result.best_loss,
            "epochs_trained": result.epochs_trained,
            "early_stopped": result.early_stopped,
            "epochs": list(fitted.report.history),
        }
        self.is_trained = True
        return result

    def predict(self, data: Frame, steps: int | None = None) -> PredictionResult:
        """Forecast what follows the last row.

        Raises:
            DataError: The frame cannot be used.
            HistoryError: It has too few rows (at the request level one more than ``sequence_length``, since the first
                request has no inter-arrival time), is of the other level, or ``steps`` is beyond the horizon.
            ModelError: The model is not trained.
        """
        began = time.perf_counter()
        self.model.fitted_spec()
        history = self.prepare_data(data)
        panel = history.panel
        first = max(0, len(panel) - self.model.context)
        recent = panel.take(Span(np.array([first]), np.array([len(panel)])))
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

    def to_device(self, device: str) -> None:
        """Choose where the model trains from now on; a trained one forecasts on the processor."""
        super().to_device(device)
        self.model.plan = replace(
            self.model.plan, loop=self.model.plan.loop.model_copy(update={"device": self.device})
        )

    def save_model(self, path: str) -> bool:
        """Write a ``.pt`` or ``.pth`` file (tensors and text), or with any other name a model directory.

        Raises:
            ModelError: The model is not trained.
            StorageError: The file system refused.
            ConfigError: There is a directory of that name that holds something else.
        """
        place = Path(path)
        record = {
            "predictor": {**self.config.to_dict(), "custom_params": dict(self.config.custom_params)},
            "training_history": self.training_history,
            "rolling_errors": list(self.rolling_errors),
        }
        if place.suffix in _TORCH_SUFFIXES:
            require_torch(f"a {place.suffix} file")
            from presurge.models.networks.torch_file import write_torch_file

            write_torch_file(place, self.model, record)
            return True
        if place.is_dir() and any(place.iterdir()) and not (place / store.CONFIG_FILE).is_file():
            raise ConfigError(
                "is a directory that holds something else",
                where=path,
                hint="Name a new directory, or a .pt file.",
            )
        self.model.save(place, training=record)
        return True

    def load_model(self, path: str) -> bool:
        """Read a model file or directory; its configuration replaces this one, except for name and device.

        Raises:
            ModelError: It is damaged, holds anything but tensors and text, or is a model of another type.
        """
        model, config = _load(Path(path))
        if model.name != self.model_type:
            raise ModelError(
                f"is a model of the type {model.name!r}, not {str(self.model_type)!r}",
                where=path,
                hint=f"Give ModelConfig(model_type={model.name!r}).",
            )
        if missing := set(_TOKENS) - {channel.name for channel in model.fitted_spec().channels}:
            raise ModelError(f"does not forecast {' and '.join(sorted(missing))}", where=path)
        record: dict[str, Any] = config["training"]
        self.model = model
        stored = record.get("predictor", {"custom_params": config["settings"]})
        shape = {"sequence_length": model.context, "prediction_horizon": model.horizon}
        mine = {"model_type": model.name, "model_name": self.model_name, "device": self.config.device}
        self.config = ModelConfig(**{**stored, **shape, **mine})
        self.model.plan = plan_of(self.config, type(model))
        self.training_history = record.get("training_history", {})
        self.rolling_errors = tuple(record.get("rolling_errors", ())) or _stored_error(model)
        self.is_trained = True
        return True


def _dataset(panel: Panel, train: Span, validation: Span) -> Dataset:
    """The rows set apart for validation stay out of fitting, so that they measure; there are no others to test on."""
    return Dataset(
        panel=panel, train=train, validation=validation, test=validation, validation_given=True, source={}
    )


def _result(
    fitted: Fitted, evaluation: Evaluation, panel: Panel, train: Span, seconds: float
) -> TrainingResult:
    report, plan = fitted.report, fitted.model.plan
    losses = [epoch.get("validation_loss", epoch.get("train_loss", np.nan)) for epoch in report.history]
    if not losses:
        spread_C = np.nanvar(panel.take(train).values, axis=0)
        squared_HC = evaluation.scores[fitted.model.name]["mse"]
        losses = [float(np.nanmean(squared_HC[:, spread_C > 0] / spread_C[spread_C > 0]))]
    epochs = len(report.history)
    if 0 < epochs < plan.loop.epochs:
        logger.info("%s stopped early, after %d epochs", fitted.model.name, epochs)
    return TrainingResult(
        success=True,
        training_time=seconds,
        final_loss=losses[-1],
        best_loss=min(losses),
        epochs_trained=epochs,
        early_stopped=0 < epochs < plan.loop.epochs,
        metadata={
            "windows": report.n_windows,
            "parameters": report.n_parameters,
            "chosen": report.chosen,
            "notes": list(report.notes),
            "validation": fitted.model.error,
        },
    )


def _quantiles(forecast: Forecast) -> dict[str, dict[str, list[float]]]:
    """Channel -> level -> one value a step."""
    return {
        channel.name: {
            f"{q:g}": forecast.quantiles[0, :, k, c].tolist() for k, q in enumerate(forecast.levels)
        }
        for c, channel in enumerate(forecast.channels)
    }


def _load(path: Path) -> tuple[Forecaster, dict[str, Any]]:
    if path.suffix not in _TORCH_SUFFIXES:
        return registry.load(path)
    require_torch(f"a {path.suffix} file")
    from presurge.models.networks.torch_file import read_torch_file

    config, arrays = read_torch_file(path)
    return registry.from_document(config, arrays, where=str(path)), config


def _stored_error(model: Forecaster) -> tuple[float, ...]:
    """The error that a model directory of ``presurge train`` carries, the same for each step."""
    known = [model.error[name]["wape"] for name in _TOKENS if "wape" in model.error.get(name, {})]
    return (sum(known) / len(known),) * model.horizon if known else ()


def _finite(error_H: FloatArray | np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, ...]:
    return tuple(map(float, error_H)) if np.isfinite(error_H).all() else ()
