"""Several predictors on the same data: train all, forecast with all, rank them by measured error.

Shapes: B origins, H horizon, 2 for request and response tokens.
"""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from presurge.errors import DataError
from presurge.evaluation.metrics import ScoreSums
from presurge.models.registry import BASELINES, LAGGED
from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.config import ModelConfig, Share, Whole, checked, logger
from presurge.predictor.frames import Frame, fingerprint, in_order, read_history, tokens_of
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult, model_registry
from presurge.progress import Progress, silent
from presurge.series.windows import complete

ORIGINS = 50
"""Number of forecasts that measure the models where one of them is the user's own, and may be slow."""


class ModelManager:
    """Predictors by the ``model_name`` of their configuration.

    Attributes:
        active_models: All of them, trained or not.
        results: The last training of each.
        baseline_errors: Rolling errors of the naive models on the rows of the last training.
    """

    def __init__(self) -> None:
        self.active_models: dict[str, BasePredictor] = {}
        self.results: dict[str, TrainingResult] = {}
        self.baseline_errors: dict[str, tuple[float, ...]] = {}
        self._rows = ""

    def add_model(self, config: ModelConfig) -> bool:
        """Make an untrained predictor, named by its type if it has no name, replacing one of the same name.

        Always returns True.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        self.keep(model_registry.make(config))
        return True

    def keep(self, model: BasePredictor) -> None:
        """Add a predictor under its name, replacing one of the same name."""
        self.active_models[model.model_name] = model
        self.results.pop(model.model_name, None)

    def train_all_models(
        self, data: Frame, validation_split: float = 0.2, *, progress: Progress = silent
    ) -> dict[str, TrainingResult]:
        """Train every model on the same rows, and measure all of them on the same windows.

        Among models of Presurge these are all windows of the validation rows; beside a model of your own, up to
        ``ORIGINS`` of them.

        Args:
            data: The frame.
            validation_split: Share of the rows, at the end, that only measure.
            progress: Called with a phase, which names the model, and the share of the work that is done.

        Returns:
            Model -> result; that of a model that fails holds the reason.

        Raises:
            ConfigError: ``validation_split`` is not between 0 and 1.
            DataError: It is not a data frame, or a column is missing.
        """
        part = checked(Share, validation_split, "validation_split")
        self._rows = fingerprint(data, part)
        self.results, count = {}, len(self.active_models)
        for number, (name, model) in enumerate(self.active_models.items()):
            if isinstance(model, ForecasterPredictor):
                model.progress = lambda phase, share, detail="", name=name, done=number: progress(
                    f"{name}: {phase}", (done + share) / count, detail
                )
            self.results[name] = train(model, data, part)
            progress(f"{name}: {'trained' if self.results[name].success else 'failed'}", (number + 1) / count)
        trained = [model for name, model in self.active_models.items() if self.results[name].success]
        naive = _naive(trained, data, part)
        if not all(isinstance(model, ForecasterPredictor) for model in trained):
            with suppress(DataError):  # rows that only a model of the user's own can read
                _measure([*trained, *naive], in_order(data), part)
        self.baseline_errors = {m.model_name: m.rolling_errors for m in naive if m.rolling_errors}
        for model in trained:
            model.measured_on, model.baseline_errors = self._rows, self.baseline_errors
        ranking = self.ranking(self.active_models, 1)
        if ranking["baseline_errors"] and not ranking["beats_baselines"]:
            logger.warning("%s", ranking["verdict"])
        return self.results

    def predict_all(self, data: Frame, steps: int | None = None) -> dict[str, PredictionResult]:
        """Forecast with every trained model; one that fails has no rows, and its reason in ``metadata["error"]``.

        Raises:
            ConfigError: ``steps`` is not a whole number from 1.
        """
        asked = checked(Whole | None, steps, "steps")
        trained = {name: model for name, model in self.active_models.items() if model.is_trained}
        return {name: forecast(model, data, asked) for name, model in trained.items()}

    def compare_models(self, data: Frame, steps: int | None = None) -> dict[str, Any]:
        """Forecast with every trained model and rank them.

        ``best_model`` has the lowest rolling error over the first ``steps`` steps, or over all that every model forecasts.
        Beside the published keys the summary holds what ``rank`` returns.

        Raises:
            ConfigError: ``steps`` is not a whole number from 1.
        """
        predictions = self.predict_all(data, steps)
        good = {name: result for name, result in predictions.items() if result.error is None}
        known = [result.confidence for result in good.values() if not math.isnan(result.confidence)]
        return {
            "model_count": len(predictions),
            "predictions": predictions,
            "model_info": {name: self.active_models[name].get_model_info() for name in predictions},
            "performance_summary": {
                "avg_confidence": fmean(known) if known else None,
                "max_confidence": max(known, default=None),
                "min_confidence": min(known, default=None),
                **self.ranking(good, steps),
            },
        }

    def ranking(self, names: Iterable[str], steps: int | None = None) -> dict[str, Any]:
        """Rank some models, on the rows of the last training if one of them was measured there."""
        return rank({name: self.active_models[name] for name in names}, steps, rows=self._rows)


def train(model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
    """Train a model, which may be the user's own; a failure is a result with its reason, and keeps the old errors."""
    began, before, model.rolling_errors = time.perf_counter(), model.rolling_errors, ()
    try:
        result = model.train(data, validation_split)
        if not isinstance(result, TrainingResult):
            raise TypeError(f"train returned {type(result).__name__}, not a TrainingResult")
        if not (result.success or result.error_message):
            result = replace(result, error_message="train failed and gave no reason")
    except Exception as error:
        spent, reason = time.perf_counter() - began, _reason(error, f"{model.model_name} was not trained")
        result = TrainingResult(False, spent, math.nan, math.nan, 0, False, error_message=reason)
    if not result.success:
        model.rolling_errors = before
        return result
    model.is_trained = True
    return result


