"""Run under torchrun: trains on what it is told, and the first process writes what came out.

Arguments: directory, and "stop" to be interrupted in the middle and go on.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from training_cases import RegressionTask, settings

from presurge.training.interruption import TrainingInterrupted
from presurge.training.loggers import JsonLinesLogger
from presurge.training.task import Epoch
from presurge.training.trainer import fit

RANK = int(os.environ.get("RANK", "0"))


class StoppedTask(RegressionTask):
    """The second process is asked to stop at a batch of the second epoch, and nobody else."""

    def train_batches(self, epoch: Epoch) -> Iterator[Any]:
        for index, batch in enumerate(super().train_batches(epoch)):
            if (RANK, epoch.number, index) == (1, 1, 5):
                signal.raise_signal(signal.SIGINT)
            yield batch


def train(directory: Path, task: RegressionTask, *, resume: bool = False, **changes: Any) -> None:
    log = JsonLinesLogger(directory / "metrics.jsonl")
    chosen = settings(clip_norm=1.0, **changes)
    outcome = fit(task, chosen, directory=directory, resume=resume and RANK == 0, loggers=[log])
    if RANK == 0:
        torch.save({"module": task.module.state_dict(), "history": outcome.history}, directory / "final.pt")


def main() -> None:
    directory = Path(sys.argv[1])
    train(directory / "plain", RegressionTask())
    train(directory / "groups", RegressionTask(), accumulate=5)
    train(directory / "dropout", RegressionTask(dropout=0.3))
    if os.environ.get("WORLD_SIZE") == "2":
        try:
            train(directory / "stopped", StoppedTask(dropout=0.3))
            raise AssertionError("it was asked to stop")
        except TrainingInterrupted:
            train(directory / "stopped", RegressionTask(dropout=0.3), resume=True)


if __name__ == "__main__":
    main()
