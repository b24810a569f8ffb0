"""One channel of the linear model: what it forecasts with, and least squares for its weights.

    z(t+h) = z(t) + sum_j w[h,j] (z(t-j) - z(t)) + b[h] + sum_k g[h,k] f_k(t),    z = T(y / unit)

T is the identity, the square root or log(1 + x); the f_k are calendar terms of the origin. The ridge shrinks towards the last
value, not towards zero, and counts in rows: a ridge of k weighs as much as k windows whose contexts vary as the training
windows do on average.

Shapes: B windows, L context, H horizon, W = L + H, K calendar terms, N outputs (H, or H for each of several ridges).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from presurge.models.linear.moments import Moments
from presurge.models.linear.solve import solve
from presurge.series.panel import FloatArray
from presurge.series.scalers import TRANSFORMS, Float64Array, TransformName

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_RIDGE = 1e-9
"""As a share of the mean eigenvalue: keeps weights finite where lags are collinear."""
_UNIT = 0.1
"""Unit of a channel as a share of its mean size: where the logarithm turns from straight to curved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How a channel is transformed, and what its training rows look like then.

    Attributes:
        transform: Name of T.
        unit: What y is divided by before it; a tenth of the mean absolute training value.
        centre: Mean of the transformed training values.
        spread: Their standard deviation; 1 for a constant.
        low: The smallest of them.
        high: The largest of them.
    """

    transform: TransformName
    unit: float
    centre: float
    spread: float
    low: float
    high: float

    @classmethod
    def fit(cls, train_R: Float64Array, transform: TransformName) -> "Scale":
        """Fit to the observed training values, of which there is at least one."""
        unit = _UNIT * float(np.abs(train_R).mean()) or 1.0
        z_R = TRANSFORMS[transform].forward(train_R / unit)
        low, high = float(z_R.min()), float(z_R.max())
        spread = float(z_R.std()) if high > low else 1.0
        return cls(
            transform=transform, unit=unit, centre=float(z_R.mean()), spread=spread, low=low, high=high
        )

    def forward(self, y: FloatArray | Float64Array) -> Float64Array:
        """Original units to z; missing stays missing."""
        return TRANSFORMS[self.transform].forward(y.astype(np.float64) / self.unit)

    def inverse(self, z_BN: Float64Array, window_BL: Float64Array) -> Float64Array:
        """z to original units, held within what training rows and context have seen, widened by half.

        That keeps a weight that meets a wild context from exploding through a square or an exponential, and still lets a
        series go beyond everything before it. A root or logarithm that was never taken of a negative value is not
        followed below zero, unless the context is there already.
        """
        lowest_B1, highest_B1 = window_BL.min(axis=1, keepdims=True), window_BL.max(axis=1, keepdims=True)
        low_B1, high_B1 = np.minimum(lowest_B1, self.low), np.maximum(highest_B1, self.high)
        reach_B1 = 0.5 * (high_B1 - low_B1)
        low_B1 = low_B1 - reach_B1
        if self.transform != "identity" and self.low >= 0:
            low_B1 = np.maximum(low_B1, np.minimum(lowest_B1, 0))
        held_BN = np.minimum(np.maximum(z_BN, low_B1), high_B1 + reach_B1)
        y_BN: Float64Array = self.unit * TRANSFORMS[self.transform].inverse(held_BN)
        return y_BN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelModel:
    """The forecast of one channel.

    Attributes:
        scale: Its transform.
        weight_NL: float64, weights of the context in z; each row adds up to one.
        bias_N: float64, in z.
        calendar_NK: float64, weights of the calendar terms; None without calendar.
        floor: Zero for counts, minus infinity for gauges.
    """

    scale: Scale
    weight_NL: Float64Array
    bias_N: Float64Array
    calendar_NK: Float64Array | None
    floor: float

    def predict(self, context_BL: FloatArray, terms_BK: Float64Array) -> Float64Array:
        """Forecast B windows in original units: float64 [B, N]; NaN where the context misses a value."""
        return self.predict_z(self.scale.forward(context_BL), terms_BK)

    def predict_z(self, z_BL: Float64Array, terms_BK: Float64Array) -> Float64Array:
        """The same for contexts that are transformed already."""
        z_BN = z_BL @ self.weight_NL.T + self.bias_N
        if self.calendar_NK is not None:
            z_BN += terms_BK @ self.calendar_NK.T
        y_BN: Float64Array = np.clip(self.scale.inverse(z_BN, z_BL), self.floor, _FLOAT32_MAX)
        return y_BN


def solve_channel(
    joint: Moments,
    scale: Scale,
    ridges: Sequence[float],
    *,
    context: int,
    horizon: int,
    calendar: bool,
    floor: float,
) -> ChannelModel:
    """Least squares of the windows that ``joint`` holds the moments of, for each ridge; N is ridges x horizon.

    Args:
        joint: Moments of [L + H values, K calendar terms], the values less the centre of the scale and over its spread.
        scale: The scale.
        ridges: Penalties in rows, at least 0.
        context: L.
        horizon: H.
        calendar: Whether the calendar terms are used.
        floor: Least possible forecast.
    """
    differences, size = _as_differences(joint, context, horizon, calendar)
    inputs = len(differences.total_W) - horizon
    maps = solve(differences, inputs, [max(ridge / joint.n, _SMALLEST_RIDGE) for ridge in ridges])
    weight_NI = np.concatenate([linear.weight_HL for linear in maps])
    weight_NL = weight_NI[:, :context].copy()
    weight_NL[:, -1] += 1 - weight_NL.sum(axis=1)
    return ChannelModel(
        scale=scale,
        weight_NL=weight_NL,
        bias_N=scale.spread * np.concatenate([linear.bias_H for linear in maps]),
        calendar_NK=scale.spread * size * weight_NI[:, context:] if calendar else None,
        floor=floor,
    )


def _as_differences(joint: Moments, context: int, horizon: int, calendar: bool) -> tuple[Moments, float]:
    """The moments of [context less last value, calendar terms, targets less last value], and the size of the terms.

    The terms are brought to the size of the differences, so that one ridge suits both.
    """
    width, terms = context + horizon, len(joint.total_W) - context - horizon
    change = np.eye(width + terms)
    change[:width, context - 1] -= 1
    order = [*range(context), *range(width, width + terms), *range(context, width)]
    change = change[order if calendar else list(range(width))]
    total_I, gram_II = change @ joint.total_W, change @ joint.gram_WW @ change.T
    size = float(np.sqrt(max(np.trace(gram_II[:context, :context]), 0) / (joint.n * context))) or 1.0
    if not calendar:
        return Moments(joint.n, total_I, gram_II), size
    size_I = np.ones(len(total_I))
    size_I[context : context + terms] = size
    return Moments(joint.n, total_I * size_I, gram_II * np.outer(size_I, size_I)), size
