"""Data parallelism under torchrun: one process a device, gradients added up. Only the first process touches files."""

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, reduce
from itertools import chain, count
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Torch imports this at the first step of an optimizer. Were there a group by then, it would become the default argument of
# ten functions, and its threads would live on until Python ends and aborts the process now and then.
import torch.distributed.nn
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from presurge.errors import PresurgeError
from presurge.training.interruption import TrainingInterrupted
from presurge.training.task import LOSS, Batch, move

T = TypeVar("T")

DDP_PARAMETERS = 5_000_000
"""From so many trained numbers on, sending gradients during the backward pass pays on GPUs."""

_HEAD = 4  # a message begins with the weight and three flags
_groups = count()


class LostProcessError(PresurgeError):
    """Another process of this training ended."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that reads and writes files."""
        return self.rank == 0


def this_process() -> Ranks:
    """This process as torchrun describes it; one alone if there is no torchrun."""
    read = os.environ.get
    return Ranks(int(read("RANK", "0")), int(read("WORLD_SIZE", "1")), int(read("LOCAL_RANK", "0")))


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Let this process work with the others while the body runs.

    The group and its threads end here, on success and after an interruption, which all processes see at the same step. After
    an error the others may still wait in a message: then this process leaves without cleaning up when Python ends.

    Raises:
        LostProcessError: Another process ended.
    """
    if ranks.world == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # A prefix of its own keeps a group from reading what an earlier one left in the store, also before a restart.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = PrefixStore(f"presurge/{attempt}/{next(_groups)}", _store(ranks.rank, ranks.world))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world)
    try:
        yield
    except TrainingInterrupted:
        dist.destroy_process_group()
        raise
    except BaseException as error:
        atexit.register(_leave_at_once)
        known = ("gloo", "NCCL", "onnection")
        if isinstance(error, RuntimeError) and any(word in str(error) for word in known):
            raise LostProcessError(
                "another process of this training ended, and this one cannot go on alone",
                hint="Its own message says why. `resume` goes on from the last checkpoint.",
            ) from error
        raise
    dist.destroy_process_group()


@cache
def _store(rank: int, world: int) -> Any:
    """Where the processes find each other: one connection for all groups of this process, without threads of its own."""
    return next(rendezvous("env://", rank, world))[0]


def _leave_at_once() -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


class GradientSync:
    """Adds up the gradients of all processes, weighed by what their batches hold.

    The flat way sends one message after the backward pass, with the weights in it; it suits small models and gloo.
    ``DistributedDataParallel`` sends while the backward pass runs. With accumulation it knows of the last batch of a step
    only: a parameter that just an earlier one used, is not added up.

    Args:
        module: On its device; every process gets the weights and buffers of the first.
        ranks: This process among the others.
        device: The device.
        way: ``auto``, ``flat`` or ``ddp``.
    """

    def __init__(self, module: nn.Module, ranks: Ranks, device: torch.device, way: str) -> None:
        self.module, self.ranks, self.device = module, ranks, device
        self.learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.call = module
        self.ddp: nn.parallel.DistributedDataParallel | None = None
        if ranks.world == 1:
            return
        for tensor in chain(module.parameters(), module.buffers()):
            dist.broadcast(tensor.detach(), 0)
        sizes = [parameter.numel() for parameter in self.learned]
        if way == "ddp" or (way == "auto" and device.type == "cuda" and sum(sizes) >= DDP_PARAMETERS):
            self.call = self.ddp = nn.parallel.DistributedDataParallel(
                _OnlyLoss(module), find_unused_parameters=True, gradient_as_bucket_view=True
            )
            self.ddp.broadcast_buffers = False
            return
        dtype = reduce(torch.promote_types, (parameter.dtype for parameter in self.learned), torch.float32)
        self._flat = torch.zeros(_HEAD + len(sizes) + sum(sizes), dtype=dtype, device=device)
        parts = torch.split(self._flat[_HEAD + len(sizes) :], sizes)
        self._parts = [part.view_as(p) for part, p in zip(parts, self.learned, strict=True)]

    def close(self) -> None:
        """Free what refers to the process group before it ends, so that the group ends its threads at once."""
        if self.ddp is not None:
            self.call, self.ddp = self.module, None
            gc.collect()

    def postponed(self) -> AbstractContextManager[None]:
        """Around a batch that is not the last one of its step."""
        return nullcontext() if self.ddp is None else self.ddp.no_sync()

    def without_batch(self) -> dict[str, Any]:
        """Take part in a step to which this process adds nothing."""
        if self.ddp is not None:
            # It takes as many backward passes as the others: one that weighs nothing.
            if self.ddp.module.last is None:
                raise ValueError("the first batch of a process must not be empty")
            (0.0 * self.ddp(self.ddp.module.last)[LOSS]).backward()
        return {}

    def add_up(self, weight: float | torch.Tensor, flags: Sequence[bool]) -> torch.Tensor:
        """Replace the gradients by their sum over all processes, divided by the sum of weights.

        A parameter without a gradient on every process keeps none, so that no optimizer moves it.

        Returns:
            For each flag on how many processes it is set, on the device.
        """
        given = [parameter.grad is not None for parameter in self.learned]
        head: torch.Tensor = move(torch.tensor([0.0, *flags, *given], dtype=torch.float32), self.device)
        head[0] = weight
        divided_by = 1
        if self.ddp is not None:
            dist.all_reduce(head)
            divided_by = self.ranks.world
        elif self.ranks.world > 1:
            head = self._add_flat(head, all_given=all(given))
        gradients = [p.grad for p in self.learned if p.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, torch.where(head[0] > 0, divided_by / head[0], 0.0))
        return head[1:_HEAD]

    def _add_flat(self, head: torch.Tensor, *, all_given: bool) -> torch.Tensor:
        """Sum gradients over all processes in one message, together with the head, which ends with who has which gradient."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.learned]
        torch._foreach_copy_(self._parts, gradients)
        self._flat[: len(head)] = head
        dist.all_reduce(self._flat)
        head = self._flat[: len(head)].clone()
        somewhere = [True] * len(gradients) if all_given else (head[_HEAD:] > 0).tolist()
        for parameter, part, has in zip(self.learned, self._parts, somewhere, strict=True):
            parameter.grad = part.to(parameter.dtype) if has else None
        return head


