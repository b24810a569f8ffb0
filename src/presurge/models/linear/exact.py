"""The exact solver: a linear forecast of every channel by least squares, its ridge chosen on validation rows.

Shapes: R rows, L context, H horizon, W = L + H, C channels, G groups of channels that share weights (C or 1), K ridges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.errors import DataError
from presurge.models.linear.moments import Moments, moments_of, no_moments
from presurge.models.linear.solve import RIDGES, LinearMap, solve, squared_errors, without_anchor
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array, Scaler
from presurge.series.spans import Span
from presurge.series.windows import IntArray, chunks, complete, window_origins

Normalisation = Literal["none", "last", "mean"]

DEFAULT_RIDGE = 1e-3
"""Used where no validation window is complete."""
TAIL = "0.2"
"""The share of the training rows that chooses the ridge where no validation rows are given."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExactFit:
    """Weights on the scale of the scaler, and how they came about.

    Attributes:
        weight_GHL: float64; G is C, or 1 where the channels share their weights.
        bias_GH: float64.
        ridge: The relative ridge used.
        n_windows: Complete training windows of the channel that has most.
        candidates: Ridge and validation error (mean squared error over the variance of the training rows, averaged over
            channels) of every ridge tried.
        notes: Plain sentences for the reader.
    """

    weight_GHL: Float64Array
    bias_GH: Float64Array
    ridge: float
    n_windows: int
    candidates: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProblem:
    """A series as the solver sees it, on a scale of its own so that sums of products lose no digits.

    Attributes:
        work_CR: float64, scaled values less ``centre`` over ``spread``: per channel, or common to all where they share
            weights. Ordinary least squares does not notice; a relative ridge does not either.
        anchor_L: Weights of the level that is taken off every window (its last value, its mean), or None.
    """

    panel: Panel
    scaler: Scaler
    work_CR: Float64Array
    centre_C: Float64Array
    spread_C: Float64Array
    context: int
    horizon: int
    shared: bool
    anchor_L: Float64Array | None

    def complete_starts(self, span: Span, stride: int = 1) -> list[IntArray]:
        """For each channel the first rows of the windows of a span in which that channel misses nothing."""
        shape = {"context": self.context, "horizon": self.horizon}
        origins = window_origins(self.panel, span, **shape, stride=stride)
        whole_BC = complete(self.panel, origins, before=self.context, after=self.horizon)
        return [origins[whole_B] - self.context + 1 for whole_B in whole_BC.T]

    def moments(self, span: Span, stride: int = 1) -> list[Moments]:
        """The moments of the complete windows of a span, for each group of channels."""
        width = self.context + self.horizon
        channels = [
            moments_of(x_R, starts, width)
            for x_R, starts in zip(self.work_CR, self.complete_starts(span, stride), strict=True)
        ]
        groups = [sum(channels, no_moments(width))] if self.shared else channels
        if self.anchor_L is None:
            return groups
        anchor_W = np.concatenate((self.anchor_L, np.zeros(self.horizon)))
        return [group.relative_to(anchor_W) for group in groups]

    def plain(self, linear: LinearMap) -> LinearMap:
        """The map of plain windows for a map of windows less their level."""
        return linear if self.anchor_L is None else without_anchor(linear, self.anchor_L)

    def on_the_scale_of_the_scaler(self, maps_G: Sequence[LinearMap]) -> tuple[Float64Array, Float64Array]:
        """Weights [G, H, L] and biases [G, H] for scaled values instead of working values."""
        plain = [self.plain(linear) for linear in maps_G]
        weight_GHL = np.array([linear.weight_HL for linear in plain])
        groups = len(plain)
        centre_G1, spread_G1 = self.centre_C[:groups, None], self.spread_C[:groups, None]
        bias_GH = np.array([linear.bias_H for linear in plain])
        return weight_GHL, spread_G1 * bias_GH + centre_G1 * (1 - weight_GHL.sum(axis=2))


def pose(
    panel: Panel,
    train: Span,
    scaler: Scaler,
    *,
    context: int,
    horizon: int,
    shared: bool,
    normalisation: Normalisation,
) -> LinearProblem:
    """Bring a series to the scale that the solver works on, fitted on the training rows."""
    work_CR = np.ascontiguousarray(scaler.scale(panel.values).T)
    train_CR = np.concatenate([work_CR[:, a:b] for a, b in zip(train.first, train.last, strict=True)], axis=1)
    own = Scaler.fit(train_CR.reshape(-1, 1) if shared else train_CR.T, "standard")
    channels = len(panel.channels)
    centre_C = np.broadcast_to(own.shift_C, channels).copy()
    spread_C = np.broadcast_to(own.scale_C, channels).copy()
    work_CR -= centre_C[:, None]
    work_CR /= spread_C[:, None]
    return LinearProblem(
        panel=panel,
        scaler=scaler,
        work_CR=work_CR,
        centre_C=centre_C,
        spread_C=spread_C,
        context=context,
        horizon=horizon,
        shared=shared,
        anchor_L=anchor(normalisation, context),
    )


def anchor(normalisation: Normalisation, context: int) -> Float64Array | None:
    """float64 [L], the weights of the level that a normalisation takes off every window; None for no level."""
    match normalisation:
        case "last":
            last_L = np.zeros(context)
            last_L[-1] = 1
            return last_L
        case "mean":
            return np.full(context, 1 / context)
        case _:
            return None


