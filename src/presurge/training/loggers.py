"""Where metrics go: a JSON-lines file always; Weights & Biases, TensorBoard and MLflow where installed and wanted."""

import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from presurge.errors import ConfigError, install_command
from presurge.files import writing

logger = logging.getLogger("presurge.training")

SPEED = "rows_per_second"
"""Name of the one value that depends on the clock."""


Options = dict[str, str | None]
"""What a service is told of a run: ``project``, ``entity`` and ``run_name``, where given."""


class MetricLogger:
    """Takes the numbers of a run; this one forgets them.

    Attributes:
        name: Name under which checkpoints keep where the log stands.
    """

    name = "nothing"

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the values of a step."""

    def mark(self) -> int:
        """Where the log stands now; 0 before the first value, and always where nothing can be taken back."""
        return 0

    def rewind(self, mark: int) -> None:
        """Forget everything behind a mark: the run is resumed there."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Take the final numbers and pictures, and close."""


class JsonLinesLogger(MetricLogger):
    """One JSON object a line, flushed at once, so that a running training can be watched.

    Non-finite values are written as null. Speeds are left out: a resumed run writes the lines of one that never stopped.

    Raises:
        StorageError: From every method, where the file system refuses.
    """

    name = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line."""
        self._append({"step": step, **_finite({k: v for k, v in values.items() if k != SPEED})})

    def mark(self) -> int:
        """Bytes written so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, mark: int) -> None:
        """Cut the file off; one that is shorter already, stays."""
        if self.mark() > mark:
            with writing(self.path):
                os.truncate(self.path, mark)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Append the summary."""
        self._append({"summary": _finite(flat(summary))})

    def _append(self, row: dict[str, Any]) -> None:
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class WandbLogger(MetricLogger):
    """Weights & Biases: curves, configuration, final metrics and pictures; offline with ``WANDB_MODE=offline``."""

    def __init__(self, directory: Path, config: dict[str, Any], options: Options) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=options.get("project") or "presurge",
            entity=options.get("entity"),
            name=options.get("run_name"),
            config=config,
            dir=str(directory),
            settings=wandb.Settings(silent=True, login_timeout=10, init_timeout=30),
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values of a step."""
        self._run.log(values, step=step)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Send the final numbers and pictures."""
        self._run.summary.update(summary)
        if figures:
            self._run.log({figure.stem: self._wandb.Image(str(figure)) for figure in figures})
        self._run.finish()


class TensorBoardLogger(MetricLogger):
    """TensorBoard event files, written by tensorboardX."""

    def __init__(self, directory: Path, config: dict[str, Any], options: Options) -> None:
        from tensorboardX import SummaryWriter

        del options
        self._writer = SummaryWriter(str(directory / "tensorboard"))
        self._writer.add_text("config", json.dumps(config, indent=2))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Write the values of a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Write the final numbers and close."""
        for name, value in flat(summary).items():
            self._writer.add_scalar(f"final/{name}", value, 0)
        self._writer.close()


class MlflowLogger(MetricLogger):
    """MLflow, at ``MLFLOW_TRACKING_URI`` or in the run directory."""

    def __init__(self, directory: Path, config: dict[str, Any], options: Options) -> None:
        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # The small MLflow that the extra brings has no database, and files are only written where that is allowed.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((directory / "mlruns").resolve().as_uri())
        mlflow.set_experiment(options.get("project") or "presurge")
        mlflow.start_run(run_name=options.get("run_name"))
        mlflow.log_dict(config, "config.json")

    def log(self, step: int, values: dict[str, float]) -> None:
        """Send the values of a step."""
        self._mlflow.log_metrics(values, step=step)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Send the final numbers and pictures."""
        self._mlflow.log_metrics({f"final.{name}": value for name, value in flat(summary).items()})
        for figure in figures:
            self._mlflow.log_artifact(str(figure), "plots")
        self._mlflow.end_run()


class Forgiving(MetricLogger):
    """A logger whose failures (no login, no network, a full disk of its own) warn once and never stop a training."""

    def __init__(self, name: str, build: Callable[[], MetricLogger]) -> None:
        self.name = name
        self._inner = MetricLogger()
        with self._warning("start"):
            self._inner = build()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Pass on."""
        with self._warning("log"):
            self._inner.log(step, values)

    def mark(self) -> int:
        """Pass on."""
        with self._warning("log"):
            return self._inner.mark()
        return 0

    def rewind(self, mark: int) -> None:
        """Pass on."""
        with self._warning("resume"):
            self._inner.rewind(mark)

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Pass on."""
        with self._warning("finish"):
            self._inner.finish(summary, figures)

    @contextmanager
    def _warning(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a foreign service throws, the training goes on
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if isinstance(error, ModuleNotFoundError):
                reason = f"the package {error.name} is not installed: {install_command(self.name)}"
            logger.warning("%s could not %s and is left out from here on: %s", self.name, what, reason)
            self._inner = MetricLogger()


LoggerFactory = Callable[[Path, dict[str, Any], Options], MetricLogger]

LOGGERS: dict[str, LoggerFactory] = {
    "mlflow": MlflowLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}
"""Optional loggers by name, called with the run directory, the configuration and the options ``project``, ``entity`` and
``run_name``. Add one by putting its factory here."""


def open_logger(name: str, directory: Path, config: dict[str, Any], options: Options) -> MetricLogger:
    """Start an optional logger; if it cannot start, a warning says why and the training goes on without it.

    Raises:
        ConfigError: There is no logger of that name.
    """
    if name not in LOGGERS:
        known = ", ".join(sorted(LOGGERS))
        raise ConfigError(f"there is no logger {name!r}", hint=f"Choose among: {known}.")
    return Forgiving(name, lambda: LOGGERS[name](directory, config, options))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Nested dictionaries as dotted names; what is no number is left out."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        elif isinstance(value, int | float):
            found[name] = float(value)
    return found


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
