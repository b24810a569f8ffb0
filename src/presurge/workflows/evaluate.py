"""Score models on the last rows of a series: several that are fitted here, or one that was trained before."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from presurge import files
from presurge.errors import within
from presurge.evaluation import backtest as evaluation
from presurge.evaluation.backtest import Evaluation, Scoring
from presurge.evaluation.fit import Fitted, fit_model
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.evaluation.report.summary import in_words
from presurge.evaluation.rolling import Keep, forecast_file, forecast_frame, rounds
from presurge.models import registry
from presurge.models.forecaster import FitReport, Forecaster
from presurge.models.history import matching_channels
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.frequency import parse_step
from presurge.training.config import TrainingConfig
from presurge.workflows.config import TrainConfig, resolve_each
from presurge.workflows.dataset import examined, load_dataset
from presurge.workflows.predict import load_history

logger = logging.getLogger("presurge.fit")


def fit(
    dataset: Dataset,
    config: TrainConfig,
    *,
    training: TrainingConfig | None = None,
    progress: Progress | None = None,
) -> Fitted:
    """Fit and calibrate the model of a configuration; ``training`` adds checkpoints and loggers to how it is trained.

    What was fitted and chosen, among which candidates, goes to the log.
    """
    settings = config.model_settings
    if config.season is not None and config.model == "seasonal-naive":
        settings = {"period": max(1, round(parse_step(config.season) / dataset.panel.step)), **settings}
    found = fit_model(
        config.model,
        dataset,
        context=config.context,
        horizon=config.horizon,
        settings=settings,
        training=training or config.training(),
        progress=progress,
    )
    for candidate in found.report.candidates:
        logger.info("Candidate of %s: %s", config.model, in_words(candidate))
    chosen = in_words(found.report.chosen) or "nothing"
    logger.info("Fitted %s in %.2f CPU-s, chosen: %s", config.model, found.cpu_seconds, chosen)
    return found


def final_fit(dataset: Dataset, config: TrainConfig, *, progress: Progress | None = None) -> Fitted:
    """Fit and calibrate the model of a configuration to all rows of a data set, in the way in which ``fit`` fits it to some.

    The last rows, in the proportion of the validation rows, calibrate the intervals with the errors of a fit that has not
    seen them; the fit after that includes them. Only for a model that ``refits``. Nothing is left to score it with: the error
    to expect is that of ``fit`` on the test rows.

    Raises:
        DataError: As ``fit``.
    """
    return fit(dataset.learning_from(dataset.panel.indptr[1:]), config, progress=progress)


def backtest(
    dataset: Dataset,
    configs: Iterable[TrainConfig],
    *,
    stride: int = 1,
    cutoffs: int | None = None,
    refit: int | None = None,
    keep: Keep | None = None,
    fits: list[Fitted] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit several models and score them by rolling origin over the test rows, all on the same windows.

    Args:
        dataset: The series and its parts.
        configs: One for each model; ``resolve_each`` adds the baselines.
        stride: Rows between two scored origins.
        cutoffs: Number of evenly spaced origins, instead of one every ``stride`` rows.
        refit: Number of origins after which every model is fitted anew, to all rows up to there; None fits once.
        keep: Takes the forecasts as frames, model by model and piece by piece (``rolling.forecast_frame`` names the columns).
        fits: Gets the last fit of each model.
        progress: Called with the phase and its share done.

    Raises:
        ConfigError: The origins do not fit into the test rows.
        HistoryError: No window can be scored.
    """
    configs, notes = comparable(configs, dataset)
    seconds = defaultdict[str, float](float)
    parts, stride = rounds(dataset, configs[0].horizon, stride=stride, cutoffs=cutoffs, refit=refit)
    scoring = Scoring(
        dataset.panel,
        train=dataset.fit_span,
        stride=stride,
        keep=None if keep is None else lambda piece: keep(forecast_frame(piece)),
    )
    for number, part in enumerate(parts):
        tell = [
            _share_of(progress, number, len(parts), step, len(configs)) for step in range(len(configs) + 1)
        ]
        fitted = []
        for config, one in zip(configs, tell, strict=False):
            if one is not None and len(parts) > 1:
                one(f"Fitting {config.model}", 0)
            with within(config.model):
                fitted.append(fit(part, config, progress=one))
            seconds[config.model] += fitted[-1].cpu_seconds
        scoring.add([one.model for one in fitted], part.test, progress=tell[-1])
        if fits is not None:
            fits[:] = fitted
    found = scoring.evaluation(seconds)
    return replace(found, notes=(*found.notes, *notes))


def _share_of(progress: Progress | None, number: int, rounds: int, step: int, models: int) -> Progress | None:
    """Progress of one step of a round, which fits a model or scores all, told as that of all rounds."""
    if progress is None or rounds == 1:
        return progress

    def tell(phase: str, share: float, detail: str = "") -> None:
        done = number + (step + share) / (models + 1)
        at = f"round {number + 1} of {rounds}: {phase}{', ' if detail else ''}{detail}"
        progress("Fitting and scoring", done / rounds, at)

    return tell


def comparable(configs: Iterable[TrainConfig], dataset: Dataset) -> tuple[list[TrainConfig], tuple[str, ...]]:
    """The configurations without the baselines that the rows have no room for, and a note for each of those."""
    found = list(configs)
    shape = {"context": found[0].context, "horizon": found[0].horizon}
    notes = evaluation.without_room(dataset, **shape)
    return [one for one in found if one.model not in notes], tuple(notes.values())


