"""Fit one model to a data set honestly: choose settings and calibrate intervals on rows that the weights have not seen."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from presurge.config import validated
from presurge.errors import DataError
from presurge.evaluation.walk import Piece, uncalibrated, usable_origins, walk
from presurge.models import plugins
from presurge.models.conformal import OWN_WINDOWS, Calibration, with_peaks
from presurge.models.following import BLOCK, Windows, with_chosen_rates
from presurge.models.forecaster import FitReport, Forecaster
from presurge.models.linear.select import rolling_folds
from presurge.models.registry import BASELINES, model_class
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import window_origins
from presurge.training.config import TrainingConfig

logger = logging.getLogger("presurge.fit")

MAX_WINDOWS = 20_000
"""More residuals than these do not move any quantile noticeably, and cost memory."""
_MIN_WINDOWS = 1_000
_MAX_RESIDUALS = 1 << 21
_EARLIER_FITS = 2
_FEWEST_WINDOWS = 20
"""With fewer training windows, a model that can shortens its context; with fewer calibration windows, means stay at the points."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A fitted and calibrated model, and what that took."""

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
    training: TrainingConfig | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit and calibrate a model; if the validation rows are only the tail of the training rows, fit again to all of them.

    Means and intervals come from the errors of the first fit on the validation rows, which did not shape its weights. A
    model that is fitted again is cheap to fit: up to two more fits, to earlier rows, add their errors on the rows that follow
    those, if they had at least as many windows as weights for one output.

    Raises:
        ConfigError: There is no such model, or a setting is wrong.
        DataError: The training or validation rows hold no window.
    """
    began = time.process_time()
    kind = model_class(name)
    config = validated(kind.config_class, settings or {}, where=f"settings of {name}")
    asked, context = context, room_for(kind, dataset, context, horizon)
    check_rows(dataset, context, horizon)
    new = partial(plugins.make, kind, context=context, horizon=horizon, config=config)
    model = new(training=training)
    report = plugins.fit(model, dataset.panel, dataset.train, dataset.validation, progress=progress)
    again = model.refits and not dataset.validation_given
    earlier: list[tuple[Forecaster, Span]] = []
    for fold in rolling_folds(dataset.train, None, _EARLIER_FITS) if again else ():
        past = new()
        with suppress(DataError):  # too few rows
            weights = horizon * len(dataset.panel.targets)
            if plugins.fit(past, dataset.panel, fold.learn).n_windows * weights >= past.n_parameters:
                earlier.append((past, fold.judge))
    calibration = calibrate(model, dataset.panel, dataset.validation, earlier=earlier)
    if again:
        model = new(training=training)
        report = plugins.fit(model, dataset.panel, dataset.fit_span, progress=progress)
    model.calibration = calibration
    model.trained = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    notes = _notes(model, dataset, asked)
    report = replace(report, notes=(*report.notes, *notes))
    return Fitted(model=model, report=report, cpu_seconds=time.process_time() - began)


def _notes(model: Forecaster, dataset: Dataset, asked: int) -> list[str]:
    """What a fit did otherwise than asked; a covariate that is not used goes to the log, too."""
    panel, spec, notes = dataset.panel, model.fitted_spec(), []
    own = model.calibration.items if model.calibration else ()
    if len(panel.items) > 1 and (pooled := set(panel.items).difference(own)):
        notes.append(
            f"{len(pooled)} of {len(panel.items)} items have fewer than {OWN_WINDOWS} calibration windows: their "
            "intervals rest on the errors of all items together"
        )
    if model.name in BASELINES:
        return notes
    if model.context < asked:
        few = f"The {len(dataset.train):,} training rows hold too few windows of {asked} rows"
        notes.append(f"{few}: {model.name} reads the last {model.context}.")
    used = {*(channel.name for channel in spec.channels), *spec.features}
    unused = [column for column in (*panel.channel_names, *panel.feature_names) if column not in used]
    if unused:
        notes.append(f"{model.name} does not use these covariates: {', '.join(unused)}")
        logger.warning(notes[-1])
    return notes


def room_for(kind: type[Forecaster], dataset: Dataset, context: int, horizon: int) -> int:
    """The context; of a model that shortens it, a third of the longest item where hardly a training window has room for it."""
    windows = window_origins(dataset.panel, dataset.train, context=context, horizon=horizon)
    if not kind.shortens or len(windows) >= _FEWEST_WINDOWS:
        return context
    return max(1, min(context, int((dataset.train.last - dataset.train.first).max()) // 3))


def check_rows(dataset: Dataset, context: int, horizon: int) -> None:
    """Refuse data that hold no window of the given size.

    Raises:
        DataError: There are too few training, validation or test rows.
    """
    where = dataset.source.get("path")
    for part in ("train", "validation", "test"):
        span: Span = getattr(dataset, part)
        if len(window_origins(dataset.panel, span, context=context, horizon=horizon)) == 0:
            raise DataError(
                f"the {len(span)} {'training' if part == 'train' else part} rows hold no window of "
                f"{context} + {horizon} rows",
                where=str(where) if where else None,
                hint="Give more rows, a shorter `context`, a shorter `horizon` or a smaller `step`.",
            )


def calibrate(
    model: Forecaster, panel: Panel, span: Span, *, earlier: Sequence[tuple[Forecaster, Span]] = ()
) -> Calibration:
    """Measure the residuals of a fitted model over the windows of a span; the model is not changed.

    Of more than ``MAX_WINDOWS`` windows, evenly spaced runs of some hundred are taken. Windows with a missing value in the
    context are left out, as are missing targets.

    Args:
        model: A model that has not seen the span.
        panel: Holds the model's channels.
        span: The last rows that the model will ever learn from; the intervals follow the errors after it.
        earlier: The same kind of model fitted to earlier rows, with spans that it has not seen. Their residuals are
            pooled with the others, because the last span alone may have been a quiet one.

    Raises:
        DataError: The span holds no window with a complete context.
    """
    most = min(MAX_WINDOWS, max(_MIN_WINDOWS, _MAX_RESIDUALS // (model.horizon * len(panel.targets))))
    made = [_windows_of(one, panel, part, most) for one, part in ((model, span), *earlier)]
    levels, folds = made[0][0], [windows for _, windows in made if windows]
    if not made[0][1]:
        raise DataError(
            f"none of the {len(span):,} validation rows can calibrate the intervals of {model.name}: it needs "
            f"{model.context} rows of history without a gap and {model.horizon} rows to compare with",
            hint="Give more validation rows, or a shorter `context` or `horizon`.",
        )
    before = panel.start - panel.step
    last_us = np.where(span.last > panel.indptr[:-1], panel.times_of(span.last - 1), before)
    count_C, every = model.fitted_spec().count_mask, [windows for fold in folds for windows in fold]
    calibration = Calibration.measure(
        with_peaks(np.concatenate([windows.actual_BHC for windows in every])),
        with_peaks(np.concatenate([windows.centre_BHZC for windows in every])),
        np.tile(count_C, 2),
        levels,
        until=dict(zip(panel.items, map(int, last_us), strict=True)),
        item_B=[windows.item for windows in every for _ in windows.origins_B],
    )
    if (
        calibration.n_windows < _FEWEST_WINDOWS
    ):  # too few to say how far means are off: they stay at the points
        bias_KHC, weight_C = np.zeros_like(calibration.bias_KHC), np.zeros_like(calibration.weight_C)
        return replace(calibration, bias_KHC=bias_KHC, weight_C=weight_C)
    if len(folds) == 1:
        folds = [[half for windows in folds[0] if len((half := windows.half(k)).origins_B)] for k in (0, 1)]
    if not all(folds):
        return calibration
    chosen = with_chosen_rates(calibration.first_channels(len(count_C)), folds)
    return replace(
        calibration,
        bias_KHC=np.tile(chosen.bias_KHC, 2),
        rates_HQC=np.tile(chosen.rates_HQC, 2),
        weight_C=np.tile(chosen.weight_C, 2),
    )


def _windows_of(
    model: Forecaster, panel: Panel, span: Span, most: int
) -> tuple[tuple[float, ...], list[Windows]]:
    """The levels that a model learned or else the usual ones, and its forecasts from a span, item by item.

    Of many windows evenly spaced runs are taken, so that their errors can be followed row by row.
    """
    origins = usable_origins(model, panel, span)
    if len(origins) > most:
        begins = np.linspace(0, len(origins) - BLOCK, most // BLOCK).round().astype(np.int64)
        origins = origins[np.unique(begins[:, None] + np.arange(BLOCK))]
    pieces = list(walk([uncalibrated(model)], panel, origins))
    if not pieces:
        return (), []
    actual_BHC, centre_BHZC = (
        np.concatenate([take(piece) for piece in pieces]) for take in (Piece.actual, Piece.centre)
    )
    whole, item_B = Windows("", origins, actual_BHC, centre_BHZC), panel.items_of(origins)
    found = [whole.of(panel.items[item], item_B == item) for item in np.unique(item_B)]
    return pieces[0].levels or QUANTILE_LEVELS, found
