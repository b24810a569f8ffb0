"""The decomposition of DLinear: a moving average is the trend, the rest is the season, each has its own linear map.

Source: Zeng, Chen, Zhang, Xu, "Are Transformers Effective for Time Series Forecasting?", AAAI 2023.
"""

import numpy as np

from presurge.series.scalers import Float64Array


def moving_average_matrix(context: int, kernel_size: int) -> Float64Array:
    """The matrix [L, L] that takes a context to its centred moving average.

    Beyond its ends the context is continued with its first and last value. ``kernel_size`` is odd.
    """
    matrix = np.zeros((context, context))
    reach = kernel_size // 2
    for row in range(context):
        columns = np.arange(row - reach, row + reach + 1).clip(0, context - 1)
        np.add.at(matrix[row], columns, 1 / kernel_size)
    return matrix


def fold(seasonal_GHL: Float64Array, trend_GHL: Float64Array, kernel_size: int) -> Float64Array:
    """The one linear map [G, H, L] that equals the two on season and trend: ``Ws (I - M) + Wt M``."""
    average_LL = moving_average_matrix(seasonal_GHL.shape[-1], kernel_size)
    result: Float64Array = seasonal_GHL + (trend_GHL - seasonal_GHL) @ average_LL
    return result
