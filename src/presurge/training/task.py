"""What the trainer knows of a model: a module that turns a batch into named losses, and where batches come from."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

Batch = Any
"""A tensor, or a tuple, named tuple, list, dictionary or data class of tensors: whatever the task's module takes."""

LOSS = "loss"
"""Name of the part that is minimised."""
WEIGHT = "weight"
"""Name of the part that tells how much a batch counts: the number of rows, targets or tokens that its means are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """Which batches are asked for.

    Attributes:
        number: Epoch, from 0.
        seed: Seed of the run.
        rank: Number of this process.
        world: Number of processes; each takes its share of every batch.
        skip: Batches of this epoch that were already trained on.
    """

    number: int
    seed: int
    rank: int = 0
    world: int = 1
    skip: int = 0

    def rng(self, index: int | None = None) -> np.random.Generator:
        """Random numbers for one batch, or for the epoch as a whole (the order of its rows) if ``index`` is None.

        They are the same on every process and after every resumption: draw for the whole batch, then take the share.
        """
        return np.random.default_rng([self.seed, self.number, *([] if index is None else [index + 1])])

    def share(self, rows: Any) -> Any:
        """Every ``world``-th row of a batch, from number ``rank`` on; shares may differ by a row, or be empty."""
        return rows[self.rank :: self.world]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters with settings of their own; those that are None come from the configuration.

    The schedule multiplies the rate of every group by the same factor. ``sgd`` ignores ``betas`` and ``eps``.
    """

    name: str
    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None


class Task:
    """One training: subclass it, set ``module`` and ``batches_per_epoch``, and write ``batch``.

    Everything else has a default::

        class Regression(Task):
            def __init__(self, x: Tensor, y: Tensor) -> None:
                self.x, self.y = x, y
                self.module = SquaredError(nn.Linear(x.shape[1], 1))
                self.batches_per_epoch = math.ceil(len(x) / 32)

            def batch(self, epoch: Epoch, index: int) -> tuple[Tensor, Tensor]:
                order = epoch.rng().permutation(len(self.x))
                rows = epoch.share(order[32 * index : 32 * (index + 1)])
                return self.x[rows], self.y[rows]

    A model of two stages is two tasks, trained one after the other. Two networks that learn together are one module.

    Attributes:
        module: Holds every trained parameter. Called with a batch it returns named scalars, ``loss`` (a mean) among them,
            which may be negative; the others are averaged and logged under their names. If batches, or the shares that
            processes take of a batch, are not equally large, it also returns ``weight``, a number or a tensor. Gradients
            and logged means are then those of all rows of a step together, however these are cut into batches and shares.
            Parameters that need no gradient are frozen: checkpoints leave them out unless training changes them.
        batches_per_epoch: Batches of an epoch, the same on every process; None if only the iterator knows.
    """

    module: nn.Module
    batches_per_epoch: int | None = None

    def batch(self, epoch: Epoch, index: int) -> Batch | None:
        """This process's share of a batch, on the cpu; None if the share is empty."""
        raise NotImplementedError

    def train_batches(self, epoch: Epoch) -> Iterable[Batch | None]:
        """The batches of an epoch from number ``epoch.skip`` on.

        Override it for batches from an iterator. One that cannot skip keeps its place in ``state`` instead. Every process
        must give equally many batches.
        """
        return (self.batch(epoch, index) for index in range(epoch.skip, self.batches_per_epoch or 0))

    def validation_batches(self, rank: int, world: int) -> Iterable[tuple[Batch, float]]:
        """This process's validation batches with their weights; nothing, and the training loss is watched instead.

        Random numbers drawn here, or by the module then, are the same after every epoch.
        """
        return ()

    def validation_metrics(self, device: torch.device) -> dict[str, float]:
        """Validation values that are no mean over batches, such as a median or a rank correlation.

        Called on the first process only, without gradients and with the module in evaluation mode, on ``device``.
        """
        return {}

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """Every trained parameter in exactly one group; none, and all of them train alike."""
        return ()

    def after_step(self, step: int) -> None:
        """Called after each optimizer step, for example to update an average of the weights that the module holds."""

    def state(self) -> Any:
        """Where the iterator of this process stands, as plain values and tensors; None if batches go by index."""
        return None

    def load_state(self, state: Any) -> None:
        """Go on from what ``state`` returned."""

    def identity(self) -> dict[str, Any]:
        """JSON values that a checkpoint must share to be resumed: architecture, and a fingerprint of the data.

        A difference is shown to the user by these names.
        """
        return {}

    def identity_defaults(self) -> dict[str, Any]:
        """Values for keys of ``identity`` that a checkpoint of an earlier version lacks."""
        return {}

    def describe(self, epoch: Epoch, index: int) -> str:
        """Which rows batch ``index`` holds, for the message about a loss that is not finite."""
        return f"batch {index + 1} of epoch {epoch.number + 1}"

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """The batch on the device; override it if the data already lie there.

        Do not wait for the device: while a GPU works on a batch, the next ones are gathered and copied.
        """
        return move(batch, device)


def move(batch: Batch, device: torch.device) -> Batch:
    """Copy the tensors of a batch to a device; copies to a GPU are pinned and do not block."""
    if isinstance(batch, torch.Tensor):
        if batch.device == device:
            return batch
        pinned = batch.pin_memory() if device.type == "cuda" and batch.device.type == "cpu" else batch
        return pinned.to(device, non_blocking=True)
    moved = {key: move(part, device) for key, part in parts_of(batch).items()}
    if not moved:
        return batch
    if isinstance(batch, dict):
        return moved
    if dataclasses.is_dataclass(batch):
        return dataclasses.replace(batch, **moved)  # type: ignore[type-var]
    return type(batch)(*moved.values()) if hasattr(batch, "_fields") else type(batch)(moved.values())


def rows_of(batch: Batch) -> int:
    """Length of the first tensor in a batch that has rows; 0 if there is none."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 0
    return next((rows for part in parts_of(batch).values() if (rows := rows_of(part))), 0)


def parts_of(batch: Batch) -> dict[Any, Any]:
    """The parts of a collection by key, field or place; none if it is something else."""
    if isinstance(batch, dict):
        return batch
    if dataclasses.is_dataclass(batch):
        return {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch) if field.init}
    return dict(enumerate(batch)) if isinstance(batch, list | tuple) else {}
