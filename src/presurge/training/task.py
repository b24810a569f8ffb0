"""What the loop knows of a model: a module that turns a batch into named losses, and where batches come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

Batch = Any
"""A tensor, or a tuple, list or dictionary of tensors: whatever the task's module takes."""

LOSS = "loss"
"""Name of the part that is minimised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Which batches are asked for.

    Attributes:
        number: Epoch, from 0.
        seed: Of the run; the order of the batches is a function of (seed, number) alone, which makes resuming exact.
        rank: Number of this process.
        world: Number of processes; each takes its share of every batch.
        skip: Batches of this epoch that were already trained on.
    """

    number: int
    seed: int
    rank: int = 0
    world: int = 1
    skip: int = 0


class Task(Protocol):
    """All that the loop knows.

    Two-stage models are two tasks, trained one after the other. A task without validation batches is watched by its
    training loss. A loss may be negative. A task supplies its own batches: it needs no Panel.
    """

    @property
    def module(self) -> nn.Module:
        """Holds every trained parameter; called with a batch it returns named scalars, ``loss`` among them.

        Parts beside ``loss`` (components of the loss, extra metrics) are averaged and logged under their names.
        """
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the same in every epoch and process; at least one."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """JSON values that a checkpoint must share to be resumed from: architecture, data fingerprint, batch size.

        A difference is shown to the user by these names.
        """
        ...

    def train_batches(self, epoch: Epoch) -> Iterable[Batch]:
        """The batches of one epoch, on the cpu, from number ``epoch.skip`` on to the last."""
        ...

    def validation_batches(self, rank: int, world: int) -> Iterable[tuple[Batch, int]]:
        """Batches with the weights of their averages (their sizes); nothing where there is no validation.

        Random numbers drawn here, or by the module then, are the same after every epoch.
        """
        ...

    def describe(self, epoch: Epoch, index: int) -> str:
        """Which rows batch number ``index`` of an epoch holds, for the message about a loss that is not a number.

        It is followed by a colon and what was wrong.
        """
        ...


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; nothing is copied where it lies there already."""
    if isinstance(batch, torch.Tensor):
        return batch if batch.device == device else batch.to(device)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(move(value, device) for value in batch)
    return batch
