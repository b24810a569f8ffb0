"""The training loop: every model that learns by gradient learns here.

The order of batches is a function of seed and epoch, and a checkpoint holds everything else that changes, so a run that
was killed and resumed gives the loss trace and the weights of one that was not (bit for bit on a cpu).
"""

import contextlib
import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from presurge.errors import ConfigError, DataError, PresurgeError
from presurge.progress import Progress, silent
from presurge.training import checkpoint as files
from presurge.training import devices
from presurge.training.config import TrainerConfig
from presurge.training.distributed import average_buffers, from_first, gathered, joined, this_process
from presurge.training.interruption import StopRequest, TrainingInterrupted, restarted, stop_requests
from presurge.training.loggers import SPEED, MetricLogger
from presurge.training.meter import Meter, Sums
from presurge.training.optim import Learner, multiplier
from presurge.training.task import LOSS, WEIGHT, Batch, Epoch, Task, rows_of

logger = logging.getLogger("presurge.training")

_ADVICE = (
    "Try a lower learning rate, clip the gradient (`clip_norm`), or look for extreme values in these rows."
)
_TELL_SECONDS = 0.2
_KEYS = ("identity", "at", "learner", "ranks", "marks")


class NonFiniteLossError(PresurgeError):
    """The loss or the weights became infinite or not a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """What a run gave.

    Attributes:
        history: One dictionary an epoch: ``epoch`` (from 0), ``step`` (steps made by then), ``learning_rate`` (of its last
            step), ``train_<part>``, ``validation_<part>``.
        best_epoch: Epoch (from 0) whose weights were kept.
        best_value: Its monitored value.
        stopped_early: The patience ran out.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_value: float
    stopped_early: bool


def fit(
    task: Task,
    config: TrainerConfig,
    *,
    directory: Path | None = None,
    resume: bool = False,
    loggers: Sequence[MetricLogger] = (),
    progress: Progress = silent,
) -> TrainingOutcome:
    """Train a task and leave its module with the best weights, on the device it was trained on.

    Under torchrun every process calls this, and directory, ``resume`` and loggers of the first count; restarts resume.

    Args:
        task: Batches and losses.
        config: How to train.
        directory: Where ``last.pt`` and ``best.pt`` go; None keeps the best weights in memory only.
        resume: Go on from ``last.pt`` in the directory if there is one, with any number of processes; otherwise begin,
            which replaces it. More epochs or steps may be asked for if the schedule does not depend on their number.
        loggers: Told every ``log_steps`` steps and after every epoch; the caller finishes them.
        progress: Told the share of all steps done.

    Raises:
        NonFiniteLossError: The loss or the weights are not finite; the checkpoints so far are kept.
        OutOfDeviceMemoryError: A batch is too large for the device; the checkpoints so far are kept.
        LostProcessError: Another process of the training ended.
        TrainingInterrupted: Ctrl-C or SIGTERM, after ``last.pt`` was written.
        ConfigError: The device or the monitored value does not exist, the parameter groups do not fit the module, or the
            checkpoint belongs to another configuration.
        DataError: The task has no batch to train on.
        ModelError: The checkpoint is damaged.
        StorageError: A checkpoint could not be written; the previous one stays.
    """
    if task.batches_per_epoch == 0:
        raise DataError("there is no batch to train on")
    ranks = this_process()
    device = devices.resolve_device(
        config.device, allow_fallback=config.allow_fallback, local_rank=ranks.local_rank
    )
    with (
        joined(ranks, device),
        stop_requests(alone=ranks.world == 1) as stop,
        devices.threads(config.threads),
        devices.float32_products(config.precision),
        devices.enough_memory(device),
        devices.seeded(config.seed + ranks.rank, device),
        contextlib.closing(Learner(task, config, ranks, device)) as learner,
    ):
        run = _Run(task, config, learner, stop)
        if ranks.first:
            run.directory, run.loggers, run.progress = directory, loggers, progress
            if directory is not None:
                files.sweep(directory)
        if not run.resume(wanted=resume or restarted()):
            run.begin()
        return run.train()


