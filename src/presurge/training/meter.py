"""Running means of named losses, without waiting for the device at every step."""

import math

import torch

from presurge.training.task import LOSS


class Meter:
    """Sums of the parts of the loss over the batches of an epoch.

    Args:
        sums: Sums so far, of an epoch that is resumed in the middle.
        count: Batches so far.
    """

    def __init__(self, sums: dict[str, float] | None = None, count: int = 0) -> None:
        self.sums = dict(sums or {})
        self.count = count
        self._waiting: list[dict[str, torch.Tensor]] = []

    @property
    def waiting(self) -> int:
        """Batches that were added and not fetched yet."""
        return len(self._waiting)

    def add(self, parts: dict[str, torch.Tensor]) -> None:
        """Take the parts of one batch; they stay on the device."""
        self._waiting.append({name: value.detach() for name, value in parts.items()})

    def fetch(self) -> int | None:
        """Add what waits to the sums; how many batches ago a loss was first not finite, or None where all were."""
        first_bad = None
        for age, parts in zip(range(self.waiting - 1, -1, -1), self._waiting, strict=True):
            values = {name: float(value) for name, value in parts.items()}
            if first_bad is None and not math.isfinite(values[LOSS]):
                first_bad = age
            for name, value in values.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            self.count += 1
        self._waiting.clear()
        return first_bad

    def means(self) -> dict[str, float]:
        """Mean of every part over the batches fetched so far."""
        return {name: value / self.count for name, value in self.sums.items()}
