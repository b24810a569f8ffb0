"""The Panel: regular multivariate series of one or many items, the one form of all data inside Presurge.

Shapes: R rows, C channels, I items, F static features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError, required
from presurge.series.frequency import SECOND, check_step, format_step
from presurge.series.spans import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ChannelKind = Literal["count", "gauge"]
ChannelRole = Literal["target", "observed", "known"]
Clock = Literal["utc", "relative"]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Channel:
    """One column of a panel.

    A ``count`` adds up over time, is never negative, and is zero when nothing was logged; a ``gauge`` is a level, and is
    unknown when nothing was logged. A ratio of two counts is forecast as a count is: never negative.

    A ``target`` is forecast. The other roles are covariates, which models only read: an ``observed`` one up to the origin,
    a ``known`` one (a holiday, a planned campaign) up to the last row of the forecast.
    """

    name: str
    unit: str = ""
    kind: ChannelKind = "gauge"
    role: ChannelRole = "target"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Panel:
    """Regular multivariate series of one or many items; immutable.

    Attributes:
        values: float32 [R, C], contiguous and read-only; NaN exactly where a value is missing.
        channels: The C columns.
        step: Frequency in microseconds, one for all items.
        start: int64 [I], time of each item's first row in microseconds since the Unix epoch; taken from ``stamps``
            if these are given.
        items: Names of the I items.
        indptr: int64 [I + 1]; item ``i`` owns the rows ``indptr[i]:indptr[i + 1]``.
        clock: ``utc`` for absolute stamps; ``relative`` for seconds counted from an unknown origin.
        stamps: int64 [R], time of every row if the rows are consecutive bars of trading sessions; ``step`` is then the
            nominal distance between two bars. None if the rows follow a clock.
        features: float32 [I, F], numbers that are constant for an item, such as its GPU count.
        feature_names: Names of the F static features.
        carried: bool [R, C], values that were not measured but carried forward from an earlier row: a context reads them,
            but they are missing as targets. None if there are none.
        observed: bool [R, C], derived from ``values``.
    """

    values: FloatArray
    channels: tuple[Channel, ...]
    step: int
    start: IntArray
    items: tuple[str, ...] = ("",)
    indptr: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    clock: Clock = "utc"
    stamps: IntArray | None = None
    features: FloatArray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    feature_names: tuple[str, ...] = ()
    carried: npt.NDArray[np.bool_] | None = None
    observed: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        values = _frozen(self.values, np.float32)
        indptr = self.indptr if self.indptr.size else np.array([0, len(values)])
        features = self.features if self.feature_names else np.zeros((len(self.items), 0))
        self._check(values, indptr, features)
        start, stamps, carried = self.start, self.stamps, self.carried
        if stamps is not None:
            _check_stamps(stamps, indptr)
            start = np.where(np.diff(indptr) > 0, np.append(stamps, 0)[indptr[:-1]], start)
        for name, array, kind in (
            ("values", values, np.float32),
            ("indptr", indptr, np.int64),
            ("start", start, np.int64),
            ("stamps", stamps, np.int64),
            ("features", features, np.float32),
            ("carried", carried if carried is not None and carried.any() else None, np.bool_),
            ("observed", ~np.isnan(values), np.bool_),
        ):
            object.__setattr__(self, name, None if array is None else _frozen(array, kind))

    def _check(self, values: FloatArray, indptr: IntArray, features: npt.NDArray[Any]) -> None:
        if values.ndim != 2 or values.shape[1] != len(self.channels):
            raise DataError(f"values of shape {values.shape} do not fit {len(self.channels)} channels")
        if np.isinf(values).any():
            row, column = np.argwhere(np.isinf(values))[0]
            raise DataError("a value is infinite", where=f"row {row}, channel {self.channels[column].name!r}")
        names = self.channel_names
        if len(set(names)) != len(names):
            raise DataError(f"two channels have the same name: {', '.join(names)}")
        if len(indptr) != len(self.items) + 1 or len(self.start) != len(self.items):
            raise DataError(f"{len(self.items)} items need as many starts and one more row index")
        if indptr[0] != 0 or indptr[-1] != len(values) or (np.diff(indptr) < 0).any():
            raise DataError("the row index of the items does not cover the rows in order")
        expected = (len(self.items), len(self.feature_names))
        if features.shape != expected or not np.isfinite(features).all():
            raise DataError(
                f"static features need one finite number for each of {expected[0]} items and {expected[1]} names"
            )
        check_step(self.step)

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        from presurge.series.timestamps import format_stamp

        items = f" of {len(self.items)} items" if len(self.items) > 1 else ""
        lines = [f"Panel: {len(self):,} rows of {format_step(self.step)}{items}"]
        if len(self):
            times = self.times()
            first, last = (format_stamp(int(time), self.clock) for time in (times.min(), times.max()))
            lines[0] += f", {first} to {last}"
        for channel, known in zip(self.channels, self.measured.sum(axis=0), strict=True):
            missing = f", {len(self) - known:,} missing" if known < len(self) else ""
            lines.append(f"  {channel.name}: {channel.kind}, {channel.role}{missing}")
        return "\n".join(lines)

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """bool [R, C], the values that count as targets: observed and not carried."""
        return self.observed if self.carried is None else self.observed & ~self.carried

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels in order."""
        return tuple(channel.name for channel in self.channels)

    @property
    def targets(self) -> IntArray:
        """int64, the columns that are forecast."""
        return columns_of(self.channels, "target")

    @property
    def count_mask(self) -> npt.NDArray[np.bool_]:
        """bool [C], true for counts, which are never negative."""
        return np.array([channel.kind == "count" for channel in self.channels], np.bool_)

    def rows_of(self, item: int) -> slice:
        """The rows that item number ``item`` owns."""
        return slice(int(self.indptr[item]), int(self.indptr[item + 1]))

    def items_of(self, rows: IntArray) -> IntArray:
        """The number of the item that owns each row."""
        return np.searchsorted(self.indptr, rows, side="right") - 1

    def times(self) -> IntArray:
        """int64 [R], the time of every row in microseconds since the Unix epoch."""
        return self.times_of(np.arange(len(self)))

    def times_of(self, rows: IntArray) -> IntArray:
        """The times of some rows in microseconds since the Unix epoch."""
        if self.stamps is not None:
            return self.stamps[rows]
        item = self.items_of(rows)
        return self.start[item] + (rows - self.indptr[item]) * self.step

    def rows_after(self, items: IntArray, times: IntArray) -> IntArray:
        """The first row later than a time, for each pair of item and time.

        On a regular clock the row may lie outside the item, as if the item went on.
        """
        begin = self.indptr[items]
        if self.stamps is None:
            return begin + (times - self.start[items]) // self.step + 1
        stamps = [self.stamps[self.rows_of(int(item))] for item in items]
        found = [np.searchsorted(own, time, side="right") for own, time in zip(stamps, times, strict=True)]
        return begin + np.array(found, np.int64)

    def full_span(self) -> Span:
        """The span of all rows of all items."""
        return Span(self.indptr[:-1], self.indptr[1:])

    def select(self, names: Sequence[str]) -> "Panel":
        """The panel with the named channels only, in the order given.

        Raises:
            DataError: A channel is missing.
        """
        if tuple(names) == self.channel_names:
            return self
        columns = _places(names, self.channel_names, "channel")
        return self.replace(
            values=self.values[:, columns],
            channels=tuple(self.channels[i] for i in columns),
            carried=None if self.carried is None else self.carried[:, columns],
        )

    def with_ratios(self, names: Iterable[str]) -> "Panel":
        """The panel with a channel for each name such as ``input_tokens/requests``, the ratio of two of its channels.

        The ratio of a row is that of its sums, so a mean for each request. Where the denominator is zero it is carried from
        the row before (the first rows have the first ratio of their item), and missing as a target.
        """
        panel = self
        for name in dict.fromkeys(names):
            parts = name.split("/")
            if name in panel.channel_names or len(parts) != 2 or not set(parts) <= set(panel.channel_names):
                continue
            columns = [panel.channel_names.index(part) for part in parts]
            over, under = panel.values[:, columns].T
            ratio = np.divide(over, under, out=np.full(len(panel), np.nan, np.float32), where=under != 0)
            items = panel.items_of(np.arange(len(panel)))
            known = pl.col("ratio").fill_nan(None).forward_fill().backward_fill().over("item")
            carried = pl.DataFrame({"ratio": ratio, "item": items}).select(known).to_series().to_numpy()
            hole = (under == 0) & ~np.isnan(over)
            kind: ChannelKind = "count" if panel.count_mask[columns].all() else "gauge"
            units = [panel.channels[column].unit for column in columns]
            unit = f"{units[0]}/{units[1].removesuffix('s')}".strip("/")
            filled = np.where(hole, carried, ratio)
            panel = panel.with_channel(Channel(name, unit, kind), filled, carried=hole & ~np.isnan(filled))
        return panel

    def with_channel(
        self, channel: Channel, values_R: FloatArray, carried: npt.NDArray[np.bool_] | None = None
    ) -> "Panel":
        """The panel with one more channel; ``carried`` is true for those of its values that were not measured."""
        before = np.zeros(self.values.shape, np.bool_) if self.carried is None else self.carried
        added = np.zeros(len(self), np.bool_) if carried is None else carried
        return self.replace(
            values=np.column_stack((self.values, values_R)),
            channels=(*self.channels, channel),
            carried=np.column_stack((before, added)),
        )

    def select_features(self, names: Sequence[str]) -> "Panel":
        """The panel with the named static features only, in the order given.

        Raises:
            DataError: A static feature is missing.
        """
        if tuple(names) == self.feature_names:
            return self
        columns = _places(names, self.feature_names, "static feature")
        return self.replace(features=self.features[:, columns], feature_names=tuple(names))

    def only_targets(self) -> "Panel":
        """The panel without its covariates and static features."""
        targets = [channel.name for channel in self.channels if channel.role == "target"]
        return self.select(targets).select_features(())

    def with_roles(self, *, known: Iterable[str] = (), observed: Iterable[str] = ()) -> "Panel":
        """The panel with the named channels as covariates; all others are targets.

        Raises:
            DataError: A channel is missing, has two roles, or no target is left.
        """
        roles: dict[str, ChannelRole] = dict.fromkeys(known, "known")
        if twice := [name for name in observed if name in roles]:
            raise DataError(f"the channel {twice[0]!r} cannot be both known and observed", setting="observed")
        roles |= dict.fromkeys(observed, "observed")
        _places(list(roles), self.channel_names, "channel")
        channels = tuple(replaced(c, role=roles.get(c.name, "target")) for c in self.channels)
        if not columns_of(channels, "target").size:
            raise DataError(
                "every channel is a covariate: there is nothing to forecast",
                hint="Leave at least one channel out of `known` and `observed`.",
            )
        return self.replace(channels=channels)

    def take(self, span: Span) -> "Panel":
        """A panel of the rows of a span; items without rows stay, empty."""
        return self._of(span, start=self.start + (span.first - self.indptr[:-1]) * self.step)

    def take_items(self, numbers: Sequence[int]) -> "Panel":
        """A panel of some of the items, in the order given."""
        chosen = np.array(numbers, np.int64)
        return self._of(
            Span(self.indptr[chosen], self.indptr[chosen + 1]),
            items=tuple(self.items[i] for i in numbers),
            start=self.start[chosen],
            features=self.features[chosen],
        )

    def _of(self, span: Span, **changes: Any) -> "Panel":
        """The rows of a span, an item for each of its stretches."""

        def rows(array_R: npt.NDArray[Any]) -> npt.NDArray[Any]:
            pieces = (array_R[a:b] for a, b in zip(span.first, span.last, strict=True))
            return np.concatenate([array_R[:0], *pieces])

        return self.replace(
            values=rows(self.values),
            indptr=np.concatenate(([0], np.cumsum(span.last - span.first))),
            stamps=None if self.stamps is None else rows(self.stamps),
            carried=None if self.carried is None else rows(self.carried),
            **changes,
        )

    def replace(self, **changes: Any) -> "Panel":
        """The panel with some of its attributes changed."""
        return replaced(self, **changes)

    def to_frame(self) -> pl.DataFrame:
        """One row for each time and item: ``timestamp``, ``item`` (if there are several), one column for each channel.

        Missing values are null, carried ones too. ``timestamp`` is a UTC datetime, or seconds (float64) on a relative clock.
        """
        columns = [time_column(self.times(), self.clock)]
        if len(self.items) > 1:
            columns.append(pl.Series("item", np.repeat(np.array(self.items), np.diff(self.indptr))))
        measured = np.where(self.measured, self.values, np.float32(np.nan))
        values = [pl.Series(c.name, measured[:, i]).fill_nan(None) for i, c in enumerate(self.channels)]
        return pl.DataFrame(columns + values)

    def plot(self) -> "Figure":
        """Draw the first six channels over time, a line for each of the first seven items.

        Raises:
            MissingDependencyError: Matplotlib is not installed.
        """
        with required("matplotlib", purpose="a plot", extra="plots"):
            from presurge.series.plots import drawn, panel_figure
        return drawn(lambda: panel_figure(self))


