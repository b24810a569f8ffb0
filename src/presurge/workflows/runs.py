"""What a training run writes beside its reports: log, metric curves, checkpoints, the model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from presurge import files
from presurge.errors import ConfigError
from presurge.models.forecaster import Forecaster
from presurge.training.loggers import JsonLinesLogger, MetricLogger, open_logger
from presurge.workflows.config import TrainConfig, resolve_config

TORCH_FILE = "best_model.pt"
CURVE_FILE = "logs/metrics.jsonl"
CHECKPOINTS = "checkpoints"
SETTINGS_FILE = "training_config.json"


@contextmanager
def log_file(path: Path, *, append: bool = False) -> Iterator[None]:
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
def metric_loggers(config: TrainConfig, directory: Path) -> Iterator[list[MetricLogger]]:
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


def check_same_model(directory: Path, config: TrainConfig) -> None:
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


def forget_training(directory: Path) -> None:
    """Remove the curve and the checkpoints that an earlier training by gradient left in the directory."""
    for old in (directory / CURVE_FILE, *(directory / CHECKPOINTS).glob("*.pt")):
        old.unlink(missing_ok=True)


def save_run_model(directory: Path, model: Forecaster, training: dict[str, Any]) -> None:
    """Write ``models/``, and ``best_model.pt`` if torch is installed."""
    model.save(directory / "models", training=training)
    if find_spec("torch") is not None:
        from presurge.models.networks.torch_file import write_torch_file

        write_torch_file(directory / TORCH_FILE, model, training)