def forecast(model: BasePredictor, data: Frame, steps: int | None) -> PredictionResult:
    """Forecast with a model, which may be the user's own; a failure is a result without rows and with its reason."""
    began, rows = time.perf_counter(), steps or model.config.prediction_horizon
    try:
        result = model.predict(data, steps)
        if not isinstance(result, PredictionResult):
            raise TypeError(f"predict returned {type(result).__name__}, not a PredictionResult")
        if (reason := result.error) is not None:
            raise ValueError(reason or "predict failed and gave no reason")
        for name in ("timestamps", "request_tokens", "response_tokens"):
            if (given := len(getattr(result, name))) != rows:
                raise ValueError(f"predict gave {given} {name} where {rows} were asked for")
        return replace(result, model_name=model.model_name)
    except Exception as error:
        failure = {"error": _reason(error, f"{model.model_name} gives no forecast")}
        return PredictionResult([], [], [], 0.0, model.model_name, time.perf_counter() - began, failure)


def _reason(error: Exception, what: str) -> str:
    """Log a failure and return what the error says, or its type if it says nothing."""
    reason = str(error) or type(error).__name__
    logger.warning("%s: %s", what, reason)
    logger.debug("where it failed", exc_info=True)
    return reason


def _measure(models: list[BasePredictor], data: Frame, validation_split: float) -> None:
    """Give all models the rolling errors of their forecasts from the same evenly spaced validation rows.

    No minute is missing in their windows. A model that gives no forecast from one of them has no rolling errors.

    Raises:
        DataError: A row cannot be used.
    """
    for model in models:
        model.rolling_errors = ()
    panel, rows = read_history(data).panel, len(data)
    context = max(model.config.sequence_length for model in models)
    horizon = max(model.config.prediction_horizon for model in models)
    first = max(rows - int(rows * validation_split), context + 1)
    ends = np.unique(np.linspace(first, max(first, rows - horizon), ORIGINS).astype(np.int64))
    ends = ends[ends + horizon <= rows]
    present = np.flatnonzero(
        panel.observed.any(axis=1)
    )  # a row of the frame each, where requests lack the first
    origins = present[ends - 1 - (rows - len(present))]
    whole = complete(panel, origins, before=context, after=horizon).all(axis=1)
    for model in models:
        if isinstance(model, ForecasterPredictor):
            model.measure(panel, origins[whole])
        else:
            _measure_own(model, data, ends[whole].tolist())


