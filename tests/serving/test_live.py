"""The live error: against a plain loop over what was forecast and what came, and an alarm that is raised when it should be."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

import presurge
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.models.tracking import Tracked
from presurge.serving import live
from presurge.serving.config import ServeConfig
from presurge.serving.live import LATE, SUMS, Live
from presurge.serving.streams import Stream

CONTEXT, HORIZON = 24, 6  # as of the model of the fixtures
WINDOW, MINUTE = 60, 60_000_000
START = 1_772_409_600_000_000
CHANNELS = ("requests", "seconds", "tokens/requests")
NAMES = ("requests", "seconds", "tokens")
OWN = ("wape", "mae", "bias", "relative_bias", "coverage_80")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Forecaster:
    """A count, a gauge and a ratio."""
    rng, row = np.random.default_rng(7), np.arange(480)
    requests = rng.poisson(20 * (1 + 0.5 * np.sin(2 * np.pi * row / 48)))
    frame = pl.DataFrame(
        {
            "time": np.datetime64("2026-03-01T00:00:00", "us") + row * np.timedelta64(60, "s"),
            "requests": requests,
            "seconds": np.round(1 + rng.random(480), 3),
            "tokens": requests * 120 + row,
        }
    )
    columns: dict[str, Any] = {"time": "time", "value": list(CHANNELS), "step": "1m"}
    path = tmp_path_factory.mktemp("models") / "three"
    presurge.fit(frame, model="linear", context=CONTEXT, horizon=HORIZON, **columns).save(path)
    return registry.load(path)[0]


def config(window: int = WINDOW) -> ServeConfig:
    return ServeConfig(models={"model": Path("model")}, window=window)


def values(i: int, rng: np.random.Generator) -> dict[str, float | None]:
    requests = float(rng.poisson(20 + 10 * np.sin(i / 8)))
    return {"requests": requests, "seconds": round(1 + rng.random(), 3), "tokens": requests * 120 + i}


@dataclass
class Reference:
    """What a plain loop knows: the value of every bucket, and what was said of it at every origin."""

    day: int
    value_: dict[int, list[float]] = field(default_factory=dict)
    said: dict[int, np.ndarray] = field(default_factory=dict)  # origin -> [H, 7, C]

    def value(self, bucket: int) -> list[float]:
        return self.value_.get(bucket, [float("nan")] * len(CHANNELS))

    def say(self, origin: int, made: Tracked | None) -> None:
        """Note a forecast, and what the baselines say at this moment."""
        if made is None:
            self.said.pop(origin, None)
            return
        low, high = made.levels.index(0.1), made.levels.index(0.9)
        told = np.full((HORIZON, 7, len(CHANNELS)), np.nan)
        for h in range(HORIZON):
            told[h, 0], told[h, 1] = made.mean_BHC[0, h], made.median_BHC[0, h]
            told[h, 2], told[h, 3] = made.quantiles_BHQC[0, h, low], made.quantiles_BHQC[0, h, high]
            for c in range(len(CHANNELS)):
                past = [self.value(origin - k)[c] for k in range(CONTEXT)]
                seen = [one for one in past if one == one]
                recent = [one for one in past[:10] if one == one]
                told[h, 4, c] = seen[0] if seen else np.nan
                told[h, 5, c] = np.mean(recent) if recent else told[h, 4, c]
                before = [self.value(origin + 1 + k - self.day)[c] for k in range(HORIZON)]
                gap = seen[0] if seen and not np.isnan(before).all() else np.nan
                told[h, 6, c] = gap if np.isnan(before[h]) else before[h]
        self.said[origin] = told

    def scores(self, c: int, last: int, window: int = WINDOW) -> dict[str, float]:
        rows, cells = 0, []
        for bucket in range(last, -1, -1):
            actual = self.value(bucket)[c]
            found = [
                (actual, *self.said[bucket - h][h - 1, :, c])
                for h in range(1, HORIZON + 1)
                if bucket - h in self.said and actual == actual
            ]
            if found and bucket > last - window:
                rows, cells = rows + 1, cells + found
        actual_, mean, median, low, high, *naive = np.array(cells).T
        size = np.abs(actual_).sum()
        return {
            "rows": rows,
            "wape": np.abs(median - actual_).sum() / size,
            "mae": np.abs(median - actual_).mean(),
            "bias": (mean - actual_).mean(),
            "relative_bias": (mean - actual_).sum() / size,
            "coverage_80": ((low <= actual_) & (actual_ <= high)).mean(),
            "last-value": np.abs(naive[0] - actual_).sum() / size,
            "recent-mean": np.abs(naive[1] - actual_).sum() / size,
            "day-ago": np.abs(naive[2] - actual_).sum() / size,
        }


def equal(live: Live, reference: Reference, last: int) -> None:
    for c, found in enumerate(live.scores()):
        wanted = reference.scores(c, last)
        flat = {name: found[name] for name in ("rows", *OWN)} | found["baselines"]
        np.testing.assert_allclose(
            list(flat.values()), [wanted[name] for name in flat], rtol=2e-5, atol=1e-5, err_msg=CHANNELS[c]
        )


def observe(stream: Stream, rows: list[tuple[int, dict[str, float | None]]]) -> None:
    for i, given in rows:
        stream.add("web", START + i * MINUTE, given)
    stream.update()


def targets(stream: Stream, first: int, last: int) -> dict[int, list[float]]:
    """The values of some buckets, counted from the start."""
    rows, zero = stream.items["web"].rows, START // MINUTE
    value_BN = rows.values(zero + first, zero + last + 1).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(value_BN[:, 0] > 0, value_BN[:, 2] / value_BN[:, 0], np.nan)
    return {first + k: [value_BN[k, 0], value_BN[k, 1], ratio[k]] for k in range(len(value_BN))}


def test_every_forecast_is_scored_as_a_plain_loop_does(
    model: Forecaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows one by one; then missing values, buckets without a row, late rows, and several rows at once after a late one."""
    monkeypatch.setattr(live, "DAY", 30 * MINUTE)  # so that the test sees some days
    stream, rng = Stream(model, config()), np.random.default_rng(3)
    reference, last, add = Reference(day=30), 0, Live.add
    said: list[tuple[int, Tracked | None]] = []

    def listening(live: Live, bucket: int, made: Tracked | None, targets: Any) -> None:
        said.append((bucket - START // MINUTE, made))
        add(live, bucket, made, targets)

    monkeypatch.setattr(Live, "add", listening)

    def take(rows: list[tuple[int, dict[str, float | None]]]) -> None:
        nonlocal last
        observe(stream, rows)
        last = max(last, *(i for i, _ in rows))
        for bucket, told in targets(stream, 0, last).items():
            reference.value_[bucket] = told
        item = stream.items["web"]
        assert item.latest.bucket - START // MINUTE == last
        assert said[-1] == (last, item.latest.made)
        while said:
            reference.say(*said.pop(0))

    i = 0
    while i < 130:
        row = values(i, rng)
        if i in (40, 41, 97):
            row["seconds"] = None
        if i == 60:
            row = {"requests": 0.0, "seconds": 1.5, "tokens": 0.0}  # no ratio
        if i in (70, 110):  # a late row, and with it three new ones
            late = (i - 3, {"requests": 5.0, "seconds": 2.0, "tokens": 700.0})
            take([late, *((i + k, values(i + k, rng)) for k in range(3))])
            i += 2
        elif i in (85, 120):  # a late row alone
            take([(i, row)])
            take([(i - 1 - LATE // 2, {"requests": 9.0, "seconds": None, "tokens": 900.0})])
        elif i == 100:  # two buckets without a row
            i += 2
            take([(i, row)])
        else:
            take([(i, row)])
        i += 1
        if i > CONTEXT + 40:
            equal(stream.items["web"].live, reference, last)
    assert not np.isnan(reference.scores(0, last)["day-ago"])


def test_a_row_that_comes_after_many_others_leaves_the_scores(model: Forecaster) -> None:
    stream, rng = Stream(model, config()), np.random.default_rng(3)
    for i in range(80):
        observe(stream, [(i, values(i, rng))])
    live = stream.items["web"].live
    before = live.sums_WSC.copy()
    observe(stream, [(80 - 1 - LATE, {"requests": 500.0, "seconds": 9.0, "tokens": 1.0})])
    np.testing.assert_array_equal(live.sums_WSC, before)
    observe(stream, [(80 - LATE, {"requests": 500.0, "seconds": 9.0, "tokens": 1.0})])
    changed = np.abs(live.sums_WSC[:, : SUMS.index("day-ago")] - before[:, : SUMS.index("day-ago")])
    assert (changed > 0).any(axis=(1, 2)).sum() == 1


def test_what_was_not_measured_is_null(model: Forecaster) -> None:
    stream, rng = Stream(model, config()), np.random.default_rng(3)
    for i in range(CONTEXT):
        observe(stream, [(i, values(i, rng))])
    told = stream.items["web"].live.scores()[0]
    assert (told["rows"], told["alarm"]) == (0, "")
    assert all(np.isnan([told[name] for name in OWN]))
    assert all(np.isnan([*told["baselines"].values()]))
    nothing: dict[str, float | None] = {"requests": 0.0, "seconds": None, "tokens": 0.0}
    observe(stream, [(CONTEXT, nothing)])
    count, gauge, ratio = stream.items["web"].live.scores()
    assert count["rows"] == 1
    assert count["mae"] > 0
    assert np.isnan(count["wape"])  # there was no load to compare with
    assert gauge["rows"] == ratio["rows"] == 0
    assert np.isnan([gauge["mae"], ratio["coverage_80"]]).all()
    observe(stream, [(CONTEXT + 1, values(1, rng))])
    baselines = stream.items["web"].live.scores()[0]["baselines"]
    assert not np.isnan(baselines["last-value"])
    assert np.isnan(baselines["day-ago"])  # no day has passed
    assert len(stream.items["web"].live.by_row()) == 2
    (_, row), _ = stream.items["web"].live.by_row()
    assert np.isnan(row["wape"]).all()
    for c in range(3):
        assert row["low"][c] < row["mean"][c] < row["high"][c]


def test_scores_come_back_with_a_document(model: Forecaster) -> None:
    """A restart from a snapshot changes no score: neither those there are, nor those of forecasts that are pending."""
    stream, rng = Stream(model, config()), np.random.default_rng(3)
    for i in range(90):
        observe(stream, [(i, values(i, rng))])
    again = Stream(model, config())
    assert again.restore(*stream.document())
    again.update()
    for i in range(90, 90 + HORIZON):
        row = [(i, values(i, rng))]
        observe(stream, row)
        observe(again, row)
        for one, other in zip(
            again.items["web"].live.scores(), stream.items["web"].live.scores(), strict=True
        ):
            assert str(one) == str(other)  # NaN is not equal to itself
    wider = Stream(model, config(WINDOW + 1))  # another window: the scores begin anew, the rows stay
    assert wider.restore(*stream.document())
    assert wider.items["web"].live.scores()[0]["rows"] == 0


def test_a_service_scores_across_restart_and_reload(serving: Callable[..., Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def told(running: Any, begin: int, end: int) -> Any:
        with httpx.Client(base_url=running.url) as client:
            for i in range(begin, end):
                row = {
                    "item": "web",
                    "time": START / 1e6 + 60 * i,
                    "values": {"requests": int(rng.poisson(20))},
                }
                client.post("/v1/observe", json={"rows": [row]}).raise_for_status()
            return client.get("/v1/live", params={"item": "web"}).json()

    first = serving(state=tmp_path / "state")
    before = told(first, 0, 60)["scores"]["requests"]
    assert before["rows"] == 60 - CONTEXT
    assert before["baselines"]["day-ago"] is None
    first.stop()
    second = serving(state=tmp_path / "state")
    assert told(second, 0, 0)["scores"]["requests"] == before
    assert told(second, 60, 63)["scores"]["requests"]["rows"] == 60 - CONTEXT + 3
    httpx.post(f"{second.url}/v1/models/load/reload").raise_for_status()
    assert told(second, 0, 0)["scores"]["requests"]["rows"] == 0  # another model's forecasts
    assert told(second, 63, 66)["scores"]["requests"]["rows"] == 3


# Streams of which the right forecast is known, to see how often the alarm is raised for nothing.

LEVELS, NORMAL = (0.1, 0.9), 1.2815516


def made_of(mean_H: np.ndarray, spread_H: np.ndarray) -> Tracked:
    """Normal forecasts."""
    point = mean_H[None, :, None].astype(np.float32)
    ends = np.stack((mean_H - NORMAL * spread_H, mean_H + NORMAL * spread_H), axis=1)[None, :, :, None]
    return Tracked(point, point, ends.astype(np.float32), np.zeros(1, np.int64), LEVELS)


def alarms(
    fitted: Forecaster,
    rng: np.random.Generator,
    rows: int,
    *,
    shift: int | None = None,
    noise: float = 1.0,
    level: float = 0.0,
) -> list[str]:
    """The alarm after each row of an autoregressive stream around a daily rhythm, with the best forecasts there are."""
    live = Live.begin(fitted, 200)
    ahead, rho = np.arange(1, HORIZON + 1), 0.8
    spread_H = np.sqrt((1 - rho ** (2 * ahead)) / (1 - rho**2))
    rhythm = 100 + 50 * np.sin(np.arange(rows + HORIZON) / 200)
    mae = np.sqrt(2 / np.pi) * spread_H.mean() * 2  # the spread grows with the rhythm: 1, 2 and 3
    live.expected = ({"mae": mae, "wape": mae / 100},)
    state, value_R, found = 0.0, np.full(rows, np.nan, np.float32), []
    for i in range(rows):
        changed = shift is not None and i >= shift
        state = rho * state + rng.normal() * (noise if changed else 1)
        value_R[i] = rhythm[i] + state * rhythm[i] / 50 + (level if changed else 0)
        mean_H = rhythm[i + 1 : i + 1 + HORIZON] * (1 + state * rho**ahead / 50)
        made = made_of(mean_H, spread_H * rhythm[i + 1 : i + 1 + HORIZON] / 50)

        def targets(begin: int, end: int) -> np.ndarray:
            own = [value_R[k] if k >= 0 else np.nan for k in range(begin, end)]
            return np.array(own, np.float32)[:, None]

        live.add(i, made, targets)
        found.append(live.scores()[0]["alarm"])
    return found


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> Forecaster:
    return registry.load(model_dir)[0]


def test_well_calibrated_streams_raise_no_alarm(plain: Forecaster) -> None:
    rng = np.random.default_rng(5)
    assert not any(any(alarms(plain, rng, 500)) for _ in range(8))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"noise": 4.0}, "80 % intervals held the next row in"), ({"level": 30.0}, "80 % intervals held")],
)
def test_a_shift_raises_the_alarm(plain: Forecaster, change: dict[str, float], words: str) -> None:
    found = alarms(plain, np.random.default_rng(5), 500, shift=300, **change)
    assert not any(found[:300])
    assert words in "".join(found[300:400])
    assert all(found[400:500])


def test_an_error_that_doubles_raises_the_alarm_whatever_the_intervals(plain: Forecaster) -> None:
    """Without intervals, as of a model that was never calibrated; a single burst is no reason, nor is a load that grew."""
    rng = np.random.default_rng(5)

    def scored(error_R: np.ndarray, load: float = 100.0, **trained: float) -> str:
        live = Live.begin(plain, 200)
        live.expected = (trained or {"mae": 8.0, "wape": 0.08},)
        for i, error in enumerate(error_R):
            point = np.full((1, HORIZON, 1), load, np.float32)
            made = Tracked(point, point, np.zeros((1, HORIZON, 0, 1), np.float32), np.zeros(1, np.int64), ())
            live.add(i, made, lambda begin, end, v=load + error: np.full((end - begin, 1), v, np.float32))
        assert np.isnan(live.scores()[0]["coverage_80"])
        return str(live.scores()[0]["alarm"])

    noise = rng.normal(0, 10, 200)
    assert scored(noise) == ""
    assert scored(3 * noise).startswith("the error is 2.9 times")
    assert scored(3 * noise[:70]) == ""  # too few rows of their own
    assert scored(np.where(np.arange(200) == 90, 1e4, noise)) == ""
    assert scored(10 * noise, 1000.0) == ""
    assert scored(3 * noise, mae=8.0) == ""  # a measured error that is not there says nothing


def test_the_window_holds_ten_horizons(plain: Forecaster) -> None:
    assert len(Live.begin(plain, 30).bucket_W) == 10 * HORIZON
