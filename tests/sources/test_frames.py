"""Frames in memory: what pandas writes in its many types arrives as the same numbers, times and gaps."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import DataError
from presurge.sources import read_frame
from presurge.sources.frames import as_polars, is_frame

STAMPS = pd.date_range("2026-03-02", periods=5, freq="min")
BEGIN_US = 1_772_409_600_000_000


@pytest.mark.parametrize(
    "stamps",
    [
        STAMPS,
        STAMPS.as_unit("s"),
        STAMPS.tz_localize("UTC"),
        STAMPS.tz_localize("UTC").tz_convert("Asia/Shanghai"),
        STAMPS.tz_localize("UTC").tz_convert(timezone(timedelta(hours=5, minutes=30))),
        STAMPS.tz_localize("UTC").astype("timestamp[us, tz=UTC][pyarrow]"),
        STAMPS.to_period("min"),
        STAMPS.strftime("%Y-%m-%d %H:%M:%S"),
        pd.Index(
            [s.tz_localize("UTC").tz_convert("Asia/Tokyo" if i % 2 else "UTC") for i, s in enumerate(STAMPS)],
            object,
        ),
        STAMPS.astype("int64") // 1000 // 1000,
    ],
    ids=["naive", "seconds", "utc", "zone", "offset", "arrow", "periods", "text", "zones", "ms"],
)
def test_a_pandas_frame_is_read_as_the_file_it_could_be(stamps: pd.Index) -> None:
    stamps = stamps // 1000 if stamps.dtype.kind == "i" and stamps[0] > 1e14 else stamps
    table = read_frame(pd.DataFrame({"t": stamps, "y": [1, 2, 3, 4, 5]}), time="t", values=["y"])
    assert table.panel.step == 60_000_000
    np.testing.assert_array_equal(table.panel.times(), BEGIN_US + 60_000_000 * np.arange(5))
    np.testing.assert_array_equal(table.panel.values[:, 0], [1, 2, 3, 4, 5])
    assert table.panel.channels[0].kind == "count"


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([1.5, None, 3]),
        pd.Series([1.5, np.nan, 3], dtype="Float64"),
        pd.Series([1.5, None, 3], dtype="double[pyarrow]"),
        pd.Series([1.5, None, 3], dtype=object),
        pd.Series(["1.5", None, "3"]),
        pd.Series([1.5, None, 3], dtype="category"),
        pd.Series([1.5, None, 3], dtype="float32"),
    ],
    ids=["float", "nullable", "arrow", "object", "text", "category", "single"],
)
def test_what_is_missing_in_pandas_is_missing(values: pd.Series) -> None:
    frame = pd.DataFrame({"t": STAMPS[:3], "y": values})
    panel = read_frame(frame, time="t", values=["y"]).panel
    np.testing.assert_array_equal(panel.values[:, 0], [1.5, np.nan, 3])


def test_whole_numbers_with_gaps_stay_exact() -> None:
    big = 2**60 + 1
    frame = pd.DataFrame({"y": pd.array([big, None], "Int64"), "on": pd.array([True, None], "boolean")})
    assert as_polars(frame).to_dict(as_series=False) == {"y": [big, None], "on": [True, None]}


def test_an_index_becomes_columns_if_it_has_names_or_times() -> None:
    values = pd.DataFrame({"y": [1, 2, 3, 4, 5]})
    assert as_polars(values).columns == ["y"]
    assert as_polars(values.set_index(STAMPS)).columns == ["timestamp", "y"]
    assert as_polars(values.set_index(STAMPS.rename("ds"))).columns == ["ds", "y"]
    both = pd.MultiIndex.from_product([["a"], STAMPS], names=["unique_id", "ds"])
    long = as_polars(values.set_index(both))
    assert long.columns == ["unique_id", "ds", "y"]
    assert long["ds"][1] == STAMPS[1].to_pydatetime()
    assert as_polars(values.rename_axis("y")).columns == ["y"]
    assert as_polars(long.lazy(), ["y"]).columns == ["y"]


def test_a_frame_is_left_as_it_was_and_may_be_read_only() -> None:
    values = np.arange(5.0)
    values.flags.writeable = False
    frame = pd.DataFrame({"t": STAMPS, "y": values}, copy=False)
    before = frame.copy(deep=True)
    own = as_polars(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert own["y"].to_list() == values.tolist()


def test_what_is_no_frame_or_an_ambiguous_one_is_refused() -> None:
    assert not is_frame({"y": [1]})
    with pytest.raises(DataError, match="dict is not a data frame"):
        as_polars({"y": [1]})
    twice = pd.DataFrame([[1, 2, 3]], columns=["y", "y", "z"])
    assert as_polars(twice, ["z"]).columns == ["z"]
    with pytest.raises(DataError, match="two columns are named 'y'"):
        as_polars(twice)


cells = st.one_of(st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, width=32))


@given(
    st.lists(cells, min_size=1), st.integers(0, 3 * 10**9), st.sampled_from(["UTC", "Europe/Berlin", None])
)
def test_both_libraries_say_the_same(values: list[float | None], second: int, zone: str | None) -> None:
    stamp = datetime.fromtimestamp(second, UTC)
    wide = pd.DataFrame({"t": [stamp] * len(values), "y": pd.array(values, "Float64")})
    if zone is None:
        wide["t"] = wide["t"].dt.tz_localize(None)
        stamp = stamp.replace(tzinfo=None)
    else:
        wide["t"] = wide["t"].dt.tz_convert(zone)
    expected = pl.DataFrame({"t": [stamp] * len(values), "y": values}, schema_overrides={"y": pl.Float64})
    assert as_polars(wide).equals(expected)
