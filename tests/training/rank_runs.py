"""Every case that one process and several train alike; each process writes what came out."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from systems import MaskTask, TableTask
from training_cases import RegressionTask, settings

from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.models.networks.linear_maps import DLinearNetwork
from presurge.models.networks.task import WindowTask
from presurge.series.panel import Channel, Panel
from presurge.training.config import TrainingConfig
from presurge.training.interruption import TrainingInterrupted
from presurge.training.loggers import JsonLinesLogger
from presurge.training.task import Epoch, Task
from presurge.training.trainer import fit

RANK = int(os.environ.get("RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))
PLAIN: dict[str, Any] = {"clip_norm": None, "optimizer": "sgd", "learning_rate": 0.05}


class StoppedTask(RegressionTask):
    """The second process is asked to stop at a batch of the second epoch, and nobody else."""

    def train_batches(self, epoch: Epoch) -> Iterator[Any]:
        for index, batch in enumerate(super().train_batches(epoch)):
            if (RANK, epoch.number, index) == (1, 1, 5):
                signal.raise_signal(signal.SIGINT)
            yield batch


class OneSidedTask(RegressionTask):
    """One layer that no process uses, and one that only the first process uses, in its share of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.module.unused, self.module.used = torch.nn.Linear(2, 2), torch.nn.Linear(4, 1)
        forward = self.module.forward

        def with_branch(batch: Any) -> Any:
            parts = forward(batch)
            extra = 0.0 if RANK else self.module.used(batch[0]).square().mean() * WORLD
            return {**parts, "loss": parts["loss"] + extra, "weight": len(batch[0])}

        self.module.forward = with_branch


def window_task(gaps: bool) -> WindowTask:
    """A window task at batch 101, perhaps with a third of the targets missing."""
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(211, 1)).cumsum(0)
    values = ((walk - walk.mean()) / walk.std()).astype(np.float32)
    origins = np.arange(5, 207)
    if gaps:
        missing = rng.permutation(211)[:70]
        values[missing] = np.nan
        filled = np.nan_to_num(values)
        # Inputs come from a filled copy: contexts miss nothing, and targets do.
        values = np.concatenate([values, filled], axis=1)
    panel = Panel(values=values[:, :1], channels=(Channel("c"),), step=1_000_000, start=np.zeros(1, np.int64))
    torch.manual_seed(0)
    config = DLinearConfig(individual=False, kernel_size=3)
    model = DLinear(context=6, horizon=3, config=config, training=TrainingConfig(batch_size=101))
    network: torch.nn.Module = DLinearNetwork(model, 1)
    if gaps:
        network = Filled(network)
    return WindowTask(network, model, panel, values, train=origins[:202], validation=origins[-9:])


class Filled(torch.nn.Module):
    """Reads zeros where a value is missing."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, past: torch.Tensor, future: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        return self.network(past[:, :, :1].nan_to_num(), future[:, :, :0], item)


def train(directory: Path, task: Task, *, resume: bool = False, **changes: Any) -> None:
    log = JsonLinesLogger(directory / "metrics.jsonl")
    chosen = settings(**{"clip_norm": 1.0, **changes})
    outcome = fit(task, chosen, directory=directory, resume=resume and RANK == 0, loggers=[log])
    mine = {name: buffer.clone() for name, buffer in task.module.named_buffers()}
    torch.save(
        {"module": task.module.state_dict(), "history": outcome.history, "buffers": mine},
        directory / ("final.pt" if RANK == 0 else "other.pt"),
    )


def train_all(directory: Path) -> None:
    """Train every case; the processes of one are stopped in the middle, and resume."""
    train(directory / "plain", RegressionTask())
    train(directory / "groups", RegressionTask(), accumulate=5)
    train(directory / "dropout", RegressionTask(dropout=0.3))
    train(directory / "windows", window_task(gaps=False), **{**PLAIN, "learning_rate": 0.01})
    train(directory / "gaps", window_task(gaps=True), **{**PLAIN, "learning_rate": 0.01})
    train(directory / "masks", MaskTask(), **PLAIN)
    train(directory / "one row", MaskTask(batch_size=33), **PLAIN)
    train(directory / "accumulated masks", MaskTask(batch_size=9), accumulate=5, **PLAIN)
    train(directory / "ddp", MaskTask(batch_size=9), accumulate=5, gradient_sync="ddp", **PLAIN)
    train(directory / "one row ddp", MaskTask(batch_size=33), gradient_sync="ddp", **PLAIN)
    decayed = {"clip_norm": None, "optimizer": "adamw", "weight_decay": 0.5}
    for way in ("flat", "ddp"):
        train(directory / f"one-sided {way}", OneSidedTask(), gradient_sync=way, **decayed)
    train(directory / "table", TableTask(), **PLAIN)
    if WORLD == 2:
        try:
            train(directory / "stopped", StoppedTask(dropout=0.3))
            raise AssertionError("it was asked to stop")
        except TrainingInterrupted:
            train(directory / "stopped", RegressionTask(dropout=0.3), resume=True)
    train(directory / "moved", MaskTask(), epochs=3, **PLAIN)
    names = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    (directory / f"threads of {RANK}").write_text("\n".join(names))


def resume_handed_over(directory: Path) -> None:
    """Train three more epochs of a run that another number of processes began."""
    train(directory / "handed over", MaskTask(), epochs=6, resume=True, **PLAIN)
