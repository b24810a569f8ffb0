"""How calibrations follow later errors, and how fast they should.

Each known error moves the quantiles a little. A quantile of level q goes up by ``rate * q * scale`` if the error lies above it
and down by ``rate * (1 - q) * scale`` if it lies below, so that in the long run a share q of the errors lies below it,
whatever the series does. An error counts as soon as its target is known: the quantiles of horizon step h at an origin rest
on forecasts made at least h rows before it. The scale is the present width of the 80 % interval, or the mean absolute error
so far if that is larger, so an interval opens and closes by a share of itself, however far the load has moved. The mean
error of the points is an exponentially weighted one.

Sources: Gibbs and Candès, "Adaptive conformal inference under distribution shift", 2021; Angelopoulos, Candès and
Tibshirani, "Conformal PID control for time series prediction", 2023 (quantile tracking).

Shapes: as in ``models/conformal.py``; X tracks (origins that follow the same errors), S rows of a track, G choices, R runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from presurge.models.conformal import BoolArray, Calibration, errors_of, is_tail
from presurge.series.panel import FloatArray, IntArray
from presurge.series.windows import chunks

BLOCK = 500
"""Rows of a block: an origin follows the errors of the last 501 to 1,000 rows."""
_RATES = ((0.003, 0.5), (0.01, 0.5), (0.03, 0.5), (0.05, 0.5), (0.05, 0.0))
"""Rates to choose from, slowest first, and the power of the horizon step by which each falls: two for the quantiles between
the tails, where noise costs accuracy, and three for the tails, which have to be found again when the load changes."""
_CENTRES = 2
_WEIGHTS = (0.0, 1 / 300, 1 / 120, 1 / 50, 1 / 25)
"""Weights of the mean to choose from, one beside each rate, because one run tries a rate and a weight at once."""
_SLOWER, _FASTER, _CLEARLY = 1.01, 1.002, 0.003
_VALUES_AT_ONCE, _MOST_VALUES, _ROWS_AT_ONCE = 256, 1024, 64


@dataclass(eq=False)
class Tracks:
    """Residual quantiles and mean errors that follow errors; X tracks, of any leading shape.

    Attributes:
        quantiles_XHQC: float64. Each moves on its own and may cross another.
        bias_XHC: float64, mean errors of the points in original units.
        total_XHC: float64, sum of the absolute errors of the points on the scale of the residuals.
        count_XHC: int64, number of these errors.
        followed_X: int64, rows with a known error.
    """

    quantiles_XHQC: npt.NDArray[np.float64]
    bias_XHC: npt.NDArray[np.float64]
    total_XHC: npt.NDArray[np.float64]
    count_XHC: IntArray
    followed_X: IntArray

    @classmethod
    def begin(cls, calibration: Calibration, group_X: IntArray) -> Self:
        """Tracks that begin at a group of residuals each and follow no error yet."""
        quantiles_XHQC = calibration.residuals_KHQC[group_X].astype(np.float64)
        bias_XHC = calibration.bias_KHC[group_X].astype(np.float64)
        total_XHC = np.zeros_like(bias_XHC)
        count_XHC, followed_X = np.zeros_like(bias_XHC, np.int64), np.zeros(group_X.shape, np.int64)
        return cls(quantiles_XHQC, bias_XHC, total_XHC, count_XHC, followed_X)

    def _arrays(self) -> tuple[npt.NDArray[Any], ...]:
        return self.quantiles_XHQC, self.bias_XHC, self.total_XHC, self.count_XHC, self.followed_X

    def put(self, index: Any, tracks: "Tracks", chosen: Any) -> None:
        """Replace some of the tracks by some of others."""
        for array, other in zip(self._arrays(), tracks._arrays(), strict=True):
            array[index] = other[chosen]

    def follow(
        self, actual_SXHC: FloatArray, centre_SXHZC: FloatArray, calibration: Calibration
    ) -> Iterator[Self]:
        """Move by S rows of errors, oldest first, and yield the tracks after each row.

        Axes of X may be 1 where all tracks follow the same errors.

        Args:
            actual_SXHC: What came in at least one row, in original units; NaN moves nothing. H may be 1 for all steps.
            centre_SXHZC: What was forecast of it, h rows before for step h: points, or points and learned quantiles.
            calibration: Says how fast to follow. Its rates and weights may have leading axes, for those of X.
        """
        errors_SXHZC = errors_of(actual_SXHC[..., None, :], centre_SXHZC, calibration.count_C)
        misses_SXHC = actual_SXHC - centre_SXHZC[..., 0, :]
        known_SXHC = ~np.isnan(misses_SXHC)
        misses_SXHC[~known_SXHC] = 0
        sizes_SXHC = np.where(known_SXHC, np.abs(errors_SXHZC[..., 0, :]), 0)
        count_SXHC = self.count_XHC + known_SXHC.cumsum(axis=0)
        followed_SX = self.followed_X + known_SXHC.any(axis=(-2, -1)).cumsum(axis=0)
        least_SXHC = np.maximum(count_SXHC, 1)
        level_Q1 = np.array(calibration.levels)[:, None]
        low, high = (np.abs(level_Q1 - level).argmin() for level in (0.1, 0.9))
        up_HQC, rates_HQC = calibration.rates_HQC * level_Q1, calibration.rates_HQC.astype(np.float64)
        weight_1C, learned = calibration.weight_C[..., None, :], int(centre_SXHZC.shape[-2] > 1)
        for s, known_XHC in enumerate(known_SXHC):
            quantiles_XHQC, errors_XHQC = self.quantiles_XHQC, errors_SXHZC[s, ..., learned:, :]
            self.total_XHC += sizes_SXHC[s]
            self.count_XHC, self.followed_X = count_SXHC[s], followed_SX[s]
            width_XHC = quantiles_XHQC[..., high, :] - quantiles_XHQC[..., low, :]
            gain_XHC = known_XHC * np.maximum(width_XHC, self.total_XHC / least_SXHC[s])
            quantiles_XHQC += gain_XHC[..., None, :] * (up_HQC - rates_HQC * (errors_XHQC < quantiles_XHQC))
            self.bias_XHC += weight_1C * known_XHC * (misses_SXHC[s] - self.bias_XHC)
            yield self

    def follow_runs(
        self, actual_RJHC: FloatArray, centre_RJHZC: FloatArray, calibration: Calibration
    ) -> Iterator[Self]:
        """Move tracks [G, R] by the errors of J origins of R runs, and yield the tracks as each origin knows them."""
        yield self
        steps = np.arange(actual_RJHC.shape[2])
        for part_S in chunks(np.arange(1, actual_RJHC.shape[1]), _ROWS_AT_ONCE):
            due_SH = part_S[:, None] - 1 - steps  # step h of the forecast of h rows ago is now known
            actual_SRHC = actual_RJHC[:, due_SH, steps].swapaxes(0, 1)
            actual_SRHC[np.broadcast_to((due_SH < 0)[:, None, :, None], actual_SRHC.shape)] = np.nan
            centre_SRHZC = centre_RJHZC[:, due_SH, steps].swapaxes(0, 1)
            yield from self.follow(actual_SRHC[:, None], centre_SRHZC[:, None], calibration)


class Windows(NamedTuple):
    """Forecasts of B windows of one item from rows that their model had not seen, and what came.

    Attributes:
        origins_B: Row of each origin, ascending.
        actual_BHC: NaN where missing.
        centre_BHZC: Points, or points and learned quantiles.
    """

    item: str
    origins_B: IntArray
    actual_BHC: FloatArray
    centre_BHZC: FloatArray

    def of(self, item: str, chosen_B: BoolArray) -> "Windows":
        """Some of the windows, as those of an item."""
        return Windows(item, self.origins_B[chosen_B], self.actual_BHC[chosen_B], self.centre_BHZC[chosen_B])

    def half(self, number: int) -> "Windows":
        """The first (0) or second (1) half."""
        later_B = np.arange(len(self.origins_B)) >= len(self.origins_B) // 2
        return self.of(self.item, later_B == bool(number))


def with_chosen_rates(calibration: Calibration, folds: Sequence[Sequence[Windows]]) -> Calibration:
    """The calibration with the rates and weights that did best on its own windows.

    The windows of each fold are forecast with the residuals of the other folds, following their own errors, as after training.
    Chosen are, for each channel: the fastest rate of the tails whose pinball loss is within 0.2 % of the best, because
    coverage suffers most where a change of the load is followed late; the slowest rate of the quantiles between them within
    1 %; and the weight of the mean with the least sum of its squared error, as a share of that of the points, and its bias, as
    a share of the load. A fixed mean error, or the points themselves, have to be better by 0.3 %.

    Args:
        calibration: Measured on all windows, without peaks. With very many steps and channels it is returned as it is.
        folds: Two or more.
    """
    if calibration.bias_KHC[0].size > _MOST_VALUES:
        return calibration
    chosen = [_choices(calibration, folds, k) for k in range(len(folds))]
    loss_GQC, squared_GC = (np.sum([one[k] for one in chosen], axis=0) for k in (0, 1))
    bias_GC = np.mean([one[2] for one in chosen], axis=0)
    tail_Q = is_tail(calibration.levels)
    centre_GC, tail_GC = loss_GQC[:_CENTRES, ~tail_Q].sum(axis=1), loss_GQC[_CENTRES:, tail_Q].sum(axis=1)
    slow_C = (centre_GC <= _SLOWER * centre_GC.min(axis=0)).argmax(axis=0)
    fast_C = len(_RATES) - 1 - (tail_GC <= _FASTER * tail_GC.min(axis=0))[::-1].argmax(axis=0)
    rates_GH = _rates(len(calibration.rates_HQC))
    rates_HQC = np.where(tail_Q[:, None], rates_GH[fast_C].T[:, None], rates_GH[slow_C].T[:, None])
    harm_GC = squared_GC / np.where(squared_GC[-1] > 0, squared_GC[-1], 1) + bias_GC
    harm_GC[[0, -1]] += _CLEARLY
    best_C = harm_GC.argmin(axis=0)
    return replace(
        calibration,
        bias_KHC=np.where(best_C == len(_WEIGHTS), np.float32(0), calibration.bias_KHC),
        rates_HQC=rates_HQC.astype(np.float32),
        weight_C=np.array((*_WEIGHTS, 0))[best_C].astype(np.float32),
    )


def _rates(horizon: int) -> FloatArray:
    """The rates to choose from: [G, H]."""
    steps = np.arange(1, horizon + 1)
    return np.stack([rate / steps**power for rate, power in _RATES])


def _choices(
    calibration: Calibration, folds: Sequence[Sequence[Windows]], fold: int
) -> tuple[npt.NDArray[np.float64], ...]:
    """What following the errors of a fold costs by each choice.

    Returns pinball losses [G, Q, C]; squared errors of the means, and at the end of the points, [G + 1, C]; their absolute
    bias over the load [G + 1, C].
    """
    count_C, levels = calibration.count_C, calibration.levels
    others = [windows for k, part in enumerate(folds) if k != fold for windows in part]
    start = Calibration.measure(
        np.concatenate([windows.actual_BHC for windows in others]),
        np.concatenate([windows.centre_BHZC for windows in others]),
        count_C,
        levels,
        item_B=[windows.item for windows in others for _ in windows.origins_B],
    )
    items, actual_RJHC, centre_RJHZC = _runs(folds[fold])
    _, _, horizon, channels = actual_RJHC.shape
    rates_G1H11 = _rates(horizon)[:, None, :, None, None]
    start = replace(start, rates_HQC=rates_G1H11, weight_C=np.array(_WEIGHTS)[:, None, None])
    tracks = Tracks.begin(start, np.tile(start.groups_of(items), (len(_RATES), 1)))
    states = tracks.follow_runs(actual_RJHC, centre_RJHZC, start)
    level_Q1 = np.array(levels)[:, None]
    loss_GQC = np.zeros((len(_RATES), len(levels), channels))
    squared_GC, miss_GC = np.zeros((2, len(_RATES) + 1, channels))
    load_C = np.zeros(channels)
    for j, _ in enumerate(states):
        made, actual_RHC = centre_RJHZC[:, j], actual_RJHC[:, j]
        known_RHC = ~np.isnan(actual_RHC - made[:, :, 0])
        residuals = tracks.quantiles_XHQC.astype(np.float32)
        apart = np.subtract(actual_RHC[:, :, None], calibration.quantiles(made, residuals), dtype=np.float64)
        loss = np.maximum(level_Q1 * apart, (level_Q1 - 1) * apart)
        loss_GQC += loss.sum(axis=(1, 2), where=known_RHC[:, :, None])
        means = calibration.means(made[:, :, 0], tracks.bias_XHC.astype(np.float32))
        miss = np.concatenate((means, made[None, :, :, 0])) - actual_RHC
        squared_GC += np.square(miss).sum(axis=(1, 2), where=known_RHC)
        miss_GC += miss.sum(axis=(1, 2), where=known_RHC)
        load_C += np.abs(actual_RHC).sum(axis=(0, 1), where=known_RHC)
    return loss_GQC, squared_GC, np.abs(miss_GC) / np.where(load_C > 0, load_C, 1)


def _runs(windows: Sequence[Windows]) -> tuple[list[str], FloatArray, FloatArray]:
    """Runs of up to two blocks of rows: item of each, actual values [R, J, H, C], centres [R, J, H, Z, C].

    Of many runs a few, evenly spaced, are taken, because each costs time; what was not forecast is NaN.
    """
    runs = []
    for one in windows:
        number_B = (one.origins_B - one.origins_B[0]) // (2 * BLOCK)
        runs += [(one, np.flatnonzero(number_B == number)) for number in np.unique(number_B)]
    _, horizon, centres, channels = windows[0].centre_BHZC.shape
    most = max(1, _VALUES_AT_ONCE // (horizon * channels))
    runs = [runs[k] for k in np.unique(np.linspace(0, len(runs) - 1, most).round().astype(np.int64))]
    rows = max(int(one.origins_B[part[-1]] - one.origins_B[part[0]]) for one, part in runs) + 1
    actual_RJHC = np.full((len(runs), rows, horizon, channels), np.nan, np.float32)
    centre_RJHZC = np.full((len(runs), rows, horizon, centres, channels), np.nan, np.float32)
    for r, (one, part) in enumerate(runs):
        at = one.origins_B[part] - one.origins_B[part[0]]
        actual_RJHC[r, at], centre_RJHZC[r, at] = one.actual_BHC[part], one.centre_BHZC[part]
    return [one.item for one, _ in runs], actual_RJHC, centre_RJHZC