def _measure_own(model: BasePredictor, data: Frame, ends: list[int]) -> None:
    """Measure a model of the user by asking for forecasts after some of the first rows of a frame."""
    horizon, tokens_N2 = model.config.prediction_horizon, tokens_of(data).astype(np.float32)
    sums = ScoreSums(horizon, (), np.ones(2))
    for end in ends:
        result = forecast(model, data.head(end), horizon)
        if result.error is not None:
            logger.warning("The error of %s could not be measured, so it is not ranked", model.model_name)
            return
        mean_H2 = np.array([result.request_tokens, result.response_tokens], np.float32).T
        sums.add(tokens_N2[None, end : end + horizon], mean_H2[None], mean_H2[None])
    model.keep_errors(sums.scores()["wape"])


def _naive(models: list[BasePredictor], data: Frame, validation_split: float) -> list[ForecasterPredictor]:
    """The naive models, trained with the shortest context and the longest horizon of the models beside them."""
    found = []
    for name in (one for one in BASELINES if models and one not in LAGGED):
        context = min(model.config.sequence_length for model in models)
        horizon = max(model.config.prediction_horizon for model in models)
        naive = ForecasterPredictor(ModelConfig(name, sequence_length=context, prediction_horizon=horizon))
        if train(naive, data, validation_split).success:
            found.append(naive)
    return found


def rank(models: Mapping[str, BasePredictor], steps: int | None = None, *, rows: str = "") -> dict[str, Any]:
    """Rank models by name.

    Args:
        models: In the order in which they were added.
        steps: Rank by the first steps ahead only.
        rows: Fingerprint of the rows to rank on, if a model was measured on them; otherwise the rows of most models
            count, and among equally frequent ones the latest.

    Returns:
        ``best_model``, None if no error was measured; ``rolling_errors``, model -> error, and ``baseline_errors``, naive
        model -> error on the same rows, both with the best first and averaged over ``steps`` steps ahead, which all of
        these models forecast; whether the best ``beats_baselines``; any other model ``unranked``, with the reason; and a
        ``verdict`` in words.
    """
    measured = {name: model for name, model in models.items() if model.rolling_errors}
    prints = [model.measured_on for model in measured.values() if model.measured_on]
    here = rows if rows in prints else max(reversed(prints), key=prints.count, default="")
    ranked = {name: model for name, model in measured.items() if model.measured_on == here}
    if not here and len(ranked) > 1:  # no model knows its rows: one is the best, several cannot be compared
        ranked = {}
    reach = min((len(model.rolling_errors[:steps]) for model in ranked.values()), default=0)
    naive = [pair for model in ranked.values() for pair in model.baseline_errors.items()]
    naive.sort(key=lambda pair: len(pair[1]))  # of each naive model, the errors that reach furthest count
    errors = _best_first({name: model.rolling_error(reach) for name, model in ranked.items()})
    baselines = _best_first({name: fmean(error_H[:reach]) for name, error_H in naive})
    unranked = {name: _why(model) for name, model in models.items() if name not in ranked}
    best, best_naive = next(iter(errors), None), next(iter(baselines), None)
    beaten = best is not None and best_naive is not None and errors[best] < baselines[best_naive]
    if best is None:
        verdict = "no error of a model was measured"
    elif best_naive is None:
        verdict = f"{best} has a rolling error of {errors[best]:.1%}; no naive model was measured on its rows"
    else:
        compared = f"{'below' if beaten else 'not below'} the {baselines[best_naive]:.1%} of {best_naive}"
        verdict = f"{best} has a rolling error of {errors[best]:.1%}, {compared}"
    return {
        "best_model": best,
        "rolling_errors": errors,
        "baseline_errors": baselines,
        "beats_baselines": beaten,
        "steps": reach,
        "unranked": unranked,
        "verdict": "; ".join([verdict, *(f"{name} is not ranked: {why}" for name, why in unranked.items())]),
    }


def _why(model: BasePredictor) -> str:
    if not model.rolling_errors:
        return "its error was not measured"
    return "measured on other rows" if model.measured_on else "the rows it was measured on are unknown"


def _best_first(errors: dict[str, float]) -> dict[str, float]:
    return dict(sorted(errors.items(), key=lambda pair: pair[1]))
