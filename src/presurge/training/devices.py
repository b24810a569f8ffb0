"""Devices, precision, threads and random generators: what surrounds a training."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from presurge.errors import ConfigError, PresurgeError
from presurge.training.config import DeviceName, TrainerConfig

_MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OutOfDeviceMemoryError(PresurgeError):
    """The memory of the device does not hold the network and a batch."""


def available_devices() -> tuple[str, ...]:
    """Kinds of device that this machine has, best first."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(kind for kind, available in there.items() if available)


def resolve_device(name: DeviceName, *, allow_fallback: bool = False, local_rank: int = 0) -> torch.device:
    """The device of a name; ``auto`` is the best there is.

    Args:
        name: What was asked for.
        allow_fallback: Take the cpu if the named device does not exist.
        local_rank: Which GPU of this machine, under torchrun.

    Raises:
        ConfigError: The device does not exist here.
    """
    kinds = available_devices()
    kind: str = kinds[0] if name == "auto" else name
    if kind not in kinds:
        if not allow_fallback:
            hint = "Use `device=auto` or `device=cpu`, or allow the cpu in its place: `allow_fallback`"
            raise ConfigError(f"this machine has no {kind} device", setting="device", hint=hint)
        kind = "cpu"
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)


def autocast(config: TrainerConfig, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of the forward pass: mixed precision, or nothing."""
    if config.precision not in _MIXED:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_MIXED[config.precision])


@contextlib.contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """Say what helps if the memory of the device does not suffice for the body.

    Raises:
        OutOfDeviceMemoryError: It does not.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError(
            f"the memory of the device {device} does not hold a batch and what is computed from it",
            hint="Take smaller batches (`batch_size`; `accumulate` makes up for it), a smaller network, a shorter "
            "`context`, `precision=bf16` or `device=cpu`.",
        ) from error


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` threads while the body runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Let GPUs multiply float32 matrices in TF32 while the body runs if, and only if, the precision is ``tf32``.

    Torch alone would use TF32 in cuDNN, for convolutions and recurrent layers, and nowhere else.
    """
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


def random_state(device: torch.device) -> dict[str, Any]:
    """What the next draws depend on: of Python, NumPy, and torch on the cpu and the device; plain values and tensors."""
    name, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - modules of others draw from it
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "numpy": (name, torch.from_numpy(np.asarray(key, np.int64)), *rest),
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on from what ``random_state`` returned; the state of another kind of device is left out."""
    torch.set_rng_state(state["cpu"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed while the body runs, and go on afterwards as if it had drawn nothing."""
    before = random_state(device)
    seed_all(seed)
    try:
        yield
    finally:
        set_random_state(before, device)


def seed_all(seed: int) -> None:
    """Seed torch, NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)
