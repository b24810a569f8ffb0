"""Choosing by rolling validation: folds that grow along the training rows, and the errors of models over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from presurge.models.forecaster import Forecaster
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span
from presurge.series.windows import IntArray, batch_of, chunks, targets_of, window_origins

MAX_WINDOWS = 5_000
"""Windows that judge in one fold; more would cost time and move no choice."""
_FIRST = Fraction(55, 100)
"""Share of the training rows that the first fold learns from."""
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """Rows to learn from, and the rows right after them that judge."""

    learn: Span
    judge: Span


def rolling_folds(train: Span, validation: Span | None, folds: int) -> tuple[Fold, ...]:
    """Expanding folds: the first learns from 55 % of every item, each is judged on the next equal part of the rest.

    Validation rows, where given, are judged by one fold more, which learns from all training rows.
    """
    parts = train.cut([_FIRST, *[(1 - _FIRST) / folds] * folds])
    heads = [Span(train.first, part.last) for part in parts]
    pairs = list(zip(heads[:-1], parts[1:], strict=True))
    if validation is not None:
        pairs.append((train, validation))
    return tuple(Fold(learn=learn, judge=judge) for learn, judge in pairs)


def thinned(origins: IntArray, most: int = MAX_WINDOWS) -> IntArray:
    """Evenly spaced origins, at most so many."""
    return origins[:: max(1, -(-len(origins) // most))]


def judging_origins(panel: Panel, judge: Span, *, context: int, horizon: int) -> IntArray:
    """The origins of the windows that judge."""
    return thinned(window_origins(panel, judge, context=context, horizon=horizon))


def absolute_errors(model: Forecaster, panel: Panel, origins: IntArray) -> Float64Array:
    """The sum of absolute errors of every window and channel: float64 [B, C], NaN where anything is missing."""
    size = max(1, _VALUES_AT_ONCE // (len(panel.channels) * max(model.context, model.horizon)))
    pieces = [
        np.abs(
            model.predict(batch_of(panel, part, model.context)).mean_BHC.astype(np.float64)
            - targets_of(panel, part, model.horizon)
        ).sum(axis=1)
        for part in chunks(origins, size)
    ]
    return np.concatenate(pieces) if pieces else np.zeros((0, len(panel.channels)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Errors of a champion and a challenger over the same windows.

    Attributes:
        champion_FC: float64, sums of absolute errors by fold and channel.
        challenger_FC: The same of the challenger.
        size_FC: Sums of absolute actual values.
    """

    champion_FC: Float64Array
    challenger_FC: Float64Array
    size_FC: Float64Array

    def errors(self) -> tuple[Float64Array, Float64Array]:
        """WAPE of champion and challenger over all folds, float64 [C]."""
        size_C = np.maximum(self.size_FC.sum(axis=0), np.finfo(np.float64).tiny)
        return self.champion_FC.sum(axis=0) / size_C, self.challenger_FC.sum(axis=0) / size_C

    def won(self, margin: float) -> list[bool]:
        """For each channel, whether the challenger is better in every fold, and clearly so in all together."""
        every_C = (self.challenger_FC < self.champion_FC).all(axis=0)
        clear_C = self.challenger_FC.sum(axis=0) < (1 - margin) * self.champion_FC.sum(axis=0)
        return [bool(won) for won in every_C & clear_C]


def compare(
    champions: Sequence[Forecaster], challengers: Sequence[Forecaster], panel: Panel, folds: Sequence[Fold]
) -> Comparison:
    """Score two models, each fitted to every fold, on the windows that both can forecast."""
    shape = (len(folds), len(panel.channels))
    champion_FC, challenger_FC, size_FC = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for f, (champion, challenger, fold) in enumerate(zip(champions, challengers, folds, strict=True)):
        context = max(champion.context, challenger.context)
        origins = judging_origins(panel, fold.judge, context=context, horizon=champion.horizon)
        one_BC, other_BC = (absolute_errors(model, panel, origins) for model in (champion, challenger))
        both = ~np.isnan(one_BC) & ~np.isnan(other_BC)
        champion_FC[f] = one_BC.sum(axis=0, where=both)
        challenger_FC[f] = other_BC.sum(axis=0, where=both)
        actual_BC = np.abs(targets_of(panel, origins, champion.horizon)).sum(axis=1, dtype=np.float64)
        size_FC[f] = actual_BC.sum(axis=0, where=both)
    return Comparison(champion_FC=champion_FC, challenger_FC=challenger_FC, size_FC=size_FC)
