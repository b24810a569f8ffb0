"""Scalers and transforms: bring values to a scale that suits learning, and back.

A scaled value is ``(transform(x) - shift) / scale`` with one shift and scale for each channel. Both are fitted on training
rows only; later rows never change them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

ScalerName = Literal["minmax", "standard", "robust", "meanabs", "none"]
TransformName = Literal["identity", "sqrt", "log1p"]
Float64Array = npt.NDArray[np.float64]

_LARGEST_EXPONENT = 88.0
"""float32 overflows just above exp(88): a wild prediction on the log scale stays finite."""


class Transform(NamedTuple):
    """A monotone function and its inverse, odd around zero, so that it also takes negative values."""

    forward: Callable[[Float64Array], Float64Array]
    inverse: Callable[[Float64Array], Float64Array]


TRANSFORMS: dict[TransformName, Transform] = {
    "identity": Transform(lambda x: x, lambda x: x),
    "sqrt": Transform(lambda x: np.copysign(np.sqrt(np.abs(x)), x), lambda x: x * np.abs(x)),
    "log1p": Transform(
        lambda x: np.copysign(np.log1p(np.abs(x)), x),
        lambda x: np.copysign(np.expm1(np.minimum(np.abs(x), _LARGEST_EXPONENT)), x),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaler:
    """A transform, then a shift and a scale for each of C channels.

    ``minmax`` maps the smallest training value to 0 and the largest to 1; ``standard`` to mean 0 and standard deviation
    1; ``robust`` to median 0 and interquartile range 1 (or standard deviation 1 if that range is zero, as in a channel
    that is mostly zero); ``meanabs`` divides by the mean absolute value; ``none`` keeps the transformed values. A constant
    or never observed channel has scale 1.

    Attributes:
        shift_C: float64, subtracted from the transformed values.
        scale_C: float64, divides the result; never zero.
    """

    name: ScalerName
    transform: TransformName
    shift_C: Float64Array
    scale_C: Float64Array

    @classmethod
    def fit(
        cls, values_RC: npt.NDArray[Any], name: ScalerName, transform: TransformName = "identity"
    ) -> Self:
        """Fit to training rows; missing values (NaN) are ignored."""
        moved_CR = TRANSFORMS[transform].forward(values_RC.T.astype(np.float64))
        pairs = [_shift_and_scale(x_R[~np.isnan(x_R)], name) for x_R in moved_CR]
        shift_C, scale_C = np.array(pairs, np.float64).reshape(-1, 2).T.copy()
        return cls(name=name, transform=transform, shift_C=shift_C, scale_C=scale_C)

    def scale(self, values: npt.NDArray[Any]) -> Float64Array:
        """Original units to the model's scale: [..., C] to float64 [..., C]; missing values stay missing."""
        moved = TRANSFORMS[self.transform].forward(values.astype(np.float64))
        result: Float64Array = (moved - self.shift_C) / self.scale_C
        return result

    def unscale(self, scaled: npt.NDArray[Any]) -> Float64Array:
        """The inverse of ``scale``: [..., C] to float64 [..., C] in original units."""
        return TRANSFORMS[self.transform].inverse(scaled.astype(np.float64) * self.scale_C + self.shift_C)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; floats survive the round trip bit for bit."""
        return {
            "name": self.name,
            "transform": self.transform,
            "shift": self.shift_C.tolist(),
            "scale": self.scale_C.tolist(),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        return cls(
            name=value["name"],
            transform=value["transform"],
            shift_C=np.array(value["shift"], np.float64),
            scale_C=np.array(value["scale"], np.float64),
        )


def _shift_and_scale(x_R: Float64Array, name: ScalerName) -> tuple[float, float]:
    if name == "none" or len(x_R) == 0:
        return 0.0, 1.0
    low, high = float(x_R.min()), float(x_R.max())
    if name == "meanabs":
        return 0.0, float(np.abs(x_R).mean()) or 1.0
    if low == high:
        return low, 1.0
    if name == "minmax":
        return low, high - low
    if name == "standard":
        return float(x_R.mean()), float(x_R.std())
    lower, middle, upper = np.percentile(x_R, (25, 50, 75))
    return float(middle), float(upper - lower) or float(x_R.std())
