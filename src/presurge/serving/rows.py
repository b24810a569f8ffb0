"""The last buckets of one item, in constant memory: rows and events come in late, twice or never, as in a table.

Shapes: R buckets, B some of them, C channels, N those and one more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.errors import DataError
from presurge.series.panel import Channel, FloatArray
from presurge.sources.table import Fill

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the rows of all items of a model have in common.

    Attributes:
        channels: The C channels that come in.
        step: Width of a bucket in microseconds.
        rows: Closed buckets that are kept.
        ahead: Buckets that may be open at once.
        fill: What a bucket without a row holds, as in ``read_table``.
    """

    channels: tuple[Channel, ...]
    step: int
    rows: int
    ahead: int
    fill: Fill = "auto"

    @cached_property
    def size(self) -> int:
        """R: those that are kept and those that may be open."""
        return self.rows + self.ahead

    @cached_property
    def counts(self) -> npt.NDArray[np.bool_]:
        """bool [C], the channels that add up."""
        return np.array([channel.kind == "count" for channel in self.channels], np.bool_)

    @cached_property
    def empty(self) -> FloatArray:
        """float32 [C], what a bucket without a row holds."""
        zero_C = self.counts if self.fill == "auto" else np.full(len(self.channels), self.fill == "zero")
        return np.where(zero_C, np.float32(0), np.float32(np.nan))


@dataclass(eq=False)
class Rows:
    """A ring of buckets; bucket ``b`` begins at ``b * step + phase`` and lies at place ``b % R``.

    Attributes:
        phase: Where in a step the buckets begin, in microseconds: where all rows of the item do, else 0.
        first: Number of the first bucket.
        last: Number of the newest closed bucket; before ``first`` if none is closed.
        top: Number of the newest bucket with a value.
        total_RC: float64, sums.
        count_RN: int32, values in each sum; the last column counts rows.
    """

    shape: Shape
    phase: int
    first: int
    last: int
    top: int
    total_RC: npt.NDArray[np.float64]
    count_RN: npt.NDArray[np.int32]

    @classmethod
    def begin(cls, shape: Shape, phase: int, first: int) -> "Rows":
        """Rows of an item without any."""
        size, channels = shape.size, len(shape.channels)
        total_RC, count_RN = np.zeros((size, channels)), np.zeros((size, channels + 1), np.int32)
        return cls(shape, phase, first, first - 1, first - 1, total_RC, count_RN)

    def bucket(self, time: int) -> int:
        """The number of the bucket of a time."""
        return (time - self.phase) // self.shape.step

    def start(self, bucket: int) -> int:
        """When a bucket begins, in microseconds."""
        return bucket * self.shape.step + self.phase

    @property
    def oldest(self) -> int:
        """Number of the oldest bucket that can still change."""
        return max(self.first, self.last - self.shape.rows + 1)

    def kept(self) -> tuple[list[int], npt.NDArray[np.float64], npt.NDArray[np.int32]]:
        """What ``of`` needs: numbers, and the sums and counts of the buckets that are held."""
        places = np.arange(self.oldest, self.top + 1) % self.shape.size
        return [self.phase, self.oldest, self.last, self.top], self.total_RC[places], self.count_RN[places]

    @classmethod
    def of(cls, shape: Shape, ends: Sequence[int], total: Any, count: Any) -> "Rows":
        """The inverse of ``kept``; of more buckets than the shape holds, the newest."""
        phase, first, last, top = ends
        rows = cls.begin(shape, phase, max(first, top - shape.size + 1))
        rows.last, rows.top = max(last, top - shape.ahead), top
        places = np.arange(rows.first, top + 1) % shape.size
        rows.total_RC[places], rows.count_RN[places] = (
            total[rows.first - first :],
            count[rows.first - first :],
        )
        return rows

    def add(self, bucket: int, values: Sequence[float | None]) -> None:
        """Merge a row into a bucket that is not older than ``oldest``; None, NaN and infinities are no values."""
        if bucket > self.last + self.shape.ahead:
            self.close(bucket - self.shape.ahead)
        self._open(bucket)
        place = bucket % self.shape.size
        for c, value in enumerate(values):
            if value is not None and math.isfinite(value):
                self.total_RC[place, c] += value
                self.count_RN[place, c] += 1
        self.count_RN[place, -1] += 1

    def close(self, bucket: int) -> None:
        """Close all buckets up to this one."""
        self._open(bucket)
        self.last = max(self.last, bucket)

    def _open(self, bucket: int) -> None:
        """Clear the places of the buckets after the newest, up to this one."""
        if bucket > self.top:
            places = np.arange(max(self.top + 1, bucket - self.shape.size + 1), bucket + 1) % self.shape.size
            self.total_RC[places], self.count_RN[places] = 0, 0
            self.top = bucket

    def values(self, begin: int, end: int) -> FloatArray:
        """float32 [B, C], what some buckets hold by the rules of a table; NaN for those that are not kept."""
        bucket_B = np.arange(begin, end)
        places = bucket_B % self.shape.size
        total_BC, count_BN = self.total_RC[places], self.count_RN[places]
        count_BC, rows_B1 = count_BN[:, :-1], count_BN[:, -1:]
        with np.errstate(over="ignore"):
            value_BC = (total_BC / np.where(self.shape.counts, 1, np.maximum(count_BC, 1))).astype(np.float32)
        value_BC[(count_BC == 0) | np.isinf(value_BC)] = np.nan
        value_BC = np.where(rows_B1 == 0, self.shape.empty, value_BC)
        value_BC[(bucket_B < self.oldest) | (bucket_B > self.top)] = np.nan
        return value_BC


def moment(value: str | float, *, where: str) -> int:
    """A time in microseconds: ISO 8601 (UTC unless it names a zone), or a number in the unit that its magnitude tells.

    Raises:
        DataError: It is none.
    """
    try:
        return _moment(value)
    except (ValueError, OverflowError) as error:
        hint = "Write 2024-05-01T00:00:00Z, or a number of seconds or milliseconds since 1970."
        raise DataError(f"{value!r} is not a time", where=where, hint=hint) from error


@lru_cache(1024)  # many send the same times
def _moment(value: str | float) -> int:
    if isinstance(value, str):
        stamp = datetime.fromisoformat(value)
        return ((stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
    size = abs(value)
    if size > 1e20:
        raise OverflowError
    unit = 1e6 if size < 1e11 else 1e3 if size < 1e14 else 1 if size < 1e17 else 1e-3
    return (_EPOCH + round(value * unit) * _MICROSECOND - _EPOCH) // _MICROSECOND  # checks the range
