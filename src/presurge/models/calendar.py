"""The calendar as inputs of a linear forecast: sines and cosines of the time of day and of the week.

Shapes: R rows, B windows, L context, W = L + H values of a window, M harmonics, K = 2 M terms, T scales of one channel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.linear.moments import Moments, no_moments, runs
from presurge.series.frequency import DAY, WEEK
from presurge.series.scalers import Float64Array
from presurge.series.windows import IntArray, chunks

Complex128Array = npt.NDArray[np.complex128]

_ORDERS = ((DAY, 8), (WEEK, 6))
"""Harmonics of each period. The seventh of a week is the first of a day, so a week has six of its own."""
_ROWS_AT_ONCE = 32_768


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Harmonics of the time of an origin.

    Attributes:
        step: Frequency in microseconds.
        harmonics: The M pairs of a period in microseconds and how many waves go into it.
    """

    step: int
    harmonics: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, step: int, rows: int) -> "Calendar":
        """The harmonics that ``rows`` rows can teach: periods held at least twice, waves longer than two rows."""
        return cls(
            step=step,
            harmonics=tuple(
                (period, order)
                for period, orders in _ORDERS
                for order in range(1, orders + 1)
                if rows * step >= 2 * period and period > 2 * step * order
            ),
        )

    @property
    def size(self) -> int:
        """K, the number of terms."""
        return 2 * len(self.harmonics)

    def terms(self, time_B: IntArray) -> Float64Array:
        """Sines, then cosines, of B times in microseconds: float64 [B, K]."""
        waves_BM = self.waves(time_B)
        return np.concatenate((waves_BM.imag, waves_BM.real), axis=1)

    def waves(self, time_B: IntArray) -> Complex128Array:
        """The same as complex numbers ``exp(i angle)``: complex128 [B, M]."""
        period_M, order_M = np.array(self.harmonics, np.int64).reshape(-1, 2).T
        angle_BM = 2 * np.pi * ((time_B[:, None] * order_M) % period_M / period_M)
        waves_BM = np.empty(angle_BM.shape, np.complex128)
        waves_BM.real, waves_BM.imag = np.cos(angle_BM), np.sin(angle_BM)
        return waves_BM

    def turn(self, rows: IntArray) -> Complex128Array:
        """What a shift by some rows multiplies the waves with: complex128 [rows, M]."""
        return self.waves(rows * self.step)

    def to_list(self) -> list[list[int]]:
        """The harmonics as JSON values."""
        return [list(harmonic) for harmonic in self.harmonics]

    @classmethod
    def from_list(cls, step: int, harmonics: list[Any]) -> "Calendar":
        """The inverse of ``to_list``."""
        return cls(step=step, harmonics=tuple((int(period), int(order)) for period, order in harmonics))


def joint_moments(
    plain_T: list[Moments],
    x_TR: Float64Array,
    starts: IntArray,
    *,
    calendar: Calendar,
    time_R: IntArray,
    context: int,
) -> list[Moments]:
    """Moments of windows together with the calendar terms of their origins: W + K values each, the terms last.

    Args:
        plain_T: Moments of the windows of each scale.
        x_TR: One channel on T scales; the rows of every window are observed.
        starts: First rows of the windows, ascending.
        calendar: The terms.
        time_R: Time of every row in microseconds.
        context: L; the origin of a window is its row L - 1.
    """
    if calendar.size == 0:
        return plain_T
    width = len(plain_T[0].total_W)
    own = no_moments(calendar.size)
    cross_TKW = np.zeros((len(x_TR), calendar.size, width))
    stretches, single = runs(starts, width)
    for begin, n in stretches:
        rows = slice(begin, begin + n + width - 1)
        terms, cross = _consecutive(calendar, time_R[rows], x_TR[:, rows], context, width)
        own, cross_TKW = own + terms, cross_TKW + cross
    for part in chunks(single, _ROWS_AT_ONCE):
        terms_BK = calendar.terms(time_R[part + context - 1])
        own += Moments(len(part), terms_BK.sum(axis=0), terms_BK.T @ terms_BK)
        for t, x_R in enumerate(x_TR):
            cross_TKW[t] += terms_BK.T @ sliding_window_view(x_R, width)[part]
    return [
        Moments(
            plain.n,
            np.concatenate((plain.total_W, own.total_W)),
            np.block([[plain.gram_WW, cross_KW.T], [cross_KW, own.gram_WW]]),
        )
        for plain, cross_KW in zip(plain_T, cross_TKW, strict=True)
    ]


def _consecutive(
    calendar: Calendar, time_R: IntArray, x_TR: Float64Array, context: int, width: int
) -> tuple[Moments, Float64Array]:
    """Moments of the terms of all windows of a stretch, and their products with the windows [T, K, W].

    A wave at the origin is the wave at any row of the window, turned. The products of waves and values of the same row
    need one pass for the first column; from column to column one product leaves and one arrives.
    """
    n = len(time_R) - width + 1
    own = no_moments(calendar.size)
    first_TM = np.zeros((len(x_TR), len(calendar.harmonics)), np.complex128)
    for begin in range(0, n, _ROWS_AT_ONCE):
        end = min(n, begin + _ROWS_AT_ONCE)
        waves_BM = calendar.waves(time_R[begin + context - 1 : end + context - 1])
        terms_BK = np.concatenate((waves_BM.imag, waves_BM.real), axis=1)
        own += Moments(end - begin, terms_BK.sum(axis=0), terms_BK.T @ terms_BK)
        first_TM += x_TR[:, begin:end] @ waves_BM
    leaving_TMW = x_TR[:, None, : width - 1] * calendar.waves(time_R[: width - 1]).T
    arriving_TMW = x_TR[:, None, n:] * calendar.waves(time_R[n:]).T
    turn_MW = calendar.turn(context - 1 - np.arange(width)).T
    same_TMW = np.empty((*first_TM.shape, width), np.complex128)
    same_TMW[:, :, 0] = first_TM * turn_MW[:, 0].conj()
    same_TMW[:, :, 1:] = same_TMW[:, :, :1] + np.cumsum(arriving_TMW - leaving_TMW, axis=2)
    waves_TMW = same_TMW * turn_MW
    return own, np.concatenate((waves_TMW.imag, waves_TMW.real), axis=1)
