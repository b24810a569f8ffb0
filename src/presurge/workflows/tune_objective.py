"""What a search measures: the error on the validation rows, with nothing later in sight."""

from dataclasses import replace
from typing import Any

import numpy as np

from presurge.config import validated
from presurge.errors import DataError
from presurge.evaluation.backtest import evaluate
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES, model_class
from presurge.series.dataset import Dataset
from presurge.series.spans import Span
from presurge.workflows.config import TrainConfig


def without_test(dataset: Dataset) -> Dataset:
    """The data set up to its last validation row, so that nothing can look further."""
    panel, last = dataset.panel, dataset.validation.last
    kept = panel.take(Span(panel.indptr[:-1], last))
    moved = panel.indptr[:-1] - kept.indptr[:-1]
    train, validation = (
        Span(span.first - moved, span.last - moved) for span in (dataset.train, dataset.validation)
    )
    none = Span(validation.last, validation.last)
    return replace(dataset, panel=kept, train=train, validation=validation, test=none)


def validation_error(model: Forecaster, dataset: Dataset) -> float:
    """What a search makes small, in original units: the mean over channels and horizon steps on the validation rows.

    It is the WAPE of a channel that counts; of a gauge, whose zero may lie anywhere, and of a channel without load, the
    mean absolute error over the standard deviation of the training rows. A channel that never changes is left out.

    Raises:
        DataError: All channels are left out.
        HistoryError: The validation rows hold no window.
    """
    panel, train = dataset.panel, dataset.train
    scores = evaluate([model], panel, dataset.validation, train=train).scores[model.name]
    spread_C = np.nanstd(panel.take(train).values.astype(np.float64), axis=0)
    scaled_HC = scores["mae"] / np.where(spread_C > 0, spread_C, np.nan)
    wape_HC = np.where(panel.count_mask, scores["wape"], np.nan)
    error_HC = np.where(np.isnan(wape_HC), scaled_HC, wape_HC)
    if np.isnan(error_HC).all():
        raise DataError("no channel changes, so that no settings are better than others")
    return float(np.nanmean(error_HC))


def fit_once(dataset: Dataset, settings: TrainConfig, watcher: Any = None) -> Forecaster:
    """A model fitted to the training rows; the watcher is a metric logger."""
    kind = model_class(settings.model)
    training = settings.training().model_copy(update={"loggers": () if watcher is None else (watcher,)})
    own = validated(kind.config_class, settings.model_settings, where=f"settings of {settings.model}")
    model = kind(context=settings.context, horizon=settings.horizon, config=own, training=training)
    model.fit(dataset.panel, dataset.train, dataset.validation)
    return model


def baseline_errors(dataset: Dataset, settings: TrainConfig) -> dict[str, float]:
    """The errors of the baselines that the rows allow."""
    errors = {}
    for name in BASELINES:
        plain = TrainConfig(model=name, context=settings.context, horizon=settings.horizon)
        try:
            errors[name] = validation_error(fit_once(dataset, plain), dataset)
        except DataError:  # too few rows for its season, say: the search goes on beside the others
            continue
    return errors