class _OnlyLoss(nn.Module):
    """A module whose loss alone asks for gradients: ``DistributedDataParallel`` waits for one of each output that does.

    It remembers its last batch.
    """

    last: Batch = None

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: Batch) -> dict[str, Any]:
        """The parts, all but the loss detached."""
        self.last = batch
        parts: dict[str, Any] = self.module(batch)
        metrics = {n: v.detach() if isinstance(v, torch.Tensor) else v for n, v in parts.items()}
        return {**metrics, LOSS: parts[LOSS]}


def average_buffers(module: nn.Module, ranks: Ranks) -> None:
    """Make the buffers equal on all processes: the mean of floats such as BatchNorm's, the first one's of others."""
    if ranks.world == 1:
        return
    for buffer in module.buffers():
        first = buffer.clone()
        dist.broadcast(first, 0)
        if buffer.is_floating_point():  # the mean of differences, which leaves equal buffers as they are
            difference = torch.where(buffer == first, 0.0, buffer - first)
            dist.all_reduce(difference)
            first += difference / ranks.world
        buffer.copy_(first)


def gathered(value: T, ranks: Ranks) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    if ranks.world == 1:
        return [value]
    values: list[Any] = [None] * ranks.world
    dist.all_gather_object(values, value)
    return values


def from_first(value: T, ranks: Ranks) -> T:
    """The value that the first process has."""
    if ranks.world == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
