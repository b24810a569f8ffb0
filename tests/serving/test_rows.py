"""The ring of buckets of an item against a table of the same rows."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presurge.errors import DataError
from presurge.series.panel import Channel
from presurge.serving.rows import Rows, Shape, moment
from presurge.sources.table import read_table

CHANNELS = (Channel("count", kind="count"), Channel("gauge", kind="gauge"))
STEP, ZERO = 60_000_000, 29_540_160

VALUE = st.none() | st.integers(0, 50).map(lambda n: n / 4)


def shape(rows: int = 6, fill: Any = "auto") -> Shape:
    return Shape(channels=CHANNELS, step=STEP, rows=rows, ahead=3, fill=fill)


@settings(max_examples=60)
@given(
    added=st.lists(st.tuples(st.integers(0, 4), VALUE, VALUE), min_size=1, max_size=30),
    fill=st.sampled_from(["auto", "zero", "missing"]),
    resize=st.integers(4, 9),
)
def test_it_holds_the_last_rows_of_a_table(added: list[Any], fill: Any, resize: int) -> None:
    """Buckets that go on by 0 to 4, so that the ring turns over; the last ones stay open; then a ring of another size."""
    rows, table, bucket = Rows.begin(shape(fill=fill), 0, ZERO), [], ZERO
    for ahead, count, gauge in [(0, 1.0, 1.0), *added]:
        bucket += ahead * bool(table)
        rows.add(bucket, [count, gauge])
        table.append((bucket * STEP, count, gauge))
    assert rows.last == max(ZERO - 1, bucket - 3)
    frame = pl.DataFrame(table, {"time": pl.Int64, "count": pl.Float64, "gauge": pl.Float64}, orient="row")
    kinds: Any = {"count": "count", "gauge": "gauge"}
    frame = frame.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    wanted = read_table(
        frame, time="time", values=["count", "gauge"], step=60, kinds=kinds, fill=fill
    ).panel.values
    begin = rows.oldest
    np.testing.assert_array_equal(rows.values(begin, bucket + 1), wanted[begin - ZERO :])
    assert np.isnan(rows.values(begin - 2, begin)).all()  # not kept
    other = Rows.of(shape(resize, fill), *rows.kept())
    assert (other.last, other.top) == (rows.last, rows.top)
    begin = max(begin, other.oldest)
    np.testing.assert_array_equal(other.values(begin, bucket + 1), wanted[begin - ZERO :])


def test_closing_makes_buckets_without_a_row() -> None:
    rows = Rows.begin(shape(), 0, ZERO)
    rows.add(ZERO, [2.0, 3.0])
    rows.close(ZERO + 2)
    assert rows.values(ZERO, ZERO + 3).tolist()[0] == [2, 3]
    np.testing.assert_array_equal(rows.values(ZERO + 1, ZERO + 3), [[0, np.nan]] * 2)


def test_values_that_no_float32_holds_are_missing() -> None:
    rows = Rows.begin(shape(), 0, ZERO)
    rows.add(ZERO, [3e38, float("nan")])
    rows.add(ZERO, [3e38, float("inf")])
    assert np.isnan(rows.values(ZERO, ZERO + 1)).all()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("2024-05-01T00:00:00Z", 1_714_521_600_000_000),
        ("2024-05-01T02:00:00.000001+02:00", 1_714_521_600_000_001),
        ("2024-05-01", 1_714_521_600_000_000),
        (1_714_521_600, 1_714_521_600_000_000),
        (1_714_521_600.25, 1_714_521_600_250_000),
        (1_714_521_600_000, 1_714_521_600_000_000),
        (1_714_521_600_000_000, 1_714_521_600_000_000),
        (1_714_521_600_000_000_000, 1_714_521_600_000_000),
        (-1, -1_000_000),
    ],
)
def test_a_moment(given: str | float, wanted: int) -> None:
    assert moment(given, where="time") == wanted


@pytest.mark.parametrize("given", ["", "yesterday", "2024-13-01", 1e300, float("inf"), float("nan"), -9e10])
def test_what_is_no_moment(given: str | float) -> None:
    with pytest.raises(DataError, match="is not a time"):
        moment(given, where="time")
