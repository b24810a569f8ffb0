"""The routes of the service over real HTTP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

import presurge
from presurge.models import registry
from presurge.workflows.predict import PredictConfig, forecast_items

END = "2026-03-02T07:59:00Z"
"""The time of the last row of the fixture ``loads``."""
CONTEXT, HORIZON = 24, 6

Serving = Callable[..., Any]
History = Callable[..., dict[str, Any]]


@pytest.fixture
def service(standing: Any) -> Any:
    return standing


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"live": True}
    state = client.get("/readyz")
    assert state.status_code == 200
    assert state.json()["status"] == "ready"


def test_a_forecast_equals_the_one_of_python(
    client: httpx.Client, model_dir: Path, history: History, loads: pl.DataFrame
) -> None:
    body = {"history": [history("host-0"), history("host-1")], "horizon": 4, "levels": [0.25, 0.9]}
    answer = client.post("/v1/forecast", json=body).raise_for_status().json()

    model, _ = registry.load(model_dir)
    frame = loads.filter(pl.col("time") > pl.col("time").max() - pl.duration(minutes=2 * CONTEXT)).select(
        "time", "host", "requests"
    )
    panel = presurge.read(frame, time="time", item="host", value=["requests"], kind={"requests": "count"})
    config = PredictConfig(horizon=4, levels=(0.25, 0.9))
    assert answer == forecast_items(model, panel, config).to_dict()


def test_the_known_future_moves_the_forecast(
    serving: Serving, covariates_dir: Path, history: History
) -> None:
    service = serving(models={"wide": covariates_dir})
    past = history("host-1", columns=("requests", "seconds", "campaign"))
    future = {
        "item": "host-1",
        "end": "2026-03-02T08:05:00Z",
        "values": {"campaign": [1.0] * HORIZON},
    }
    body: dict[str, Any] = {"history": [past], "future": [future]}
    with httpx.Client(base_url=service.url) as client:
        quiet = body | {"future": [future | {"values": {"campaign": [0.0] * HORIZON}}]}
        loud, calm = (
            client.post("/v1/forecast", json=each).raise_for_status().json() for each in (body, quiet)
        )
        assert {row["channel"] for row in loud["forecast"]} == {"requests", "seconds"}
        assert [row["mean"] for row in loud["forecast"]] != [row["mean"] for row in calm["forecast"]]
        lacking = client.post("/v1/forecast", json=body | {"future": []})
        assert (lacking.status_code, lacking.json()["setting"]) == (422, "future")


def test_what_cannot_be_forecast_is_named_and_the_rest_is(client: httpx.Client, history: History) -> None:
    answer = client.post("/v1/forecast", json={"history": [history("host-0"), history("host-1", 5)]})
    assert answer.status_code == 200
    assert {row["item"] for row in answer.json()["forecast"]} == {"host-0"}
    (missing,) = answer.json()["missing"]
    assert missing["item"] == "host-1"
    assert "5" in missing["reason"]
    assert client.post("/v1/forecast", json={"history": [history("host-1", 5)]}).status_code == 422


def test_a_history_without_an_end_ended_now(client: httpx.Client, history: History) -> None:
    past = {"values": history()["values"]}
    answer = client.post("/v1/forecast", json={"history": [past]}).raise_for_status().json()
    assert 0 <= np.datetime64("now") - np.datetime64(answer["origin"].rstrip("Z")) < np.timedelta64(130, "s")


def test_observe_then_forecast(client: httpx.Client, history: History) -> None:
    values = history()["values"]["requests"]
    stamps = np.datetime64(END.rstrip("Z")) - np.timedelta64(60, "s") * np.arange(len(values))[::-1]
    rows = [
        {"item": "a/b c", "time": f"{stamp}Z", "values": {"requests": value}}
        for stamp, value in zip(stamps, values, strict=True)
    ]
    taken = client.post("/v1/observe", json={"rows": rows, "id": "first"}).raise_for_status().json()
    assert taken == {"accepted": len(rows), "late": 0, "duplicate": 0, "refused": [], "durable": False}
    again = client.post("/v1/observe", json={"rows": rows, "id": "first"}).json()
    assert (again["accepted"], again["duplicate"]) == (0, len(rows))

    batch = client.post("/v1/forecast", json={"history": [history() | {"item": "a/b c"}]}).json()
    streamed = client.get("/v1/forecast/a%2Fb%20c").raise_for_status().json()
    assert streamed["forecast"] == batch["forecast"]
    some = client.get("/v1/forecast/a/b c", params={"horizon": 2, "levels": "0.5,0.9"}).json()
    assert len(some["forecast"]) == 2
    assert list(some["forecast"][0]["quantiles"]) == ["0.5", "0.9"]
    live = client.get("/v1/live", params={"item": "a/b c"})
    assert live.status_code == 200


@pytest.mark.parametrize(
    ("query", "where"),
    [("horizon=x", "horizon"), ("horizon=0", "horizon"), ("levels=0.5,x", "levels"), ("levels=2", "levels")],
)
def test_a_query_is_checked(client: httpx.Client, query: str, where: str) -> None:
    answer = client.get(f"/v1/forecast/web?{query}")
    assert answer.status_code == 422
    assert answer.json()["where"].startswith(where)


def test_names_are_checked(client: httpx.Client, history: History) -> None:
    for path in (
        "/v1/forecast/nobody",
        "/v1/forecast/",
        "/v1/forecast/..%2F..%2Fetc%2Fpasswd",
        "/v1/live?item=nobody",
    ):
        answer = client.get(path)
        assert (answer.status_code, "nothing was observed" in answer.text) == (404, True)
    for path in ("nobody", "..%2F..", "%2Fetc%2Fpasswd", "load%00"):
        assert client.post(f"/v1/models/{path}/reload").status_code == 404
    asked = client.post("/v1/forecast", json={"model": "nobody", "history": [history()]})
    assert asked.status_code == 404
    assert asked.json() == {
        "error": "there is no model 'nobody'",
        "setting": "model",
        "hint": "The models are: load.",
    }


def test_models_and_reload(client: httpx.Client, history: History) -> None:
    (described,) = client.get("/v1/models").json()["models"]
    assert (described["name"], described["context"], described["horizon"]) == ("load", CONTEXT, HORIZON)
    assert described["observe"] == ["requests"]
    again = client.post("/v1/models/load/reload").raise_for_status().json()
    assert again["name"] == "load"
    assert client.post("/v1/forecast", json={"history": [history()]}).status_code == 200


def test_where_several_models_are_served_the_request_names_one(
    serving: Serving, model_dir: Path, history: History
) -> None:
    service = serving(models={"a": model_dir, "b": model_dir})
    with httpx.Client(base_url=service.url) as client:
        unnamed = client.post("/v1/forecast", json={"history": [history()]})
        assert (unnamed.status_code, unnamed.json()["hint"]) == (422, "Name one of: a, b.")
        assert client.post("/v1/forecast", json={"model": "b", "history": [history()]}).status_code == 200


def test_there_is_no_such_route(client: httpx.Client) -> None:
    missing = client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["hint"]) == (404, "The routes are in /openapi.json.")
    wrong = client.delete("/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json()["error"] == "Method Not Allowed: DELETE /v1/models"


def test_metrics_name_routes_and_not_what_clients_wrote(serving: Serving) -> None:
    url = serving().url
    for path in ("/healthz", "/v1/forecast/web", "/v1/forecast/shop", "/nothing/of/mine", "/v2/models/load"):
        httpx.get(f"{url}{path}")
    text = httpx.get(f"{url}/metrics").text
    counts = [
        line for line in text.splitlines() if line.startswith("presurge_http_request_duration_seconds_count")
    ]
    routes = {line.split('route="')[1].split('"')[0] for line in counts}
    assert routes == {"/healthz", "/v1/forecast/{item}", "other", "/v2/models/{name}"}
