"""A stream of rows and events: its forecasts are those of the whole history, bit for bit, whatever came when."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import presurge
from presurge.errors import DataError, HistoryError
from presurge.evaluation.fit import calibrate
from presurge.models.following import BLOCK
from presurge.models.forecaster import Forecaster, Prediction
from presurge.models.naive import LastValue
from presurge.series.forecast import QUANTILE_LEVELS, Forecast
from presurge.series.panel import Channel, Panel
from presurge.series.windows import WindowBatch
from presurge.serving.config import ServeConfig
from presurge.serving.streams import Stream
from presurge.sources.table import read_table
from presurge.workflows.predict import PredictConfig, forecast_items

MINUTE, CONTEXT, HORIZON = 60_000_000, 12, 4
BORDER = 1_772_409_600_000_000 // (BLOCK * MINUTE) * BLOCK * MINUTE
"""The beginning of a block of 500 rows."""
SHARES = np.linspace(0.6, 1.5, len(QUANTILE_LEVELS), dtype=np.float32)
KINDS: dict[str, Any] = {"requests": "count", "tokens": "count", "seconds": "gauge"}


class Learned(LastValue):
    """Quantiles of its own, and contexts with gaps: shares of the last value."""

    def predict(self, batch: WindowBatch) -> Prediction:
        point_BHC = super().predict(batch).point_BHC
        return Prediction(point_BHC, np.sort(point_BHC[:, :, None] * SHARES[:, None], axis=2))


def history(*names: str) -> Panel:
    """Rows to learn from, which end 2,000 rows before the border."""
    rng, rows = np.random.default_rng(5), np.arange(600)
    requests = rng.poisson(20 + 10 * np.sin(rows / 8))
    columns = {
        "requests": requests,
        "tokens": requests * rng.integers(80, 120, 600),
        "seconds": 1 + rng.random(600),
    }
    return Panel(
        values=np.column_stack([columns[name] for name in names]).astype(np.float32),
        channels=tuple(Channel(name, kind=KINDS[name]) for name in names),
        step=MINUTE,
        start=np.array([BORDER - 2_600 * MINUTE]),
        items=("a",),
    )


def linear(panel: Panel, **more: Any) -> Forecaster:
    return presurge.fit(panel, model="linear", context=CONTEXT, horizon=HORIZON, **more).forecaster


def learned() -> Forecaster:
    panel, model = history("requests", "seconds"), Learned(context=CONTEXT, horizon=HORIZON)
    train, validation = panel.full_span().cut(["0.5", "0.5"])
    model.fit(panel, train)
    model.calibration = calibrate(model, panel, validation)
    return model


def ratio() -> Forecaster:
    panel = history("requests", "tokens").with_ratios(["tokens/requests"])
    return linear(panel.select(["requests", "tokens/requests"]))


def holidays() -> Forecaster:
    frame = history("requests").to_frame().rename({"timestamp": "time"})
    columns: dict[str, Any] = {
        "time": "time",
        "value": ["requests"],
        "step": "1m",
        "holidays": "DE@Europe/Berlin",
    }
    return presurge.fit(frame, model="linear", context=CONTEXT, horizon=HORIZON, **columns).forecaster


MAKERS: dict[str, Callable[[], Forecaster]] = {
    "count and gauge": lambda: linear(history("requests", "seconds")),
    "learned quantiles": learned,
    "ratio": ratio,
    "holidays": holidays,
}


@pytest.fixture(scope="module", params=[*MAKERS])
def model(request: pytest.FixtureRequest) -> Forecaster:
    return MAKERS[request.param]()


def config(**settings: Any) -> ServeConfig:
    return ServeConfig(models={"model": Path("model")}, window=30, **settings)


def batch_of_rows(
    model: Forecaster, item: str, rows: list[tuple[str, int, dict[str, Any]]], **gaps: Any
) -> Forecast:
    """What ``presurge predict`` says of a table of the rows of an item."""
    names = [*rows[0][2]]
    frame = pl.DataFrame(
        [(at, item, *values.values()) for name, at, values in rows if name == item],
        schema={"time": pl.Int64, "item": pl.String} | dict.fromkeys(names, pl.Float64),
        orient="row",
    ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    table = read_table(
        frame, time="time", item="item", values=names, step=60, kinds={n: KINDS[n] for n in names}
    )
    return forecast_items(model, table.panel, PredictConfig(**gaps))


def same(one: Forecast, other: Forecast) -> None:
    for name in ("mean", "median", "quantiles"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.peak is None) == (other.peak is None)
    for mine, its in zip(one.peak or (), other.peak or (), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert (one.levels, one.intervals, one.flags) == (other.levels, other.intervals, other.flags)
    assert one.origin.tolist() == other.origin.tolist()


def agree(stream: Stream, rows: list[tuple[str, int, dict[str, Any]]], rule: str = "interpolate") -> int:
    """Compare the forecasts of all items with those of tables of the same rows; returns how many there were."""
    found = 0
    for item in stream.items:
        try:
            wanted = batch_of_rows(stream.model, item, rows, fill_gaps=rule)
        except HistoryError:
            with pytest.raises(HistoryError):
                stream.forecast([item])
        else:
            same(stream.forecast([item]), wanted)
            found += 1
    return found


def values_of(stream: Stream, number: int) -> dict[str, float | None]:
    """The row of a number: like what the models learned from, and now and then without requests."""
    rng = random.Random(number)
    requests = float(rng.randint(0, 40) if number % 7 else 0)
    given = {
        "requests": requests,
        "tokens": requests * rng.randint(80, 120),
        "seconds": rng.randint(1, 9) / 4,
    }
    return {channel.name: given[channel.name] for channel in stream.shape.channels}


@settings(max_examples=4)
@given(data=st.data())
def test_any_order_gives_the_forecast_of_the_whole_history(model: Forecaster, data: st.DataObject) -> None:
    """Two items across a border of blocks, the second begins later: rows late, twice, never, without a value, off the grid."""
    stream = Stream(
        model, config(fill_gaps=data.draw(st.sampled_from(["interpolate", "error"]), label="rule"))
    )
    fates = st.sampled_from(
        ["fine"] * 30 + ["late", "late", "much later", "twice", "never", "missing", "jitter"]
    )
    due, taken = [], list[tuple[str, int, dict[str, Any]]]()
    for i, fate in enumerate(data.draw(st.lists(fates, min_size=60, max_size=60), label="fates")):
        for item in ["a", *(["b"] if i >= 15 else [])]:
            values, at = values_of(stream, 2 * i + (item == "b")), BORDER + (i - 35) * MINUTE + 10_000_000
            if fate == "missing" and i:
                values = dict.fromkeys(values)
            at += 7_000_000 * (fate == "jitter")
            delay = {"late": 1, "much later": 9, "twice": 0.5}.get(fate, 0)
            due += [(i + delay, item, at, values)] * (fate != "never")
            due += [(i, item, at, values)] * (fate == "twice")
    size = data.draw(st.integers(1, 7), label="rows at once")
    for number, (_, item, at, values) in enumerate(sorted(due, key=lambda one: one[0])):
        stream.add(item, at, values)
        taken.append((item, at, values))
        if number % size == 0:
            stream.update()
        if number % 40 == 0:
            stream.update()
            agree(stream, taken, stream.config.fill_gaps)
    stream.update()
    agree(stream, taken, stream.config.fill_gaps)


def test_rows_one_by_one_over_three_blocks_in_constant_time(
    model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row costs one window of the model, and so does a second observer of the newest row."""
    stream, taken, windows, predict = Stream(model, config()), [], 0, type(model).predict

    def counting(self: Forecaster, batch: WindowBatch) -> Prediction:
        nonlocal windows
        windows += len(batch.context_BLC)
        return predict(self, batch)

    monkeypatch.setattr(type(model), "predict", counting)
    found = 0
    for i in range(550):
        before = windows
        row = ("a", BORDER + (i - 30) * MINUTE, values_of(stream, i))
        for _ in range(1 + (i % 100 == 99)):
            stream.add(*row)
            stream.update()
            taken.append(row)
        assert i < CONTEXT or windows - before <= 1 + (i % 100 == 99), i
        if i % 250 == 249 or i in (29, 30, 529, 530):
            found += agree(stream, taken)
    assert found == 6