def backtest_into(
    directory: Path,
    dataset: Dataset,
    configs: Sequence[TrainConfig],
    *,
    refit: int | None = None,
    next_command: str,
    progress: Progress | None = None,
    **origins: Any,
) -> Evaluation:
    """Backtest, and write every forecast, the scores and reports into a directory, all or none of them.

    Args:
        directory: Gets ``forecasts.parquet``, ``metrics.json``, ``report.html`` and ``report.txt``; other files in it stay.
        dataset: The series and its parts.
        configs: One for each model; the report is about the first.
        refit: As for ``backtest``.
        next_command: The command that trains the first of the models, as the reports show it.
        progress: Called with the phase and its share done.
        origins: ``stride`` or ``cutoffs``, as for ``backtest``.

    Raises:
        PresurgeError: As ``backtest``; StorageError if the file system refuses.
    """
    fits: list[Fitted] = []
    with files.staged(directory) as folder:
        with forecast_file(folder / "forecasts.parquet") as keep:
            found = backtest(
                dataset, configs, refit=refit, keep=keep, fits=fits, progress=progress, **origins
            )
        files.write_json(folder / "metrics.json", found.to_dict())
        fitted = fits[0]
        if refit is not None:
            note = f"Every model was fitted anew after {refit} forecasts; what is said of {fitted.model.name} is said of its last fit."
            fitted = replace(fitted, report=replace(fitted.report, notes=(*fitted.report.notes, note)))
        summary = RunSummary(
            directory=directory,
            fitted=fitted,
            dataset=dataset,
            config=configs[0].model_dump(mode="json"),
            evaluation=found,
            next_command=next_command,
            stored=False,
        )
        files.write_text(folder / "report.txt", report_text(summary))
        # A model of the last round has seen the rows before it, and a picture of its forecasts of them would flatter it.
        write_report(folder, summary, plots=refit is None, progress=progress)
    return found


def score_fitted(
    fitted: Sequence[Fitted], dataset: Dataset, *, stride: int = 1, progress: Progress | None = None
) -> Evaluation:
    """Score fitted models on the test rows."""
    return evaluation.evaluate(
        [one.model for one in fitted],
        dataset.panel,
        dataset.test,
        train=dataset.fit_span,
        stride=stride,
        fit_seconds={one.model.name: one.cpu_seconds for one in fitted},
        progress=progress,
    )


def score_beside_baselines(
    fitted: Fitted,
    dataset: Dataset,
    *,
    stride: int = 1,
    season: str | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a fitted model on the test rows, beside baselines fitted to the rows before them."""
    model = fitted.model
    given = {"context": model.context, "horizon": model.horizon, "season": season}
    configs = resolve_each([], given, {})
    possible, notes = comparable(configs.values(), dataset)
    others = [fit(dataset, one, progress=progress) for one in possible if one.model != model.name]
    found = score_fitted([fitted, *others], dataset, stride=stride, progress=progress)
    return replace(found, notes=(*found.notes, *notes))


def evaluate(
    model_directory: Path,
    data: Path,
    *,
    table: Mapping[str, Any] | None = None,
    stride: int = 1,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    now: int | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Score a trained model on the test rows of DATA; also return notes on how the data were read.

    Raises:
        HistoryError: The data do not fit the model.
    """
    model, config = registry.load(model_directory)
    training, spec = config["training"], model.fitted_spec()
    given = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    fractions = training.get("split", {}) | {k: v for k, v in given.items() if v is not None}
    series = load_history(examined(data), model, training, table, now=now)
    with within(str(data)):
        panel = matching_channels(series.panel.with_ratios(c.name for c in spec.channels), spec)
    names = [channel.name for channel in spec.targets]
    dataset = load_dataset(replace(series, panel=panel), channels=names, **fractions)
    report = FitReport(model=model.name, n_windows=0, n_parameters=model.n_parameters, cpu_seconds=0.0)
    fitted = Fitted(model=model, report=report, cpu_seconds=0.0)
    season = training.get("settings", {}).get("season")  # the baselines of the training
    found = score_beside_baselines(fitted, dataset, stride=stride, season=season, progress=progress)
    seen = _seen_rows(model, dataset, training.get("data", {}))
    for sentence in seen:
        logger.warning("%s", sentence)
    return replace(found, notes=(*seen, *found.notes)), dataset.notes


def _seen_rows(model: Forecaster, dataset: Dataset, data: Mapping[str, Any]) -> tuple[str, ...]:
    """A sentence if a model has learned from test rows; ``data`` describes those that it was trained on."""
    panel, test = dataset.panel, dataset.test
    same = any(key in data and data[key] == dataset.source.get(key) for key in ("sha256", "trace"))
    if model.calibration is None or not (same or panel.clock == "utc"):
        return ()
    until, seen = model.calibration.until, 0
    for item, first, last in zip(panel.items, test.first, test.last, strict=True):
        seen += int((panel.times_of(np.arange(first, last)) <= until.get(item, -(1 << 62))).sum())
    if not seen:
        return ()
    return (
        f"{model.name} was fitted to {seen:,} of the {len(test):,} test rows, so these scores are too good. Those of rows that "
        "it had not seen are in metrics.json of its run. Train it without the final fit to keep rows for this.",
    )
