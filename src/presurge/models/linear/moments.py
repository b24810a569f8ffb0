"""Sums over windows, without the windows: all that least squares needs to know of any number of them.

A window holds L context values and H targets, W = L + H rows, of one series or of several side by side. For consecutive
windows every block of the Gram matrix is Hankel-like: ``G[i+1, j+1] = G[i, j] - x[i] y[j] + x[N+i] y[N+j]``, so one row of
lagged products gives all of it in O(N W + W^2). Windows apart from each other (a stride, short stretches between gaps) are
multiplied out in chunks.

Shapes: R rows, B windows, S series, T scales of one series, P covariates, M harmonics, K = 2 M calendar terms.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.calendar import Calendar
from presurge.series.panel import IntArray
from presurge.series.scalers import Float64Array
from presurge.series.windows import chunks

Normalisation = Literal["none", "last", "mean", "meanabs"]
"""What is taken off every window and put back on its forecast: nothing, its last value, its mean; or what it is divided by:
its mean absolute value."""
LEAST_SIZE = 0.01
"""Least size of a window, where it is divided by its mean absolute value: a share of that of the training rows."""
_LAGGED_AT_ONCE = 4_096
"""Rows whose lagged products are taken together: two such pieces fit the first cache."""
_VALUES_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums over n windows of W values: how many, their total, and the sum of their outer products.

    Attributes:
        total_W: float64, the sum of the windows.
        gram_WW: float64, the sum of the outer products of the windows with themselves.
    """

    n: int
    total_W: Float64Array
    gram_WW: Float64Array

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.n + other.n, self.total_W + other.total_W, self.gram_WW + other.gram_WW)

    def beside(self, more: "Moments", cross_WV: Float64Array) -> "Moments":
        """The moments of the same windows with V further values each, and the sums of the products of both."""
        gram = np.block([[self.gram_WW, cross_WV], [cross_WV.T, more.gram_WW]])
        return Moments(self.n, np.concatenate((self.total_W, more.total_W)), gram)

    def relative_to(self, anchor_A: Float64Array) -> "Moments":
        """The moments after each window's level, ``window[:A] @ anchor_A``, is taken off its first A values."""
        size = len(anchor_A)
        total_W, gram_WW = self.total_W.copy(), self.gram_WW.copy()
        total_W[:size] -= anchor_A @ total_W[:size]
        gram_WW[:size] -= anchor_A @ gram_WW[:size]
        gram_WW[:, :size] -= (gram_WW[:, :size] @ anchor_A)[:, None]
        return Moments(self.n, total_W, gram_WW)

    def take(self, columns: IntArray, size: Float64Array) -> "Moments":
        """The moments of some of the values, each multiplied by its entry of ``size``."""
        gram = self.gram_WW[np.ix_(columns, columns)]
        return Moments(self.n, self.total_W[columns] * size, gram * np.outer(size, size))

    def centred(self) -> tuple[Float64Array, Float64Array]:
        """Mean [W] and scatter [W, W] (sum of the outer products of the deviations from the mean)."""
        mean_W = self.total_W / max(self.n, 1)
        return mean_W, self.gram_WW - np.outer(mean_W, self.total_W)


def anchor(normalisation: Normalisation, context: int) -> Float64Array:
    """float64 [L], the weights of the level that a normalisation takes off every window; zeros for no level."""
    levels: dict[str, Float64Array] = {"last": np.eye(context)[-1], "mean": np.full(context, 1 / context)}
    return levels.get(normalisation, np.zeros(context))


