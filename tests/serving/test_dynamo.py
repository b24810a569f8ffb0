"""The plugin of NVIDIA Dynamo's planner, called as the planner calls it (scripts/dynamo.sh runs the planner itself)."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import presurge
from presurge.errors import ConfigError
from presurge.serving.protos import planner_pb2 as pb

PREDICT = "/dynamo.planner.plugin.v1.PredictPlugin/Predict"
VALUE = ["requests", "input_tokens/requests", "output_tokens/requests"]
WINDOW, BEGIN = 180, 1_769_904_000
"""Seconds of a window, and when the first one begins: 2026-02-01."""

# Made with the messages of ai-dynamo 1.6.1: a window of 180 s with 240.5 requests of 1024 and 256 tokens that ends at
# 1769904180, with its KV hit rate, workers and engines, which the plugin does not know; and the answers.
REQUEST = (
    "0a6c0a117469636b2d313736393930343138302e30120e642d313736393930343138302e301a470a2d0900000000008066401100000000"
    "00106e4019000000000000904021000000000000704029000000000000d03f120e120c0a0477312f30120481a161011a06100220033001"
)
RESPONSE = "0a25090000000000106e4011000000000000904019000000000000704022087072657375726765"
NO_TRAFFIC = "120f6e6f5f747261666669635f64617461"


def traffic(rows: int = 240) -> pl.DataFrame:
    """Windows of three minutes with a rhythm of 48 rows."""
    rng, row = np.random.default_rng(3), np.arange(rows)
    requests = rng.poisson(200 * (1 + 0.5 * np.sin(2 * np.pi * row / 48))).astype(float)
    times = np.datetime64(BEGIN - rows * WINDOW, "s").astype("datetime64[us]") + row * np.timedelta64(
        WINDOW, "s"
    )
    columns = {"input_tokens": 1000.0 + row % 7, "output_tokens": 250.0 + row % 5}
    sums = {name: requests * mean for name, mean in columns.items()}
    return pl.DataFrame({"time": times, "requests": requests, **sums})


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``linear``, context 8, and ``last``, context 1: both forecast 4 windows."""
    folder = tmp_path_factory.mktemp("dynamo")
    for name, model, context in (("linear", "linear", 8), ("last", "last-value", 1)):
        fitted = presurge.fit(traffic(), model=model, context=context, horizon=4, time="time", value=VALUE)
        fitted.save(folder / name)
    return folder


