"""Weights of their own for the items of a fleet, as far as the folds show that they forecast better.

Weights for all items learn from more rows, and those of one item from the right ones. So every item with enough rows gets a
model of its own too, and the folds choose between the two and their mean.

Shapes: I items, C targets, P shares.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from presurge.errors import DataError
from presurge.models.linear.select import Fold, thinned, window_errors
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, window_origins

if TYPE_CHECKING:
    from presurge.models.linear.linear import Linear

SHARES = (0.0, 0.5, 1.0)
"""How much of a forecast may come from the weights of the item."""
_COUNTS = (1.05, 1.0, 0.98)
"""What the error of each share counts for: the folds hold fewer rows of an item than the final fit, so they flatter weights
that learn from all items."""


class Own(NamedTuple):
    """The model of one item, and its share of the forecast of every target: float64 [C]."""

    model: Any  # a Linear; the API reference cannot resolve that name in a named tuple
    share_C: Float64Array


def fit_items(
    new: "Callable[[], Linear]",
    panel: Panel,
    train: Span,
    validation: Span | None,
    pooled: Mapping[int, "Linear"],
    shares: Sequence[float],
) -> tuple[dict[str, Own], dict[int, dict[str, Own]]]:
    """Fit a model to every item that has enough rows, and choose its shares.

    Args:
        new: Makes an unfitted model of one item.
        panel: All items.
        train: The training rows.
        validation: The validation rows, if there are any.
        pooled: The model of all items as fitted to each fold.
        shares: What to choose from; a single one is taken without asking the folds.

    Returns:
        What has a share, by the item's name; and the same as fitted to each fold.
    """
    own: dict[str, Own] = {}
    at_fold: dict[int, dict[str, Own]] = {f: {} for f in pooled}
    for item, name in enumerate(panel.items):
        one, model = panel.take_items([item]), new()
        later = None if validation is None else _shifted(validation, panel, item)
        with suppress(DataError):  # too few rows
            folds, alone = model.fit_folds(one, _shifted(train, panel, item), later)[1:]
            both = {f: (pooled[f], alone[f]) for f in pooled.keys() & alone.keys()}
            share_C = _chosen(both, one, folds, shares)
            if share_C.any():
                own[name] = Own(model, share_C)
                for f, (_, fitted) in both.items():
                    at_fold[f][name] = Own(fitted, share_C)
    return own, at_fold


def with_own(point_BHC: FloatArray, own: Mapping[str, Own], batch: WindowBatch) -> None:
    """Put the shares of the items' own models into forecasts."""
    for item in np.unique(batch.item_B) if own else ():
        if (found := own.get(batch.items[item])) is not None:
            rows = np.flatnonzero(batch.item_B == item)
            share_C, made = found.share_C, found.model.predict(batch.rows(rows)).point_BHC
            point_BHC[rows] = (1 - share_C) * point_BHC[rows] + share_C * made


def _chosen(
    both: Mapping[int, tuple["Linear", "Linear"]],
    panel: Panel,
    folds: Sequence[Fold],
    shares: Sequence[float],
) -> Float64Array:
    """The share of least absolute error over all folds, for each target; none where no fold can judge."""
    channels = len(panel.targets)
    if len(shares) == 1:
        return np.full(channels, shares[0])
    share_P11 = np.array(shares)[:, None, None]
    total_PC = np.zeros((len(shares), channels))

    def mixed(models: tuple["Linear", "Linear"], batch: WindowBatch) -> Float64Array:
        pooled_BHC, own_BHC = (model.predict(batch).point_BHC.astype(np.float64) for model in models)
        mixed_BPHC = (1 - share_P11) * pooled_BHC[:, None] + share_P11 * own_BHC[:, None]
        return mixed_BPHC.reshape(len(batch.item_B), -1, channels)

    for f, models in both.items():
        size = models[0].context, models[0].horizon
        origins = thinned(window_origins(panel, folds[f].judge, context=size[0], horizon=size[1]))
        errors = window_errors(partial(mixed, models), panel, origins, *size)
        total_PC += sum(np.nansum(error_BPC, axis=0) for error_BPC in errors)
    share_C: Float64Array = np.array(shares)[(total_PC * np.array(_COUNTS)[:, None]).argmin(axis=0)]
    return share_C


def _shifted(span: Span, panel: Panel, item: int) -> Span:
    """The rows of one item, counted within it."""
    begin, at = panel.indptr[item], slice(item, item + 1)
    return Span(span.first[at] - begin, span.last[at] - begin)
