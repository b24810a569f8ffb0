"""Train a model on DATA, measure it, and write the run directory: model, log, plots, settings and reports."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from presurge import __version__, store
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.jobs.backtest import fit_baselines, score_fitted
from presurge.jobs.data import Dataset
from presurge.jobs.fitting import Fitted, fit_model
from presurge.jobs.settings import TrainSettings
from presurge.progress import Progress

logger = logging.getLogger("presurge.train")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """What a training run gave."""

    directory: Path
    fitted: Fitted
    evaluation: Evaluation
    report: Path


def train(
    dataset: Dataset,
    settings: TrainSettings,
    directory: Path,
    *,
    progress: Progress | None = None,
    split: dict[str, Any] | None = None,
) -> TrainResult:
    """Fit, calibrate, score beside the baselines, and write the run directory.

    Args:
        dataset: The series and its parts.
        settings: The resolved settings.
        directory: The run directory; ``models`` in it is replaced as a whole once the fit succeeded.
        progress: Told the phase and its share done.
        split: How the data were cut, remembered so that ``presurge evaluate`` cuts them alike.

    Raises:
        PresurgeError: The data, the settings or the file system do not allow it; an earlier model stays.
    """
    with _log_file(directory / "logs" / "training.log"):
        logger.info("Presurge %s, settings %s", __version__, settings.model_dump_json())
        logger.info("Data %s", dataset.source)
        store.write_json(directory / "training_config.json", settings.model_dump(mode="json"))
        context, horizon = settings.context, settings.horizon
        fitted = fit_model(
            settings.model,
            dataset,
            context=context,
            horizon=horizon,
            settings=settings.model_settings,
            progress=progress,
        )
        report = fitted.report
        logger.info("Fitted %s in %.2f CPU-s, chosen %s", settings.model, fitted.cpu_seconds, report.chosen)
        baselines = fit_baselines(dataset, context=context, horizon=horizon, progress=progress)
        others = [one for one in baselines if one.model.name != fitted.model.name]
        evaluation = score_fitted([fitted, *others], dataset, progress=progress)
        for sentence in evaluation.verdicts():
            logger.info(sentence)
        fitted.model.error = measured_error(evaluation, fitted.model.name)
        _save_model(fitted, dataset, settings, directory / "models", split or {})
        store.write_json(directory / "metrics.json", evaluation.to_dict())
        summary = _summary(directory, dataset, settings, fitted, evaluation)
        store.write_text(directory / "training_report.txt", report_text(summary))
        page = write_report(directory, summary, progress=progress)
        logger.info("Wrote %s", page)
    return TrainResult(directory=directory, fitted=fitted, evaluation=evaluation, report=page)


def _summary(
    directory: Path, dataset: Dataset, settings: TrainSettings, fitted: Fitted, evaluation: Evaluation
) -> RunSummary:
    return RunSummary(
        directory=directory,
        model=fitted.model,
        fit_report=fitted.report,
        fit_seconds=fitted.cpu_seconds,
        settings=settings.model_dump(mode="json"),
        panel=dataset.panel,
        train=dataset.train,
        validation=dataset.validation,
        test=dataset.test,
        source=dataset.source,
        notes=(*dataset.notes, *fitted.report.notes),
        evaluation=evaluation,
    )


def measured_error(evaluation: Evaluation, model: str) -> dict[str, dict[str, float]]:
    """The test error that a model directory carries: channel -> metric -> value."""
    return {
        channel: {name: float(value) for name, value in metrics.items() if value is not None}
        for channel, metrics in evaluation.metrics()[model].items()
    }


def _save_model(
    fitted: Fitted, dataset: Dataset, settings: TrainSettings, directory: Path, split: dict[str, Any]
) -> None:
    training = {
        "settings": settings.model_dump(mode="json"),
        "data": dataset.source,
        "table": dataset.table.to_dict() if dataset.table is not None else None,
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
    fitted.model.save(directory, training=training)


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Send the messages of the package to a file while the body runs."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise store.storage_error(error, path) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("presurge")
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        yield
    except Exception:
        package.exception("Training stopped")
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()
