"""The calendar as inputs of a model: sines and cosines of the time of day and of the week.

Shapes: B times, M harmonics, K = 2 M terms.
"""

import numpy as np
import numpy.typing as npt

from presurge.config import Config
from presurge.series.frequency import DAY, WEEK
from presurge.series.panel import IntArray
from presurge.series.scalers import Float64Array

_ORDERS = ((DAY, range(1, 9)), (WEEK, range(1, 7)))
"""Harmonics of each period. The seventh of a week is the first of a day, so a week has six of its own."""
_MANY = 100
"""Times of which some fall on the same time of the week, as a rule, and need their sines only once."""
_WEEKDAYS = tuple(order for order in range(8, 105) if order % 7)
"""Products of daily and weekly harmonics are further harmonics of the week: with them each weekday has a shape of its own."""


class Calendar(Config):
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
                for order in orders
                if rows * step >= 2 * period and period > 2 * step * order
            ),
        )

    @classmethod
    def of_weekdays(cls, step: int, rows: int) -> "Calendar":
        """The further harmonics of weekdays with shapes of their own, which only four weeks or more can teach."""
        orders = _WEEKDAYS if rows * step >= 4 * WEEK else ()
        return cls(step=step, harmonics=tuple((WEEK, order) for order in orders if 2 * step * order < WEEK))

    def of_the_day(self) -> "Calendar":
        """The harmonics of the day alone."""
        return Calendar(step=self.step, harmonics=tuple(pair for pair in self.harmonics if pair[0] == DAY))

    @property
    def size(self) -> int:
        """K, the number of terms."""
        return 2 * len(self.harmonics)

    def terms(self, time_B: IntArray) -> Float64Array:
        """Sines, then cosines, of B times in microseconds: float64 [B, K]."""
        waves_BM = self.waves(time_B)
        return np.concatenate((waves_BM.imag, waves_BM.real), axis=1)

    def waves(self, time_B: IntArray) -> npt.NDArray[np.complex128]:
        """The same as complex numbers ``exp(i angle)``: complex128 [B, M]."""
        if len(time_B) > _MANY:
            time_U, place_B = np.unique(time_B % WEEK, return_inverse=True)
        else:
            time_U, place_B = time_B, np.arange(len(time_B))
        period_M, order_M = np.array(self.harmonics, np.int64).reshape(-1, 2).T
        angle_UM = 2 * np.pi * ((time_U[:, None] * order_M) % period_M / period_M)
        waves_UM = np.empty(angle_UM.shape, np.complex128)
        waves_UM.real, waves_UM.imag = np.cos(angle_UM), np.sin(angle_UM)
        return waves_UM[place_B]
