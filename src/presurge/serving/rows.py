"""The last buckets of one item, in constant memory: rows and events come in late, twice or never, as in a table.

Shapes: R buckets, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.errors import DataError
from presurge.series.frequency import SECOND
from presurge.series.panel import Channel, FloatArray, Panel
from presurge.sources.table import Fill

AHEAD = 64
"""Buckets that may be open at once: events of a later one are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the rows of all items of a model have in common.

    Attributes:
        channels: The C channels that come in.
        step: Width of a bucket in microseconds.
        rows: Closed buckets that are kept.
        fill: What a bucket without a row holds, as in ``read_table``.
    """

    channels: tuple[Channel, ...]
    step: int
    rows: int
    fill: Fill = "auto"

    @property
    def size(self) -> int:
        """R: those that are kept and those that may be open."""
        return self.rows + AHEAD

    @property
    def empty(self) -> FloatArray:
        """float32 [C], what a bucket without a row holds."""
        zero = [self.fill == "zero" or (self.fill == "auto" and c.kind == "count") for c in self.channels]
        return np.where(zero, np.float32(0), np.float32(np.nan)).astype(np.float32)

    @property
    def counts(self) -> npt.NDArray[np.bool_]:
        """bool [C], the channels that add up."""
        return np.array([channel.kind == "count" for channel in self.channels], np.bool_)


@dataclass(eq=False)
class Rows:
    """A ring of buckets; bucket ``b`` begins at ``b * step + phase`` and lies at place ``b % R``.

    Attributes:
        phase: Where in a step the buckets begin, in microseconds: as the first row of the item did.
        first: Number of the first bucket.
        last: Number of the newest closed bucket; before ``first`` if none is closed.
        top: Number of the newest bucket with a value.
        total_RC: float64, sums.
        count_RC: int32, values in each sum.
        seen_R: bool, whether anything came.
    """

    shape: Shape
    phase: int
    first: int
    last: int
    top: int
    total_RC: npt.NDArray[np.float64]
    count_RC: npt.NDArray[np.int32]
    seen_R: npt.NDArray[np.bool_]

    @classmethod
    def begin(cls, shape: Shape, time: int, *, event: bool) -> "Rows":
        """Rows of an item whose first one has this time."""
        phase = 0 if event else time % shape.step
        bucket = (time - phase) // shape.step
        size, channels = shape.size, len(shape.channels)
        return cls(
            shape=shape,
            phase=phase,
            first=bucket,
            last=bucket - 1,
            top=bucket - 1,
            total_RC=np.zeros((size, channels)),
            count_RC=np.zeros((size, channels), np.int32),
            seen_R=np.zeros(size, np.bool_),
        )

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

    def kept(self) -> dict[str, npt.NDArray[Any]]:
        """Sums, counts and marks of the buckets that are held, and the numbers to find them again."""
        places = np.arange(self.oldest, self.top + 1) % self.shape.size
        ends = np.array([[self.phase, self.oldest, self.last, self.top]], np.int64)
        return {
            "total": self.total_RC[places],
            "count": self.count_RC[places],
            "seen": self.seen_R[places],
            "ends": ends,
        }

    @classmethod
    def of(cls, shape: Shape, kept: Mapping[str, npt.NDArray[Any]]) -> "Rows":
        """The inverse of ``kept``; of more buckets than the shape holds, the newest."""
        phase, first, last, top = kept["ends"][0].tolist()
        rows = cls.begin(shape, first * shape.step + phase, event=False)
        rows.phase, rows.first, rows.last, rows.top = phase, max(first, last - shape.rows + 1), last, top
        places = np.arange(rows.first, top + 1) % shape.size
        for own, name in ((rows.total_RC, "total"), (rows.count_RC, "count"), (rows.seen_R, "seen")):
            own[places] = kept[name][len(kept[name]) - len(places) :]
        return rows

    def resized(self, shape: Shape) -> "Rows":
        """The same rows in a ring of another shape."""
        return Rows.of(shape, self.kept())

    def add(self, bucket: int, value_C: npt.NDArray[np.float64]) -> None:
        """Merge values into a bucket that ``oldest`` and ``AHEAD`` allow; NaN is no value."""
        for fresh in range(max(self.top + 1, bucket - self.shape.size + 1), bucket + 1):
            place = fresh % self.shape.size
            self.total_RC[place], self.count_RC[place], self.seen_R[place] = 0, 0, False
        self.top = max(self.top, bucket)
        place, known_C = bucket % self.shape.size, ~np.isnan(value_C)
        self.total_RC[place, known_C] += value_C[known_C]
        self.count_RC[place] += known_C
        self.seen_R[place] = True

    def close(self, bucket: int) -> None:
        """Close all buckets up to this one."""
        if bucket > self.top:
            place = bucket % self.shape.size
            self.add(bucket, np.full(len(self.shape.channels), np.nan))
            self.seen_R[place] = False
        self.last = max(self.last, bucket)

    def values(self, begin: int, end: int) -> FloatArray:
        """float32 [end - begin, C], what the buckets hold by the rules of a table."""
        places = np.arange(begin, end) % self.shape.size
        count_BC, seen_B1 = self.count_RC[places], self.seen_R[places][:, None]
        divisor_BC = np.where(self.shape.counts, 1, np.maximum(count_BC, 1))
        known_BC = self.total_RC[places] / divisor_BC
        return np.where(
            count_BC > 0, known_BC, np.where(seen_B1, np.float32(np.nan), self.shape.empty)
        ).astype(np.float32)


def panel_of(rows: Mapping[str, Rows], clock: Any = "utc") -> Panel:
    """The closed buckets of some items."""
    shape = next(iter(rows.values())).shape
    parts = [one.values(one.oldest, one.last + 1) for one in rows.values()]
    return Panel(
        values=np.concatenate(parts),
        channels=shape.channels,
        step=shape.step,
        start=np.array([one.start(one.oldest) for one in rows.values()]),
        items=tuple(rows),
        indptr=np.cumsum([0, *map(len, parts)]),
        clock=clock,
    )


def moment(value: str | float, *, where: str) -> int:
    """A time in microseconds: ISO 8601 (UTC unless it names a zone), or a number in the unit that its magnitude tells.

    Raises:
        DataError: It is none.
    """
    try:
        if isinstance(value, str):
            stamp = datetime.fromisoformat(value)
            stamp = stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
            since = stamp - datetime(1970, 1, 1, tzinfo=UTC)
            return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
        size = abs(value)
        unit = 1e6 if size < 1e11 else 1e3 if size < 1e14 else 1 if size < 1e17 else 1e-3
        return round(value * unit)
    except (ValueError, OverflowError) as error:
        hint = "Write 2024-05-01T00:00:00Z, or a number of seconds or milliseconds since 1970."
        raise DataError(f"{value!r} is not a time", where=where, hint=hint) from error
