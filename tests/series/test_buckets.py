"""Buckets against sums made another way: pandas, and plain loops over the requests."""

from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import DataError
from presurge.series.buckets import BUSY, bucket, check_conserved
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND

STEPS = (SECOND, 7 * SECOND, MINUTE, HOUR)
requests = st.lists(
    st.tuples(
        st.integers(-5 * HOUR, 5 * HOUR) | st.integers(0, 3).map(lambda second: second * SECOND),
        st.integers(0, 2**40),
        st.none() | st.integers(0, 2 * HOUR),
    ),
    min_size=1,
    max_size=40,
)


def frame(rows: list[tuple[int, int, int | None]]) -> pl.LazyFrame:
    columns = {"time_us": pl.Int64, "tokens": pl.Int64, "elapsed_us": pl.Int64}
    return pl.LazyFrame(rows, schema=columns, orient="row").with_columns(requests=pl.lit(1, pl.Int64))


def time_in_flight(rows: list[tuple[int, int, int | None]], begin: int, step: int) -> int:
    """The overlap of every request with one bucket, request by request."""
    overlaps = (min(t + (e or 0), begin + step) - max(t, begin) for t, _, e in rows)
    return sum(max(0, overlap) for overlap in overlaps)


@given(rows=requests, step=st.sampled_from(STEPS))
def test_sums_are_those_of_pandas_and_nothing_is_lost(rows, step):
    buckets, totals = bucket(frame(rows), step)
    table = pd.DataFrame(rows, columns=["time", "tokens", "elapsed"])
    expected = table.groupby(table["time"] // step)["tokens"].agg(["sum", "size"])
    expected = expected.reindex(range(expected.index[0], expected.index[-1] + 1), fill_value=0)
    assert buckets.column("tokens").tolist() == expected["sum"].tolist()
    assert buckets.column("requests").tolist() == expected["size"].tolist()
    assert buckets.starts().tolist() == [number * step for number in expected.index]
    assert totals == {"tokens": sum(row[1] for row in rows), "requests": len(rows)}
    assert {name: buckets.totals()[name] for name in totals} == totals


@given(rows=requests, step=st.sampled_from(STEPS))
def test_time_in_flight_is_the_overlap_with_each_request(rows, step):
    buckets, _ = bucket(frame(rows), step)
    busy = buckets.column(BUSY)
    for number in {0, len(buckets) // 2, len(buckets) - 1, *np.flatnonzero(busy)[:50].tolist()}:
        begin = (buckets.origin + number) * step
        assert busy[number] == time_in_flight(rows, begin, step)


@given(rows=requests, factor=st.sampled_from([1, 2, 60, 3600]))
def test_coarsening_is_the_same_as_bucketing_wider(rows, factor):
    fine, _ = bucket(frame(rows), SECOND)
    direct, _ = bucket(frame(rows), factor * SECOND)
    wide = fine.coarsen(factor * SECOND)
    for name in ("requests", "tokens", BUSY):
        begin, end = 0, len(wide)
        if (
            name == BUSY
        ):  # a second series ends with the second of the last request, so what flies on is not in it
            end -= 1
        assert wide.column(name)[begin:end].tolist() == direct.column(name)[begin:end].tolist()
    assert wide.seconds_present().tolist() == direct.seconds_present().tolist()


@given(rows=requests, step=st.sampled_from(STEPS), cut=st.integers(0, 100))
def test_a_stretch_of_a_column_is_that_part_of_the_whole(rows, step, cut):
    buckets, _ = bucket(frame(rows), step)
    cut = min(cut, len(buckets))
    whole = buckets.column("tokens")
    assert (
        buckets.column("tokens", 0, cut).tolist() + buckets.column("tokens", cut).tolist() == whole.tolist()
    )


@pytest.mark.parametrize(
    ("first", "last", "seconds", "partial"),
    [
        (0, 119, [60, 60], [False, False]),
        (0.999, 119, [60, 60], [False, False]),
        (1, 119.2, [59, 60], [True, False]),
        (0, 118.9, [60, 59], [False, True]),
        (59, 60, [1, 1], [True, True]),
        (65, 70, [6], [True]),
        (-1, 0, [1, 1], [True, True]),
    ],
)
def test_edges_are_partial_unless_covered_to_the_second(first, last, seconds, partial):
    stamps = [int(Fraction(str(stamp)) * SECOND) for stamp in (first, last)]
    buckets, _ = bucket(frame([(stamp, 1, None) for stamp in stamps]), MINUTE)
    assert buckets.seconds_present().tolist() == seconds
    assert buckets.partial().tolist() == partial


def test_a_year_without_a_request_is_zeros():
    buckets, totals = bucket(frame([(0, 5, None), (365 * DAY, 7, None)]), MINUTE)
    assert len(buckets) == 365 * 1440 + 1
    assert buckets.column("tokens").sum() == totals["tokens"] == 12
    assert len(bucket(frame([(0, 1, None), (10**7 * SECOND, 1, None)]), SECOND)[0]) == 10**7 + 1


def test_a_stamp_from_another_age_is_an_error():
    rows = frame([(0, 1, None), (1_700_000_000 * SECOND, 1, None)])
    with pytest.raises(DataError, match=r"days.*buckets of 1s"):
        bucket(rows, SECOND)


def test_sums_that_do_not_fit_are_an_error_and_not_a_wrong_number():
    rows = frame([(0, 2**62, None), (0, 2**62, None)])
    with pytest.raises(DataError, match="sum of tokens is too large"):
        bucket(rows, SECOND)
    with pytest.raises(DataError, match="sum of elapsed_us is too large"):
        bucket(frame([(0, 1, 2**62), (0, 1, 2**62)]), SECOND)


def test_no_row_is_an_error():
    with pytest.raises(DataError, match="no row"):
        bucket(frame([]), SECOND)


@pytest.mark.parametrize("after", [{"requests": 9}, {}])
def test_a_lost_request_is_an_error_with_both_numbers(after):
    with pytest.raises(DataError, match=r"10 went in and (9|None) came out"):
        check_conserved({"requests": 10}, after, "somewhere")
