"""Buckets: exact integer counts for each step of a regular grid, from a lazy frame of any length.

Shapes: N buckets with at least one event, R buckets from the first to the last event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from presurge.errors import DataError
from presurge.series.frequency import SECOND, format_step
from presurge.series.panel import IntArray

Totals = dict[str, int]

TIME = "time_us"
ELAPSED = "elapsed_us"
BUSY = "busy_us"
"""Microseconds in flight, summed over all requests; divided by the step, the mean number in flight."""

MAX_BUCKETS = 50_000_000
"""19 months of seconds or 95 years of minutes; a longer series means a wrong time stamp."""

_MAX_SUM = 2**62


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Buckets:
    """Sums of columns over the buckets of a regular grid, of which only those with events are stored.

    Every bucket starts at a multiple of the step since the epoch.

    Attributes:
        step: Width of a bucket in microseconds.
        index_N: Numbers of the stored buckets (start divided by step), ascending.
        sums: int64 [N] by column name.
        first: Time of the first event in microseconds.
        last: Time of the last event.
    """

    step: int
    index_N: IntArray
    sums: Mapping[str, IntArray]
    first: int
    last: int

    def __len__(self) -> int:
        return self.last // self.step - self.origin + 1

    @property
    def origin(self) -> int:
        """Number of the first bucket."""
        return self.first // self.step

    def totals(self) -> Totals:
        """Exact sum of every column over all buckets."""
        return {name: int(values.sum()) for name, values in self.sums.items()}

    def starts(self, begin: int = 0, end: int | None = None) -> IntArray:
        """int64 [R], starts of the buckets ``begin:end`` in microseconds."""
        return (np.arange(begin, len(self) if end is None else end) + self.origin) * self.step

    def column(self, name: str, begin: int = 0, end: int | None = None) -> IntArray:
        """int64 [R], one column over the buckets ``begin:end``, zero in those without events."""
        end = len(self) if end is None else end
        bounds = np.array([begin, end]) + self.origin
        low, high = np.searchsorted(self.index_N, bounds)
        values = np.zeros(end - begin, np.int64)
        values[self.index_N[low:high] - bounds[0]] = self.sums[name][low:high]
        return values

    def seconds_present(self) -> IntArray:
        """int64 [R], the seconds of each bucket from the second of the first event to that of the last."""
        seconds = np.full(len(self), self.step // SECOND)
        seconds[0] -= (self.first - self.origin * self.step) // SECOND
        seconds[-1] -= ((self.origin + len(self)) * self.step - 1 - self.last) // SECOND
        return seconds

    def partial(self) -> npt.NDArray[np.bool_]:
        """bool [R], whether events leave at least a whole second uncovered; only true for edge buckets."""
        return self.seconds_present() < self.step // SECOND

    def coarsen(self, step: int) -> Self:
        """The same counts in wider buckets; ``step`` is a multiple of this step."""
        wide = self.index_N // (step // self.step)
        begins = np.flatnonzero(np.diff(wide, prepend=wide[0] - 1))
        sums = {name: np.add.reduceat(values, begins) for name, values in self.sums.items()}
        return type(self)(step=step, index_N=wide[begins], sums=sums, first=self.first, last=self.last)


def bucket(rows: pl.LazyFrame, step: int) -> tuple[Buckets, Totals]:
    """Sum columns over buckets in one streamed pass over any number of rows in any order.

    Args:
        rows: ``time_us`` Int64, any number of non-negative Int64 columns and, if each row is a request with a duration,
            ``elapsed_us`` Int64 (null where unknown), which gives the column ``busy_us``.
        step: Width of a bucket in microseconds.

    Returns:
        The buckets, and the totals of the columns, summed over the rows rather than over the buckets.

    Raises:
        DataError: There are no rows, the sums overflow 64 bits, or the stamps are too far apart for the step.
    """
    return bucketed(pl.collect_all(bucket_queries(rows, step), engine="streaming"), step)


def bucket_queries(rows: pl.LazyFrame, step: int) -> list[pl.LazyFrame]:
    """The queries behind ``bucket``, to be run in one pass with others; ``bucketed`` reads their answers."""
    columns = rows.collect_schema().names()
    names = [name for name in columns if name not in (TIME, ELAPSED)]
    number = (pl.col(TIME) // step).alias("bucket")
    grouped = rows.group_by(number).agg(pl.col(name).sum() for name in names).sort("bucket")
    edges = [pl.col(TIME).min().alias("first"), pl.col(TIME).max().alias("last")]
    # In 128 bits a sum of 64-bit integers does not wrap around.
    totals = rows.select(pl.exclude(TIME).cast(pl.Int128).sum(), *edges)
    if ELAPSED not in columns:
        return [grouped, totals]
    end = pl.col(TIME) + pl.col(ELAPSED).fill_null(0)
    return [grouped, totals, _grouped_flights(rows, pl.col(TIME), step), _grouped_flights(rows, end, step)]


def bucketed(answers: Sequence[pl.DataFrame], step: int) -> tuple[Buckets, Totals]:
    """Combine the answers to ``bucket_queries``; returns and raises as ``bucket`` does."""
    grouped, summary, *flights = answers
    names = grouped.columns[1:]
    totals = summary.row(0, named=True)
    _check(totals, step)
    buckets = Buckets(
        step=step,
        index_N=grouped["bucket"].to_numpy(),
        sums={name: grouped[name].to_numpy() for name in names},
        first=totals["first"],
        last=totals["last"],
    )
    if flights:
        buckets = _with_busy(buckets, *flights)
    return buckets, {name: totals[name] for name in names}


def check_conserved(before: Totals, after: Totals, where: str) -> None:
    """Compare exact totals across a stage.

    Raises:
        DataError: A total of ``before`` changed or is missing; the message gives both numbers.
    """
    for name, total in before.items():
        if after.get(name) != total:
            raise DataError(
                f"{name} were not conserved: {total} went in and {after.get(name)} came out",
                where=where,
                hint="Nothing was written. The input may have changed while it was read: run again.",
            )


def _grouped_flights(rows: pl.LazyFrame, moment: pl.Expr, step: int) -> pl.LazyFrame:
    """The number of requests that start (or end) in each bucket, and their total time from then to its end."""
    number = (moment // step).alias("bucket")
    return rows.group_by(number).agg(
        pl.len().cast(pl.Int64).alias("n"), (step - moment % step).sum().alias("rest")
    )


def _check(totals: Mapping[str, int | None], step: int) -> None:
    first, last = totals["first"], totals["last"]
    if first is None or last is None:
        raise DataError("it contains no rows", hint="Check that the file is the right one and complete.")
    for name, total in totals.items():
        if name not in ("first", "last") and (total or 0) >= _MAX_SUM:  # no bucket exceeds the total
            raise DataError(
                f"the sum of {name} is too large for a 64-bit integer",
                hint="Some values are probably wrong: check the largest ones, and their unit.",
            )
    rows = last // step - first // step + 1
    if rows > MAX_BUCKETS:
        raise DataError(
            f"the time stamps span {(last - first) / 86_400e6:,.0f} days, which are {rows:,.0f} buckets of {format_step(step)}",
            hint="A stamp or its unit is probably wrong: check the smallest and the largest. Or use a wider `step`.",
        )


def _with_busy(buckets: Buckets, starts: pl.DataFrame, ends: pl.DataFrame) -> Buckets:
    """Add the time in flight.

    A request in flight at the end of a bucket first counts for the whole step; then the bucket of a start loses the time
    before it, and the bucket of an end gains the time before it. All terms are integers. Single terms may wrap around 64
    bits, but the result does not, because all elapsed times together fit.
    """
    step, origin = buckets.step, buckets.origin
    ends = ends.filter(pl.col("bucket") < origin + len(buckets))
    busy_R = np.zeros(len(buckets), np.int64)
    edge_R = np.zeros(len(buckets), np.int64)
    for moments, sign in ((starts, 1), (ends, -1)):
        row, n = moments["bucket"].to_numpy() - origin, moments["n"].to_numpy()
        busy_R[row] += sign * n
        edge_R[row] += sign * (moments["rest"].to_numpy() - n * step)
    np.cumsum(busy_R, out=busy_R)
    busy_R *= step
    busy_R += edge_R
    held_R = busy_R != 0
    held_R[buckets.index_N - origin] = True
    row_N = np.flatnonzero(held_R)
    sums = {name: buckets.column(name)[row_N] for name in buckets.sums}
    return replace(buckets, index_N=row_N + origin, sums={**sums, BUSY: busy_R[row_N]})