class _Run:
    """One run of the loop; its state is the learner, the position, the meter, the task's and the random generators."""

    directory: Path | None = None
    loggers: Sequence[MetricLogger] = ()
    progress: Progress = staticmethod(silent)

    def __init__(self, task: Task, config: TrainerConfig, learner: Learner, stop: StopRequest) -> None:
        self.task, self.config, self.learner, self.stop = task, config, learner, stop
        self.ranks, self.device = learner.ranks, learner.device
        self.at, self.meter = files.Position(), Meter()
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.batches = task.batches_per_epoch
        steps = self.batches and math.ceil(self.batches / config.accumulate) * config.epochs
        self.total_steps = min(filter(None, (steps, config.max_steps)), default=None)
        self.identity = {**config.identity(), **learner.identity(), **task.identity()}
        self.sign = 1 if config.monitor_mode == "min" else -1
        self.out_of_time = self.pending = False
        self.began = self.saved = self.told = self.logged = time.monotonic()
        self.rows = 0

    @property
    def out_of_patience(self) -> bool:
        """Whether the monitored value was not better for too many epochs."""
        return self.config.patience is not None and self.at.bad_epochs >= self.config.patience

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to train."""
        most = self.config.max_steps or math.inf
        over = self.at.epoch >= self.config.epochs or self.at.step >= most
        return over or self.out_of_time or self.out_of_patience

    def begin(self) -> None:
        """Leave nothing of an earlier run in the directory, and a checkpoint to resume from whatever happens next."""
        for one in self.loggers:
            one.rewind(0)
        self._write_last()
        if self.directory is not None:
            (self.directory / files.BEST).unlink(missing_ok=True)

    def resume(self, *, wanted: bool) -> bool:
        """Go on from ``last.pt`` if it is wanted and there is one."""
        state = from_first(self._stored() if wanted else None, self.ranks)
        if state is None:
            if wanted and self.directory is not None:
                logger.warning("There is no checkpoint in %s to resume from: starting anew", self.directory)
            return False
        self.at = files.Position(**state["at"])
        self.learner.load(state["learner"])
        self.best_weights = state["best"]
        self._resume_rank(state["ranks"])
        for one in self.loggers:
            one.rewind(state["marks"].get(one.name, 0))
        logger.info("Resumed in epoch %d, at step %d", self.at.epoch + 1, self.at.step)
        return True

    def _resume_rank(self, ranks: list[dict[str, Any]]) -> None:
        """Take back what differs between processes; if there were more or fewer of them, start it anew."""
        if len(ranks) == self.ranks.world:
            own = ranks[self.ranks.rank]
            self.meter = Meter(own["meter"])
            self.task.load_state(own["task"])
            self.learner.module.load_state_dict(own["buffers"], strict=False)
            devices.set_random_state(own["random"], self.device)
            return
        if any(one["task"] is not None for one in ranks):
            what = f"was written by {len(ranks)} processes, whose batches {self.ranks.world} cannot continue"
            raise ConfigError(what, where=files.LAST, hint="Resume with as many processes as before.")
        if self.ranks.first:
            self.meter = Meter(*(one["meter"] for one in ranks))
        devices.seed_all(self.config.seed + self.at.step * self.ranks.world + self.ranks.rank)

    def _stored(self) -> dict[str, Any] | None:
        if self.directory is None or not (self.directory / files.LAST).is_file():
            return None
        path = self.directory / files.LAST
        state = files.read_checkpoint(path, _KEYS)
        defaults = {**TrainerConfig().model_dump(mode="json"), **self.task.identity_defaults()}
        files.check_identity(state["identity"], self.identity, path, defaults)
        has_best = state["at"]["best_epoch"] >= 0
        best = files.read_checkpoint(self.directory / files.BEST)["module"] if has_best else None
        return {**state, "best": best}

    def train(self) -> TrainingOutcome:
        """Run the epochs that are left."""
        try:
            while not self.ended:
                self._epoch()
            if self.at.batch:
                self._end_of_epoch(whole=False)
        except TrainingInterrupted:
            self._write_last()
            raise
        if any(gathered(bool(self.stop), self.ranks)):
            raise TrainingInterrupted(self.stop.number)
        if self.best_weights is not None:
            self.learner.load_weights(self.best_weights)
        self.learner.module.eval()
        return TrainingOutcome(
            history=self.at.history,
            best_epoch=self.at.best_epoch,
            best_value=self.sign * self.at.best_value,
            stopped_early=self.out_of_patience,
        )

    def _epoch(self) -> None:
        """Train on the batches that are left of an epoch, up to its end or to that of the run."""
        self.learner.module.train()
        self.logged, self.rows = time.monotonic(), 0
        left = None if self.batches is None else self.batches - self.at.batch
        for batch in islice(self.task.train_batches(self._now()), left):
            self._train_on(batch)
            if self.ended and self.at.batch != self.batches:
                self._write_last()
                return
        if self.batches is not None and self.at.batch < self.batches:
            raise ValueError(f"train_batches is shorter than promised: {self.at.batch} of {self.batches}")
        if not self.at.batch:
            raise DataError("there is no batch to train on")
        if self.pending:
            self._step()
        self._end_of_epoch()

    def _now(self) -> Epoch:
        rank, world = self.ranks.rank, self.ranks.world
        return Epoch(number=self.at.epoch, seed=self.config.seed, rank=rank, world=world, skip=self.at.batch)

    def _train_on(self, batch: Batch | None) -> None:
        """One batch; the last one of its group makes a step."""
        done = self.at.batch + 1
        full = done % self.config.accumulate == 0 or done == self.batches
        if batch is not None:
            self.rows += rows_of(batch)
            batch = self.task.to_device(batch, self.device)
        # Where the number of batches is unknown, any may be the last, and all are added up at once.
        self.meter.add(self.learner.learn(batch, last=full or self.batches is None))
        self.at.batch, self.pending = done, True
        # Elsewhere it waits for the log, since fetching waits for the device.
        if self.device.type == "cpu":
            self._fetch()
        if full:
            self._step()

    def _step(self) -> None:
        """Change the weights; log, tell, stop, write a checkpoint: between two steps a run can be left."""
        config, now = self.config, time.monotonic()
        at_log = (self.at.step + 1) % config.log_steps == 0
        late = now - self.saved > config.checkpoint_seconds
        over = now - self.began > (config.max_seconds or math.inf)
        factor = multiplier(config, self.at.step, total=self.total_steps, epoch=self.at.epoch) * self.at.decay
        norm, flags = self.learner.step(factor, flags=(bool(self.stop), late, over), log=at_log)
        stop, late, self.out_of_time = flags
        self.at.step, self.pending = self.at.step + 1, False
        self.task.after_step(self.at.step)
        if at_log:
            self._log_step(norm)
        if now - self.told > _TELL_SECONDS:
            self._tell(self.meter.epoch.means().get(LOSS))
        if stop:
            raise TrainingInterrupted(self.stop.number)
        if late or (config.checkpoint_steps is not None and self.at.step % config.checkpoint_steps == 0):
            self._write_last()

    def _log_step(self, norm: torch.Tensor | None) -> None:
        """Tell the loggers the means of this epoch and of the interval since the last line, and what it took."""
        self._fetch()
        now, rows = time.monotonic(), self.rows * self.ranks.world
        values = {f"train_{name}": value for name, value in self.meter.epoch.means().items()}
        values |= {f"interval_{name}": value for name, value in self.meter.interval.means().items()}
        if norm is not None:
            values["gradient_norm"] = float(norm)
        values[SPEED] = rows / max(now - self.logged, 1e-9)
        self._log({"epoch": self.at.epoch, **self.learner.rates, **values})
        self.meter.interval = Sums()
        self.logged, self.rows = now, 0

    def _end_of_epoch(self, *, whole: bool = True) -> None:
        """Validate, keep the best weights, and write a checkpoint.

        If the run ended within the epoch, ``last.pt`` stays at that step, so that a longer run can go on from there.
        """
        self._check()
        average_buffers(self.learner.module, self.ranks)
        values = {f"train_{name}": value for name, value in self._means(self.meter.epoch).items()}
        values |= {f"validation_{name}": value for name, value in self._validate().items()}
        monitored = self._monitored(values)
        self._keep_if_best(monitored, write=whole)
        head = {"epoch": self.at.epoch, **self.learner.rates}
        self.at.history.append({**head, "step": self.at.step, **values})
        self._log(head | values)
        words = ", ".join(f"{name} {value:.6g}" for name, value in values.items())
        logger.info("Epoch %d: %s", self.at.epoch + 1, words)
        if whole:
            self.at.epoch, self.at.batch, self.at.epoch_step = self.at.epoch + 1, 0, self.at.step
            self.meter = Meter()
            self._write_last()
        self._tell(monitored)

    def _validate(self) -> dict[str, float]:
        """Means over the validation batches of all processes, and the task's own metrics; empty without validation."""
        self.learner.module.eval()
        meter, metrics = Meter(), {}
        with devices.seeded(self.config.seed, self.device):
            for batch, weight in self.task.validation_batches(self.ranks.rank, self.ranks.world):
                if self.stop and self.ranks.world == 1:
                    raise TrainingInterrupted(self.stop.number)
                parts = self.learner.measure(self.task.to_device(batch, self.device))
                meter.add({**parts, WEIGHT: weight})
            meter.fetch()
            if self.ranks.first:
                with torch.no_grad():
                    metrics = self.task.validation_metrics(self.device)
        return {**self._means(meter.epoch), **from_first(metrics, self.ranks)}

    def _means(self, own: Sums) -> dict[str, float]:
        """Weighted means over all processes, bit for bit the same on each."""
        total = Sums()
        for sums, weight in gathered((own.sums, own.weight), self.ranks):
            total.add(sums, weight)
        return total.means()

    def _monitored(self, values: dict[str, float]) -> float:
        usual = next(name for name in (f"validation_{LOSS}", f"train_{LOSS}") if name in values)
        name = self.config.monitor or usual
        if name not in values:
            hint = f"Choose one of: {', '.join(values)}."
            raise ConfigError(f"there is no value {name!r} to watch", setting="monitor", hint=hint)
        if not math.isfinite(values[name]):
            what = f"the {name.replace('_', ' ')} is not a number after epoch {self.at.epoch + 1}"
            raise self._not_finite(what)
        return values[name]

    def _keep_if_best(self, value: float, *, write: bool) -> None:
        if self.sign * value < self.at.best_value - self.config.min_delta:
            self.at.best_value, self.at.best_epoch, self.at.bad_epochs = self.sign * value, self.at.epoch, 0
            self.best_weights = copy.deepcopy(self.learner.weights())
            if self.directory is not None and write:
                state = {"module": self.best_weights, "epoch": self.at.epoch, "value": value}
                files.write_checkpoint(self.directory / files.BEST, state)
            return
        self.at.bad_epochs += 1
        if self.config.schedule == "plateau" and self.at.bad_epochs % self.config.plateau_patience == 0:
            self.at.decay = max(self.config.min_factor, self.at.decay * self.config.decay_factor)

    def _fetch(self) -> None:
        """Bring the meter up to date, and refuse a loss that is not finite."""
        age = self.meter.fetch()
        if age is not None:
            index = self.at.batch - 1 - age
            step = self.at.epoch_step + index // self.config.accumulate + 1
            what = f"the loss is not a number at step {step} (epoch {self.at.epoch + 1}, batch {index + 1})"
            raise self._not_finite(what, self.task.describe(self._now(), index))

    def _check(self) -> None:
        """Refuse to keep weights that are not finite, as after an infinite gradient of a finite loss."""
        self._fetch()
        if not self.learner.finite():
            what = f"the weights are not finite after step {self.at.step}, although the loss was: a gradient overflowed"
            raise self._not_finite(what)

    def _not_finite(self, what: str, where: str | None = None) -> NonFiniteLossError:
        if self.best_weights is not None and self.directory is not None:
            best = self.directory / files.BEST
            what += f"; the best weights so far, of epoch {self.at.best_epoch + 1}, are kept in {best}"
        return NonFiniteLossError(what, where=where, hint=_ADVICE)

    def _log(self, values: dict[str, float]) -> None:
        for one in self.loggers:
            one.log(self.at.step, values)

    def _tell(self, loss: float | None) -> None:
        self.told = time.monotonic()
        share = self.at.step / self.total_steps if self.total_steps else 0.0
        epoch = self.at.epoch + (self.at.batch > 0)
        detail = f"epoch {epoch}" + ("" if loss is None else f", loss {loss:.4g}")
        self.progress("Training", 1.0 if self.ended else share, detail)

    def _write_last(self) -> None:
        """Write ``last.pt``, from which the run can be resumed exactly; only between two steps."""
        if self.ranks.world == 1 and self.directory is None:
            return
        self._check()
        buffers = dict(self.learner.module.named_buffers()) if self.ranks.world > 1 else {}
        own = {
            "random": devices.random_state(self.device),
            "meter": self.meter.state(),
            "task": self.task.state(),
            "buffers": {name: buffer.cpu() for name, buffer in buffers.items()},
        }
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
