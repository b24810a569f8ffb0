"""Train a model on DATA, measure it, and write the run directory: model, log, plots, settings and reports."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from presurge import __version__, files, store
from presurge.errors import ConfigError, DataError
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.fit import Fitted
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.models.forecaster import Forecaster
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.training.interruption import TrainingInterrupted, restarted
from presurge.training.loggers import JsonLinesLogger, MetricLogger, open_logger
from presurge.workflows.config import TrainConfig, resolve_config
from presurge.workflows.evaluate import final_fit, fit, score_beside_baselines

logger = logging.getLogger("presurge.train")

TORCH_FILE = "best_model.pt"
CURVE_FILE = "logs/metrics.jsonl"
CHECKPOINTS = "checkpoints"
SETTINGS_FILE = "training_config.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainResult:
    """A trained model and what was measured of it.

    Attributes:
        model: The model to keep, with its measured error.
        fitted: The fit that was scored: that of the model, unless it was fitted again to all rows.
        evaluation: The scores over the test rows, beside the baselines.
        record: How and on what the model was trained, for its ``config.json``.
    """

    model: Forecaster
    fitted: Fitted
    evaluation: Evaluation
    record: dict[str, Any]


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
    """Fit, calibrate, score beside the baselines, fit to all rows if the configuration says so, and write the run directory.

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
        TrainingInterrupted: Ctrl-C, after a checkpoint and the best model so far were written.
    """
    resume = resume or restarted()
    _check(dataset, config, directory, resume=resume)
    with (
        _log_file(directory / "logs" / "training.log", append=resume),
        _metric_loggers(config, directory) as loggers,
    ):
        logger.info("Presurge %s, settings %s", __version__, config.model_dump_json())
        logger.info("Data %s", dataset.source)
        settings = config.model_dump(mode="json")
        if not resume:  # a resumed run may yet be refused, and keeps its settings until then
            files.write_json(directory / SETTINGS_FILE, settings)
        training = config.training(directory=directory / CHECKPOINTS, resume=resume, loggers=tuple(loggers))
        try:
            fitted = fit(dataset, config, training=training, progress=progress)
        except TrainingInterrupted:
            _keep_best(dataset, config, directory, split or {})
            raise
        if not fitted.report.history:
            _forget_training(directory)
        files.write_json(directory / SETTINGS_FILE, settings)
        done = finish(fitted, dataset, config, split=split, progress=progress)
        _save_run_model(directory, done.model, done.record)
        summary = RunSummary(
            directory=directory,
            fitted=done.fitted,
            dataset=dataset,
            config=settings,
            evaluation=done.evaluation,
            next_command=next_command,
        )
        _write_reports(summary, loggers, plots=plots, progress=progress)
    return done


def finish(
    fitted: Fitted,
    dataset: Dataset,
    config: TrainConfig,
    *,
    split: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Score a fit beside the baselines; then fit to all rows, if the configuration says so."""
    evaluation = score_beside_baselines(fitted, dataset, season=config.season, progress=progress)
    final = None
    if config.fits_all_rows and fitted.model.refits:
        try:
            final = final_fit(dataset, config, progress=progress)
        except DataError as error:  # such as an outage in all of the last rows
            logger.warning(
                "The scored model is stored, because no fit to all rows is possible: %s", error.what
            )
    fitted = with_note(fitted, dataset, final)
    model = (final or fitted).model
    model.error = fitted.model.error = measured_error(evaluation, model.name)
    record = _training_record(fitted, dataset, config, split or {}, final)
    record["verdicts"] = list(evaluation.verdicts())
    return TrainResult(model=model, fitted=fitted, evaluation=evaluation, record=record)


