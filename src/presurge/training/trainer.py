"""The training loop: every model that learns by gradient learns here.

The order of batches is a function of seed and epoch, and a checkpoint holds everything else that changes, so a run that
was killed and resumed gives the loss trace and the weights of one that was not (bit for bit on a cpu).
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from presurge.errors import DataError, PresurgeError
from presurge.progress import Progress, silent
from presurge.training import checkpoint as files
from presurge.training.config import TrainerConfig
from presurge.training.devices import resolve_device, threads
from presurge.training.distributed import (
    added_up,
    from_first,
    gathered,
    join,
    ranks_from_environment,
)
from presurge.training.interruption import StopRequest, TrainingInterrupted, stop_requests
from presurge.training.learner import Learner
from presurge.training.loggers import MetricLogger
from presurge.training.meter import Meter
from presurge.training.randomness import random_state, seeded, set_random_state
from presurge.training.schedule import multiplier
from presurge.training.task import LOSS, Batch, Epoch, Task

logger = logging.getLogger("presurge.training")

_NOT_PART_OF_A_RUN = {
    "checkpoint_seconds",
    "checkpoint_steps",
    "log_steps",
    "threads",
    "device",
    "allow_fallback",
}
"""Settings that may change between a checkpoint and its resumption."""
_ADVICE = (
    "Try a lower learning rate, clip the gradient (clip_norm), or look for extreme values in these rows."
)
_WEIGHT = " weight"  # no part of a loss has this name
_TELL_SECONDS = 0.2


class NonFiniteLossError(PresurgeError):
    """The loss became infinite or not a number."""


class OutOfDeviceMemoryError(PresurgeError):
    """The memory of the device does not hold the network and a batch."""


class _StopAsked(Exception):  # noqa: N818 - no error: it leaves the loop where a checkpoint may be written
    """Somebody asked to stop, and the state is one that can be written."""


@dataclass(slots=True)
class _Position:
    """Where a run stands: ``batch`` batches of ``epoch`` were trained on, and ``step`` steps made in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_value: float = math.inf
    best_epoch: int = -1
    bad_epochs: int = 0
    plateau_factor: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """What a run gave; the task's module holds the best weights when it ends.

    Attributes:
        history: One dictionary an epoch: ``epoch`` (from 0), ``step`` (steps made by then), ``learning_rate`` (of its last
            step), ``train_<part>``, ``validation_<part>``.
        best_epoch: Epoch (from 0) whose weights were kept.
        best_value: Its monitored loss: of the validation batches, or of the training batches where there are none.
        stopped_early: The patience ran out.
        seconds: Wall time of this process.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_value: float
    stopped_early: bool
    seconds: float


def fit(
    task: Task,
    settings: TrainerConfig,
    *,
    directory: Path | None = None,
    resume: bool = False,
    loggers: Sequence[MetricLogger] = (),
    progress: Progress = silent,
) -> TrainingOutcome:
    """Train a task and leave its module with the best weights, on the device it was trained on.

    Under torchrun every process calls this; directory, ``resume`` and loggers of the first one count.

    Args:
        task: Batches and losses.
        settings: How to train.
        directory: Where ``last.pt`` and ``best.pt`` go; None keeps the best weights in memory only.
        resume: Go on from ``last.pt`` in the directory, where there is one; otherwise begin, which replaces it.
        loggers: Told every ``log_steps`` steps and after every epoch; the caller finishes them.
        progress: Told the share of all steps done.

    Raises:
        NonFiniteLossError: The loss is not a number; the best checkpoint so far is kept.
        OutOfDeviceMemoryError: A batch is too large for the device; the checkpoints so far are kept.
        TrainingInterrupted: Ctrl-C, after ``last.pt`` was written.
        ConfigError: The device does not exist, or the checkpoint belongs to another configuration.
        DataError: The task has no batch to train on.
        ModelError: The checkpoint is damaged.
        StorageError: A checkpoint could not be written; the previous one stays.
    """
    if task.steps_per_epoch == 0:
        raise DataError("there is no batch to train on")
    ranks = ranks_from_environment()
    device = resolve_device(
        settings.device, allow_fallback=settings.allow_fallback, local_rank=ranks.local_rank
    )
    join(ranks, device)
    with stop_requests(alone=ranks.world == 1) as stop, threads(settings.threads):
        torch.manual_seed(settings.seed + ranks.rank)
        run = _Run(task, settings, Learner(task.module, settings, ranks, device), stop)
        if ranks.first:
            run.directory, run.loggers, run.progress = directory, loggers, progress
            if directory is not None:
                files.sweep(directory)
        if not run.resume(wanted=resume):
            run.begin()
        return run.train()


class _Run:
    """One run of the loop; its state is the learner, the position, the meter and torch's random generators."""

    directory: Path | None = None
    loggers: Sequence[MetricLogger] = ()
    progress: Progress = staticmethod(silent)

    def __init__(self, task: Task, settings: TrainerConfig, learner: Learner, stop: StopRequest) -> None:
        self.task, self.settings, self.learner, self.stop = task, settings, learner, stop
        self.ranks, self.device = learner.ranks, learner.device
        self.at, self.meter = _Position(), Meter()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.batches = task.steps_per_epoch
        self.steps_per_epoch = math.ceil(self.batches / settings.accumulate)
        self.total_steps = self.steps_per_epoch * settings.epochs
        own = settings.model_dump(include=TrainerConfig.model_fields.keys() - _NOT_PART_OF_A_RUN)
        self.identity = {**own, **task.identity, "processes": self.ranks.world}
        self.began = self.saved = self.told = time.monotonic()

    def begin(self) -> None:
        """Leave nothing of an earlier run in the directory, and a checkpoint to resume from whatever happens next."""
        for one in self.loggers:
            one.rewind(0)
        self._write_last()
        if self.directory is not None:
            (self.directory / files.BEST).unlink(missing_ok=True)

    def resume(self, *, wanted: bool) -> bool:
        """Go on from ``last.pt``, where it is wanted and there is one."""
        state = from_first(self._stored() if wanted else None, self.ranks)
        if state is None:
            if wanted and self.directory is not None:
                logger.warning(
                    "There is no checkpoint in %s to resume from: training begins anew", self.directory
                )
            return False
        self.at = _Position(**state["at"])
        self.learner.load(state["learner"])
        self.best_weights = state["best"]
        own = state["ranks"][self.ranks.rank]
        self.meter = Meter(own["sums"], own["count"])
        set_random_state(own["random"], self.device)
        for one in self.loggers:
            one.rewind(state["marks"].get(one.name, 0))
        logger.info("Resumed in epoch %d, at step %d", self.at.epoch + 1, self.at.step)
        return True

    def _stored(self) -> dict[str, Any] | None:
        if self.directory is None or not (self.directory / files.LAST).is_file():
            return None
        path = self.directory / files.LAST
        state = files.read_checkpoint(path)
        files.check_whole(state, ("identity", "at", "learner", "ranks", "marks"), path)
        files.check_identity(state["identity"], self.identity, path)
        has_best = state["at"]["best_epoch"] >= 0
        best = files.read_checkpoint(self.directory / files.BEST)["module"] if has_best else None
        return {**state, "best": best}

    def train(self) -> TrainingOutcome:
        """Run the epochs that are left."""
        try:
            while self.at.epoch < self.settings.epochs and not self.at.done:
                self._epoch()
        except _StopAsked:
            self._write_last()
            raise TrainingInterrupted(self.stop.number) from None
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemoryError(
                f"the memory of the device {self.device} does not hold a batch and what is computed from it",
                hint="Take smaller batches (--batch-size; --accumulate makes up for it), a smaller network, a shorter "
                "--context, --precision bf16 or --device cpu.",
            ) from error
        if self.stop:
            raise TrainingInterrupted(self.stop.number)
        if self.best_weights is not None:
            self.learner.module.load_state_dict(self.best_weights)
        self.learner.eval()
        return TrainingOutcome(
            history=self.at.history,
            best_epoch=self.at.best_epoch,
            best_value=self.at.best_value,
            stopped_early=self.at.epoch < self.settings.epochs,
            seconds=time.monotonic() - self.began,
        )

    def _epoch(self) -> None:
        self.learner.train()
        left = range(self.at.batch, self.batches)
        for index, batch in zip(left, self.task.train_batches(self._now()), strict=True):
            self._train_on(batch, index)
        self._end_of_epoch()

    def _now(self) -> Epoch:
        return Epoch(
            number=self.at.epoch,
            seed=self.settings.seed,
            rank=self.ranks.rank,
            world=self.ranks.world,
            skip=self.at.batch,
        )

    def _train_on(self, batch: Batch, index: int) -> None:
        """One batch; the last one of its group makes a step."""
        settings = self.settings
        first = index - index % settings.accumulate
        group = min(settings.accumulate, self.batches - first)
        last = index == first + group - 1
        self.meter.add(self.learner.learn(batch, group=group))
        self.at.batch = index + 1
        if self.device.type == "cpu":  # elsewhere it waits for the log, since fetching waits for the device
            self._fetch()
        if last:
            factor = multiplier(settings, self.at.step, self.total_steps, self.steps_per_epoch)
            self.learner.step(settings.learning_rate * factor * self.at.plateau_factor)
            self.at.step += 1
            self._after_step()

    def _after_step(self) -> None:
        """Log, tell, stop, write a checkpoint: between two steps a run can be left."""
        at_log = self.at.step % self.settings.log_steps == 0
        if at_log:
            self._fetch()
            means = {f"train_{name}": value for name, value in self.meter.means().items()}
            self._log({"epoch": self.at.epoch, "learning_rate": self.learner.rate, **means})
        if time.monotonic() - self.told > _TELL_SECONDS:
            self._tell(self.meter.means().get(LOSS))
        stop, due = self._agreed(at_log)
        if stop:
            raise _StopAsked
        if due:
            self._write_last()

    def _agreed(self, at_log: bool) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due; several processes ask each other when they log."""
        every = self.settings.checkpoint_steps
        by_steps = every is not None and self.at.step % every == 0
        late = time.monotonic() - self.saved > self.settings.checkpoint_seconds
        answers = [(bool(self.stop), late)]
        if self.ranks.world > 1:
            answers = gathered(answers[0], self.ranks) if at_log else [(False, False)]
        return any(stop for stop, _ in answers), by_steps or any(late for _, late in answers)

    def _end_of_epoch(self) -> None:
        self._fetch()
        summed = added_up({**self.meter.sums, _WEIGHT: self.meter.count}, self.ranks)
        values = {f"train_{name}": value for name, value in _means(summed).items()}
        values |= {f"validation_{name}": value for name, value in self._validate().items()}
        monitored = values.get(f"validation_{LOSS}", values[f"train_{LOSS}"])
        if not math.isfinite(monitored):
            what = f"the validation loss is not a number after epoch {self.at.epoch + 1}"
            raise NonFiniteLossError(what + self._kept(), hint=_ADVICE)
        self._keep_if_best(monitored)
        head = {"epoch": self.at.epoch, "learning_rate": self.learner.rate}
        self.at.history.append({**head, "step": self.at.step, **values})
        self._log(head | values)
        words = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        logger.info("Epoch %d: %s", self.at.epoch + 1, words)
        self.at.epoch, self.at.batch, self.meter = self.at.epoch + 1, 0, Meter()
        self.at.done = self.settings.patience is not None and self.at.bad_epochs >= self.settings.patience
        self._write_last()
        self._tell(monitored)

    def _validate(self) -> dict[str, float]:
        """Means of the parts over the validation batches of all processes; nothing where there are none."""
        self.learner.eval()
        sums = {_WEIGHT: 0.0}
        with seeded(self.settings.seed, self.device):
            for batch, weight in self.task.validation_batches(self.ranks.rank, self.ranks.world):
                if self.stop and self.ranks.world == 1:
                    raise _StopAsked
                for name, value in self.learner.measure(batch).items():
                    sums[name] = sums.get(name, 0.0) + value * weight
                sums[_WEIGHT] += weight
        return _means(added_up(sums, self.ranks))

    def _keep_if_best(self, value: float) -> None:
        if value < self.at.best_value - self.settings.min_delta:
            self.at.best_value, self.at.best_epoch, self.at.bad_epochs = value, self.at.epoch, 0
            self.best_weights = self.learner.weights()
            if self.directory is not None:
                state = {"module": self.best_weights, "epoch": self.at.epoch, "value": value}
                files.write_checkpoint(self.directory / files.BEST, state)
            return
        self.at.bad_epochs += 1
        if self.settings.schedule == "plateau" and self.at.bad_epochs % self.settings.plateau_patience == 0:
            self.at.plateau_factor *= 0.5

    def _fetch(self) -> None:
        """Bring the meter up to date, and refuse a loss that is not a number."""
        age = self.meter.fetch()
        if age is None:
            return
        index = self.at.batch - 1 - age
        step = self.at.epoch * self.steps_per_epoch + index // self.settings.accumulate + 1
        what = f"the loss is not a number at step {step} (epoch {self.at.epoch + 1}, batch {index + 1})"
        where = self.task.describe(self._now(), index)
        raise NonFiniteLossError(what + self._kept(), where=where, hint=_ADVICE)

    def _kept(self) -> str:
        if self.best_weights is None or self.directory is None:
            return ""
        return f"; the best weights so far, of epoch {self.at.best_epoch + 1}, are kept in {self.directory / files.BEST}"

    def _log(self, values: dict[str, float]) -> None:
        for one in self.loggers:
            one.log(self.at.step, values)

    def _tell(self, loss: float | None) -> None:
        self.told = time.monotonic()
        share = 1.0 if self.at.done else self.at.step / self.total_steps
        epoch = self.at.epoch + (self.at.batch > 0)
        self.progress("Training", share, f"epoch {epoch}" + ("" if loss is None else f", loss {loss:.4g}"))

    def _write_last(self) -> None:
        """Write ``last.pt``, from which the run can be resumed exactly; only between two steps."""
        self._fetch()
        own = {"random": random_state(self.device), "sums": self.meter.sums, "count": self.meter.count}
        everyone = gathered(own, self.ranks)
        if self.directory is not None:
            state = {
                "identity": self.identity,
                "at": asdict(self.at),
                "learner": self.learner.state(),
                "ranks": everyone,
                "marks": {one.name: one.mark() for one in self.loggers},
            }
            files.write_checkpoint(self.directory / files.LAST, state)
        self.saved = time.monotonic()


def _means(sums: dict[str, float]) -> dict[str, float]:
    """Weighted sums as means; nothing where there was nothing to weigh."""
    weight = sums[_WEIGHT]
    return {name: value / weight for name, value in sums.items() if name != _WEIGHT and weight}
