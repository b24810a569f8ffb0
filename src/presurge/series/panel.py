"""The Panel: regular multivariate series of one or many items, the one form that all data takes inside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError
from presurge.series.frequency import SECOND, check_step
from presurge.series.spans import Span

ChannelKind = Literal["count", "gauge"]
Clock = Literal["utc", "relative"]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Channel:
    """One column of a panel.

    A ``count`` adds up over time, is never negative, and is zero where nothing was logged; a ``gauge`` is a level,
    and is unknown where nothing was logged.
    """

    name: str
    unit: str = ""
    kind: ChannelKind = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """Regular multivariate series of one or many items; immutable.

    Attributes:
        values: float32 [R, C], contiguous and read-only; NaN exactly where a value is missing.
        channels: The C columns.
        step: Frequency in microseconds, one for all items.
        start: int64 [items], time of each item's first row in microseconds since the Unix epoch.
        items: Names of the items.
        indptr: int64 [items + 1]; item ``i`` owns the rows ``indptr[i]:indptr[i + 1]``.
        clock: ``utc`` for absolute stamps; ``relative`` for seconds counted from an unknown origin.
        observed: bool [R, C], derived from ``values``.
    """

    values: FloatArray
    channels: tuple[Channel, ...]
    step: int
    start: npt.NDArray[np.int64]
    items: tuple[str, ...] = ("",)
    indptr: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    clock: Clock = "utc"
    observed: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        values = np.ascontiguousarray(self.values, np.float32)
        if values.ndim != 2 or values.shape[1] != len(self.channels):
            raise DataError(f"values of shape {values.shape} do not fit {len(self.channels)} channels")
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            raise DataError("a value is infinite", where=f"row {row}, channel {self.channels[column].name!r}")
        indptr = self.indptr if self.indptr.size else np.array([0, len(values)])
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise DataError(f"two channels have the same name: {', '.join(names)}")
        if len(indptr) != len(self.items) + 1 or len(self.start) != len(self.items):
            raise DataError(f"{len(self.items)} items need as many starts and one row index more")
        if indptr[0] != 0 or indptr[-1] != len(values) or (np.diff(indptr) < 0).any():
            raise DataError("the row index of the items does not cover the rows in order")
        check_step(self.step)
        observed = ~np.isnan(values)
        for name, array in (
            ("values", values if values is not self.values else values.copy()),
            ("indptr", np.array(indptr, np.int64)),
            ("start", np.array(self.start, np.int64)),
            ("observed", observed),
        ):
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def step_seconds(self) -> int:
        """Frequency in seconds."""
        return self.step // SECOND

    @property
    def count_mask(self) -> npt.NDArray[np.bool_]:
        """bool [C], true for the channels that count and so are never negative."""
        return np.array([channel.kind == "count" for channel in self.channels])

    def rows_of(self, item: int) -> slice:
        """The rows that item number ``item`` owns."""
        return slice(int(self.indptr[item]), int(self.indptr[item + 1]))

    def times(self) -> npt.NDArray[np.int64]:
        """int64 [R], the time of every row in microseconds since the Unix epoch."""
        lengths = np.diff(self.indptr)
        within = np.arange(len(self)) - np.repeat(self.indptr[:-1], lengths)
        return np.repeat(self.start, lengths) + within * self.step

    def full_span(self) -> Span:
        """The span of all rows of all items."""
        return Span(self.indptr[:-1], self.indptr[1:])

    def select(self, names: Sequence[str]) -> "Panel":
        """The panel with the named channels only, in the order given.

        Raises:
            DataError: A channel is missing.
        """
        known = {channel.name: index for index, channel in enumerate(self.channels)}
        missing = [name for name in names if name not in known]
        if missing:
            raise DataError(
                f"no channel {', '.join(map(repr, missing))}",
                hint=f"The channels are: {', '.join(self.channel_names)}.",
            )
        columns = [known[name] for name in names]
        return self.replace(values=self.values[:, columns], channels=tuple(self.channels[i] for i in columns))

    def take(self, span: Span) -> "Panel":
        """The rows of a span as a panel of their own (items left without rows are kept, empty)."""
        pieces = [self.values[a:b] for a, b in zip(span.first, span.last, strict=True)]
        return self.replace(
            values=np.concatenate(pieces) if pieces else self.values[:0],
            indptr=np.concatenate(([0], np.cumsum(span.last - span.first))),
            start=self.start + (span.first - self.indptr[:-1]) * self.step,
        )

    def replace(
        self,
        *,
        values: npt.NDArray[np.float32],
        channels: tuple[Channel, ...] | None = None,
        indptr: npt.NDArray[np.int64] | None = None,
        start: npt.NDArray[np.int64] | None = None,
    ) -> "Panel":
        """A panel of the same items, step and clock with other values, channels or rows."""
        return Panel(
            values=values,
            channels=self.channels if channels is None else channels,
            step=self.step,
            start=self.start if start is None else start,
            items=self.items,
            indptr=self.indptr if indptr is None else indptr,
            clock=self.clock,
        )

    def to_frame(self) -> pl.DataFrame:
        """One row a time and item: ``timestamp``, ``item`` (where there are several), one column a channel.

        Missing values are null. ``timestamp`` is a UTC datetime, or seconds (float64) where the clock is relative.
        """
        times = self.times()
        if self.clock == "utc":
            stamp = pl.Series("timestamp", times).cast(pl.Datetime("us", "UTC"))
        else:
            stamp = pl.Series("timestamp", times / SECOND)
        columns = [stamp]
        if len(self.items) > 1:
            columns.append(pl.Series("item", np.repeat(np.array(self.items), np.diff(self.indptr))))
        values = [pl.Series(c.name, self.values[:, i]).fill_nan(None) for i, c in enumerate(self.channels)]
        return pl.DataFrame(columns + values)
