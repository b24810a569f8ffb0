"""A linear forecast folded into one matrix a channel, in plain NumPy: scaling and decomposition are inside the weights."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from presurge.series.panel import FloatArray
from presurge.series.scalers import TRANSFORMS, Float64Array, Scaler, TransformName


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedLinear:
    """Forecast = inverse(weight @ transform(context) + bias), not below the floor; original units in and out.

    Attributes:
        weight_CHL: float64, one matrix a channel.
        bias_CH: float64.
        floor_C1: float64, zero for counts, minus infinity for gauges.
        transform: Name of the transform.
    """

    weight_CHL: Float64Array
    bias_CH: Float64Array
    floor_C1: Float64Array
    transform: TransformName

    @classmethod
    def build(
        cls,
        weight_GHL: Float64Array,
        bias_GH: Float64Array,
        scaler: Scaler,
        count_C: npt.NDArray[np.bool_],
    ) -> Self:
        """Fold a scaler into weights for scaled values; G is the number of channels, or 1 for weights they share."""
        channels = len(count_C)
        weight_CHL = np.broadcast_to(weight_GHL, (channels, *weight_GHL.shape[1:])).copy()
        rest_CH = 1 - weight_CHL.sum(axis=2)
        return cls(
            weight_CHL=weight_CHL,
            bias_CH=scaler.scale_C[:, None] * bias_GH + scaler.shift_C[:, None] * rest_CH,
            floor_C1=np.where(count_C, 0.0, -np.inf)[:, None],
            transform=scaler.transform,
        )

    def predict_one(self, context_LC: FloatArray) -> FloatArray:
        """Forecast one window: [L, C] to float32 [H, C]. A channel with a missing value is forecast as NaN."""
        transform = TRANSFORMS[self.transform]
        x_CL1 = transform.forward(context_LC.T.astype(np.float64, order="C"))[:, :, None]
        y_CH = (self.weight_CHL @ x_CL1)[:, :, 0] + self.bias_CH
        mean_HC: FloatArray = np.maximum(transform.inverse(y_CH), self.floor_C1).T.astype(np.float32)
        return mean_HC

    def predict(self, context_BLC: FloatArray) -> FloatArray:
        """Forecast B windows: [B, L, C] to float32 [B, H, C]."""
        transform = TRANSFORMS[self.transform]
        x_CBL = transform.forward(context_BLC.transpose(2, 0, 1).astype(np.float64, order="C"))
        y_CBH = x_CBL @ self.weight_CHL.transpose(0, 2, 1) + self.bias_CH[:, None, :]
        clipped_CBH = np.maximum(transform.inverse(y_CBH), self.floor_C1[:, :, None])
        mean_BHC: FloatArray = clipped_CBH.transpose(1, 2, 0).astype(np.float32, order="C")
        return mean_BHC
