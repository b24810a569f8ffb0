"""A Forecaster as a predictor of requests: frames in, the next requests or minutes out."""

import time
from pathlib import Path

import numpy as np

from presurge.errors import ConfigError, ModelError
from presurge.evaluation.backtest import Evaluation, evaluate
from presurge.evaluation.fit import Fitted, fit_model
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.predictor.config import ModelConfig, logger, share
from presurge.predictor.frames import Frame, History, check_rows, latest, level_of, read_history
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.measuring import fingerprint, step_errors
from presurge.predictor.params import settings_of, sorted_params, training_of
from presurge.predictor.stored import read_model, write_model
from presurge.predictor.words import own_words
from presurge.series.dataset import Dataset
from presurge.series.forecast import Forecast
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.workflows.train import measured_error

_TOKENS = ("input_tokens", "output_tokens")
_STEP_ROWS = 100
"""Minutes that are read at least, so that their step can be told also where some are missing."""


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

    @own_words()
    def build_model(self) -> Forecaster:
        """Make the untrained Forecaster.

        Raises:
            ConfigError: There is no such model, or it does not know one of ``custom_params``.
            MissingDependencyError: It needs torch, which is not installed.
        """
        kind = registry.model_class(str(self.model_type))
        where = f"custom_params of {self.model_name}"
        own, loop = sorted_params(self.config.custom_params)
        if "gradient_checkpointing" in own and "gradient_checkpointing" not in kind.config_class.model_fields:
            raise ConfigError(
                f"{kind.name} keeps its activations: it has no gradient checkpointing",
                where=where,
                hint="Leave gradient_checkpointing out; a smaller batch_size takes less memory.",
            )
        model = kind(
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            config=settings_of(self.config, kind),
            training=training_of(self.config, kind),
        )
        if loop and model.refits:
            raise ConfigError(
                f"{', '.join(loop)}: {model.name} is solved in closed form and has no training loop",
                where=where,
                hint="Leave it out; dlinear trains by gradient with solver='sgd'.",
            )
        return model

    @own_words()
    def train(self, data: Frame, validation_split: float = 0.2) -> TrainingResult:
        """Fit, calibrate and measure.

        Raises:
            ConfigError: ``validation_split`` is not between 0 and 1.
            DataError: The frame cannot be used or holds too few rows.
        """
        began, part = time.perf_counter(), share(validation_split, "validation_split")
        panel = self.prepare_data(data).panel
        train, validation = panel.full_span().cut_tail(part)
        fitted = fit_model(
            self.model.name,
            _dataset(panel, train, validation),
            context=self.config.sequence_length,
            horizon=self.config.prediction_horizon,
            settings=self.model.config.model_dump(exclude_unset=True),
            training=self.model.training,
        )
        model = fitted.model
        evaluation = evaluate([model], panel, validation, train=train)
        model.error = measured_error(evaluation, model.name)
        places = [panel.channel_names.index(name) for name in _TOKENS]
        self.model = model
        self.rolling_errors = step_errors(evaluation.scores[model.name]["wape"][:, places])
        self.measured_on = fingerprint(data, part)
        self.baseline_errors = {}
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
        """Forecast what follows the last row; earlier rows than the model needs are not looked at.

        Raises:
            DataError: The rows that are needed cannot be used.
            HistoryError: There are too few, see ``validate_input_data``, they are of the other level, or ``steps`` is
                beyond the horizon.
            ModelError: The model is not trained.
        """
        began = time.perf_counter()
        self.model.fitted_spec()
        context = self.model.context
        rows = latest(data, max(context + 1, _STEP_ROWS))
        with own_words(
            "data frame" if len(rows) == len(data) else f"last {len(rows)} rows of the data frame"
        ):
            history = self.prepare_data(rows)
            panel = history.panel
            recent = panel.take(Span(np.array([max(0, len(panel) - context)]), np.array([len(panel)])))
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

        They are ``sequence_length``, and at the request level one more: the first request has no inter-arrival time.

        Raises:
            DataError: A column is missing.
            HistoryError: There are too few rows.
        """
        check_rows(data, self.model.context + (level_of(data) == "request"))
        return True

    def to_device(self, device: str) -> None:
        """Choose where the model trains from now on; a trained one forecasts on the processor."""
        super().to_device(device)
        self.model.training = self.model.training.model_copy(update={"device": self.device})

    def save_model(self, path: str) -> bool:
        """Write a ``.pt`` or ``.pth`` file (tensors and text), or with any other name a model directory.

        Raises:
            ModelError: The model is not trained.
            StorageError: The file system refused.
            ConfigError: There is a directory of that name that holds something else.
        """
        write_model(Path(path), self)
        return True

    @own_words()
    def load_model(self, path: str) -> bool:
        """Read a model file or directory; its configuration replaces this one, except for name and device.

        Raises:
            ModelError: It is damaged, holds anything but tensors and text, or is a model of another type.
        """
        model, config, record = read_model(Path(path), name=self.model_name, device=self.config.device)
        if model.name != self.model_type:
            raise ModelError(
                f"is a model of the type {model.name!r}, not {str(self.model_type)!r}",
                where=str(path),
                hint=f"Give ModelConfig(model_type={model.name!r}).",
            )
        if missing := set(_TOKENS) - {channel.name for channel in model.fitted_spec().channels}:
            raise ModelError(f"does not forecast {' and '.join(sorted(missing))}", where=str(path))
        self.model, self.config = model, config
        self.training_history = record.training_history
        self.rolling_errors = record.rolling_errors
        self.measured_on = record.measured_on
        self.baseline_errors = record.baseline_errors
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
    report, training = fitted.report, fitted.model.training
    losses = [epoch.get("validation_loss", epoch.get("train_loss", np.nan)) for epoch in report.history]
    if not losses:
        spread_C = np.nanvar(panel.take(train).values, axis=0)
        squared_HC = evaluation.scores[fitted.model.name]["mse"]
        losses = [float(np.nanmean(squared_HC / np.where(spread_C > 0, spread_C, 1)))]
    epochs = len(report.history)
    if 0 < epochs < training.epochs:
        logger.info("%s stopped early, after %d epochs", fitted.model.name, epochs)
    return TrainingResult(
        success=True,
        training_time=seconds,
        final_loss=losses[-1],
        best_loss=min(losses),
        epochs_trained=epochs,
        early_stopped=0 < epochs < training.epochs,
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
