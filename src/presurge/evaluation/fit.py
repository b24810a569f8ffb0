"""Fit one model to a data set the honest way: choose and calibrate on rows that the weights have not seen."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from presurge.config import validated
from presurge.errors import DataError
from presurge.evaluation.intervals import calibrate
from presurge.models.forecaster import FitReport, Forecaster
from presurge.models.plan import TrainingPlan
from presurge.models.registry import model_class
from presurge.models.rolling_choice import rolling_folds
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.spans import Span
from presurge.series.windows import window_origins

_EARLIER_FITS = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A model that was fitted and calibrated, and what that took."""

    model: Forecaster
    report: FitReport
    cpu_seconds: float


def fit_model(
    name: str,
    dataset: Dataset,
    *,
    context: int,
    horizon: int,
    settings: dict[str, Any] | None = None,
    plan: TrainingPlan | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit, calibrate and, where the validation rows were only a tail of the training rows, fit again to all of them.

    The intervals come from the errors of the first fit on the validation rows, which it had not seen. A model that is
    fitted again is cheap to fit: two more fits, to earlier rows, add the errors on the rows that follow those.

    Raises:
        ConfigError: There is no such model, or a setting is wrong.
        DataError: The training or validation rows hold no window.
    """
    began = time.process_time()
    kind = model_class(name)
    chosen = validated(kind.config_class, settings or {}, where=f"settings of {name}")
    check_rows(dataset, context, horizon)
    model = kind(context=context, horizon=horizon, config=chosen, plan=plan)
    report = model.fit(dataset.panel, dataset.train, dataset.validation, progress=progress)
    if dataset.validation_given or not model.refits:
        model.calibration = calibrate(model, dataset.panel, dataset.validation)
    else:
        earlier = _earlier_fits(partial(kind, context=context, horizon=horizon, config=chosen), dataset)
        calibration = calibrate(model, dataset.panel, dataset.validation, earlier=earlier)
        model = kind(context=context, horizon=horizon, config=chosen, plan=plan)
        report = model.fit(dataset.panel, dataset.fit_span, progress=progress)
        model.calibration = calibration
    return Fitted(model=model, report=report, cpu_seconds=time.process_time() - began)


def check_rows(dataset: Dataset, context: int, horizon: int) -> None:
    """Refuse data that hold no window of the asked size.

    Raises:
        DataError: Training, validation or test rows are too few.
    """
    where = dataset.source.get("path")
    for part, span in (
        ("training", dataset.train),
        ("validation", dataset.validation),
        ("test", dataset.test),
    ):
        if len(window_origins(dataset.panel, span, context=context, horizon=horizon)) == 0:
            raise DataError(
                f"the {len(span)} {part} rows hold no window of {context} + {horizon} rows",
                where=str(where) if where else None,
                hint="Give more rows, a shorter `context`, a shorter `horizon` or a smaller `step`.",
            )


def _earlier_fits(new: Callable[[], Forecaster], dataset: Dataset) -> list[tuple[Forecaster, Span]]:
    """Models fitted to the first rows of the training part, each with the rows after those; none where rows are few."""
    fits: list[tuple[Forecaster, Span]] = []
    for fold in rolling_folds(dataset.train, None, _EARLIER_FITS):
        model = new()
        try:
            model.fit(dataset.panel, fold.learn)
        except DataError:
            continue
        fits.append((model, fold.judge))
    return fits
