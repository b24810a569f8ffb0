"""Choosing on later rows: folds that grow along the training rows, their complete windows, and two models compared.

Shapes: B windows, C channels, F folds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from presurge.errors import DataError
from presurge.models import plugins
from presurge.models.forecaster import Forecaster
from presurge.series.panel import IntArray, Panel, columns_of
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span
from presurge.series.windows import batch_of, chunks, complete, targets_of, window_origins

MAX_WINDOWS = 5_000
"""Windows that judge in one fold; more would cost time and change no choice."""
_FIRST = Fraction(55, 100)
"""Share of the training rows that the first fold learns from."""
_VALUES_AT_ONCE = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fold:
    """Rows to learn from, and the rows right after them that judge."""

    learn: Span
    judge: Span


def rolling_folds(train: Span, validation: Span | None, folds: int) -> tuple[Fold, ...]:
    """Expanding folds: the first learns from 55 % of every item, and each is judged on the next equal part of the rest.

    Validation rows, if there are any, judge one more fold, which learns from all training rows.
    """
    parts = train.cut([_FIRST, *[(1 - _FIRST) / folds] * folds])
    heads = [Span(train.first, part.last) for part in parts]
    pairs = list(zip(heads[:-1], parts[1:], strict=True))
    if validation is not None:
        pairs.append((train, validation))
    return tuple(Fold(learn=learn, judge=judge) for learn, judge in pairs)


def complete_starts(
    panel: Panel, span: Span, *, context: int, horizon: int, stride: int = 1
) -> list[IntArray]:
    """For each target, the first rows of the windows of a span in which neither it nor a covariate misses a value."""
    origins = window_origins(panel, span, context=context, horizon=horizon, stride=stride)
    whole_BN = complete(panel, origins, before=context, after=horizon)
    helped_B = whole_BN[:, columns_of(panel.channels, "known")].all(axis=1)
    if (observed := columns_of(panel.channels, "observed")).size:
        helped_B &= complete(panel, origins, before=context, after=0)[:, observed].all(axis=1)
    return [origins[whole_BN[:, c] & helped_B] - context + 1 for c in panel.targets]


def no_window(train: Span, context: int, horizon: int, channel: str | None) -> DataError:
    """The error of a channel, or of all together, without a complete training window."""
    return DataError(
        f"the {len(train)} training rows hold no complete window of {context} + {horizon} rows",
        where=None if channel is None else f"channel {channel!r}",
        hint="Give more rows, a shorter `context` or `horizon`, repair gaps, or leave the channel out.",
    )


def thinned(origins: IntArray, most: int = MAX_WINDOWS) -> IntArray:
    """Evenly spaced origins, at most so many."""
    return origins[:: max(1, -(-len(origins) // most))]


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
        """For each channel, whether the challenger is better in every fold, and by the margin in all together."""
        every_C = (self.challenger_FC < self.champion_FC).all(axis=0)
        clear_C = self.challenger_FC.sum(axis=0) < (1 - margin) * self.champion_FC.sum(axis=0)
        return [bool(won) for won in every_C & clear_C]


def compare(
    champions: Sequence[Forecaster], challengers: Sequence[Forecaster], panel: Panel, folds: Sequence[Fold]
) -> Comparison:
    """Score two models, each fitted to every fold, on the windows that both can forecast."""
    sums = []
    for champion, challenger, fold in zip(champions, challengers, folds, strict=True):
        context, horizon = max(champion.context, challenger.context), champion.horizon
        origins = thinned(window_origins(panel, fold.judge, context=context, horizon=horizon))
        one_BC, other_BC = (_absolute_errors(model, panel, origins) for model in (champion, challenger))
        both_BC = ~np.isnan(one_BC) & ~np.isnan(other_BC)
        actual_BC = np.abs(targets_of(panel, origins, horizon)).sum(axis=1, dtype=np.float64)
        sums.append([x_BC.sum(axis=0, where=both_BC) for x_BC in (one_BC, other_BC, actual_BC)])
    champion_FC, challenger_FC, size_FC = np.array(sums).transpose(1, 0, 2)
    return Comparison(champion_FC=champion_FC, challenger_FC=challenger_FC, size_FC=size_FC)


def _absolute_errors(model: Forecaster, panel: Panel, origins: IntArray) -> Float64Array:
    """The sum of absolute errors of every window and channel: float64 [B, C], NaN where anything is missing."""
    size = max(1, _VALUES_AT_ONCE // (len(panel.targets) * max(model.context, model.horizon)))
    pieces = [
        np.abs(
            plugins.predict(model, batch_of(panel, part, model.context, model.horizon)).mean_BHC.astype(
                np.float64
            )
            - targets_of(panel, part, model.horizon)
        ).sum(axis=1)
        for part in chunks(origins, size)
    ]
    return np.concatenate(pieces) if pieces else np.zeros((0, len(panel.targets)))
