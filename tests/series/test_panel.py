"""The Panel: checked at the door, immutable, and back to a frame."""

import numpy as np
import polars as pl
import pytest

from presurge.errors import ConfigError, DataError
from presurge.series.frequency import MINUTE, SECOND
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span


def panel(**change: object) -> Panel:
    parts: dict[str, object] = {
        "values": np.arange(12, dtype=np.float32).reshape(6, 2),
        "channels": (Channel("requests", kind="count"), Channel("cpu", "%")),
        "step": MINUTE,
        "start": np.array([0, 100 * MINUTE]),
        "items": ("a", "b"),
        "indptr": np.array([0, 4, 6]),
    }
    return Panel(**{**parts, **change})  # type: ignore[arg-type]


def test_the_callers_array_is_neither_kept_nor_frozen() -> None:
    values = np.zeros((6, 2), np.float32)
    built = panel(values=values)
    values[0, 0] = 5
    assert built.values[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        built.values[0, 0] = 1


def test_missing_is_what_is_nan() -> None:
    built = panel(values=np.array([[1, np.nan]] + [[1, 1]] * 5))
    assert (~built.observed).sum() == 1
    assert not built.observed[0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros((6, 3), np.float32)}, "do not fit"),
        ({"values": np.zeros(6, np.float32)}, "do not fit"),
        ({"channels": (Channel("x"), Channel("x"))}, "same name"),
        ({"items": ("a",)}, "items"),
        ({"start": np.array([0])}, "items"),
        ({"indptr": np.array([0, 4, 5])}, "row index"),
        ({"indptr": np.array([0, 7, 6])}, "row index"),
    ],
)
def test_what_does_not_fit_together(change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        panel(**change)


def test_an_infinite_value_is_named() -> None:
    values = np.zeros((6, 2), np.float32)
    values[3, 1] = np.inf
    with pytest.raises(DataError, match="row 3, channel 'cpu'"):
        panel(values=values)


@pytest.mark.parametrize("step", [0, SECOND // 2, SECOND + 1, 8 * 86_400 * SECOND])
def test_impossible_steps(step: int) -> None:
    with pytest.raises(ConfigError):
        panel(step=step)


def test_select_orders_and_names_what_is_missing() -> None:
    assert panel().select(["cpu", "requests"]).values[0].tolist() == [1, 0]
    with pytest.raises(DataError, match="memory") as caught:
        panel().select(["memory"])
    assert "requests, cpu" in str(caught.value)


def test_take_keeps_items_and_their_times() -> None:
    taken = panel().take(Span(np.array([1, 6]), np.array([3, 6])))
    assert taken.values[:, 0].tolist() == [2, 4]
    assert taken.indptr.tolist() == [0, 2, 2]
    assert taken.times().tolist() == [MINUTE, 2 * MINUTE]


def test_rows_times_and_masks() -> None:
    built = panel()
    assert len(built) == 6
    assert built.rows_of(1) == slice(4, 6)
    assert built.count_mask.tolist() == [True, False]
    assert (built.times() // MINUTE).tolist() == [0, 1, 2, 3, 100, 101]
    assert built.full_span().last.tolist() == [4, 6]


def test_frames_of_both_clocks() -> None:
    frame = panel(values=np.array([[1, np.nan]] + [[1, 1]] * 5)).to_frame()
    assert frame.columns == ["timestamp", "item", "requests", "cpu"]
    assert frame["timestamp"].dtype == pl.Datetime("us", "UTC")
    assert frame["cpu"].null_count() == 1
    assert frame["item"].to_list() == ["a"] * 4 + ["b"] * 2
    relative = panel(clock="relative").to_frame()
    assert relative["timestamp"].to_list()[:2] == [0.0, 60.0]


def test_roles_of_channels() -> None:
    roled = panel().with_roles(known=["cpu"])
    assert [channel.role for channel in roled.channels] == ["target", "known"]
    assert roled.targets.tolist() == [0]
    assert roled.only_targets().channel_names == ("requests",)
    assert panel().targets.tolist() == [0, 1]
    for roles, message in (
        ({"known": ["memory"]}, "no channel 'memory'"),
        ({"known": ["cpu"], "observed": ["cpu"]}, "both known and observed"),
        ({"known": ["cpu"], "observed": ["requests"]}, "nothing to forecast"),
    ):
        with pytest.raises(DataError, match=message):
            panel().with_roles(**roles)


def test_static_features_are_one_finite_number_for_each_item() -> None:
    built = panel(features=np.array([[1, 2], [3, 4]]), feature_names=("gpus", "replicas"))
    assert built.select(["cpu"]).features.tolist() == [[1, 2], [3, 4]]
    assert built.select_features(["replicas"]).features.tolist() == [[2], [4]]
    assert built.only_targets().feature_names == ()
    for wrong in (np.zeros((2, 1)), np.zeros((3, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(DataError, match="static features"):
            panel(features=wrong, feature_names=("gpus", "replicas"))
    with pytest.raises(DataError, match="no static feature 'memory'"):
        built.select_features(["memory"])


def test_stamps_of_bars_take_the_place_of_the_clock() -> None:
    bars = np.array([0, 1, 5, 6, 100, 107]) * MINUTE
    built = panel(stamps=bars)
    assert (built.times() // MINUTE).tolist() == [0, 1, 5, 6, 100, 107]
    taken = built.take(Span(np.array([2, 5]), np.array([4, 6])))
    assert (taken.times() // MINUTE).tolist() == [5, 6, 107]
    assert (taken.start // MINUTE).tolist() == [5, 107]
    assert built.rows_after(np.array([0, 0, 1]), np.array([1, 4, 100]) * MINUTE).tolist() == [2, 2, 5]
    with pytest.raises(DataError, match="not later") as caught:
        panel(stamps=np.array([0, 2, 1, 3, 0, 1]))
    assert caught.value.where == "row 2"
    with pytest.raises(DataError, match="stamps do not fit"):
        panel(stamps=bars[:5])


def test_the_row_after_a_time() -> None:
    rows = panel().rows_after(np.array([0, 0, 1, 1]), np.array([-MINUTE, 90 * SECOND, 100 * MINUTE, 0]))
    assert rows.tolist() == [0, 2, 5, -95]
