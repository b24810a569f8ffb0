"""Fit one model to a data set the honest way: choose and calibrate on rows that the weights have not seen."""

import time
from dataclasses import dataclass
from typing import Any

from presurge.errors import DataError
from presurge.evaluation.intervals import calibrate
from presurge.jobs.data import Dataset
from presurge.jobs.settings import validated
from presurge.models.forecaster import FitReport, Forecaster, Settings
from presurge.models.registry import model_class
from presurge.progress import Progress
from presurge.series.windows import window_origins


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
    progress: Progress | None = None,
) -> Fitted:
    """Fit, calibrate and, where the validation rows were only a tail of the training rows, fit again to all of them.

    The intervals come from the errors of the first fit on the validation rows, which it had not seen.

    Raises:
        ConfigError: There is no such model, or a setting is wrong.
        DataError: The training or validation rows hold no window.
    """
    began = time.process_time()
    kind = model_class(name)
    chosen = validated(kind.settings_class, settings or {}, where=f"settings of {name}")
    check_rows(dataset, context, horizon)
    model = _new(kind, context, horizon, chosen)
    report = model.fit(dataset.panel, dataset.train, dataset.validation, progress=progress)
    calibration = calibrate(model, dataset.panel, dataset.validation)
    if kind.refits and not dataset.validation_given:
        model = _new(kind, context, horizon, chosen)
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
                hint="Give more rows, a shorter --context, a shorter --horizon or a smaller --step.",
            )


def _new(kind: type[Forecaster], context: int, horizon: int, settings: Settings) -> Forecaster:
    return kind(context=context, horizon=horizon, settings=settings)
