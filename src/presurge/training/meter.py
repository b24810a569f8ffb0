"""Running means of named losses, without waiting for the device at every step."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from presurge.training.task import LOSS, WEIGHT


@dataclass(slots=True)
class Sums:
    """Sums of named values times their weights, and the sum of the weights."""

    sums: dict[str, float] = field(default_factory=dict)
    weight: float = 0.0

    def add(self, sums: dict[str, float], weight: float) -> None:
        """Add other sums, or the values of one batch times its weight."""
        for name, value in sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.weight += weight

    def means(self) -> dict[str, float]:
        """The weighted means; nothing if nothing was added."""
        return {name: value / self.weight for name, value in self.sums.items() if self.weight}


class Meter:
    """Means of the parts of the loss over the batches of an epoch, and over those since the last line of the log.

    Args:
        states: What ``state`` returned, on one process or on several, in the middle of the epoch.
    """

    def __init__(self, *states: dict[str, Any]) -> None:
        self.epoch, self.interval = Sums(), Sums()
        self._waiting: list[dict[str, Any]] = []
        for state in states:
            self.epoch.add(*state["epoch"])
            self.interval.add(*state["interval"])

    def state(self) -> dict[str, Any]:
        """The sums as plain values; only what was fetched counts."""
        every = {"epoch": self.epoch, "interval": self.interval}
        return {name: (dict(one.sums), one.weight) for name, one in every.items()}

    def add(self, parts: dict[str, Any]) -> None:
        """Take the parts of one batch, which stay on the device; none if this process had no batch."""
        self._waiting.append({k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in parts.items()})

    def fetch(self) -> int | None:
        """Add what waits to the sums, all of it copied from the device at once.

        Returns:
            How many batches ago a loss was first not finite; None if all were.
        """
        waiting, self._waiting, first_bad = _on_host(self._waiting), [], None
        for number, values in enumerate(waiting, start=1):
            if first_bad is None and not math.isfinite(values.get(LOSS, 0.0)):
                first_bad = len(waiting) - number
            weight = values.pop(WEIGHT, 1.0)
            if values and weight:
                sums = {name: value * weight for name, value in values.items()}
                self.epoch.add(sums, weight)
                self.interval.add(sums, weight)
        return first_bad


def _on_host(waiting: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Parts as plain numbers; those on a device come in one copy."""
    tensors = [value for parts in waiting for value in parts.values() if isinstance(value, torch.Tensor)]
    if tensors and tensors[0].device.type != "cpu":
        # MPS knows no float64.
        dtype = torch.float32 if tensors[0].device.type == "mps" else torch.float64
        numbers = iter(torch.stack([tensor.to(dtype) for tensor in tensors]).tolist())
    else:
        numbers = map(float, tensors)
    return [
        {name: next(numbers) if isinstance(v, torch.Tensor) else float(v) for name, v in parts.items()}
        for parts in waiting
    ]