def columns_of(channels: Sequence[Channel], *roles: ChannelRole) -> IntArray:
    """int64, the places of the channels that have one of the roles."""
    return np.array([i for i, channel in enumerate(channels) if channel.role in roles], np.int64)


def time_column(times: IntArray, clock: Clock) -> pl.Series:
    """Times (microseconds) as the column ``timestamp`` of a frame: UTC datetimes, or seconds (float64) on a relative clock."""
    stamps = pl.Series("timestamp", times)
    return stamps.cast(pl.Datetime("us", "UTC")) if clock == "utc" else stamps / SECOND


def _places(names: Sequence[str], among: Sequence[str], what: str) -> list[int]:
    if missing := [name for name in names if name not in among]:
        raise DataError(
            f"no {what} {', '.join(map(repr, missing))}",
            hint=f"The {what}s are: {', '.join(among)}.",
        )
    return [among.index(name) for name in names]


def _frozen(array: npt.NDArray[Any], kind: type[np.generic]) -> npt.NDArray[Any]:
    """A contiguous read-only array; a copy, unless the array already is one."""
    frozen = np.ascontiguousarray(array, kind)
    if frozen is array and (array.flags.writeable or array.base is not None):
        frozen = array.copy()
    frozen.flags.writeable = False
    return frozen


def _check_stamps(stamps: IntArray, indptr: IntArray) -> None:
    if stamps.shape != (indptr[-1],):
        raise DataError(f"{len(stamps)} stamps do not fit {indptr[-1]} rows")
    falls = np.setdiff1d(np.flatnonzero(np.diff(stamps) <= 0) + 1, indptr)
    if falls.size:
        raise DataError("a stamp is not later than the one before it", where=f"row {falls[0]}")
