"""The exact solution of DLinear: least squares for every channel, its ridge chosen on validation rows; no torch.

Shapes: R rows, B windows, L context, H horizon, W = L + H, C channels, G groups of channels that share weights (C or 1),
P ridges, N outputs (H, or P x H).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.forecaster import FitReport
from presurge.models.linear.moments import Moments, moments_of, moments_written_out, no_moments
from presurge.models.linear.select import complete_starts, no_window, window_errors
from presurge.models.linear.solve import (
    DEFAULT_RIDGE,
    RIDGES,
    solve,
    squared_errors,
    without_anchor,
)
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.scalers import TRANSFORMS, Float64Array, Scaler, ScalerName, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, chunks, window_origins

Normalisation = Literal["none", "last", "mean", "meanabs"]
"""What is taken off every window and put back on its forecast: nothing, its last value, its mean; or what it is divided by:
its mean absolute value."""

LEAST_SIZE = 0.01
"""Least size of a window, where it is divided by its mean absolute value: a share of that of the training rows."""
_TAIL = "0.2"
"""The share of the training rows that chooses the ridge where there are no validation rows."""
_VALUES_AT_ONCE = 2_000_000

_Maps = tuple[Float64Array, Float64Array]
"""Weights [P, H, L] and biases [P, H] of P ridges."""


def anchor(normalisation: Normalisation, context: int) -> Float64Array | None:
    """float64 [L], the weights of the level that a normalisation takes off every window; None for no level."""
    match normalisation:
        case "last":
            return np.concatenate((np.zeros(context - 1), [1.0]))
        case "mean":
            return np.full(context, 1 / context)
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedLinear:
    """Forecast = inverse(weight @ transform(context) + bias), not below the floor; original units in and out.

    Attributes:
        weight_CHL: float64, one matrix a channel.
        bias_CH: float64.
        floor_C1: float64, zero for counts, minus infinity for gauges.
        transform: Name of the transform.
        least_size_C: If given, the bias is multiplied by the mean absolute transformed context, or by this if that is less.
    """

    weight_CHL: Float64Array
    bias_CH: Float64Array
    floor_C1: Float64Array
    transform: TransformName
    least_size_C: Float64Array | None = None

    @classmethod
    def build(
        cls,
        weight_GHL: Float64Array,
        bias_GH: Float64Array,
        scaler: Scaler,
        count_C: npt.NDArray[np.bool_],
        normalisation: Normalisation = "none",
    ) -> Self:
        """Fold a scaler into weights for scaled values; G is the number of channels, or 1 for weights they share."""
        channels, sized = len(count_C), normalisation == "meanabs"
        weight_CHL = np.broadcast_to(weight_GHL, (channels, *weight_GHL.shape[1:])).copy()
        shift_CH = scaler.shift_C[:, None] * (1 - weight_CHL.sum(axis=2))
        return cls(
            weight_CHL=weight_CHL,
            bias_CH=np.broadcast_to(bias_GH, shift_CH.shape)
            if sized
            else scaler.scale_C[:, None] * bias_GH + shift_CH,
            floor_C1=np.where(count_C, 0.0, -np.inf)[:, None],
            transform=scaler.transform,
            least_size_C=LEAST_SIZE * scaler.scale_C if sized else None,
        )

    def predict_one(self, context_LC: FloatArray) -> FloatArray:
        """Forecast one window: [L, C] to float32 [H, C]. A channel with a missing value is forecast as NaN."""
        if self.least_size_C is not None:
            one_HC: FloatArray = self.predict(context_LC[None])[0]
            return one_HC
        transform = TRANSFORMS[self.transform]
        x_CL1 = transform.forward(context_LC.T.astype(np.float64, order="C"))[:, :, None]
        y_CH = (self.weight_CHL @ x_CL1)[:, :, 0] + self.bias_CH
        mean_HC: FloatArray = np.maximum(transform.inverse(y_CH), self.floor_C1).T.astype(np.float32)
        return mean_HC

    def predict(self, context_BLC: FloatArray) -> FloatArray:
        """Forecast B windows: [B, L, C] to float32 [B, H, C]."""
        transform = TRANSFORMS[self.transform]
        x_CBL = transform.forward(context_BLC.transpose(2, 0, 1).astype(np.float64, order="C"))
        bias_CBH = self.bias_CH[:, None, :]
        if self.least_size_C is not None:
            bias_CBH = (
                bias_CBH * np.maximum(np.abs(x_CBL).mean(axis=2), self.least_size_C[:, None])[:, :, None]
            )
        y_CBH = x_CBL @ self.weight_CHL.transpose(0, 2, 1) + bias_CBH
        clipped_CBH = np.maximum(transform.inverse(y_CBH), self.floor_C1[:, :, None])
        mean_BHC: FloatArray = clipped_CBH.transpose(1, 2, 0).astype(np.float32, order="C")
        return mean_BHC


class ExactProblem:
    """A series as the solver sees it, on a scale of its own so that sums of products lose no digits.

    Args:
        panel: The series.
        train: The training rows.
        scaler: Fitted to them.
        context: L.
        horizon: H.
        shared: Whether all channels share their weights.
        normalisation: Of every window.
        stride: Rows from one training window to the next.
    """

    def __init__(
        self,
        panel: Panel,
        train: Span,
        scaler: Scaler,
        *,
        context: int,
        horizon: int,
        shared: bool,
        normalisation: Normalisation,
        stride: int,
    ) -> None:
        self.panel, self.train, self.scaler = panel, train, scaler
        self.context, self.horizon, self.stride = context, horizon, stride
        self.shared, self.normalisation = shared, normalisation
        self.level_L = anchor(normalisation, context)
        # Neither least squares nor its ridge notices a shift or a scale, unless windows are divided by their size.
        scaled_RC = scaler.scale(panel.take(train).values)
        kind: ScalerName = "none" if normalisation == "meanabs" else "standard"
        own = Scaler.fit(scaled_RC.reshape(-1, 1) if shared else scaled_RC, kind)
        self.centre_G1, self.spread_G1 = own.shift_C[:, None], own.scale_C[:, None]
        self.work_CR = np.ascontiguousarray(scaler.scale(panel.values).T)
        self.work_CR -= self.centre_G1
        self.work_CR /= self.spread_G1

    def fit(
        self, validation: Span | None, ridge: float | None
    ) -> tuple[Float64Array, Float64Array, FitReport]:
        """Solve for the training windows: weights [G, H, L] and biases [G, H] on the scale of the scaler, and a report.

        Unless the ridge is given, validation rows choose it and shape no weight. Without them the last fifth of the
        training rows chooses it, and the solution is then that of all training rows. One ridge serves all channels: one
        choice from all of them is steadier than one for each.

        Raises:
            DataError: A channel has no complete training window.
        """
        moments_G = self._moments(self.train, self.stride)
        for group, moments in enumerate(moments_G):
            if moments.n == 0:
                name = None if self.shared else self.panel.channels[group].name
                raise no_window(self.train, self.context, self.horizon, name)
        errors: dict[float, float] = {}
        notes = []
        if ridge is None:
            errors = self._validation_errors(moments_G, validation)
            ridge = min(errors, key=errors.__getitem__, default=DEFAULT_RIDGE)
            if not errors:
                notes.append(f"Too few rows to choose the ridge: it is {ridge:g}.")
        n_windows = max(moments.n for moments in moments_G)
        if n_windows < self.context:
            notes.append(
                f"There are fewer training windows ({n_windows}) than rows in a context ({self.context}): "
                "a shorter context or more data would give steadier weights."
            )
        report = FitReport(
            model="dlinear",
            n_windows=n_windows // len(self.panel.channels) if self.shared else n_windows,
            chosen={"solver": "exact", "ridge": ridge},
            candidates=tuple({"ridge": tried, "validation_error": error} for tried, error in errors.items()),
            notes=tuple(notes),
        )
        return *self._scaled([solve(moments, self.context, [ridge]) for moments in moments_G]), report

    def _moments(self, span: Span, stride: int = 1) -> list[Moments]:
        """The moments of the complete windows of a span, for each group of channels."""
        width = self.context + self.horizon
        starts_C = complete_starts(
            self.panel, span, context=self.context, horizon=self.horizon, stride=stride
        )
        sums = self._divided_moments if self.normalisation == "meanabs" else moments_of
        channels = [sums(x_R, starts, width) for x_R, starts in zip(self.work_CR, starts_C, strict=True)]
        groups = [sum(channels, no_moments(width))] if self.shared else channels
        if self.level_L is None:
            return groups
        # The level is that of the context, and taken off the targets too.
        return [group.relative_to(np.append(self.level_L, np.zeros(self.horizon))) for group in groups]

    def _divided_moments(self, x_R: Float64Array, starts: IntArray, width: int) -> Moments:
        """Moments of windows divided by their mean absolute context, which have to be written out."""
        result = no_moments(width)
        for part in chunks(starts, max(1, _VALUES_AT_ONCE // width)):
            z_BW = sliding_window_view(x_R, width)[part]
            size_B1 = np.abs(z_BW[:, : self.context]).mean(axis=1, keepdims=True)
            result += moments_written_out(z_BW / np.maximum(size_B1, LEAST_SIZE))
        return result

    def _validation_errors(self, moments_G: list[Moments], validation: Span | None) -> dict[float, float]:
        """The mean error of every ridge on rows that shape no weight; none if there are too few of them."""
        judge = validation
        if judge is None:
            head, judge = self.train.cut_tail(_TAIL)
            moments_G = self._moments(head, self.stride)
        if min(moments.n for moments in moments_G) == 0:
            return {}
        maps_G = [solve(moments, self.context, RIDGES) for moments in moments_G]
        if self.scaler.transform == "identity" and self.normalisation != "meanabs":
            pairs = zip(self._moments(judge), maps_G, strict=True)
            errors = [squared_errors(moments, *maps) for moments, maps in pairs if moments.n]
        else:
            errors = self._errors_in_original_units(maps_G, judge)
        return dict(zip(RIDGES, np.mean(errors, axis=0).tolist(), strict=True)) if errors else {}

    def _errors_in_original_units(self, maps_G: Sequence[_Maps], judge: Span) -> list[Float64Array]:
        """Mean squared error of every ridge over the variance of the training rows, for each channel that has one.

        Moments cannot give it where the transform or the normalisation is not linear.
        """
        panel, context, horizon = self.panel, self.context, self.horizon
        folded = FoldedLinear.build(*self._scaled(maps_G), self.scaler, panel.count_mask, self.normalisation)

        def forecast(batch: WindowBatch) -> FloatArray:
            mean_BNC = folded.predict(batch.context_BLC)
            return mean_BNC.reshape(len(mean_BNC), -1, horizon, len(panel.channels)).swapaxes(1, 2)

        n_C, total_PC = np.zeros(len(panel.channels)), np.zeros((len(RIDGES), len(panel.channels)))
        for square_BPC in window_errors(
            forecast,
            panel,
            window_origins(panel, judge, context=context, horizon=horizon),
            context=context,
            horizon=horizon,
            alternatives=len(RIDGES),
            loss=np.square,
        ):
            n_C += (~np.isnan(square_BPC[:, 0])).sum(axis=0)
            total_PC += np.nansum(square_BPC, axis=0)
        known_C = [x_R[~np.isnan(x_R)] for x_R in panel.take(self.train).values.T]
        variance_C = [x_R.var(dtype=np.float64) if x_R.size else 0.0 for x_R in known_C]
        size_C = horizon * n_C * variance_C
        return list((total_PC[:, size_C > 0] / size_C[size_C > 0]).T)

    def _scaled(self, maps_G: Sequence[_Maps]) -> tuple[Float64Array, Float64Array]:
        """Weights [G, N, L] and biases [G, N] for scaled values of plain windows; N is P x H."""
        weight_GNL = np.array([weight_PHL.reshape(-1, self.context) for weight_PHL, _ in maps_G])
        bias_GN = np.array([bias_PH.reshape(-1) for _, bias_PH in maps_G])
        if self.level_L is not None:
            weight_GNL = without_anchor(weight_GNL, self.level_L)
        return weight_GNL, self.spread_G1 * bias_GN + self.centre_G1 * (1 - weight_GNL.sum(axis=2))
