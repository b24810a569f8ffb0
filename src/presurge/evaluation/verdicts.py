"""Verdicts: whether a model beats the baselines, by how much, and on how much evidence.

The losses of two models on the same windows are compared, so what is hard for both cancels. Neighbouring windows overlap and
share their errors; the bootstrap therefore draws blocks of windows that follow each other.

Shapes: U units of time, B windows, C channels.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from presurge.evaluation.metrics import Float64Array, Totals
from presurge.series.panel import IntArray

MAX_UNITS = 1_024
"""Units of time that losses are kept for; more origins share units."""
FEWEST = 20
"""Independent windows below which there is no evidence, whatever the differences are."""
_RESAMPLES = 1_000
_TAIL = 0.025
_NOTICEABLE = 0.005
"""Share by which another score has to be worse before it counts against a verdict."""
_BIASED = 0.05
"""Share of the load from which on a bias counts against a verdict."""
_LOSSES = {"wql": "pinball", "wape": "absolute", "mae": "absolute"}
"""Score of a verdict, in order of preference -> the loss whose sums it compares."""
Averages = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Channel -> model -> metric -> value."""
Outcome = Literal["better", "worse", "mixed", "no evidence"]


class Losses:
    """The losses of models over time: sums over the windows of all items whose origins share a unit of time.

    A unit is a single origin time, or several where there are more than ``MAX_UNITS`` of them, so the memory does not
    grow with the number of windows. Items count as one at each time, because a burst often strikes many of them.
    """

    def __init__(self) -> None:
        self.n_origins = 0
        self._parts: list[tuple[IntArray, dict[tuple[str, str], Float64Array]]] = []

    def begin(self, times_B: IntArray) -> None:
        """Make room for windows with origins at the given times, later than those before."""
        times = np.unique(times_B)
        self.n_origins += len(times)
        self._parts.append((times[:: -(-len(times) // MAX_UNITS)], {}))

    def add(self, model: str, times_B: IntArray, losses: Totals) -> None:
        """Add what a model lost on B windows."""
        units, sums = self._parts[-1]
        unit_B = np.searchsorted(units, times_B, side="right") - 1
        for name in losses.keys() & _LOSSES.values():
            nothing = np.zeros((len(units), losses[name].shape[1]))
            np.add.at(sums.setdefault((model, name), nothing), unit_B, losses[name])

    def of(self, model: str, name: str, channel: int) -> Float64Array:
        """The sums of a loss on one channel: float64 [U]; empty if the model has no such loss."""
        sums = [sums[model, name] for _, sums in self._parts if (model, name) in sums]
        return np.concatenate([np.zeros(0), *(sums_UC[:, channel] for sums_UC in sums)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrary:
    """A score that points the other way than a verdict: the model's value beside that of the best baseline in that score."""

    metric: str
    value: float
    baseline: str
    baseline_value: float

    def words(self) -> str:
        """The score in words."""
        if self.metric == "relative_bias":
            ours, theirs = f"{percent(self.value)} of the load", percent(self.baseline_value)
            return f"bias ({ours} against {theirs} of {self.baseline})"
        ours, theirs = apart(self.value, self.baseline_value)
        return f"{self.metric.upper()} ({ours} against {theirs} of {self.baseline})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """One model against the best baseline on one channel.

    Attributes:
        metric: The score: WQL, or WAPE (MAE where that is undefined) between models without quantiles.
        value: The model's score.
        baseline_value: The baseline's score.
        interval: The 95 % interval of the gain; None where too few windows are independent.
        windows: About how many independent windows that rests on.
        contrary: Scores that point the other way.
    """

    model: str
    baseline: str
    channel: str
    metric: str
    value: float
    baseline_value: float
    interval: tuple[float, float] | None = None
    windows: int = 0
    contrary: tuple[Contrary, ...] = ()

    @property
    def gain(self) -> float:
        """By what share of the baseline's error the model is better (negative: worse)."""
        return 1 - self.value / self.baseline_value if self.baseline_value else 0.0

    @property
    def outcome(self) -> Outcome:
        """What the numbers allow to say: ``mixed`` is better by this score and worse by another."""
        low, high = self.interval or (0, 0)
        if low <= 0:
            return "worse" if high < 0 else "no evidence"
        return "mixed" if self.contrary else "better"

    def sentence(self) -> str:
        """The duel in plain words."""
        rival = f"the best baseline, {self.baseline}, on {self.channel}"
        size = f"{abs(100 * self.gain):.1f} %"
        start = {
            "better": f"{self.model} beats {rival} by {size}",
            "mixed": f"{self.model} is ahead of {rival} by {size}, but not in every score",
            "worse": f"{self.model} is worse than {rival} by {size}",
            "no evidence": f"No evidence that {self.model} beats {rival}",
        }[self.outcome]
        return f"{start}: {self._numbers()}.{self._other_scores()}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "gain": self.gain, "outcome": self.outcome, "sentence": self.sentence()}

    def _numbers(self) -> str:
        ours, theirs = apart(self.value, self.baseline_value)
        name = self.metric.upper()
        text = f"both have {name} {ours}" if ours == theirs else f"{name} {ours} against {theirs}"
        if self.windows < FEWEST:
            few = f"{self.windows} independent window{'' if self.windows == 1 else 's'}"
            return f"{text}, from only {few} (a verdict needs {FEWEST})"
        if self.interval is None:
            return text
        span = " to ".join(map(percent, self.interval))
        return f"{text} (95 % interval of the gain {span}, {self.windows:,} independent windows)"

    def _other_scores(self) -> str:
        words = " and ".join(one.words() for one in self.contrary)
        verb = "point" if len(self.contrary) > 1 else "points"
        return f" {words[0].upper()}{words[1:]} {verb} the other way." if words else ""


def duels(averages: Averages, baselines: Iterable[str], losses: Losses, *, overlap: int) -> tuple[Duel, ...]:
    """Let every model that is not a baseline meet the best baseline, channel by channel.

    Args:
        averages: The scores.
        baselines: Names of the models that are baselines.
        losses: The losses of all models on the same windows.
        overlap: How many neighbouring windows share target rows.
    """
    found = []
    for c, (channel, scores) in enumerate(averages.items()):
        rivals = {name: scores[name] for name in baselines if name in scores}
        for model in (name for name in scores if name not in rivals):
            values = scores[model]
            metric = next((m for m in _LOSSES if not math.isnan(values[m]) and _ranked(m, rivals)), None)
            if metric is None:
                continue
            best, *others = _ranked(metric, rivals)
            sums = [losses.of(name, _LOSSES[metric], c) for name in (model, best, *others)]
            windows, interval = _evidence(sums, losses.n_origins, overlap)
            value, baseline_value = values[metric], rivals[best][metric]
            ahead = value <= baseline_value
            duel = Duel(
                model=model,
                baseline=best,
                channel=channel,
                metric=metric,
                value=value,
                baseline_value=baseline_value,
                interval=interval,
                windows=windows,
                contrary=_contrary(metric, ahead, values, rivals) if interval else (),
            )
            found.append(duel)
    return tuple(found)


def _contrary(
    metric: str, ahead: bool, values: Mapping[str, float], rivals: Mapping[str, Mapping[str, float]]
) -> tuple[Contrary, ...]:
    """The scores that point the other way than a metric in which a model is ahead, or not."""
    found = []
    for other in ("wql", "wape", "rmse", "relative_bias"):
        ours, ranked = values[other], _ranked(other, rivals)
        if not ranked or math.isnan(ours) or other == metric:
            continue
        theirs = rivals[ranked[0]][other]
        if other == "relative_bias":
            points = ahead and abs(ours) > max(_BIASED, abs(theirs))
        else:
            points = (ours - theirs if ahead else theirs - ours) > _NOTICEABLE * theirs
        if points:
            found.append(Contrary(metric=other, value=ours, baseline=ranked[0], baseline_value=theirs))
    return tuple(found)


def _ranked(metric: str, rivals: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The baselines that have a score, the best first: with the least value, or the least bias in size."""
    known = {name: abs(values[metric]) for name, values in rivals.items() if not math.isnan(values[metric])}
    return sorted(known, key=known.__getitem__)


def _evidence(
    sums: list[Float64Array], n_origins: int, overlap: int
) -> tuple[int, tuple[float, float] | None]:
    """The number of independent windows and the interval of the gain, of a model, the best baseline and the others."""
    ours_U, best_U, *others = sums

    def usable(one_U: Float64Array) -> bool:
        return len(one_U) == len(ours_U) > 0 and bool(np.isfinite(one_U).all())

    if not (usable(ours_U) and usable(best_U)):
        return 0, None
    each = n_origins / len(ours_U)
    block = max(block_length(ours_U - best_U), math.ceil(overlap / each))
    windows = int(n_origins // (block * each))
    if windows < FEWEST or best_U.sum() <= 0:
        return windows, None
    return windows, gain_interval(ours_U, np.stack([best_U, *filter(usable, others)], axis=1), block)


def gain_interval(ours_U: Float64Array, theirs_UK: Float64Array, block: int) -> tuple[float, float]:
    """The 95 % interval of ``1 - sum(ours) / sum(theirs)`` by a paired, circular moving-block bootstrap.

    Each resample draws blocks of ``block`` neighbouring units, the last of them followed by the first, until it has as many
    units as there are. Which of the K baselines is best is known only afterwards, so the lower end lets every resample
    choose its own best, and the upper end compares with the first one. Percentiles are expanded for few blocks.

    Sources: Künsch, "The jackknife and the bootstrap for general stationary observations", 1989; Politis and Romano, "A
    circular block-resampling procedure for stationary data", 1992; Hesterberg, "What teachers should know about the
    bootstrap", 2015 (expanded percentiles).
    """
    units = len(ours_U)
    n_blocks = -(-units // block)
    starts = np.random.default_rng(0).integers(0, units, (_RESAMPLES, n_blocks))

    def resampled(losses_U: Float64Array) -> Float64Array:
        running = np.cumsum(np.concatenate([np.zeros(1), losses_U, losses_U[:block]]))
        sums: Float64Array = (running[block : block + units] - running[:units])[starts].sum(axis=1)
        return sums

    ours = resampled(ours_U)
    theirs = np.stack([resampled(one_U) for one_U in theirs_UK.T])
    least = np.finfo(np.float64).tiny  # of a resample without a loss
    fixed, chosen = (1 - ours / np.maximum(one, least) for one in (theirs[0], theirs.min(axis=0)))
    tail = NormalDist().cdf(-math.sqrt(n_blocks / (n_blocks - 1)) * _student(n_blocks - 1))
    return float(np.quantile(chosen, tail)), float(np.quantile(fixed, 1 - tail))


def block_length(values_U: Float64Array) -> int:
    """The length of blocks that suits the autocorrelation of a series, for a circular block bootstrap.

    Source: Politis and White, "Automatic block-length selection for the dependent bootstrap", 2004, with the correction by
    Patton, Politis and White, 2009.
    """
    n = len(values_U)
    away = values_U - values_U.mean()
    spread = float(away @ away)
    if n < FEWEST or spread <= 1e-24 * n * float(np.abs(values_U).max()) ** 2:  # rounding alone
        return 1
    run = max(5, int(math.log10(n)))
    most = math.ceil(math.sqrt(n)) + run
    size = 1 << (2 * n).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(away, size)) ** 2, size)[: most + 1] / n
    small = np.abs(products) * n / spread < 2 * math.sqrt(math.log10(n) / n)
    quiet = (lag for lag in range(1, most - run + 1) if small[lag : lag + run].all())
    last = min(most, 2 * next(quiet, most))
    lags = np.arange(1, last + 1)
    weighted = np.minimum(1, 2 * (1 - lags / last)) * products[1 : last + 1]
    slope, level = 2 * float(lags @ weighted), float(products[0] + 2 * weighted.sum())
    if level == 0:
        return 1
    best = (1.5 * (slope / level) ** 2 * n) ** (1 / 3)
    return max(1, round(float(min(best, 3 * math.sqrt(n), n / 3))))


def _student(freedom: int) -> float:
    """The quantile of Student's t that leaves the tail, by Cornish and Fisher's expansion (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(1 - _TAIL)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2


def apart(first: float, second: float) -> tuple[str, str]:
    """Both numbers with as many digits as it takes to tell them apart: three digits or up to six."""

    def text(value: float, digits: int) -> str:
        if value == 0 or 1e-3 <= abs(value) < 10:
            return f"{value:.{digits}f}"
        return f"{value:,.{digits - 2}f}" if abs(value) >= 10 else f"{value:.{digits - 1}e}"

    pairs = [(text(first, digits), text(second, digits)) for digits in range(3, 7)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])


def percent(share: float) -> str:
    """A share in percent, with a sign and a true minus."""
    return f"{100 * share:+.1f} %".replace("-", "−")
