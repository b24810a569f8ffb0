"""Train a model on DATA, measure it, and write the run directory: model, log, plots, settings and reports."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presurge import __version__, files, store
from presurge.errors import ConfigError
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.fit import Fitted
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.training.interruption import restarted
from presurge.workflows.config import TrainConfig
from presurge.workflows.evaluate import fit, score_beside_baselines
from presurge.workflows.runs import (
    CHECKPOINTS,
    SETTINGS_FILE,
    check_same_model,
    forget_training,
    log_file,
    metric_loggers,
    save_run_model,
)

logger = logging.getLogger("presurge.train")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """The results of a training run; ``report`` is the path of its HTML page."""

    fitted: Fitted
    evaluation: Evaluation
    report: Path


def train(
    dataset: Dataset,
    config: TrainConfig,
    directory: Path,
    *,
    progress: Progress | None = None,
    split: dict[str, Any] | None = None,
    resume: bool = False,
    plots: bool = True,
    next_command: str = "",
) -> TrainResult:
    """Fit, calibrate, score beside the baselines, and write the run directory.

    Args:
        dataset: The series and its parts.
        config: The resolved configuration.
        directory: The run directory; ``models`` in it is replaced as a whole after the fit.
        progress: Called with the phase and its share done.
        split: The fractions that split the data, stored so that ``presurge evaluate`` splits them the same way.
        resume: Continue from the last checkpoint of a training by gradient; a restart by torchrun always does.
        plots: Draw the plots of the report.
        next_command: The command that forecasts with the model, as the reports show it.

    Raises:
        PresurgeError: The data, the settings or the file system do not allow it; an earlier model stays.
        TrainingInterrupted: Ctrl-C, after a checkpoint was written.
    """
    resume = resume or restarted()
    _check(dataset, config, directory, resume=resume)
    with (
        log_file(directory / "logs" / "training.log", append=resume),
        metric_loggers(config, directory) as loggers,
    ):
        logger.info("Presurge %s, settings %s", __version__, config.model_dump_json())
        logger.info("Data %s", dataset.source)
        if not resume:  # a resumed run may yet be refused, and keeps its settings until then
            files.write_json(directory / SETTINGS_FILE, config.model_dump(mode="json"))
        training = config.training(directory=directory / CHECKPOINTS, resume=resume, loggers=tuple(loggers))
        fitted = fit(dataset, config, training=training, progress=progress)
        report = fitted.report
        if not report.history:
            forget_training(directory)
        files.write_json(directory / SETTINGS_FILE, config.model_dump(mode="json"))
        logger.info("Fitted %s in %.2f CPU-s, chosen %s", config.model, fitted.cpu_seconds, report.chosen)
        evaluation = score_beside_baselines(fitted, dataset, season=config.season, progress=progress)
        fitted.model.error = measured_error(evaluation, fitted.model.name)
        save_run_model(directory, fitted.model, _training_record(fitted, dataset, config, split or {}))
        summary = RunSummary(
            directory=directory,
            fitted=fitted,
            dataset=dataset,
            config=config.model_dump(mode="json"),
            evaluation=evaluation,
            next_command=next_command,
        )
        page = _write_reports(summary, plots=plots, progress=progress)
        final = {"parameters": report.n_parameters, **fitted.model.error}
        for one in loggers if report.history else loggers[1:]:
            one.finish(final, sorted((directory / "plots").glob("*.png")) if plots else [])
    return TrainResult(fitted=fitted, evaluation=evaluation, report=page)


def _write_reports(summary: RunSummary, *, plots: bool, progress: Progress | None) -> Path:
    for sentence in summary.evaluation.verdicts():
        logger.info(sentence)
    directory = summary.directory
    files.write_json(directory / "metrics.json", summary.evaluation.to_dict())
    files.write_text(directory / "training_report.txt", report_text(summary))
    page = write_report(directory, summary, plots=plots, progress=progress)
    logger.info("Wrote %s", page)
    return page


def _check(dataset: Dataset, config: TrainConfig, directory: Path, *, resume: bool) -> None:
    """Refuse impossible settings before anything is written."""
    store.check_place(directory / "models")
    found = len(dataset.panel.targets)
    if config.channels is not None and config.channels != found:
        raise ConfigError(
            f"{config.channels} channels were asked for, and the data have {found}",
            setting="channels",
            hint=f"The channels are: {', '.join(dataset.panel.channel_names)}.",
        )
    if resume:
        check_same_model(directory, config)


def measured_error(evaluation: Evaluation, model: str) -> dict[str, dict[str, float]]:
    """The test error that a model directory carries: channel -> metric -> value."""
    return {
        channel: {name: float(value) for name, value in metrics.items() if value is not None}
        for channel, metrics in evaluation.metrics()[model].items()
    }


def _training_record(
    fitted: Fitted, dataset: Dataset, config: TrainConfig, split: dict[str, Any]
) -> dict[str, Any]:
    """How the model was trained and on what, for its ``config.json``."""
    return {
        "settings": config.model_dump(mode="json"),
        "data": dataset.source,
        "table": dataset.table,
        "split": split,
        "rows": {
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "fitted": len(dataset.fit_span) if fitted.model.refits else len(dataset.train),
        },
        "chosen": fitted.report.chosen,
        "notes": list(fitted.report.notes),
        "cpu_seconds": fitted.cpu_seconds,
    }
