"""Several predictors on the same data: train all, forecast with all, rank them by measured error."""

import math
from statistics import fmean
from typing import Any

from presurge.models.registry import BASELINES
from presurge.predictor import calls
from presurge.predictor.adapter import ForecasterPredictor
from presurge.predictor.config import ModelConfig, logger, share, whole
from presurge.predictor.frames import Frame
from presurge.predictor.interface import BasePredictor, PredictionResult, TrainingResult
from presurge.predictor.measuring import fingerprint, measured
from presurge.predictor.ranking import Ranking, rank
from presurge.predictor.registry import ModelRegistry, model_registry


class ModelManager:
    """Predictors by the ``model_name`` of their configuration.

    Attributes:
        active_models: All of them, trained or not.
        results: The last training of each.
        baseline_errors: Rolling errors of the naive models on the rows of the last training.
    """

    def __init__(self, registry: ModelRegistry = model_registry) -> None:
        self.registry = registry
        self.active_models: dict[str, BasePredictor] = {}
        self.results: dict[str, TrainingResult] = {}
        self.baseline_errors: dict[str, tuple[float, ...]] = {}
        self._rows = ""

    def add_model(self, config: ModelConfig) -> bool:
        """Make an untrained predictor, named by its type where it has no name; one of the same name is replaced.

        Always True.

        Raises:
            ConfigError: There is no such model, or it refuses the configuration.
        """
        self.keep(self.registry.make(config))
        return True

    def keep(self, model: BasePredictor) -> None:
        """Take a predictor in under its name; one of the same name is replaced."""
        self.active_models[model.model_name] = model
        self.results.pop(model.model_name, None)

    def train_all_models(self, data: Frame, validation_split: float = 0.2) -> dict[str, TrainingResult]:
        """Train every model on the same rows; a failure is in its result, with the reason.

        Raises:
            ConfigError: ``validation_split`` is not between 0 and 1.
            DataError: It is no data frame, or a column is missing.
        """
        part = share(validation_split, "validation_split")
        self._rows = fingerprint(data, part)
        self.results = {name: self._train(model, data, part) for name, model in self.active_models.items()}
        trained = [self.active_models[name] for name, result in self.results.items() if result.success]
        self.baseline_errors = _baseline_errors([model.config for model in trained], data, part)
        for model in trained:
            model.baseline_errors = self.baseline_errors
        ranking = self.ranking(list(self.active_models), 1)
        if ranking.best is not None and not ranking.beats_baselines:
            logger.warning("%s", ranking.verdict)
        return self.results

    def predict_all(self, data: Frame, steps: int | None = None) -> dict[str, PredictionResult]:
        """Forecast with every trained model; a failure has no forecast and its reason in ``metadata["error"]``.

        Raises:
            ConfigError: ``steps`` is no whole number from 1.
        """
        asked = None if steps is None else whole(steps, "steps")
        trained = {name: model for name, model in self.active_models.items() if model.is_trained}
        return {name: calls.forecast(model, data, asked) for name, model in trained.items()}

    def compare_models(self, data: Frame, steps: int | None = None) -> dict[str, Any]:
        """Forecast with every trained model and rank them.

        ``best_model`` has the lowest rolling error over the first ``steps`` steps, or over all that every model forecasts.
        Beside the published keys the summary holds the ``rolling_errors`` of the models, the ``baseline_errors``, the
        number of ``steps`` that both are means over, the models ``unranked`` with the reason, and a ``verdict`` in words.

        Raises:
            ConfigError: ``steps`` is no whole number from 1.
        """
        predictions = self.predict_all(data, steps)
        good = [name for name, result in predictions.items() if calls.is_good(result)]
        known = [predictions[name].confidence for name in good]
        known = [confidence for confidence in known if not math.isnan(confidence)]
        ranking = self.ranking(good, steps)
        return {
            "model_count": len(predictions),
            "predictions": predictions,
            "model_info": {name: self.active_models[name].get_model_info() for name in predictions},
            "performance_summary": {
                "avg_confidence": fmean(known) if known else None,
                "max_confidence": max(known, default=None),
                "min_confidence": min(known, default=None),
                "best_model": ranking.best,
                "rolling_errors": ranking.errors,
                "baseline_errors": ranking.baselines,
                "steps": ranking.steps,
                "unranked": ranking.unranked,
                "verdict": ranking.verdict,
            },
        }

    def ranking(self, names: list[str], steps: int | None = None) -> Ranking:
        """Rank some models, on the rows of the last training where one of them was measured there."""
        return rank({name: self.active_models[name] for name in names}, steps, rows=self._rows)

    def _train(self, model: BasePredictor, data: Frame, validation_split: float) -> TrainingResult:
        """Train and measure; after a failure the model is ranked as before."""
        before, model.rolling_errors = model.rolling_errors, ()
        result = calls.train(model, data, validation_split)
        if not result.success:
            model.rolling_errors = before
            return result
        model.is_trained = True
        if not model.rolling_errors:
            model.rolling_errors = measured(model, data, validation_split)
        model.measured_on = self._rows
        return result


def _baseline_errors(
    configs: list[ModelConfig], data: Frame, validation_split: float
) -> dict[str, tuple[float, ...]]:
    """Naive model -> rolling errors, with the shortest context and to the longest horizon of the models beside them."""
    errors = {}
    for name in BASELINES if configs else ():
        config = ModelConfig(
            model_type=name,
            model_name=name,
            sequence_length=min(config.sequence_length for config in configs),
            prediction_horizon=max(config.prediction_horizon for config in configs),
        )
        baseline = ForecasterPredictor(config)
        if calls.train(baseline, data, validation_split).success and baseline.rolling_errors:
            errors[name] = baseline.rolling_errors
    return errors
