"""Devices, mixed precision and threads."""

import contextlib
from collections.abc import Iterator

import torch

from presurge.errors import ConfigError
from presurge.training.config import DeviceName, TrainerConfig

_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def available_devices() -> tuple[str, ...]:
    """Kinds of device that this machine has, best first."""
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if torch.backends.mps.is_available():
        kinds.append("mps")
    return (*kinds, "cpu")


def resolve_device(
    name: DeviceName,
    *,
    allow_fallback: bool = False,
    local_rank: int = 0,
    available: tuple[str, ...] | None = None,
) -> torch.device:
    """The device of a name; ``auto`` is the best there is.

    Args:
        name: What was asked for.
        allow_fallback: Take the cpu where the named device does not exist.
        local_rank: Which GPU of this machine, under torchrun.
        available: Kinds of device that exist; looked up where None.

    Raises:
        ConfigError: The device does not exist here.
    """
    kinds = available_devices() if available is None else available
    kind: str = kinds[0] if name == "auto" else name
    if kind not in kinds:
        if not allow_fallback:
            raise ConfigError(
                f"this machine has no {kind} device",
                where="--device",
                hint="Use --device auto or cpu, or let it fall back by itself: --allow-fallback",
            )
        kind = "cpu"
    return torch.device(kind, local_rank) if kind == "cuda" else torch.device(kind)


def autocast(settings: TrainerConfig, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context of the forward pass: mixed precision, or nothing."""
    if settings.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_PRECISIONS[settings.precision])


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` threads while the body runs."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
