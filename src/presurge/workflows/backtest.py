"""Compare models on the last rows of a series, all on the same windows."""

from collections.abc import Sequence
from typing import Any

from presurge.errors import PresurgeError
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.backtest import evaluate as score
from presurge.evaluation.fit import Fitted, fit_model
from presurge.models.registry import BASELINES, model_class
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.frequency import parse_step
from presurge.training.config import TrainingConfig


def backtest(
    dataset: Dataset,
    models: Sequence[str],
    *,
    context: int,
    horizon: int,
    stride: int = 1,
    settings: dict[str, dict[str, Any]] | None = None,
    trainings: dict[str, TrainingConfig] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit each model, calibrate it, and score it by rolling origin over the test rows; baselines are always added.

    Args:
        dataset: The series and its parts.
        models: Names of models.
        context: Rows of history.
        horizon: Rows of forecast.
        stride: Rows between two scored origins.
        settings: Settings by model name; ``with_season`` adds a given season.
        trainings: How to train, by model name; what suits the model for the others.
        progress: Told the phase and its share done.
    """
    for name in models:
        model_class(name)  # an unknown one is refused before the others are fitted
    fitted = []
    for name in dict.fromkeys([*models, *BASELINES]):
        try:
            one = fit_model(
                name,
                dataset,
                context=context,
                horizon=horizon,
                settings=(settings or {}).get(name),
                training=(trainings or {}).get(name),
                progress=progress,
            )
        except PresurgeError as error:
            error.where = f"{name}, {error.where}" if error.where else name  # one of several: say which
            raise
        fitted.append(one)
    return score_fitted(fitted, dataset, stride=stride, progress=progress)


def score_fitted(
    fitted: Sequence[Fitted], dataset: Dataset, *, stride: int = 1, progress: Progress | None = None
) -> Evaluation:
    """Score fitted models on the test rows."""
    return score(
        [one.model for one in fitted],
        dataset.panel,
        dataset.test,
        train=dataset.fit_span,
        stride=stride,
        fit_seconds={one.model.name: one.cpu_seconds for one in fitted},
        progress=progress,
    )


def fit_baselines(
    dataset: Dataset,
    *,
    context: int,
    horizon: int,
    season: str | None = None,
    progress: Progress | None = None,
) -> list[Fitted]:
    """The naive models of every accuracy table, fitted to the same rows."""
    settings = with_season({}, season, dataset.panel.step)
    return [
        fit_model(
            name, dataset, context=context, horizon=horizon, settings=settings.get(name), progress=progress
        )
        for name in BASELINES
    ]


def with_season(
    settings: dict[str, dict[str, Any]], season: str | None, step: int
) -> dict[str, dict[str, Any]]:
    """Add a given season, such as ``"1d"``, to the settings of the seasonal baseline; None lets it be detected."""
    if season is None:
        return settings
    period = max(1, round(parse_step(season) / step))
    return {**settings, "seasonal-naive": {**settings.get("seasonal-naive", {}), "period": period}}
