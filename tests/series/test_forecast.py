"""What goes out: a long frame and one JSON object, in the clock that came in."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from presurge.series.forecast import SCHEMA_VERSION, Forecast, Peak
from presurge.series.frequency import MINUTE, SECOND
from presurge.series.panel import Channel, Clock


def forecast(items: tuple[str, ...] = ("",), clock: Clock = "utc", origin: int = 0) -> Forecast:
    shape = (len(items), 2, 3, 2)
    quantiles = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return Forecast(
        mean=quantiles[:, :, 1] + np.float32(0.25),
        median=quantiles[:, :, 1],
        quantiles=quantiles,
        levels=(0.1, 0.5, 0.975),
        origin=np.full(len(items), origin),
        step=MINUTE,
        channels=(Channel("requests", kind="count"), Channel("cpu")),
        items=items,
        clock=clock,
        model="last-value",
        error={"requests": {"wape": 0.25}},
        flags=("a gap of 2 rows was interpolated",),
        trained="2026-11-21T18:00:00Z",
        peak=Peak(quantiles[:, 1, 1] + np.float32(0.5), quantiles[:, 1, 1], quantiles[:, 1]),
        missing={"c": "it ends too early"},
    )


def test_the_frame_has_one_row_a_time_and_channel() -> None:
    frame = forecast().to_frame()
    assert frame.columns == ["timestamp", "channel", "mean", "median", "q0.1", "q0.5", "q0.975"]
    assert frame["channel"].to_list() == ["requests", "cpu"] * 2
    assert frame["timestamp"].dtype == pl.Datetime("us", "UTC")
    assert frame["mean"].to_list() == [2.25, 3.25, 8.25, 9.25]
    assert frame["median"].to_list() == [2, 3, 8, 9]
    assert frame["q0.1"].to_list() == [0, 1, 6, 7]
    assert frame["q0.975"].to_list() == [4, 5, 10, 11]


def test_one_item_keeps_its_name() -> None:
    made = forecast(("gateway",))
    assert made.to_frame()["item"].to_list() == ["gateway"] * 4
    told = made.to_dict()
    assert {row["item"] for row in told["forecast"] + told["peak"]} == {"gateway"}


def test_a_model_without_calibration_promises_no_median() -> None:
    none = replace(forecast(), quantiles=np.zeros((1, 2, 0, 2), np.float32), levels=(), peak=None)
    assert none.to_frame().columns == ["timestamp", "channel", "mean"]
    assert none.to_dict()["peak"] == []


def test_the_frame_and_the_object_agree_for_several_items() -> None:
    made = forecast(("a", "b"), "relative", 90 * SECOND)
    frame, rows = made.to_frame(), made.to_dict()["forecast"]
    assert [row["item"] for row in rows] == ["a"] * 4 + ["b"] * 4
    assert frame["item"].to_list() == [row["item"] for row in rows]
    assert frame["timestamp"].to_list() == [row["timestamp"] for row in rows]
    assert frame["mean"].to_list() == [row["mean"] for row in rows]
    assert frame["median"].to_list() == [row["median"] for row in rows]
    assert frame["q0.5"].to_list() == [row["quantiles"]["0.5"] for row in rows]
    assert rows[0]["timestamp"] == 150


def test_the_object_is_json_and_keeps_the_promised_keys() -> None:
    value = json.loads(json.dumps(forecast(origin=1_700_000_000 * SECOND).to_dict()))
    assert value["origin"] == "2023-11-14T22:13:20Z"
    assert value["step_seconds"] == 60
    assert value["flags"] == ["a gap of 2 rows was interpolated"]
    assert value["forecast"][0] == {
        "timestamp": "2023-11-14T22:14:20Z",
        "channel": "requests",
        "mean": 2.25,
        "median": 2.0,
        "quantiles": {"0.1": 0.0, "0.5": 2.0, "0.975": 4.0},
    }
    assert (value["schema_version"], value["trained"]) == (SCHEMA_VERSION, "2026-11-21T18:00:00Z")
    assert value["peak"][1] == {
        "channel": "cpu",
        "mean": 9.5,
        "median": 9.0,
        "quantiles": {"0.1": 7.0, "0.5": 9.0, "0.975": 11.0},
    }
    assert value["missing"] == [{"item": "c", "reason": "it ends too early"}]


@pytest.mark.parametrize(("origin", "text"), [(1_500_000, 1.5), (2_000_000, 2)])
def test_relative_stamps_are_numbers(origin: int, text: float) -> None:
    assert forecast(clock="relative", origin=origin).to_dict()["origin"] == text


def test_stamps_of_bars_replace_the_steps_after_the_origin() -> None:
    made = replace(forecast(), stamps=np.array([[5 * MINUTE, 90 * MINUTE]]))
    stamps = ["1970-01-01T00:05:00Z", "1970-01-01T01:30:00Z"]
    assert [row["timestamp"] for row in made.to_dict()["forecast"][::2]] == stamps
    assert made.to_frame()["timestamp"].dt.epoch("us").to_list()[::2] == [5 * MINUTE, 90 * MINUTE]


def test_every_row_of_the_horizon_is_a_step_later() -> None:
    """Three rows of two channels, so that no length stands for another."""
    short = forecast(("a", "b"), "relative", 90 * SECOND)
    zero = np.zeros((2, 3, 2), np.float32)
    made = replace(short, mean=zero, median=zero, quantiles=np.zeros((2, 3, 3, 2), np.float32))
    assert (made.times() // SECOND).tolist() == [[150, 210, 270]] * 2
    assert [row["timestamp"] for row in made.to_dict()["forecast"]] == [150, 150, 210, 210, 270, 270] * 2