class Planner:
    """A planner that asks the plugin of a service."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self._channel = grpc.insecure_channel(service.address("Dynamo"))
        self.raw = self._channel.unary_unary(PREDICT)

    def ask(
        self, end: float, num_req: float, isl: float = 1000, osl: float = 250, seconds: float = WINDOW
    ) -> Any:
        """The answer to a window that ends so many seconds after BEGIN."""
        request = pb.PredictStageRequest()
        request.context.request_id = f"tick-{BEGIN + end}"
        window = request.context.observations.traffic
        window.duration_s, window.num_req, window.isl, window.osl = seconds, num_req, isl, osl
        return pb.PredictStageResponse.FromString(self.raw(request.SerializeToString(), timeout=20))

    def rows(self) -> list[float | None]:
        """The requests of the rows that the service keeps."""
        told = httpx.get(f"{self.service.url}/v1/live", params={"item": "dynamo"}).json()
        return [row["values"][told["channels"].index("requests")] for row in told["rows"]]

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def planner(serving: Callable[..., Any], models: Path) -> Iterator[Callable[..., Planner]]:
    """Start a service of a model, and a planner beside it; settings are those of the plugin."""
    made: list[Planner] = []

    def start(model: str = "linear", state: Path | None = None, **dynamo: Any) -> Planner:
        service = serving(models={model: models / model}, state=state, dynamo={"port": 0} | dynamo)
        made.append(Planner(service))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_golden_bytes(planner: Callable[..., Planner]) -> None:
    raw = planner("last").raw
    assert raw(bytes.fromhex(REQUEST), timeout=20).hex() == RESPONSE
    without = pb.PredictStageRequest.FromString(bytes.fromhex(REQUEST))
    without.context.observations.ClearField("traffic")
    assert raw(without.SerializeToString(), timeout=20).hex() == NO_TRAFFIC
    assert raw(b"", timeout=20).hex() == NO_TRAFFIC


def test_equals_the_batch_forecast(planner: Callable[..., Planner], models: Path) -> None:
    """Mean, quantile and the peak over steps, and a last answer without ``final``."""
    frame = traffic().tail(20)
    batch = presurge.load(models / "linear").forecast(frame, time="time", value=VALUE)
    at = batch.levels.index(0.9)
    peak = presurge.load(models / "linear").forecast(frame, horizon=3, time="time", value=VALUE).peak
    assert peak is not None
    expected = {
        ("mean", 1): batch.mean[0, 0, 0],
        ("median", 1): batch.median[0, 0, 0],
        ("q0.9", 1): batch.quantiles[0, 0, at, 0],
        ("q0.9", 3): peak.quantiles_IQC[0, at, 0],
        ("mean", 3): peak.mean_IC[0, 0],
    }
    for (point, steps), number in expected.items():
        one, answer = planner(point=point, steps=steps), None
        for row, (_, *values) in enumerate(frame.iter_rows()):
            requests, *sums = values
            answer = one.ask((row - 19) * WINDOW, requests, *(total / requests for total in sums))
        assert answer is not None
        told = answer.predictions
        assert not answer.final
        assert (told.source, told.predicted_num_req) == ("presurge", pytest.approx(float(number), rel=1e-6))
        assert told.predicted_isl == pytest.approx(float(batch.mean[0, 0, 1]), rel=1e-6)
        assert told.predicted_osl == pytest.approx(float(batch.mean[0, 0, 2]), rel=1e-6)
        assert not told.HasField("predicted_kv_hit_rate")
        assert not told.HasField("predicted_accept_length")
        one.service.stop()


def test_too_few_windows(planner: Callable[..., Planner]) -> None:
    one = planner()
    for row in range(7):
        answer = one.ask(row * WINDOW, 100)
        assert not answer.HasField("predictions")
        assert f"{row + 1} of the 8 rows" in answer.reason
    assert one.ask(7 * WINDOW, 100).HasField("predictions")


def test_a_window_of_another_length(planner: Callable[..., Planner]) -> None:
    one = planner("last")
    for seconds in (60, 360, 0, math.nan):
        answer = one.ask(0, 100, seconds=seconds)
        assert not answer.HasField("predictions")
        assert "3m" in answer.reason
    assert one.service.service.served["last"].stream.items == {}


def test_overlapping_windows(planner: Callable[..., Planner]) -> None:
    """A planner that asks every 5 seconds: each request is counted once."""
    one = planner("last")
    for end in range(0, 10 * WINDOW + 1, 5):
        answer = one.ask(end, 1000 + end)
        assert answer.HasField("predictions"), answer
    rows = one.rows()
    taken = [row - 1000 for row in rows if row is not None]
    assert len(taken) == len(rows) in (10, 11)
    apart = np.diff(taken)
    assert apart.min() >= 0.9 * WINDOW
    assert abs(apart.mean() - WINDOW) <= 0.1 * WINDOW


def test_missed_windows_are_missing(planner: Callable[..., Planner]) -> None:
    one = planner()
    for row in range(8):
        one.ask(row * WINDOW, 100)
    answer = one.ask(10 * WINDOW, 130)  # 8 and 9 never came
    assert one.rows() == [100] * 8 + [None, None, 130]
    assert answer.predictions.predicted_num_req > 90  # a forecast from zeros would be far lower
    answer = one.ask(10_000 * WINDOW, 100)
    assert not answer.HasField("predictions")
    assert "missing" in answer.reason or "rows" in answer.reason


def test_idle_windows(planner: Callable[..., Planner]) -> None:
    """Nothing was asked, so the means, which the planner gives as 0 or NaN, are of nothing: the last ones hold."""
    one = planner("last")
    one.ask(0, 100, 900, 300)
    for row, nothing in enumerate((0, math.nan, 0), start=1):
        told = one.ask(row * WINDOW, 0, nothing, nothing).predictions
        assert (told.predicted_num_req, told.predicted_isl, told.predicted_osl) == (0, 900, 300)
    assert one.rows() == [100, 0, 0, 0]


@pytest.mark.parametrize("phase", [0, 85, 90, 95, 170])
def test_ticks_off_by_a_moment(planner: Callable[..., Planner], phase: float) -> None:
    """Neither jitter nor a planner that starts anew somewhere in a window loses or doubles one."""
    one, rng = planner("last"), np.random.default_rng(1)
    for row in range(10):
        one.ask(row * WINDOW + rng.uniform(-9, 9), 100 + row)
    for row in range(10, 30):
        one.ask(phase + row * WINDOW + rng.uniform(-9, 9), 100 + row)
        one.ask(phase + row * WINDOW, 999)  # asked twice
    rows = one.rows()
    gap = [row for row in rows if row is None]
    assert [row for row in rows if row is not None] == [100 + row for row in range(30)]
    assert len(gap) <= (phase > 90)  # of the time between the two planners


def test_a_restart_keeps_the_history(planner: Callable[..., Planner], tmp_path: Path) -> None:
    one = planner(state=tmp_path / "state")
    for row in range(9):
        before = one.ask(row * WINDOW, 100 + 5 * row)
    one.service.stop()
    again = planner(state=tmp_path / "state")
    assert again.ask(8 * WINDOW, 140) == before  # a repeated window changes nothing
    assert again.ask(9 * WINDOW, 145).HasField("predictions")
    assert again.rows() == [100 + 5 * row for row in range(10)]


def test_a_history_given_before(planner: Callable[..., Planner]) -> None:
    """Windows that end where the planner's begin, from the end of a trace, and 40 seconds off the planner's."""
    one, begin = planner(), BEGIN - 10 * WINDOW - 40
    values = {"requests": 100, "input_tokens": 1e5, "output_tokens": 2.5e4}
    rows = [{"item": "dynamo", "time": begin + WINDOW * i, "values": values} for i in range(10)]
    assert httpx.post(f"{one.service.url}/v1/observe", json={"rows": rows}).json()["accepted"] == 10
    assert one.ask(WINDOW, 104).HasField("predictions")
    assert one.rows() == [100] * 10 + [104]


def test_a_clock_ahead(planner: Callable[..., Planner]) -> None:
    one = planner("last")
    answer = one.ask(time.time() - BEGIN + 86_400, 100)
    assert not answer.HasField("predictions")
    assert "lies in the future" in answer.reason
    assert one.ask(0, 100).HasField("predictions")  # when the clock is right again
    assert one.rows() == [100]


def test_all_three_or_none(planner: Callable[..., Planner]) -> None:
    one, end = planner("last"), iter(range(0, 10_000_000, WINDOW))
    numbers = st.floats() | st.floats(0, 1e6)

    @settings(max_examples=40)
    @given(num_req=numbers, isl=numbers, osl=numbers)
    def check(num_req: float, isl: float, osl: float) -> None:
        answer = one.ask(next(end), num_req, isl, osl)
        told = answer.predictions
        three = [getattr(told, f"predicted_{name}") for name in ("num_req", "isl", "osl")]
        if answer.HasField("predictions"):
            assert all(told.HasField(f"predicted_{name}") for name in ("num_req", "isl", "osl"))
            assert all(0 <= number < math.inf for number in three)
        else:
            assert answer.reason

    check()


def test_numbers_that_no_load_is(planner: Callable[..., Planner]) -> None:
    """They are missing, so the forecasts after them are made from the windows around them."""
    one = planner()
    for row in range(8):
        one.ask(row * WINDOW, 100)
    for row, (num_req, isl) in {8: (math.inf, 1000), 10: (1e300, 1000), 12: (100, math.inf)}.items():
        assert not one.ask(row * WINDOW, num_req, isl).HasField("predictions")
        assert one.ask((row + 1) * WINDOW, 100).predictions.predicted_num_req > 50


def test_the_model_that_it_needs(
    serving: Callable[..., Any], model_dir: Path, models: Path, process: Any
) -> None:
    with pytest.raises(ConfigError, match="input_tokens/requests,output_tokens/requests") as refused:
        serving(dynamo={"port": 0})
    assert "the model 'load' reads requests and forecasts requests" in refused.value.what
    with pytest.raises(ConfigError, match="5 steps"):
        serving(models={"last": models / "last"}, dynamo={"port": 0, "steps": 5})
    more = traffic().with_columns(seconds=pl.lit(1.0))  # which the planner does not send
    fitted = presurge.fit(
        more, model="last-value", context=1, horizon=1, time="time", value=[*VALUE, "seconds"]
    )
    fitted.save(models / "more")
    with pytest.raises(ConfigError, match="seconds and forecasts"):
        serving(models={"more": models / "more"}, dynamo={"port": 0})
    ended = process("--dynamo-port", "0")
    text = "\n".join(ended.said)
    assert ended.end()[0] != 0
    assert f"value={','.join(VALUE)}" in text
    assert "Traceback" not in text


def test_a_model_of_a_trace_without_dates(planner: Callable[..., Planner], models: Path) -> None:
    """Mooncake's times count from an unknown origin, the planner's from 1970."""
    frame = traffic().with_columns(time=np.arange(240.0) * WINDOW)
    fitted = presurge.fit(frame, model="linear", context=8, horizon=4, time="time", value=VALUE)
    assert fitted.forecaster.fitted_spec().clock == "relative"
    fitted.save(models / "relative")
    one = planner("relative")
    for row in range(9):
        answer = one.ask(row * WINDOW, 100)
    assert answer.HasField("predictions")