def no_moments(width: int) -> Moments:
    """The moments of no windows."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(x: Float64Array, starts: IntArray, width: int, *, sized_by: int | None = None) -> Moments:
    """Moments of the windows of ``width`` rows that begin at the given rows.

    Args:
        x: One series [R], or several [S, R], whose windows stand one after another: S x W values. The rows of every window
            are observed. Values near zero with spread near one keep the sums exact to rounding.
        starts: First rows of the windows, ascending.
        width: W.
        sized_by: If given, every window is divided by the mean absolute value of its first so many values, but by no less
            than ``LEAST_SIZE``.
    """
    x_SR = np.atleast_2d(x)
    stretches, single = _runs(starts, width) if sized_by is None else ([], starts)
    result = no_moments(len(x_SR) * width)
    for begin, n in stretches:
        result += _consecutive(x_SR[:, begin : begin + n + width - 1], width)
    for part in chunks(single, max(1, _VALUES_AT_ONCE // len(result.total_W))):
        windows_SBW = sliding_window_view(x_SR, width, axis=1)[:, part]
        z_BX = windows_SBW.transpose(1, 0, 2).reshape(len(part), -1)
        if sized_by is not None:
            z_BX /= np.maximum(np.abs(z_BX[:, :sized_by]).mean(axis=1, keepdims=True), LEAST_SIZE)
        result += moments_written_out(z_BX)
    return result


def moments_written_out(z_BW: Float64Array) -> Moments:
    """Moments of windows that exist as an array."""
    return Moments(len(z_BW), z_BW.sum(axis=0), z_BW.T @ z_BW)


def _runs(starts: IntArray, at_least: int) -> tuple[list[tuple[int, int]], IntArray]:
    """Split ascending rows into stretches without a break, (first row, rows) of each, and the rows of shorter ones."""
    ends = np.append(np.flatnonzero(np.diff(starts) != 1) + 1, len(starts))
    rows = np.diff(ends, prepend=0)
    long = rows >= at_least
    firsts = starts[(ends - rows)[long]]
    return list(zip(firsts.tolist(), rows[long].tolist(), strict=True)), starts[np.repeat(~long, rows)]


def _consecutive(x_SR: Float64Array, width: int) -> Moments:
    """Moments of all windows of a stretch, by the Hankel recursion."""
    series, n = len(x_SR), x_SR.shape[1] - width + 1
    first_SSW = np.zeros((series, series, width))
    for begin in range(0, n, _LAGGED_AT_ONCE):
        end = min(n, begin + _LAGGED_AT_ONCE)
        for a, b in np.ndindex(series, series):
            first_SSW[a, b] += np.correlate(x_SR[b, begin : end + width - 1], x_SR[a, begin:end], "valid")
    leaving_SV, arriving_SV = x_SR[:, : width - 1], x_SR[:, n:]
    change_SVSV = np.multiply.outer(arriving_SV, arriving_SV) - np.multiply.outer(leaving_SV, leaving_SV)
    gram_SWSW = np.empty((series, width, series, width))
    gram_SWSW[:, 0], gram_SWSW[..., 0] = first_SSW, first_SSW.transpose(1, 2, 0)
    for i in range(width - 1):
        np.add(gram_SWSW[:, i, :, :-1], change_SVSV[:, i], out=gram_SWSW[:, i + 1, :, 1:])
    shifts_SW = np.pad(np.cumsum(arriving_SV - leaving_SV, axis=1), ((0, 0), (1, 0)))
    total_SW = x_SR[:, :n].sum(axis=1)[:, None] + shifts_SW
    return Moments(n, total_SW.reshape(-1), gram_SWSW.reshape(series * width, -1))


def joint_moments(
    x_TR: Float64Array,
    covariate_PR: Float64Array,
    starts: IntArray,
    width: int,
    *,
    calendar: Calendar,
    time_R: IntArray,
    context: int,
) -> list[Moments]:
    """For each scale, moments of [W values, P x W of the covariates, K calendar terms of the origin].

    Args:
        x_TR: One series on T scales; the rows of every window are observed.
        covariate_PR: Series that may help to forecast it.
        starts: First rows of the windows, ascending.
        width: W.
        calendar: The terms.
        time_R: Time of every row in microseconds.
        context: L; the origin of a window is its row L - 1.
    """
    plain_T = [moments_of(np.vstack((x_R, covariate_PR)), starts, width) for x_R in x_TR]
    if calendar.size == 0:
        return plain_T
    x_SR = np.vstack((x_TR, covariate_PR))
    own, cross_SKW = no_moments(calendar.size), np.zeros((len(x_SR), calendar.size, width))
    stretches, single = _runs(starts, width)
    for begin, n in stretches:
        rows = slice(begin, begin + n + width - 1)
        if (np.diff(time_R[rows]) != calendar.step).any():  # trading sessions, between which the clock leaps
            single = np.concatenate((single, np.arange(begin, begin + n)))
            continue
        terms, cross = _calendar_moments(calendar, time_R[rows], x_SR[:, rows], context, width)
        own, cross_SKW = own + terms, cross_SKW + cross
    for part in chunks(single, max(1, _VALUES_AT_ONCE // width)):
        terms_BK = calendar.terms(time_R[part + context - 1])
        own += moments_written_out(terms_BK)
        for s, x_R in enumerate(x_SR):
            cross_SKW[s] += terms_BK.T @ sliding_window_view(x_R, width)[part]
    cross_PKW = cross_SKW[len(x_TR) :]
    return [
        plain.beside(own, np.concatenate((cross_KW, *cross_PKW), axis=1).T)
        for plain, cross_KW in zip(plain_T, cross_SKW, strict=False)
    ]


def _calendar_moments(
    calendar: Calendar, time_R: IntArray, x_SR: Float64Array, context: int, width: int
) -> tuple[Moments, Float64Array]:
    """Moments of the terms of all windows of a stretch, and their products with the windows [S, K, W].

    A wave at the origin is the wave at any row of the window, turned. The products of waves and values of the same row
    need one pass for the first column; from column to column one product leaves and one arrives.
    """
    n = len(time_R) - width + 1
    turn_MW = calendar.waves((context - 1 - np.arange(width)) * calendar.step).T
    own, first_SM = no_moments(calendar.size), np.zeros((len(x_SR), len(calendar.harmonics)), np.complex128)
    for begin in range(0, n, _VALUES_AT_ONCE // 64):
        end = min(n, begin + _VALUES_AT_ONCE // 64)
        waves_BM = calendar.waves(time_R[begin + context - 1 : end + context - 1])
        own += moments_written_out(np.concatenate((waves_BM.imag, waves_BM.real), axis=1))
        first_SM += x_SR[:, begin:end] @ waves_BM
    leaving_SMV = x_SR[:, None, : width - 1] * calendar.waves(time_R[: width - 1]).T
    arriving_SMV = x_SR[:, None, n:] * calendar.waves(time_R[n:]).T
    shifts_SMW = np.pad(np.cumsum(arriving_SMV - leaving_SMV, axis=2), ((0, 0), (0, 0), (1, 0)))
    waves_SMW = ((first_SM * turn_MW[:, 0].conj())[:, :, None] + shifts_SMW) * turn_MW
    return own, np.concatenate((waves_SMW.imag, waves_SMW.real), axis=1)
