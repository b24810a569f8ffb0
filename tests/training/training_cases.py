"""Small tasks that the tests of the loop train, also in processes of their own."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from presurge.training.config import TrainerConfig
from presurge.training.task import LOSS, Epoch, Task


def settings(**changes: Any) -> TrainerConfig:
    """Quick and on the cpu unless told otherwise."""
    return TrainerConfig(**{"epochs": 3, "device": "cpu", "learning_rate": 0.01, "log_steps": 1, **changes})


class Regression(nn.Module):
    """A linear map with dropout, its squared error, and the absolute error as a further metric."""

    def __init__(self, inputs: int, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        x, y = batch
        error = self.layer(self.dropout(x))[:, 0] - y
        return {LOSS: error.square().mean(), "absolute": error.abs().mean()}


class RegressionTask(Task):
    """Rows of a table in shuffled batches; ``spoiled`` is the step whose rows hold a NaN."""

    def __init__(
        self,
        *,
        rows: int = 96,
        batch_size: int = 8,
        validation: int = 32,
        dropout: float = 0.0,
        spoiled: int | None = None,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(rows + validation, 4)).astype(np.float32)
        self.y = (self.x @ [1.0, -2.0, 0.5, 0.0] + 0.1 * rng.normal(size=len(self.x))).astype(np.float32)
        self.rows, self.batch_size, self.spoiled = rows, batch_size, spoiled
        torch.manual_seed(seed)
        self.module = Regression(4, dropout)

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    def identity(self) -> dict[str, Any]:
        return {"rows": self.rows, "batch_size": self.batch_size}

    def chosen(self, epoch: Epoch, index: int) -> np.ndarray:
        order = epoch.rng().permutation(self.rows)
        return epoch.share(order[index * self.batch_size : (index + 1) * self.batch_size])

    def train_batches(self, epoch: Epoch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index in range(epoch.skip, self.batches_per_epoch):
            rows = self.chosen(epoch, index)
            y = self.y[rows]
            if self.spoiled == epoch.number * self.batches_per_epoch + index + 1:
                y = y * np.nan
            yield torch.from_numpy(self.x[rows]), torch.from_numpy(y)

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[Any, int]]:
        for begin in range(self.rows, len(self.x), 10):
            own = np.arange(begin, min(begin + 10, len(self.x)))[rank::world]
            if len(own):
                yield (torch.from_numpy(self.x[own]), torch.from_numpy(self.y[own])), len(own)

    def describe(self, epoch: Epoch, index: int) -> str:
        return f"rows {sorted(self.chosen(epoch, index).tolist())}"


class Held(nn.Module):
    """One number, whose loss is whatever the batch says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {LOSS: (batch * self.value).mean() if self.training else batch.mean()}


class ScriptedTask(Task):
    """Its weight falls by the learning rate at every step of plain descent; its validation losses are given."""

    batches_per_epoch = 4

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.module = Held()
        self.validations = 0

    def train_batches(self, epoch: Epoch) -> Iterator[torch.Tensor]:
        for _ in range(epoch.skip, self.batches_per_epoch):
            yield torch.ones(1)

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[torch.Tensor, int]]:
        self.validations += 1
        yield torch.tensor([self.losses[self.validations - 1]]), 1

    def describe(self, epoch: Epoch, index: int) -> str:
        return "nothing"


class Recorder:
    """Keeps what it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})

    def mark(self) -> int:
        return len(self.rows)

    def rewind(self, mark: int) -> None:
        del self.rows[mark:]

    def finish(self, summary: dict[str, Any], figures: list[Any]) -> None:
        raise AssertionError("finishing is the caller's")
