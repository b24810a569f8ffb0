"""The choice of transform, calendar and ridge for one channel, by rolling validation inside the training rows.

Shapes: R rows, B windows, L context, H horizon, W = L + H, K calendar terms, T transforms, P ridges.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.calendar import Calendar, joint_moments
from presurge.models.linear.channel import ChannelModel, Scale, solve_channel
from presurge.models.linear.folds import Fold, thinned
from presurge.models.linear.moments import Moments, moments_of
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import Float64Array, TransformName
from presurge.series.spans import Span
from presurge.series.windows import IntArray, chunks, complete, window_origins

RIDGES = (30_000.0, 10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 0.0)
"""Penalties in rows; the largest comes first, so that it wins a tie."""
_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A candidate: a transform, with or without calendar, and a ridge; ``error`` is its WAPE over the folds or None."""

    transform: TransformName
    calendar: bool
    ridge: float
    error: float | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Channel:
    """One channel of a panel, as the choice sees it.

    Attributes:
        y_R: float32, all rows in original units.
        time_R: Time of every row in microseconds.
        learn: First rows of the complete windows of every fold, and last of all training rows; each holds the one before.
        judge: First rows of the complete windows that judge each fold.
        floor: Zero for a count, minus infinity for a gauge.
    """

    y_R: FloatArray
    time_R: IntArray
    learn: tuple[IntArray, ...]
    judge: tuple[IntArray, ...]
    calendar: Calendar
    context: int
    horizon: int
    floor: float


def channels_of(
    panel: Panel,
    train: Span,
    folds: Sequence[Fold],
    *,
    context: int,
    horizon: int,
    stride: int,
    calendar: Calendar,
) -> list[Channel]:
    """The channels of a panel with the windows that learn and judge."""
    shape = {"context": context, "horizon": horizon}
    learn = [
        window_origins(panel, span, **shape, stride=stride) for span in (*(f.learn for f in folds), train)
    ]
    judge = [window_origins(panel, fold.judge, **shape) for fold in folds]
    whole = {
        id(origins): complete(panel, origins, before=context, after=horizon) for origins in (*learn, *judge)
    }
    time_R = panel.times()
    return [
        Channel(
            y_R=np.ascontiguousarray(panel.values[:, c]),
            time_R=time_R,
            learn=tuple(origins[whole[id(origins)][:, c]] - context + 1 for origins in learn),
            judge=tuple(thinned(origins[whole[id(origins)][:, c]]) - context + 1 for origins in judge),
            calendar=calendar,
            context=context,
            horizon=horizon,
            floor=0.0 if channel.kind == "count" else -np.inf,
        )
        for c, channel in enumerate(panel.channels)
    ]


def fit_channel(
    channel: Channel,
    scales: Sequence[Scale],
    calendars: Sequence[bool],
    ridges: Sequence[float],
    default: Choice,
) -> ChannelFit:
    """Choose by the pooled error over the folds, and fit the winner to all training windows.

    The ridge is carried from the folds to the final fit as a number of rows. ``default`` is taken where no fold holds
    windows both to learn from and to judge by; its transform is one of the scales.
    """
    moments_FT = _moments_by_fold(channel, scales)
    usable = [f for f, judge in enumerate(channel.judge) if len(judge) and moments_FT[f][0].n]
    candidates: list[Choice] = []
    best, lowest = default, np.inf
    winners: dict[int, ChannelModel] = {}
    for t, scale in enumerate(scales):
        for calendar in calendars:
            fits = {f: _solve(channel, moments_FT[f][t], scale, ridges, calendar=calendar) for f in usable}
            error_P = _pooled_errors(channel, fits, len(ridges))
            tried = [
                Choice(transform=scale.transform, calendar=calendar, ridge=ridge, error=float(error))
                for ridge, error in zip(ridges, error_P, strict=True)
            ]
            candidates += tried
            p = int(np.argmin(error_P)) if usable else 0
            if usable and error_P[p] < lowest:
                lowest, best = error_P[p], tried[p]
                winners = {f: _one_ridge(fit, p, channel.horizon) for f, fit in fits.items()}
    t = [scale.transform for scale in scales].index(best.transform)
    final = _solve(channel, moments_FT[-1][t], scales[t], [best.ridge], calendar=best.calendar)
    return ChannelFit(
        model=final,
        choice=best,
        candidates=tuple(candidates) if usable else (),
        at_fold=tuple(winners.get(f) for f in range(len(channel.judge))),
        n_windows=moments_FT[-1][t].n,
    )


def _moments_by_fold(channel: Channel, scales: Sequence[Scale]) -> list[list[Moments]]:
    """Joint moments of the windows of every fold and of all, for each scale; only new windows are summed each time."""
    working_TR = np.array([(scale.forward(channel.y_R) - scale.centre) / scale.spread for scale in scales])
    width = channel.context + channel.horizon
    totals: list[list[Moments]] = []
    known: IntArray = np.zeros(0, np.int64)
    for starts in channel.learn:
        new = np.setdiff1d(starts, known, assume_unique=True)
        plain = [moments_of(x_R, new, width) for x_R in working_TR]
        joint = joint_moments(
            plain,
            working_TR,
            new,
            calendar=channel.calendar,
            time_R=channel.time_R,
            context=channel.context,
        )
        totals.append([a + b for a, b in zip(totals[-1], joint, strict=True)] if totals else joint)
        known = starts
    return totals


def _solve(
    channel: Channel, joint: Moments, scale: Scale, ridges: Sequence[float], *, calendar: bool
) -> ChannelModel:
    return solve_channel(
        joint,
        scale,
        ridges,
        context=channel.context,
        horizon=channel.horizon,
        calendar=calendar,
        floor=channel.floor,
    )


def _pooled_errors(channel: Channel, fits: dict[int, ChannelModel], ridges: int) -> Float64Array:
    """Sum of absolute errors over sum of absolute values of all folds together, for each ridge: float64 [P]."""
    total_P, size = np.zeros(ridges), 0.0
    context, horizon = channel.context, channel.horizon
    contexts = sliding_window_view(channel.y_R, context)
    targets = sliding_window_view(channel.y_R, horizon)
    for f, model in fits.items():
        for part in chunks(channel.judge[f], max(1, _VALUES_AT_ONCE // (context + horizon * ridges))):
            terms_BK = channel.calendar.terms(channel.time_R[part + context - 1])
            y_BPH = model.predict(contexts[part], terms_BK).reshape(len(part), ridges, horizon)
            actual_BH = targets[part + context].astype(np.float64)
            total_P += np.abs(y_BPH - actual_BH[:, None]).sum(axis=(0, 2))
            size += float(np.abs(actual_BH).sum())
    return total_P / max(size, float(np.finfo(np.float64).tiny))


def _one_ridge(model: ChannelModel, p: int, horizon: int) -> ChannelModel:
    rows = slice(p * horizon, (p + 1) * horizon)
    return replace(
        model,
        weight_NL=model.weight_NL[rows],
        bias_N=model.bias_N[rows],
        calendar_NK=None if model.calendar_NK is None else model.calendar_NK[rows],
    )
