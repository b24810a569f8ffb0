"""Plain sentences on whether a model earns its place beside the best baseline."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_DECISIVE = ("wape", "mae")
"""What decides, in order: the second where the first is undefined (a channel that is zero throughout)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """One model against the best baseline on one channel."""

    model: str
    baseline: str
    channel: str
    metric: str
    value: float
    baseline_value: float

    @property
    def won(self) -> bool:
        """Whether the model has the smaller error, by more than the sentence rounds away."""
        ours, theirs = _apart(self.value, self.baseline_value)
        return ours != theirs and self.value < self.baseline_value

    @property
    def gain(self) -> float:
        """By how much of the baseline's error the model is better (negative: worse)."""
        return 1 - self.value / self.baseline_value if self.baseline_value else 0.0

    def sentence(self) -> str:
        """The duel in plain words."""
        ours, theirs = _apart(self.value, self.baseline_value)
        name = self.metric.upper()
        if ours == theirs:
            return f"{self.model} does not beat {self.baseline} on {self.channel}: both have {name} {ours}."
        if not self.won:
            return f"{self.model} does not beat {self.baseline} on {self.channel}: {name} {ours} against {theirs}."
        return (
            f"{self.model} beats the best baseline, {self.baseline}, on {self.channel} by "
            f"{100 * self.gain:.1f} %: {name} {ours} against {theirs}."
        )


def duels(
    averages: Mapping[tuple[str, str], Mapping[str, float]], baselines: Iterable[str]
) -> tuple[Duel, ...]:
    """Let every model that is no baseline meet the best baseline of each channel.

    Args:
        averages: (model, channel) -> metric -> value.
        baselines: Names of the models that are baselines.
    """
    reference = set(baselines)
    found = []
    for (model, channel), values in averages.items():
        if model in reference:
            continue
        metric = next((m for m in _DECISIVE if not math.isnan(values[m])), None)
        rivals = {
            rival: other[metric]
            for (rival, of), other in averages.items()
            if metric and of == channel and rival in reference and not math.isnan(other[metric])
        }
        if metric is None or not rivals:
            continue
        best = min(rivals, key=rivals.__getitem__)
        found.append(
            Duel(
                model=model,
                baseline=best,
                channel=channel,
                metric=metric,
                value=values[metric],
                baseline_value=rivals[best],
            )
        )
    return tuple(found)


def _apart(first: float, second: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to tell them apart: three digits or up to six."""
    for digits in range(3, 7):
        pair = _number(first, digits), _number(second, digits)
        if pair[0] != pair[1]:
            return pair
    return _number(first, 3), _number(second, 3)


def _number(value: float, digits: int) -> str:
    if value == 0 or 1e-3 <= abs(value) < 10:
        return f"{value:.{digits}f}"
    return f"{value:,.{digits - 2}f}" if abs(value) >= 10 else f"{value:.{digits - 1}e}"
