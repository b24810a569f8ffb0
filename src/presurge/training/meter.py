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

    def add(self, values: dict[str, float], weight: float) -> None:
        """Add values that count as much as the weight says."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * weight
        self.weight += weight

    def means(self) -> dict[str, float]:
        """The weighted means; nothing if nothing was added."""
        return {name: value / self.weight for name, value in self.sums.items() if self.weight}

    def clear(self) -> None:
        """Begin again."""
        self.sums, self.weight = {}, 0.0


class Meter:
    """Means of the parts of the loss over the batches of an epoch, and over those since the last line of the log.

    Args:
        state: What ``state`` returned, of an epoch that is resumed in the middle.
    """

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.epoch, self.interval = (
            Sums(*part) for part in (state or {"epoch": (), "interval": ()}).values()
        )
        self._waiting: list[dict[str, Any]] = []

    @classmethod
    def merged(cls, states: list[dict[str, Any]]) -> "Meter":
        """One meter of all batches that several took in."""
        meter = cls()
        for one in map(cls, states):
            for whole, part in ((meter.epoch, one.epoch), (meter.interval, one.interval)):
                whole.sums = {
                    k: whole.sums.get(k, 0.0) + part.sums.get(k, 0.0) for k in {**whole.sums, **part.sums}
                }
                whole.weight += part.weight
        return meter

    def state(self) -> dict[str, Any]:
        """The sums as plain values; only what was fetched counts."""
        return {
            key: (dict(one.sums), one.weight)
            for key, one in (("epoch", self.epoch), ("interval", self.interval))
        }

    def add(self, parts: dict[str, Any]) -> None:
        """Take the parts of one batch, which stay on the device; none if this process had no batch."""
        self._waiting.append({k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in parts.items()})

    def fetch(self) -> int | None:
        """Add what waits to the sums, all of it copied from the device at once.

        Returns:
            How many batches ago a loss was first not finite; None if all were.
        """
        waiting, self._waiting, first_bad = _on_host(self._waiting), [], None
        for age, values in zip(range(len(waiting) - 1, -1, -1), waiting, strict=True):
            if first_bad is None and not math.isfinite(values.get(LOSS, 0.0)):
                first_bad = age
            if weight := values.pop(WEIGHT, 1.0) if values else 0.0:
                self.epoch.add(values, weight)
                self.interval.add(values, weight)
        return first_bad


def _on_host(waiting: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Parts as plain numbers; those on a device come in one copy."""
    tensors = [value for parts in waiting for value in parts.values() if isinstance(value, torch.Tensor)]
    if tensors and tensors[0].device.type != "cpu":
        numbers = iter(torch.stack([tensor.double() for tensor in tensors]).tolist())
        return [
            {k: next(numbers) if isinstance(v, torch.Tensor) else v for k, v in p.items()} for p in waiting
        ]
    return [{name: float(value) for name, value in parts.items()} for parts in waiting]
