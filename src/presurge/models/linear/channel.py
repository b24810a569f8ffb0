"""One channel of the linear model: what it forecasts with, and the choice of its transform, terms and ridge.

    z(t+h) = z(t) + sum_j w[h,j] (z(t-j) - z(t)) + b[h] + sum_k g[h,k] f_k(t),    z = T(y / unit)

T is the identity, the square root or log(1 + x). The f_k are further inputs: calendar terms of the origin, the contexts of
the covariates, and what is known of their rows after the origin. The ridge shrinks towards the last value, not towards zero.

Shapes: R rows, B windows, L context, H horizon, W = L + H, K inputs of one term, T transforms, P ridges, N outputs (H, or
P x H).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.calendar import Calendar
from presurge.models.linear.moments import Moments, joint_moments
from presurge.models.linear.solve import solve
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.scalers import TRANSFORMS, Float64Array, Scaler, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, batch_of, chunks

TERMS = ("calendar", "covariates")
"""Inputs beside the channel's own past."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SMALLEST_RIDGE = 1e-9
"""As a share of the mean eigenvalue: keeps weights finite where lags are collinear."""
_UNIT = 0.1
"""Unit of a channel as a share of its mean size: where the logarithm turns from straight to curved."""
_VALUES_AT_ONCE = 2_000_000


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
        standard = Scaler.fit(train_R[:, None] / unit, "standard", transform)
        ends = np.array([train_R.min(), train_R.max()]) / unit
        low, high = TRANSFORMS[transform].forward(ends).tolist()
        return cls(
            transform=transform,
            unit=unit,
            centre=float(standard.shift_C[0]),
            spread=float(standard.scale_C[0]),
            low=low,
            high=high,
        )

    def forward(self, y: FloatArray | Float64Array) -> Float64Array:
        """Original units to z; missing stays missing."""
        return TRANSFORMS[self.transform].forward(y.astype(np.float64) / self.unit)

    def inverse(self, z_BN: Float64Array, window_BL: Float64Array) -> Float64Array:
        """z to original units, clamped to the range of training rows and context, widened by half on both sides.

        The clamp keeps a weight that meets a wild context from exploding through a square or an exponential, and still lets
        a series go beyond everything before it. Where a root or logarithm was never taken of a negative value, the
        forecast does not go below zero unless the context is there already.
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
        terms: float64 [N, K], weights of the inputs of each term in use.
        floor: Zero for counts, minus infinity for gauges.
    """

    scale: Scale
    weight_NL: Float64Array
    bias_N: Float64Array
    terms: Mapping[str, Float64Array]
    floor: float

    @property
    def n_parameters(self) -> int:
        """Weights and biases."""
        return self.weight_NL.size + self.bias_N.size + sum(weight.size for weight in self.terms.values())

    def predict(self, context_BL: FloatArray, inputs: Mapping[str, Float64Array]) -> Float64Array:
        """Forecast B windows in original units: float64 [B, N], NaN where the context has a missing value.

        Args:
            context_BL: Original units.
            inputs: float64 [B, K] for each term in use.
        """
        z_BL = self.scale.forward(context_BL)
        z_BN = z_BL @ self.weight_NL.T + self.bias_N
        for term, weight_NK in self.terms.items():
            z_BN += inputs[term] @ weight_NK.T
        y_BN: Float64Array = np.clip(self.scale.inverse(z_BN, z_BL), self.floor, _FLOAT32_MAX)
        return y_BN

    def rows(self, rows: slice) -> "ChannelModel":
        """The model of some of the N outputs."""
        return replace(
            self,
            weight_NL=self.weight_NL[rows],
            bias_N=self.bias_N[rows],
            terms={term: weight_NK[rows] for term, weight_NK in self.terms.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A candidate.

    Attributes:
        transform: Of the channel.
        terms: Whether each term that is available is used.
        ridge: Penalty in rows.
        error: WAPE over the folds; None if there were too few rows to judge.
    """

    transform: TransformName
    terms: Mapping[str, bool]
    ridge: float
    error: float | None = None

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        return {"transform": self.transform, **self.terms, "ridge": self.ridge, "error": self.error}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelFit:
    """What was chosen for one channel.

    Attributes:
        model: The winner, fitted to all training windows.
        choice: What won.
        candidates: Everything tried, with its error.
        at_fold: The winner as fitted to each fold, None for a fold too short for that.
        n_windows: Complete training windows.
    """

    model: ChannelModel
    choice: Choice
    candidates: tuple[Choice, ...]
    at_fold: tuple[ChannelModel | None, ...]
    n_windows: int


def covariate_inputs(batch: WindowBatch) -> Float64Array:
    """The covariates of B windows one after another, of each its context and, if it is known, its H rows after that."""
    known = [channel for channel in batch.channels if channel.role == "known"]
    parts = []
    for column, channel in enumerate(batch.channels):
        if channel.role != "target":
            parts.append(batch.context_BLC[:, :, column])
        if channel.role == "known" and batch.future_BHK is not None:
            parts.append(batch.future_BHK[:, :, known.index(channel)])
    return np.concatenate(parts, axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Covariates:
    """The covariates of a panel on the scale of the solver.

    Attributes:
        panel: The series.
        roles: Of the P covariates, in the order of the panel.
        scaler: Fitted to their training rows.
        x_PR: float64, scaled; zero where missing.
    """

    panel: Panel
    roles: tuple[str, ...]
    scaler: Scaler
    x_PR: Float64Array

    @classmethod
    def of(cls, panel: Panel, train: Span) -> "Covariates":
        """Those of a panel, of which there may be none."""
        columns = [c for c, channel in enumerate(panel.channels) if channel.role != "target"]
        scaler = Scaler.fit(panel.take(train).values[:, columns], "standard")
        x_PR = np.nan_to_num(scaler.scale(panel.values[:, columns])).T
        return cls(
            panel=panel, roles=tuple(panel.channels[c].role for c in columns), scaler=scaler, x_PR=x_PR
        )

    def sizes(self, context: int, width: int) -> list[int]:
        """How many rows of a window each covariate gives."""
        return [width if role == "known" else context for role in self.roles]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelProblem:
    """One channel of a panel, with the windows that learn and judge.

    Attributes:
        y_R: float32, all rows in original units.
        time_R: Time of every row in microseconds.
        covariates: What may help to forecast it.
        learn: First rows of the complete windows of every fold, and last of all training rows; each holds the one before.
        judge: First rows of the complete windows that judge each fold.
        calendar: The terms of the calendar.
        context: L.
        horizon: H.
        floor: Zero for a count, minus infinity for a gauge.
    """

    y_R: FloatArray
    time_R: IntArray
    covariates: Covariates
    learn: tuple[IntArray, ...]
    judge: tuple[IntArray, ...]
    calendar: Calendar
    context: int
    horizon: int
    floor: float

    def choose(
        self,
        scales: Sequence[Scale],
        term_sets: Sequence[Mapping[str, bool]],
        ridges: Sequence[float],
        default: Choice,
    ) -> ChannelFit:
        """Choose by the pooled error over the folds, and fit the winner to all training windows.

        The ridge is carried from the folds to the final fit as a number of rows. ``default`` is taken where no fold holds
        windows both to learn from and to judge by; its transform is one of the scales.
        """
        moments_FT = self._moments_by_fold(scales)
        usable = [f for f, judge in enumerate(self.judge) if len(judge) and moments_FT[f][0].n]
        candidates: list[Choice] = []
        best, lowest = default, np.inf
        winners: dict[int, ChannelModel] = {}
        for t, scale in enumerate(scales if usable else ()):
            for terms in term_sets:
                fits = {f: self._solve(moments_FT[f][t], scale, ridges, terms) for f in usable}
                error_P = self._pooled_errors(fits, len(ridges))
                tried = [
                    Choice(transform=scale.transform, terms=terms, ridge=ridge, error=float(error))
                    for ridge, error in zip(ridges, error_P, strict=True)
                ]
                candidates += tried
                p = int(np.argmin(error_P))
                if error_P[p] < lowest:
                    lowest, best = error_P[p], tried[p]
                    rows = slice(p * self.horizon, (p + 1) * self.horizon)
                    winners = {f: fit.rows(rows) for f, fit in fits.items()}
        t = [scale.transform for scale in scales].index(best.transform)
        return ChannelFit(
            model=self._solve(moments_FT[-1][t], scales[t], [best.ridge], best.terms),
            choice=best,
            candidates=tuple(candidates),
            at_fold=tuple(winners.get(f) for f in range(len(self.judge))),
            n_windows=moments_FT[-1][t].n,
        )

    def _moments_by_fold(self, scales: Sequence[Scale]) -> list[list[Moments]]:
        """Joint moments of the windows of every fold and of all, for each scale; only new windows are summed each time."""
        x_TR = np.array([(scale.forward(self.y_R) - scale.centre) / scale.spread for scale in scales])
        totals: list[list[Moments]] = []
        known: IntArray = np.zeros(0, np.int64)
        for starts in self.learn:
            joint = joint_moments(
                x_TR,
                self.covariates.x_PR,
                np.setdiff1d(starts, known, assume_unique=True),
                self.context + self.horizon,
                calendar=self.calendar,
                time_R=self.time_R,
                context=self.context,
            )
            totals.append([a + b for a, b in zip(totals[-1], joint, strict=True)] if totals else joint)
            known = starts
        return totals

    def _solve(
        self, joint: Moments, scale: Scale, ridges: Sequence[float], terms: Mapping[str, bool]
    ) -> ChannelModel:
        """Least squares of the windows that ``joint`` holds the moments of, for each ridge: N is P x H.

        Inputs and targets are differences to the last value. The terms are brought to the size of the differences, so that
        one ridge suits both.
        """
        context, width = self.context, self.context + self.horizon
        sizes = self.covariates.sizes(context, width)
        begin = width * (1 + len(sizes))
        columns = {
            "covariates": [width * (1 + p) + row for p, size in enumerate(sizes) for row in range(size)],
            "calendar": list(range(begin, begin + self.calendar.size)),
        }
        differences = joint.relative_to(np.eye(width)[context - 1])
        own = np.trace(differences.gram_WW[:context, :context])
        size = float(np.sqrt(max(own, 0) / (joint.n * context))) or 1.0
        used = [term for term, wanted in terms.items() if wanted]
        extra = [column for term in used for column in columns[term]]
        inputs = context + len(extra)
        order = [*range(context), *extra, *range(context, width)]
        size_I = np.ones(len(order))
        size_I[context:inputs] = size
        maps = solve(differences.take(order, size_I), inputs, ridges, least=_SMALLEST_RIDGE)
        weight_NI = np.concatenate([linear.weight_HL for linear in maps])
        weight_NL = weight_NI[:, :context].copy()
        weight_NL[:, -1] += 1 - weight_NL.sum(axis=1)
        ends = np.cumsum([context, *(len(columns[term]) for term in used)])
        weights = {
            term: scale.spread * size * weight_NI[:, begin:end]
            for term, begin, end in zip(used, ends[:-1], ends[1:], strict=True)
        }
        bias_N = scale.spread * np.concatenate([linear.bias_H for linear in maps])
        if "covariates" in weights:  # from their scale to original units
            shift_X, scale_X = (
                np.repeat(x_P, sizes)
                for x_P in (self.covariates.scaler.shift_C, self.covariates.scaler.scale_C)
            )
            weights["covariates"] /= scale_X
            bias_N -= weights["covariates"] @ shift_X
        return ChannelModel(scale=scale, weight_NL=weight_NL, bias_N=bias_N, terms=weights, floor=self.floor)

    def _inputs(self, starts: IntArray, terms: Mapping[str, Float64Array]) -> dict[str, Float64Array]:
        """The inputs of the windows that begin at some rows, of the terms in use."""
        origins, inputs = starts + self.context - 1, {}
        if "calendar" in terms:
            inputs["calendar"] = self.calendar.terms(self.time_R[origins])
        if "covariates" in terms:
            batch = batch_of(self.covariates.panel, origins, self.context, self.horizon)
            inputs["covariates"] = covariate_inputs(batch)
        return inputs

    def _pooled_errors(self, fits: Mapping[int, ChannelModel], ridges: int) -> Float64Array:
        """Sum of absolute errors over sum of absolute values of all folds together, for each ridge: float64 [P]."""
        total_P, size = np.zeros(ridges), 0.0
        context, horizon = self.context, self.horizon
        contexts = sliding_window_view(self.y_R, context)
        targets = sliding_window_view(self.y_R, horizon)
        for f, model in fits.items():
            for part in chunks(self.judge[f], max(1, _VALUES_AT_ONCE // (context + horizon * ridges))):
                inputs = self._inputs(part, model.terms)
                y_BPH = model.predict(contexts[part], inputs).reshape(len(part), ridges, horizon)
                actual_BH = targets[part + context].astype(np.float64)
                total_P += np.abs(y_BPH - actual_BH[:, None]).sum(axis=(0, 2))
                size += float(np.abs(actual_BH).sum())
        return total_P / max(size, float(np.finfo(np.float64).tiny))
