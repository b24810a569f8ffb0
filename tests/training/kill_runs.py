"""Run as a process: trains in children that are killed, each going on where the last one was cut off.

Arguments: directory, number of kills, seed. A last child finishes, and another one trains in one go. A third of the children kill themselves before a
random batch, a third inside the writing of a random checkpoint, and a third are killed from outside at a random moment.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from training_cases import RegressionTask, settings

from presurge.training.loggers import JsonLinesLogger
from presurge.training.task import Epoch
from presurge.training.trainer import fit

SETTINGS: dict[str, Any] = {
    "epochs": 6,
    "accumulate": 3,
    "schedule": "plateau",
    "plateau_patience": 1,
    "patience": 5,
    "min_delta": 1.0,
    "checkpoint_steps": 7,
    "clip_norm": 1.0,
}


class SlowTask(RegressionTask):
    """Takes its time, and kills its own process before batch number ``last`` that it gives, counted from 1."""

    def __init__(self, last: int | None = None) -> None:
        super().__init__(rows=400, dropout=0.3)
        self.last, self.given = last, 0

    def train_batches(self, epoch: Epoch) -> Iterator[Any]:
        for batch in super().train_batches(epoch):
            self.given += 1
            if self.given == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0005)
            yield batch


def train(directory: Path, last_batch: int | None = None, last_write: int | None = None) -> None:
    """One run, resumed where there is something to resume; its final weights go beside its checkpoints."""
    writes, fsync = 0, os.fsync

    def killing(number: int) -> None:
        nonlocal writes
        writes += 1
        if writes == last_write:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(number)

    os.fsync = killing
    task = SlowTask(last_batch)
    log = JsonLinesLogger(directory / "metrics.jsonl")
    outcome = fit(task, settings(**SETTINGS), directory=directory, resume=True, loggers=[log])
    torch.save({"module": task.module.state_dict(), "history": outcome.history}, directory / "final.pt")


def child(directory: Path, last_batch: int | None, last_write: int | None, killed_after: float | None) -> str:
    """One run in a process of its own, and how that ended."""
    number = os.fork()
    if number == 0:
        train(directory, last_batch, last_write)
        os._exit(0)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return "killed" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"


def main() -> None:
    directory, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    for number in range(kills):
        batch = rng.randrange(1, 80) if number % 3 == 0 else None
        write = rng.randrange(1, 5) if number % 3 == 1 else None
        print(child(directory / "killed", batch, write, rng.uniform(0.01, 0.12) if number % 3 == 2 else None))
    print(child(directory / "killed", None, None, None))
    print(child(directory / "whole", None, None, None))


if __name__ == "__main__":
    fit(
        RegressionTask(rows=8), settings(epochs=1)
    )  # what torch only imports at the first step, children need not
    main()
