"""Choosing on later rows: folds that grow along the training rows, their complete windows, and the losses of forecasts.

Shapes: B windows, L context, H horizon, C targets, P alternative forecasts of each.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.errors import DataError
from presurge.models.conformal import score_space
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import IntArray, Panel, columns_of
from presurge.series.scalers import Float64Array, Scaler
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, batch_of, chunks, complete, targets_of, window_origins

MAX_WINDOWS = 5_000
"""Windows that judge in one fold; more would cost time and change no choice."""
_FIRST = Fraction(55, 100)
"""Share of the training rows that the first fold learns from."""
_VALUES_AT_ONCE = 1 << 21


class Fold(NamedTuple):
    """Rows to learn from, and the rows right after them that judge."""

    learn: Span
    judge: Span


def rolling_folds(train: Span, validation: Span | None, folds: int) -> list[Fold]:
    """Expanding folds: the first learns from 55 % of every item, and each is judged on the next equal part of the rest.

    Validation rows, if there are any, judge one more fold, which learns from all training rows.
    """
    parts = train.cut([_FIRST, *[(1 - _FIRST) / folds] * folds])
    rolling = [Fold(Span(train.first, part.last), after) for part, after in pairwise(parts)]
    return rolling if validation is None else [*rolling, Fold(train, validation)]


def complete_starts(panel: Panel, span: Span, context: int, horizon: int, stride: int = 1) -> list[IntArray]:
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


def window_forecasts(
    forecast: Callable[[WindowBatch], npt.NDArray[Any]],
    panel: Panel,
    origins: IntArray,
    context: int,
    horizon: int,
    *,
    alternatives: int = 10,
) -> Iterator[tuple[IntArray, Float64Array, npt.NDArray[Any]]]:
    """Yield some origins after another: they, the actual values [b, 1, H, C], NaN where missing, and forecasts [b, P, H, C].

    Args:
        forecast: Forecasts b windows: [b, P x H, C], all alternatives one after another.
        panel: Has the C targets.
        origins: The last context row of every window.
        context: L.
        horizon: H.
        alternatives: Largest P, by which the number of windows at once is chosen.
    """
    at_once = _VALUES_AT_ONCE // (len(panel.channels) * (context + alternatives * horizon))
    for part in chunks(origins, max(1, at_once)):
        actual_B1HC = targets_of(panel, part, horizon).astype(np.float64)[:, None]
        made_BNC = forecast(batch_of(panel, part, context, horizon))
        yield part, actual_B1HC, made_BNC.reshape(len(part), -1, *actual_B1HC.shape[2:])


def item_sizes(panel: Panel, span: Span) -> Float64Array:
    """The mean absolute value of every item and target in a span [I, C]; 1 where all is zero or missing."""
    rows = [
        panel.values[first:last, panel.targets] for first, last in zip(span.first, span.last, strict=True)
    ]
    return np.array([Scaler.fit(values_RC, "meanabs").scale_C for values_RC in rows])


def quantile_loss(actual_BH: npt.NDArray[Any], point_BH: npt.NDArray[Any], *, counts: bool) -> Float64Array:
    """Twice the pinball loss of forecasts with the quantiles of their own errors, the mean of all levels: float64 [B].

    It is summed over the horizon; over the sum of the absolute actual values it is the WQL. The quantiles put forecasts right
    that are shrunken or off by a constant, so that these gain nothing.

    Args:
        actual_BH: Actual values of one channel; none is missing.
        point_BH: Their forecasts.
        counts: Whether the channel counts, so that errors grow with the square root of the load.
    """
    count_1 = np.array([counts])
    centre_BH = score_space(point_BH[..., None], count_1)[..., 0]
    error_BH = score_space(actual_BH[..., None], count_1)[..., 0] - centre_BH
    loss_B = np.zeros(len(actual_BH))
    for level, error_H in zip(QUANTILE_LEVELS, np.quantile(error_BH, QUANTILE_LEVELS, axis=0), strict=True):
        bound_BH = centre_BH + error_H
        over_BH = actual_BH - (np.square(np.maximum(bound_BH, 0)) if counts else bound_BH)
        loss_B += 2 / len(QUANTILE_LEVELS) * np.maximum(level * over_BH, (level - 1) * over_BH).sum(axis=1)
    return loss_B
