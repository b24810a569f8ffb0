"""Data parallelism under torchrun: one process a device, gradients averaged. Only the first process touches files."""

import atexit
import os
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


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


def ranks_from_environment() -> Ranks:
    """What torchrun says of this process; one process alone where it says nothing."""
    read = os.environ.get
    return Ranks(int(read("RANK", "0")), int(read("WORLD_SIZE", "1")), int(read("LOCAL_RANK", "0")))


def join(ranks: Ranks, device: torch.device) -> None:
    """Let this process work with the others from here on.

    They stay together until the process ends: groups that are made one after another can miss each other.
    """
    if ranks.world == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(dist.destroy_process_group)


def share_weights(module: nn.Module, ranks: Ranks) -> None:
    """Give every process the weights and buffers of the first."""
    if ranks.world > 1:
        for tensor in chain(module.parameters(), module.buffers()):
            dist.broadcast(tensor.detach(), 0)


def average_gradients(module: nn.Module, ranks: Ranks) -> None:
    """Replace the gradients by their mean over all processes, in one message.

    In place of torch's DistributedDataParallel, whose threads abort the process now and then when it ends (seen with gloo
    and torch 2.13). It would send while it goes backward; models of this size gain little by that.
    """
    if ranks.world == 1:
        return
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat / ranks.world, [parameter.numel() for parameter in learned])
    for parameter, part in zip(learned, parts, strict=True):
        parameter.grad = part.view_as(parameter)


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


def added_up(values: dict[str, float], ranks: Ranks) -> dict[str, float]:
    """Sums over all processes by name, bit for bit the same on each; a process may have no value of a name."""
    sums: dict[str, float] = {}
    for one in gathered(values, ranks):
        for name, value in one.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums
