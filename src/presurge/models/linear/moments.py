"""Sums over windows, without the windows: all that least squares needs to know of any number of them.

A window is L context values followed by H targets, W = L + H values of one channel. For consecutive windows the Gram
matrix is Hankel-like: ``G[i+1, j+1] = G[i, j] - x[i] x[j] + x[N+i] x[N+j]``, so that one row of lagged products gives all of it
in O(N W + W^2). Windows apart from each other (a stride, short stretches between gaps) are multiplied out in chunks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from presurge.series.scalers import Float64Array
from presurge.series.windows import IntArray, chunks

_LAGGED_AT_ONCE = 4_096
"""Rows whose lagged products are taken together: two such pieces fit the first cache."""


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

    def relative_to(self, anchor_W: Float64Array) -> "Moments":
        """The moments of the same windows, each less its own level ``window @ anchor_W``."""
        cross_W = self.gram_WW @ anchor_W
        gram_WW = self.gram_WW - cross_W[:, None] - cross_W[None, :] + anchor_W @ cross_W
        return Moments(self.n, self.total_W - self.total_W @ anchor_W, gram_WW)

    def centred(self) -> tuple[Float64Array, Float64Array]:
        """Mean [W] and scatter [W, W] (sum of the outer products of the deviations from the mean)."""
        mean_W = self.total_W / max(self.n, 1)
        return mean_W, self.gram_WW - np.outer(mean_W, self.total_W)


def no_moments(width: int) -> Moments:
    """The moments of no windows."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(x_R: Float64Array, starts: IntArray, width: int) -> Moments:
    """Moments of the windows of ``width`` values that begin at the given rows of one channel.

    Args:
        x_R: The channel; the rows of every window are observed. Values near zero with spread near one keep the sums exact
            to rounding.
        starts: First rows of the windows, ascending.
        width: W.
    """
    stretches, single = runs(starts, width)
    result = no_moments(width)
    for begin, n in stretches:
        result += _consecutive(x_R[begin : begin + n + width - 1], width)
    return result + _scattered(x_R, single, width)


def runs(starts: IntArray, at_least: int) -> tuple[list[tuple[int, int]], IntArray]:
    """Split ascending rows into stretches without a break, (first row, rows) of each, and the rows of shorter ones."""
    breaks = np.flatnonzero(np.diff(starts) != 1) + 1
    firsts, ends = np.concatenate(([0], breaks)), np.concatenate((breaks, [len(starts)]))
    long = ends - firsts >= at_least
    pairs = zip(firsts[long], ends[long], strict=True)
    stretches = [(int(starts[first]), int(end - first)) for first, end in pairs]
    single = np.repeat(~long, ends - firsts) if len(starts) else np.zeros(0, np.bool_)
    return stretches, starts[single]


def _consecutive(x_R: Float64Array, width: int) -> Moments:
    """Moments of all windows of a stretch, by the Hankel recursion."""
    n = len(x_R) - width + 1
    row_W = np.zeros(width)
    for begin in range(0, n, _LAGGED_AT_ONCE):
        end = min(n, begin + _LAGGED_AT_ONCE)
        row_W += np.correlate(x_R[begin : end + width - 1], x_R[begin:end], "valid")
    leaving, arriving = x_R[: width - 1], x_R[n:]
    change = np.outer(arriving, arriving) - np.outer(leaving, leaving)
    gram_WW = np.empty((width, width))
    gram_WW[0] = gram_WW[:, 0] = row_W
    for i in range(width - 1):
        np.add(gram_WW[i, :-1], change[i], out=gram_WW[i + 1, 1:])
    shifts = np.concatenate(([0.0], np.cumsum(arriving - leaving)))
    return Moments(n, x_R[:n].sum() + shifts, gram_WW)


def _scattered(x_R: Float64Array, starts: IntArray, width: int) -> Moments:
    """Moments of windows apart from each other, multiplied out a chunk at a time."""
    result = no_moments(width)
    if len(starts) == 0:
        return result
    windows = sliding_window_view(x_R, width)
    for part in chunks(starts, max(1, 2_000_000 // width)):
        z_BW = windows[part]
        result += Moments(len(part), z_BW.sum(axis=0), z_BW.T @ z_BW)
    return result
