"""Data frames at the door."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest

from presurge.errors import DataError, HistoryError
from presurge.predictor.frames import last_row, latest, read_history

REQUESTS = {
    "Timestamp": [5.0, 7.5, 7.5, 20.0],
    "Request tokens": [10, 20, 30, 40],
    "Response tokens": [1, 0, 3, 4],
}


def test_a_row_is_a_request_and_the_first_has_no_inter_arrival_time() -> None:
    history = read_history(pl.DataFrame(REQUESTS))
    assert history.level == "request"
    np.testing.assert_array_equal(history.panel.values, [[2.5, 20, 0], [0, 30, 3], [12.5, 40, 4]])
    assert history.stamps(np.array([[2.0, 0, 0], [-1.0, 0, 0], [0.5, 0, 0]], np.float32)) == [22, 22, 22.5]


def test_pandas_and_polars_give_the_same_history(
    requests: pl.DataFrame, requests_pandas: pd.DataFrame
) -> None:
    ours, theirs = read_history(requests), read_history(requests_pandas)
    np.testing.assert_array_equal(ours.panel.values, theirs.panel.values)
    np.testing.assert_array_equal(ours.times_us, theirs.times_us)
    gaps = requests_pandas["Timestamp"].diff().iloc[1:].to_numpy()
    np.testing.assert_allclose(ours.panel.values[:, 0], gaps, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Paris"])
@pytest.mark.parametrize("as_text", [False, True])
def test_dates_come_out_as_dates(zone: str | None, as_text: bool) -> None:
    stamps = pd.date_range("2024-05-01 12:00", periods=4, freq="90s", tz=zone)
    utc = stamps if zone is None else stamps.tz_convert("UTC")
    column = stamps.map(lambda stamp: stamp.isoformat()) if as_text else stamps
    history = read_history(pd.DataFrame({**REQUESTS, "Timestamp": column}))
    assert history.panel.values[:, 0].tolist() == [90, 90, 90]
    expected = (utc[-1] + pd.Timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert history.stamps(np.ones((1, 3), np.float32)) == [expected]


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_epoch_numbers_come_out_as_epoch_numbers(unit: int) -> None:
    stamps = [(1_700_000_000 + second) * unit for second in (0, 2, 3)]
    frame = pl.DataFrame({**REQUESTS, "Timestamp": [stamps[0], *stamps]})
    history = read_history(frame)
    assert history.panel.values[:, 0].tolist() == [0, 2, 1]
    assert history.stamps(np.ones((2, 3), np.float32)) == [stamps[-1] + unit, stamps[-1] + 2 * unit]
    assert last_row(frame)["timestamp"] == stamps[-1]


def test_seconds_that_look_like_dates_stay_seconds() -> None:
    history = read_history(pl.DataFrame({**REQUESTS, "Timestamp": [20240128, 20240129, 20240130, 20240131]}))
    assert history.panel.values[:, 0].tolist() == [1, 1, 1]


def test_pandas_numbers_may_be_nullable() -> None:
    frame = pd.DataFrame(REQUESTS).astype({"Request tokens": "Int64", "Response tokens": "Float64"})
    expected = read_history(pl.DataFrame(REQUESTS)).panel.values
    np.testing.assert_array_equal(read_history(frame).panel.values, expected)
    frame.loc[2, "Request tokens"] = pd.NA
    with pytest.raises(DataError, match="an empty cell is not a number of tokens"):
        read_history(frame)


def test_rows_are_sorted_by_time() -> None:
    shuffled = pl.DataFrame(REQUESTS)[[3, 0, 1, 2]]
    expected = read_history(pl.DataFrame(REQUESTS)).panel.values
    np.testing.assert_array_equal(read_history(shuffled).panel.values, expected)


@pytest.mark.parametrize("make", [pl.DataFrame, pd.DataFrame])
def test_the_last_row_is_the_latest_in_plain_values(make: type) -> None:
    unsorted = make({**REQUESTS, "Timestamp": [5.0, 20.0, 7.5, 7.5]})
    assert last_row(unsorted) == {"timestamp": 20, "request_tokens": 20, "response_tokens": 0}
    assert len(latest(unsorted, 2)) == 4
    assert len(latest(make(REQUESTS), 2)) == 2
    dates = pd.to_datetime(pd.Series(REQUESTS["Timestamp"]), unit="s").to_numpy()
    odd = make(
        {
            "Timestamp": dates,
            "Request tokens": [1.0, 2.0, 3.0, np.nan],
            "Response tokens": [1.0, 2.0, 3.0, np.inf],
        }
    )
    assert json.loads(json.dumps(last_row(odd), allow_nan=False)) == {
        "timestamp": "1970-01-01T00:00:20Z",
        "request_tokens": None,
        "response_tokens": None,
    }
    untimed = make({**REQUESTS, "Timestamp": ["soon", "later", "then", "now"]})
    assert last_row(untimed) == {"timestamp": None, "request_tokens": 40, "response_tokens": 4}


def test_a_duplicate_minute_is_refused(minutes: pl.DataFrame) -> None:
    with pytest.raises(DataError, match="count twice: 24"):
        read_history(pl.concat([minutes, minutes[-24:]]))


def test_minutes_are_a_series_of_counts(minutes: pl.DataFrame) -> None:
    history = read_history(minutes)
    assert history.level == "minute"
    assert history.panel.step == 60_000_000
    assert history.panel.channel_names == ("requests", "input_tokens", "output_tokens")
    columns = ["Concurrent_requests", "Request_tokens_sum", "Response_tokens_sum"]
    np.testing.assert_array_equal(history.panel.values, minutes[columns].to_numpy().astype(np.float32))
    last = minutes["Timestamp"][-1]
    assert history.stamps(history.panel.values[:2]) == [last + 60, last + 120]


def test_minutes_may_be_averages(minutes: pl.DataFrame) -> None:
    mean = minutes.with_columns(pl.col("Concurrent_requests") / 60)
    np.testing.assert_allclose(
        read_history(mean).panel.values[:, 0], mean["Concurrent_requests"].to_numpy(), rtol=1e-6
    )


def test_the_last_row_has_the_keys_of_a_prediction() -> None:
    expected = {"timestamp": 20.0, "request_tokens": 40, "response_tokens": 4}
    assert last_row(pd.DataFrame(REQUESTS)) == last_row(pl.DataFrame(REQUESTS)) == expected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Request tokens": [1, -2, 3, 4]}, "-2 is not a number of tokens"),
        ({"Response tokens": [1.0, np.nan, 3, 4]}, "not a number of tokens"),
        ({"Response tokens": ["1", "two", "3", "4"]}, "'two' is not a number"),
        ({"Timestamp": ["soon", "later", "then", "now"]}, "cannot be read as a time"),
        ({"Timestamp": [1.0, None, 3.0, 4.0]}, "not a time"),
    ],
)
def test_a_bad_value_is_named(change: dict[str, list[object]], words: str) -> None:
    for make in (pl.DataFrame, pd.DataFrame):
        with pytest.raises(DataError, match=words):
            read_history(make({**REQUESTS, **change}))


def test_other_frames_are_refused() -> None:
    with pytest.raises(DataError, match="list is not a data frame"):
        read_history([1, 2, 3])
    with pytest.raises(DataError, match="neither requests nor minutes: Timestamp, tokens") as caught:
        read_history(pl.DataFrame({"Timestamp": [1], "tokens": [2]}))
    assert "Request tokens" in str(caught.value)
    for no_frame in (pl.LazyFrame(REQUESTS), pd.DataFrame, pd.DataFrame(REQUESTS)["Timestamp"]):
        with pytest.raises(DataError, match="is not a data frame"):
            read_history(no_frame)
    twice = pd.concat([pd.DataFrame(REQUESTS), pd.DataFrame(REQUESTS)[["Request tokens"]]], axis=1)
    with pytest.raises(DataError, match="two columns are named 'Request tokens'"):
        read_history(twice)
    with pytest.raises(HistoryError, match="1 rows, and 2 are needed"):
        read_history(pl.DataFrame(REQUESTS).head(1))