def _keep_best(dataset: Dataset, config: TrainConfig, directory: Path, split: dict[str, Any]) -> None:
    """Store the best model so far of a training that was interrupted, without scores, if there was a step."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if alone and resumable(directory) and config.model != "auto":  # whose networks leave no checkpoint
        # Resumed with no time left, a training ends after one step with the best weights that it had; on a copy, so that
        # the checkpoint to resume from stays the one of the interruption.
        ending = config.model_copy(update={"max_seconds": 1e-9})
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            copy = Path(shutil.copytree(directory / CHECKPOINTS, Path(folder) / CHECKPOINTS))
            best = fit(dataset, config, training=ending.training(directory=copy, resume=True))
        note = "the training was interrupted, and nothing has scored this model"
        best = replace(best, report=replace(best.report, notes=(*best.report.notes, note)))
        _save_run_model(directory, best.model, _training_record(best, dataset, config, split))


def with_note(fitted: Fitted, dataset: Dataset, final: Fitted | None) -> Fitted:
    """A fit whose report says how many rows the weights saw that were scored, and those that are stored."""
    whole, seen = len(dataset.panel), _rows_seen(fitted, dataset)
    if final is not None:
        note = (
            f"After scoring, the stored model was fitted again to all {whole:,} rows. The scores are those of a fit to "
            f"{seen:,} rows, none of them a test row."
        )
        chosen = fitted.report.chosen
        changed = [
            f"{name} ({row['model']})"
            for name, row in final.report.chosen.items()
            if isinstance(row, dict) and row.get("model") != chosen.get(name, row).get("model")
        ]
        note += f" All rows chose another model for {', '.join(changed)}." if changed else ""
    else:
        note = f"The weights were fitted to {seen:,} of {whole:,} rows."
        note += " To fit them to all rows after scoring: `final_fit`" if fitted.model.refits else ""
    return replace(fitted, report=replace(fitted.report, notes=(*fitted.report.notes, note)))


def _rows_seen(fitted: Fitted, dataset: Dataset) -> int:
    """Rows that the weights of a fit to a data set saw."""
    return len(dataset.fit_span if fitted.model.refits else dataset.train)


def _write_reports(
    summary: RunSummary, loggers: Sequence[MetricLogger], *, plots: bool, progress: Progress | None
) -> None:
    for sentence in summary.evaluation.verdicts():
        logger.info(sentence)
    directory, report = summary.directory, summary.fitted.report
    files.write_json(directory / "metrics.json", summary.evaluation.to_dict())
    files.write_text(directory / "training_report.txt", report_text(summary))
    page = write_report(directory, summary, plots=plots, progress=progress)
    logger.info("Wrote %s", page)
    final = {"parameters": report.n_parameters, **summary.fitted.model.error}
    for one in loggers if report.history else loggers[1:]:
        one.finish(final, sorted((directory / "plots").glob("*.png")) if plots else [])


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
        _check_same_model(directory, config)


def measured_error(evaluation: Evaluation, model: str) -> dict[str, dict[str, float]]:
    """The test error that a model directory carries: channel -> metric -> value."""
    return {
        channel: {name: float(value) for name, value in metrics.items() if value is not None}
        for channel, metrics in evaluation.metrics()[model].items()
    }


def _training_record(
    fitted: Fitted, dataset: Dataset, config: TrainConfig, split: dict[str, Any], final: Fitted | None = None
) -> dict[str, Any]:
    """How the model was trained and on what, for its ``config.json``; ``final`` is the fit to all rows, if that is stored."""
    return {
        "settings": config.model_dump(mode="json"),
        "data": dataset.source,
        "table": dataset.table,
        "split": split,
        "rows": {
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "test": len(dataset.test),
            "fitted": _rows_seen(fitted, dataset) if final is None else len(dataset.panel),
        },
        "chosen": (final or fitted).report.chosen,
        "notes": list(fitted.report.notes),
        "cpu_seconds": fitted.cpu_seconds,
    }


@contextmanager
def _log_file(path: Path, *, append: bool = False) -> Iterator[None]:
    """Log the messages of the package to a file while the body runs.

    Raises:
        StorageError: The file cannot be written.
    """
    with files.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
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


@contextmanager
def _metric_loggers(config: TrainConfig, directory: Path) -> Iterator[list[MetricLogger]]:
    """The metric logs of a run: always ``logs/metrics.jsonl``, and those that the configuration asks for.

    If the body fails, the latter are closed without final numbers; a resumed run starts new ones.
    """
    values = config.model_dump(mode="json")
    options = {name: values[f"wandb_{name}"] for name in ("project", "entity", "run_name")}
    names = dict.fromkeys([*(["wandb"] if config.use_wandb else []), *config.loggers])
    foreign = [open_logger(name, directory, values, options) for name in names]
    try:
        yield [JsonLinesLogger(directory / CURVE_FILE), *foreign]
    except BaseException:
        for one in foreign:
            one.finish({}, [])
        raise


def resumable(directory: Path) -> bool:
    """Whether a run directory has a checkpoint to resume from."""
    return (directory / CHECKPOINTS / "last.pt").is_file()


def _check_same_model(directory: Path, config: TrainConfig) -> None:
    """Refuse to resume a run as another model, which would replace it.

    Raises:
        ConfigError: The run is one of another model or of other settings of the model.
    """
    path = directory / SETTINGS_FILE
    if not resumable(directory) or not path.is_file():
        return
    stored = resolve_config({}, path)
    for key in ("model", "model_settings"):
        before, now = getattr(stored, key), getattr(config, key)
        if before != now:
            raise ConfigError(
                f"the run to resume has {key} {before!r}, and {now!r} was asked for",
                where=str(path),
                hint=f"Continue with `config={path}` and `resume`, or start anew without `resume`.",
            )


def _forget_training(directory: Path) -> None:
    """Remove the curve and the checkpoints that an earlier training by gradient left in the directory."""
    for old in (directory / CURVE_FILE, *(directory / CHECKPOINTS).glob("*.pt")):
        old.unlink(missing_ok=True)


def _save_run_model(directory: Path, model: Forecaster, training: dict[str, Any]) -> None:
    """Write ``models/``, and ``best_model.pt`` if torch is installed."""
    model.save(directory / "models", training=training)
    if find_spec("torch") is not None:
        from presurge.models.networks.torch_file import write_torch_file

        write_torch_file(directory / TORCH_FILE, model, training)
