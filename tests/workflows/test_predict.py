"""Forecasts of a fleet: an item that cannot be forecast costs only itself; freshness is judged by the clock."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError, HistoryError
from presurge.models.registry import load
from presurge.series.frequency import MINUTE, SECOND
from presurge.workflows.config import resolve_config
from presurge.workflows.dataset import TableConfig, load_dataset, load_series
from presurge.workflows.predict import PredictConfig, predict
from presurge.workflows.train import train

TABLE = TableConfig(time="time", values=("requests",), item="host", step="60s", kinds={"requests": "count"})
START = 1_772_409_600 * SECOND  # 2 March 2026
ROWS = 400
END = START + ROWS * MINUTE
CONTEXT = 20


def frame(name: str, first: int = 0, last: int = ROWS, holes: tuple[int, ...] = ()) -> pl.DataFrame:
    rows = np.arange(first, last)
    values = np.random.default_rng(len(name)).poisson(30, ROWS)[rows].astype(object)
    values[np.isin(rows, holes)] = None
    times = pl.Series("time", START + rows * MINUTE).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"time": times, "host": [name] * len(rows), "requests": values.tolist()})


def write(path: Path, *frames: pl.DataFrame) -> Path:
    pl.concat(frames, how="vertical_relaxed").write_csv(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    data = write(folder / "load.csv", frame("a"), frame("bb"), frame("ccc"))
    config = resolve_config({"model": "linear", "context": CONTEXT, "horizon": 3})
    train(load_dataset(data, TABLE), config, folder / "run", plots=False)
    return folder / "run"


def test_an_item_that_cannot_be_forecast_costs_only_itself(model: Path, tmp_path: Path) -> None:
    whole = predict(model, write(tmp_path / "whole.csv", frame("a"), frame("ccc")))
    assert whole.missing == {}
    assert whole.flags == ()
    broken = write(
        tmp_path / "broken.csv",
        frame("short", 390),
        frame("a"),
        frame("hole", holes=(395,)),
        frame("late", 0, 380),
        frame("ccc"),
    )
    found = predict(model, broken)
    assert found.items == ("a", "ccc", "late")
    np.testing.assert_array_equal(found.mean[:2], whole.mean)
    np.testing.assert_array_equal(found.quantiles[:2], whole.quantiles)
    assert found.missing == {
        "short": "the history has 10 rows, and the model reads 20",
        "hole": "1 of the last 20 rows have a missing value",
    }
    assert found.flags == (
        "the history of these items ends before that of the others: late (2026-03-02T06:19:00Z)",
    )
    for items in (("late",), ("short", "late")):  # the others need not be asked for, nor be fit
        assert predict(model, broken, PredictConfig(items=items)).flags == found.flags
    assert found.to_dict()["missing"][1] == {"item": "short", "reason": found.missing["short"]}


def test_a_stale_item_has_no_forecast_where_an_age_is_asked_for(model: Path, tmp_path: Path) -> None:
    history = write(tmp_path / "load.csv", frame("a"), frame("bb", 0, 384), frame("ccc", 0, 385))
    found = predict(model, history, PredictConfig(now=END, max_age="15m"))
    assert found.items == ("a", "ccc")  # the last row of ccc ended exactly 15 minutes ago
    assert "too old" in found.missing["bb"]
    assert "2026-03-02T06:23:00Z" in found.missing["bb"]
    with pytest.raises(HistoryError, match="none of the 3 items can be forecast"):
        predict(model, history, PredictConfig(now=END + 3600 * SECOND, max_age="15m"))
    with pytest.raises(HistoryError, match="none of the 3 items"):  # by the system clock it is months old
        predict(model, history, PredictConfig(max_age="15m"))


def test_items_are_chosen_by_name(model: Path, tmp_path: Path) -> None:
    history = write(tmp_path / "load.csv", frame("a"), frame("bb"), frame("ccc"), frame("short", 390))
    whole = predict(model, history)
    found = predict(model, history, PredictConfig(items=("ccc", "a")))
    assert found.items == ("ccc", "a")
    assert found.missing == {}
    np.testing.assert_array_equal(found.mean, whole.mean[[2, 0]])
    with pytest.raises(ConfigError, match="no item 'cc'") as refused:
        predict(model, history, PredictConfig(items=("a", "cc")))
    assert refused.value.setting == "items"
    assert "ccc" in str(refused.value.hint)
    with pytest.raises(HistoryError, match="item 'short': the history has 10 rows"):
        predict(model, history, PredictConfig(items=("short",)))


@given(seconds=st.integers(-200, 400))
def test_rows_of_counts_are_left_out_until_their_step_is_over(
    tmp_path_factory: pytest.TempPathFactory, seconds: int
) -> None:
    now = END + seconds * SECOND
    file = tmp_path_factory.mktemp("fresh") / "load.csv"
    write(file, frame("a"), frame("bb", 0, ROWS - 1))
    series = load_series(file, TABLE, now=now)
    times = series.panel.times()
    assert (times + MINUTE <= now).all()
    expected = sum(1 for n in (ROWS, ROWS - 1) for row in range(n) if START + (row + 1) * MINUTE <= now)
    assert len(series.panel) == expected
    assert any("not over" in note for note in series.notes) == (expected < 2 * ROWS - 1)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the system clock."""
    return lambda us: monkeypatch.setattr(time, "time", lambda: us / SECOND)


