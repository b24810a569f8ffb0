"""What an evaluation found: every metric of every model by horizon step and channel, and whether a model earns its place."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from presurge.evaluation.metrics import METRICS, Scores
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, Clock
from presurge.series.timestamps import format_stamp

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU seconds of one model: of its fit (None where it was loaded) and of all its forecasts."""

    predict_seconds: float
    fit_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of the accuracy table: the metrics of one model on one channel.

    Attributes:
        values: Metric -> value, averaged over the horizon; NaN where undefined.
        best: The metrics in which no other model is better on this channel.
    """

    model: str
    channel: str
    values: dict[str, float]
    best: frozenset[str]


@dataclass(frozen=True, slots=True)
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
        """By what share of the baseline's error the model is better (negative: worse)."""
        return 1 - self.value / self.baseline_value if self.baseline_value else 0.0

    def sentence(self) -> str:
        """The duel in plain words."""
        ours, theirs = _apart(self.value, self.baseline_value)
        name = self.metric.upper()
        if self.won:
            return (
                f"{self.model} beats the best baseline, {self.baseline}, on {self.channel} by "
                f"{100 * self.gain:.1f} %: {name} {ours} against {theirs}."
            )
        compared = f"both have {name} {ours}" if ours == theirs else f"{name} {ours} against {theirs}"
        return f"{self.model} does not beat {self.baseline} on {self.channel}: {compared}."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The scores of models over one span.

    Attributes:
        scores: Model -> metric -> float64 [H, C], NaN where undefined.
        channels: The C channels.
        step: Frequency in microseconds.
        clock: Whether times are dates or relative to the start of a trace.
        horizon: H.
        contexts: Model -> rows of history that it reads.
        costs: Model -> CPU seconds.
        baselines: Which of the models are baselines.
        n_windows: Windows on which every model was scored.
        n_skipped: Windows left out because a row of a context was missing.
        stride: Rows between two origins.
        first_us: Time of the first target row, microseconds since the Unix epoch.
        last_us: Time of the last target row.
    """

    scores: dict[str, Scores]
    channels: tuple[Channel, ...]
    step: int
    clock: Clock
    horizon: int
    contexts: dict[str, int]
    costs: dict[str, Cost]
    baselines: tuple[str, ...]
    n_windows: int
    n_skipped: int
    stride: int
    first_us: int
    last_us: int

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in the order given."""
        return tuple(self.scores)

    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Model -> channel -> metric -> average over the horizon; None where undefined."""
        metrics: dict[str, dict[str, dict[str, float | None]]] = {model: {} for model in self.models}
        for row in self.table():
            metrics[row.model][row.channel] = {name: _json(value) for name, value in row.values.items()}
        return metrics

    def table(self) -> list[TableRow]:
        """The accuracy table: channel by channel, one row per model."""
        rows = []
        for c, channel in enumerate(self.channels):
            values = {
                model: {metric: float(scores[metric][:, c].mean()) for metric in METRICS}
                for model, scores in self.scores.items()
            }
            for model, row in values.items():
                best = (m for m in METRICS if model in _best(m, {name: v[m] for name, v in values.items()}))
                rows.append(TableRow(model, channel.name, row, frozenset(best)))
        return rows

    def duels(self) -> tuple[Duel, ...]:
        """Each model that is not a baseline against the best baseline, channel by channel."""
        return duels({(row.model, row.channel): row.values for row in self.table()}, self.baselines)

    def verdicts(self) -> tuple[str, ...]:
        """The duels as plain sentences."""
        return tuple(duel.sentence() for duel in self.duels())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: averages under ``metrics``, single steps under ``by_horizon``; undefined values are null."""
        return {
            "metrics": self.metrics(),
            "by_horizon": {
                model: {
                    channel.name: {m: [_json(v) for v in values[:, c]] for m, values in scores.items()}
                    for c, channel in enumerate(self.channels)
                }
                for model, scores in self.scores.items()
            },
            "windows": self.n_windows,
            "skipped": self.n_skipped,
            "stride": self.stride,
            "horizon": self.horizon,
            "step_seconds": self.step // SECOND,
            "span": [format_stamp(self.first_us, self.clock), format_stamp(self.last_us, self.clock)],
            "baselines": list(self.baselines),
            "context": self.contexts,
            "cpu_seconds": {
                name: {"fit": cost.fit_seconds, "predict": cost.predict_seconds}
                for name, cost in self.costs.items()
            },
            "verdicts": list(self.verdicts()),
        }


def duels(
    averages: Mapping[tuple[str, str], Mapping[str, float]], baselines: Iterable[str]
) -> tuple[Duel, ...]:
    """Let every model that is not a baseline meet the best baseline of each channel.

    Args:
        averages: (model, channel) -> metric -> value.
        baselines: Names of the models that are baselines.
    """
    reference, found = set(baselines), []
    for (model, channel), values in averages.items():
        metric = "mae" if math.isnan(values["wape"]) else "wape"  # it is undefined where all values are zero
        rivals = {
            rival: other[metric]
            for (rival, of), other in averages.items()
            if of == channel and rival in reference and not math.isnan(other[metric])
        }
        if rivals and model not in reference and not math.isnan(values[metric]):
            best = min(rivals, key=rivals.__getitem__)
            found.append(Duel(model, best, channel, metric, values[metric], rivals[best]))
    return tuple(found)


def _apart(first: float, second: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to tell them apart: three digits or up to six."""

    def text(value: float, digits: int) -> str:
        if value == 0 or 1e-3 <= abs(value) < 10:
            return f"{value:.{digits}f}"
        return f"{value:,.{digits - 2}f}" if abs(value) >= 10 else f"{value:.{digits - 1}e}"

    pairs = [(text(first, digits), text(second, digits)) for digits in range(3, 7)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def _best(metric: str, values: dict[str, float]) -> set[str]:
    """The models that no other beats: least error, highest R², bias nearest to 0, coverage nearest to its nominal."""
    distances = {model: _distance(metric, value) for model, value in values.items()}
    distance = {model: value for model, value in distances.items() if not math.isnan(value)}
    least = min(distance.values(), default=0.0)
    return {model for model, value in distance.items() if value <= least + _ROUNDING * abs(least)}


def _distance(metric: str, value: float) -> float:
    """How far a value is from perfect; NaN for widths, since a narrow interval is only better if it covers as much."""
    if metric.startswith("coverage_"):
        return abs(value - int(metric.removeprefix("coverage_")) / 100)
    if metric.startswith("width_"):
        return math.nan
    return {"r2": -value, "bias": abs(value)}.get(metric, value)


def _json(value: float | np.float64) -> float | None:
    return None if math.isnan(value) else float(value)
