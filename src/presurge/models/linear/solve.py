"""Exact least squares of linear forecasts from moments: one eigendecomposition serves every ridge.

A ridge counts in rows: it weighs as much as that many windows whose inputs vary as the training windows do on average, so
it means the same on any scale and carries over from a fold to all rows. The bias is never penalised. Source: Hoerl and
Kennard, "Ridge Regression", 1970.

Shapes: P ridges, L inputs, H targets, W = L + H.
"""

from collections.abc import Sequence

import numpy as np

from presurge.models.linear.moments import Moments
from presurge.series.scalers import Float64Array

RIDGES = (30_000.0, 10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 0.0)
"""What validation chooses from; the largest comes first, so that it wins a tie."""
DEFAULT_RIDGE = 1_000.0
"""Used where there are too few rows to choose: a firm one."""

_RANK_TOLERANCE = 1e-13
"""Directions of the inputs with less than this share of the largest eigenvalue hold only rounding and are not used."""


def solve(
    moments: Moments, inputs: int, ridges: Sequence[float], *, least: float = 0.0
) -> tuple[Float64Array, Float64Array]:
    """The least squares forecast of the last H of W values from the first L, for each of P ridges.

    Without a ridge this is the least squares solution of least norm, which is unique and the ordinary one where the inputs
    have full rank; a constant channel gets zero weights and its own value as bias.

    Args:
        moments: Moments of windows of W values.
        inputs: L.
        ridges: Penalties in rows.
        least: A floor under the penalty of each window, which keeps weights finite where inputs are collinear.

    Returns:
        Weights [P, H, L] and biases [P, H]: the forecast is ``weight_HL @ inputs + bias_H``.
    """
    mean_W, scatter_WW = moments.centred()
    values_L, vectors_LL = _eigen(scatter_WW[:inputs, :inputs])
    rotated_LH = vectors_LL.T @ scatter_WW[:inputs, inputs:]
    usable_L = values_L > max(values_L[-1] * _RANK_TOLERANCE, np.finfo(np.float64).tiny)
    average = float(values_L[usable_L].sum()) / inputs
    penalty_P1 = np.maximum(np.array(ridges)[:, None] / moments.n, least) * average
    factor_PL = np.where(usable_L, 1 / np.where(usable_L, values_L + penalty_P1, 1), 0)
    shrunk_PHL = factor_PL[:, None] * rotated_LH.T
    weight_PHL = (shrunk_PHL.reshape(-1, inputs) @ vectors_LL.T).reshape(shrunk_PHL.shape)
    return weight_PHL, mean_W[inputs:] - weight_PHL @ mean_W[:inputs]


def _eigen(scatter_LL: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues, ascending, and eigenvectors of a scatter.

    LAPACK's divide and conquer gives up on a few matrices with clustered eigenvalues, however harmless they are. Singular
    values of a scatter are the same and come by another way.
    """
    try:
        values_L, vectors_LL = np.linalg.eigh(scatter_LL)
    except np.linalg.LinAlgError:
        vectors_LL, values_L, _ = np.linalg.svd(scatter_LL)
        return values_L[::-1], vectors_LL[:, ::-1]
    return values_L, vectors_LL


def squared_errors(moments: Moments, weight_PHL: Float64Array, bias_PH: Float64Array) -> Float64Array:
    """The mean squared error [P] of each solution over the windows that the moments were taken of."""
    context, horizon = weight_PHL.shape[2], weight_PHL.shape[1]
    mean_W, scatter_WW = moments.centred()
    xx_LL, xy_LH = scatter_WW[:context, :context], scatter_WW[:context, context:]
    explained_PHL = weight_PHL @ xx_LL - 2 * xy_LH.T
    spread_P = np.trace(scatter_WW[context:, context:]) + (explained_PHL * weight_PHL).sum(axis=(1, 2))
    offset_PH = mean_W[context:] - weight_PHL @ mean_W[:context] - bias_PH
    errors_P: Float64Array = np.maximum(spread_P, 0) / moments.n + np.square(offset_PH).sum(axis=1)
    errors_P /= horizon
    return errors_P


def without_anchor(weight_XL: Float64Array, anchor_L: Float64Array) -> Float64Array:
    """The weights for plain contexts that equal weights for contexts and targets less their level ``context @ anchor_L``."""
    plain_XL: Float64Array = weight_XL + (1 - weight_XL.sum(axis=-1, keepdims=True)) * anchor_L
    return plain_XL