def test_the_system_clock_counts_only_for_stamps_that_are_close_to_it(
    at: Callable[[int], None], tmp_path: Path
) -> None:
    file = write(tmp_path / "load.csv", frame("a"))
    for seconds, rows in (
        (-1, ROWS - 1),
        (0, ROWS),
        (-61, ROWS - 2),
        (-181, ROWS),
        (3600, ROWS),
        (-9e5, ROWS),
    ):
        at(int(END + seconds * SECOND))
        assert len(load_series(file, TABLE).panel) == rows, seconds
    at(END - SECOND)
    gauges = TABLE.model_copy(update={"kinds": {"requests": "gauge"}})
    assert len(load_series(file, gauges).panel) == ROWS  # a level is complete when it is measured
    for seconds, rows in ((-60, ROWS), (-61, ROWS - 1), (-120, ROWS - 1), (-3601, ROWS - 60)):
        assert len(load_series(file, gauges, now=END + seconds * SECOND).panel) == rows, seconds
    relative = tmp_path / "relative.csv"
    pl.DataFrame({"t": np.arange(ROWS) * 60, "requests": 1}).write_csv(relative)
    plain = TableConfig(time="t", values=("requests",), step="60s", kinds={"requests": "count"})
    assert len(load_series(relative, plain).panel) == ROWS
    assert len(load_series(relative, plain, now=(ROWS * 60 - 1) * SECOND).panel) == ROWS - 1


def test_a_forecast_starts_at_the_step_that_is_running(model: Path, tmp_path: Path) -> None:
    now = END - 30 * SECOND
    history = write(tmp_path / "load.csv", frame("a"), frame("bb"))
    finished = write(tmp_path / "finished.csv", frame("a", 0, ROWS - 1), frame("bb", 0, ROWS - 1))
    found, wanted = predict(model, history, PredictConfig(now=now)), predict(model, finished)
    np.testing.assert_array_equal(found.mean, wanted.mean)
    assert found.times()[:, 0].tolist() == [END - MINUTE] * 2
    assert found.flags == (
        "left out 2 rows from 2026-03-02T06:39:00Z on, which were not over at 2026-03-02T06:39:30Z (`now`)",
    )


def test_an_age_needs_a_clock(tmp_path: Path) -> None:
    file = tmp_path / "load.csv"
    pl.DataFrame({"t": np.arange(ROWS) * 60, "requests": np.arange(ROWS) % 7}).write_csv(file)
    plain = TableConfig(time="t", values=("requests",), step="60s")
    config = resolve_config({"model": "last-value", "context": 5, "horizon": 1})
    train(load_dataset(file, plain), config, tmp_path / "run", plots=False)
    with pytest.raises(ConfigError, match="unknown origin") as refused:
        predict(tmp_path / "run", file, PredictConfig(max_age="5m"))
    assert refused.value.setting == "max_age"
    fresh = PredictConfig(max_age="5m", now=ROWS * MINUTE)
    assert predict(tmp_path / "run", file, fresh).mean.shape == (1, 1, 1)
    assert load(tmp_path / "run")[0].name == "last-value"


def test_rounding_puts_no_mean_outside_its_interval(tmp_path: Path) -> None:
    level = frame("a").with_columns(requests=pl.lit(18)), frame("bb").with_columns(requests=pl.lit(22))
    data = write(tmp_path / "load.csv", *level)
    config = resolve_config({"model": "recent-mean", "context": 30, "horizon": 3})
    train(load_dataset(data, TABLE), config, tmp_path / "run", plots=False)
    told = predict(tmp_path / "run", data)
    assert not [flag for flag in told.flags if "outside" in flag]
    assert told.mean.ravel() == pytest.approx([18] * 3 + [22] * 3)