def test_a_restart_changes_nothing(model: Forecaster) -> None:
    """From a document, and from the rows alone: forecasts and live scores are the same, then and later."""
    stream, taken = Stream(model, config()), []
    for i in range(60):
        taken.append(("a", BORDER + i * MINUTE, values_of(stream, i)))
        stream.add(*taken[-1])
        stream.update()
    restored, replayed = Stream(model, config()), Stream(model, config())
    assert restored.restore(*stream.document())
    for row in taken:
        replayed.add(*row)
    for i in range(60, 64):
        for one in (restored, replayed):
            one.update()
            same(one.forecast(["a"]), stream.forecast(["a"]))
            assert str(one.items["a"].live.scores()) == str(stream.items["a"].live.scores())
        for one in (stream, restored, replayed):
            one.add("a", BORDER + i * MINUTE, values_of(stream, i))
            one.update()


@pytest.fixture(scope="module")
def requests() -> Forecaster:
    return linear(history("requests"))


@settings(max_examples=5)
@given(data=st.data())
def test_events_are_bucketed_as_they_come(requests: Forecaster, data: st.DataObject) -> None:
    """In any order within the lateness, and beyond: the buckets are those of a table of all events before the open ones."""
    lateness, rng = (
        data.draw(st.sampled_from([0, 30, 150]), label="lateness"),
        random.Random(data.draw(st.integers(0, 99))),
    )
    stream = Stream(requests, config(lateness=f"{lateness}s"))
    events = sorted(
        (BORDER + rng.randrange(40 * 60) * 1_000_000, rng.random() * 120 * (rng.random() < 0.3))
        for _ in range(400)
    )
    arriving = sorted((at + int(delay * 1e6), at) for at, delay in events)
    seen = list[tuple[str, int, dict[str, Any]]]()
    for now, at in arriving:
        stream.add("a", at, {}, event=True, now=now)
        seen.append(("a", at, {"requests": 1.0}))
        if rng.random() < 0.2:
            stream.update(now)
    now = arriving[-1][0]
    stream.update(now)
    last = stream.items["a"].rows.last
    assert (
        last == (now - lateness * 1_000_000) // MINUTE - 1 or last == max(at for _, at in arriving) // MINUTE
    )
    same(
        stream.forecast(["a"]),
        batch_of_rows(requests, "a", [row for row in seen if row[1] // MINUTE <= last]),
    )


def test_without_a_clock_events_close_buckets_themselves(requests: Forecaster) -> None:
    stream = Stream(requests, config(lateness="60s"))
    for i in range(5):
        stream.add("a", BORDER + i * MINUTE, {}, event=True)
        stream.update()
        assert stream.items["a"].rows.last == BORDER // MINUTE + max(i - 2, -1)


def test_what_lies_in_the_future_or_too_far_back_is_refused(requests: Forecaster) -> None:
    stream, row = Stream(requests, config()), {"requests": 1.0}
    with pytest.raises(DataError, match="lies in the future"):
        stream.add("a", BORDER + 3 * MINUTE, row, now=BORDER)
    assert not stream.items
    assert stream.add("a", BORDER, row, now=BORDER) is False
    assert stream.add("a", BORDER - 500 * MINUTE, row, now=BORDER) is True  # older than the first one
    for i in range(1, stream.shape.rows + 1):
        stream.add("a", BORDER + i * MINUTE, row)
    with pytest.raises(DataError, match="too late: no row before"):
        stream.add("a", BORDER, row)
    with pytest.raises(DataError, match="too late: no row before"):
        stream.add("a", BORDER - 600 * MINUTE, row)


def test_there_may_be_so_many_items(requests: Forecaster) -> None:
    stream = Stream(requests, config(max_items=2))
    for name in "ab":
        stream.add(name, BORDER, {"requests": 1.0})
    with pytest.raises(DataError, match="2 items already"):
        stream.add("c", BORDER, {"requests": 1.0})


class Fragile(LastValue):
    """Fails where a value is 13."""

    def predict(self, batch: WindowBatch) -> Prediction:
        if (batch.context_BLC == 13).any():
            raise ZeroDivisionError("thirteen")
        return super().predict(batch)


def test_the_fault_of_one_item_costs_no_other_its_forecast(requests: Forecaster) -> None:
    model = Fragile(context=CONTEXT, horizon=HORIZON)
    panel = history("requests")
    model.fit(panel, panel.full_span())
    stream = Stream(model, config())
    for i in range(CONTEXT + 2 + CONTEXT):
        for name in "abc":
            stream.add(name, BORDER + i * MINUTE, {"requests": 13.0 if (i, name) == (CONTEXT, "b") else 5.0})
        stream.update()
        if CONTEXT <= i < 2 * CONTEXT:
            assert stream.forecast(["a", "b", "c"]).missing == {
                "b": "the model failed: ZeroDivisionError('thirteen')"
            }
    assert not stream.forecast(["a", "b", "c"]).missing