def fit_exact(
    problem: LinearProblem, train: Span, validation: Span | None, *, ridge: float | None, stride: int
) -> ExactFit:
    """Solve for the training windows, with the ridge given or chosen.

    Without a ridge it is chosen by the error on the validation rows, which shape no weight. Without validation rows the
    last fifth of the training rows chooses it, and the solution is then that of all training rows. One ridge serves all
    channels: one choice from all of them is steadier than one for each.

    Raises:
        DataError: A channel has no complete training window.
    """
    moments_G = problem.moments(train, stride)
    _check_windows(problem, moments_G, train)
    candidates: tuple[dict[str, Any], ...] = ()
    notes: list[str] = []
    chosen = ridge
    if chosen is None:
        chosen, candidates, note = _choose_ridge(problem, moments_G, train, validation, stride)
        notes += [note] if note else []
    n_windows = max(moments.n for moments in moments_G)
    if n_windows < problem.context:
        notes.append(
            f"There are fewer training windows ({n_windows}) than rows in a context ({problem.context}): "
            "a shorter context or more data would give steadier weights."
        )
    solved = [solve(moments, problem.context, [chosen])[0] for moments in moments_G]
    weight_GHL, bias_GH = problem.on_the_scale_of_the_scaler(solved)
    return ExactFit(
        weight_GHL=weight_GHL,
        bias_GH=bias_GH,
        ridge=chosen,
        n_windows=n_windows // len(problem.panel.channels) if problem.shared else n_windows,
        candidates=candidates,
        notes=tuple(notes),
    )


def _check_windows(problem: LinearProblem, moments_G: Sequence[Moments], train: Span) -> None:
    for group, moments in enumerate(moments_G):
        if moments.n == 0:
            name = None if problem.shared else f"channel {problem.panel.channels[group].name!r}"
            raise DataError(
                f"the {len(train)} training rows hold no complete window of "
                f"{problem.context} + {problem.horizon} rows",
                where=name,
                hint="Give more rows, a shorter `context` or `horizon`, repair gaps, or leave the channel out.",
            )


def _choose_ridge(
    problem: LinearProblem,
    moments_G: Sequence[Moments],
    train: Span,
    validation: Span | None,
    stride: int,
) -> tuple[float, tuple[dict[str, Any], ...], str | None]:
    judge = validation
    if judge is None:
        head, judge = train.cut_tail(TAIL)
        moments_G = problem.moments(head, stride)
    if min(moments.n for moments in moments_G) == 0:
        return DEFAULT_RIDGE, (), _too_few("training")
    maps_GK = [solve(moments, problem.context, RIDGES) for moments in moments_G]
    if problem.scaler.transform == "identity":
        errors_K = _errors_from_moments(problem, maps_GK, judge)
    else:
        errors_K = _errors_in_original_units(problem, maps_GK, train, judge)
    if errors_K is None:
        return DEFAULT_RIDGE, (), _too_few("validation")
    pairs = zip(RIDGES, errors_K, strict=True)
    candidates = tuple({"ridge": ridge, "validation_error": float(error)} for ridge, error in pairs)
    return RIDGES[int(np.argmin(errors_K))], candidates, None


def _too_few(part: str) -> str:
    return f"Too few {part} rows to choose the ridge: it is {DEFAULT_RIDGE:g}."


def _errors_from_moments(
    problem: LinearProblem, maps_GK: Sequence[Sequence[LinearMap]], judge: Span
) -> Float64Array | None:
    """Relative squared error of every ridge from the moments of the validation windows, whatever their number."""
    pairs = zip(problem.moments(judge), maps_GK, strict=True)
    errors = [squared_errors(moments, maps_K) for moments, maps_K in pairs if moments.n]
    return np.mean(errors, axis=0) if errors else None


def _errors_in_original_units(
    problem: LinearProblem, maps_GK: Sequence[Sequence[LinearMap]], train: Span, judge: Span
) -> Float64Array | None:
    """The same from the residuals in original units, which a transform that is not linear asks for."""
    learned_RC = problem.panel.take(train).values
    errors = []
    for c, starts in enumerate(problem.complete_starts(judge)):
        known_R = learned_RC[~np.isnan(learned_RC[:, c]), c]
        variance = float(known_R.var(dtype=np.float64)) if len(known_R) else 0.0
        if len(starts) and variance > 0:
            maps_K = [problem.plain(linear) for linear in maps_GK[0 if problem.shared else c]]
            errors.append(_channel_errors(problem, maps_K, c, starts) / variance)
    return np.mean(errors, axis=0) if errors else None


def _channel_errors(
    problem: LinearProblem, maps_K: Sequence[LinearMap], c: int, starts: IntArray
) -> Float64Array:
    context, horizon, ridges = problem.context, problem.horizon, len(maps_K)
    weight_LN = np.concatenate([linear.weight_HL for linear in maps_K]).T
    bias_N = np.concatenate([linear.bias_H for linear in maps_K])
    one = problem.scaler.channel(c)
    contexts = sliding_window_view(problem.work_CR[c], context)
    targets = sliding_window_view(problem.panel.values[:, c], horizon)
    floor = 0.0 if problem.panel.channels[c].kind == "count" else -np.inf
    total_K = np.zeros(ridges)
    for part in chunks(starts, max(1, 2_000_000 // (context + horizon * ridges))):
        work_BN = contexts[part] @ weight_LN + bias_N
        scaled_BN = work_BN * problem.spread_C[c] + problem.centre_C[c]
        mean_BKH = np.maximum(one.unscale(scaled_BN[:, :, None])[:, :, 0], floor).reshape(-1, ridges, horizon)
        total_K += np.square(mean_BKH - targets[part + context][:, None]).sum(axis=(0, 2))
    return total_K / (len(starts) * horizon)
