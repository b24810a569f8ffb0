"""``/metrics``: what promtool says of it, what a real Prometheus server reads from it, and that it stays small."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from presurge.serving.metrics import GAUGES, LEADS, LEVELS

START, CONTEXT, HORIZON = 1_772_409_600, 24, 6
ROOT = Path(__file__).resolve().parents[2]


def observe(running: Any, begin: int, end: int, items: tuple[str, ...] = ("web",), **headers: str) -> None:
    rows = [
        {"item": item, "time": START + 60 * i, "values": {"requests": 20 + i * 7 % 11}}
        for i in range(begin, end)
        for item in items
    ]
    with httpx.Client(base_url=running.url, headers=headers) as client:
        for first in range(0, len(rows), len(items)):  # one row after another, as they come
            body = {"rows": rows[first : first + len(items)]}
            client.post("/v1/observe", json=body).raise_for_status()


def told(running: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(Name, labels) -> value of every sample."""
    text = httpx.get(f"{running.url}/metrics").raise_for_status().text
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def of(samples: dict[Any, float], name: str, **labels: str) -> float:
    found = [
        value
        for (own, pairs), value in samples.items()
        if own == f"presurge_{name}" and {*labels.items()} <= {*pairs}
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_metrics_say_what_the_service_says(serving: Callable[..., Any]) -> None:
    running = serving()
    observe(running, 0, CONTEXT + 10)
    httpx.get(f"{running.url}/v1/forecast/nobody")
    forecast = httpx.get(f"{running.url}/v1/forecast/web").json()
    live = httpx.get(f"{running.url}/v1/live", params={"item": "web"}).json()["scores"]["requests"]
    samples = told(running)
    own = {"model": "load", "item": "web", "channel": "requests"}
    for h, row in enumerate(forecast["forecast"], 1):
        lead = {"lead_seconds": str(60 * h)}
        assert of(samples, "forecast_mean", **own, **lead) == pytest.approx(row["mean"])
        for level, value in (row["quantiles"] | {"0.5": row["median"]}).items():
            if float(level) in (*LEVELS, 0.5):
                given = of(samples, "forecast_quantile", **own, **lead, level=level)
                assert given == pytest.approx(value)
    (peak,) = forecast["peak"]
    assert of(samples, "forecast_peak_mean", **own) == pytest.approx(peak["mean"])
    assert of(samples, "forecast_peak_quantile", **own, level="0.9") == pytest.approx(
        peak["quantiles"]["0.9"]
    )
    assert of(samples, "live_rows", **own) == live["rows"] == 10
    assert of(samples, "live_wape_ratio", **own) == pytest.approx(live["wape"])
    assert of(samples, "live_bias_ratio", **own) == pytest.approx(live["relative_bias"])
    assert of(samples, "live_coverage_ratio", **own) == pytest.approx(live["coverage_80"])
    naive = of(samples, "live_baseline_wape_ratio", **own, baseline="last-value")
    assert naive == pytest.approx(live["baselines"]["last-value"])
    assert not [pairs for name, pairs in samples if ("baseline", "day-ago") in pairs]  # no day has passed
    assert of(samples, "drift_alarm", **own) == 0
    assert of(samples, "last_row_timestamp_seconds", model="load", item="web") == START + 60 * (CONTEXT + 9)
    assert of(samples, "ready") == of(samples, "storage_ok") == of(samples, "build_info") == 1
    seconds = "http_request_duration_seconds_count"
    assert of(samples, seconds, route="/v1/observe", code="200") == CONTEXT + 10
    assert of(samples, seconds, route="/v1/forecast/{item}", code="404") == 1


def test_what_was_not_measured_has_no_sample(serving: Callable[..., Any]) -> None:
    running = serving()
    observe(running, 0, CONTEXT - 1)
    names = {name for name, _ in told(running)}
    assert "presurge_live_rows" in names
    assert not names & {"presurge_live_wape_ratio", "presurge_forecast_mean", "presurge_live_coverage_ratio"}
    assert not any(value != value for value in told(running).values())


def test_there_are_no_more_samples_than_the_items_exported(serving: Callable[..., Any]) -> None:
    running = serving(exported=2)
    observe(running, 0, CONTEXT, tuple("abcde"))
    for path in ("/v1/models/x/reload", "/nowhere/a", "/nowhere/b", "/v1/forecast/a", "/v1/forecast/z"):
        httpx.get(f"{running.url}{path}")
    samples = told(running)
    assert {dict(pairs)["item"] for _, pairs in samples if "item" in dict(pairs)} == {"a", "b"}
    assert (of(samples, "items"), of(samples, "items_exported")) == (5, 2)
    routes = {dict(pairs)["route"] for _, pairs in samples if "route" in dict(pairs)}
    assert routes <= {"/v1/observe", "/v1/forecast/{item}", "/metrics", "/v1/models/{name}/reload", "other"}
    leads = {dict(pairs)["lead_seconds"] for _, pairs in samples if "lead_seconds" in dict(pairs)}
    assert len(leads) == HORIZON <= LEADS


@pytest.mark.integration
def test_a_real_prometheus_reads_them(
    serving: Callable[..., Any], prometheus: Callable[[], Any], tmp_path: Path
) -> None:
    """With a token; promtool finds nothing to say against names, types and help."""
    (tmp_path / "token").write_text("open sesame\n")
    running = serving(token_file=tmp_path / "token")
    observe(running, 0, CONTEXT + 3, authorization="Bearer open sesame")
    assert httpx.get(f"{running.url}/metrics").status_code == 401
    text = httpx.get(f"{running.url}/metrics", headers={"authorization": "Bearer open sesame"}).text
    promtool = (
        Path(os.environ.get("PRESURGE_PROMETHEUS", ROOT / ".venv" / "prometheus"))
        / "usr"
        / "bin"
        / "promtool"
    )
    server = prometheus()
    guide = (ROOT / "docs" / "guides" / "live-error.md").read_text(encoding="utf-8")
    (tmp_path / "rules.yaml").write_text(guide.partition("```yaml\n")[2].partition("```")[0])
    subprocess.run([promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, check=True)
    told = set(re.findall(r"presurge_(\w+)", guide))
    assert told <= {*GAUGES}
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    scraped = {
        "job_name": "presurge",
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "authorization": {"credentials_file": str(tmp_path / "token")},
        "static_configs": [{"targets": [running.url.removeprefix("http://")]}],
    }
    (server.folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [scraped]}))  # YAML too
    server.start()
    end = time.monotonic() + 20
    while not (up := server.query("presurge_ready")):
        assert time.monotonic() < end, server.query("up")
        time.sleep(0.05)
    assert up[0]["value"][1] == "1"
    names = {one["metric"]["__name__"] for one in server.query('{__name__=~"presurge_.*"}')}
    wanted = {f"presurge_{name}" for name in GAUGES} - {"presurge_source_ok"}
    assert wanted <= names
    mean = server.query('presurge_forecast_mean{item="web",lead_seconds="360"}')
    answer = httpx.get(
        f"{running.url}/v1/forecast/web", headers={"authorization": "Bearer open sesame"}
    ).json()
    assert float(mean[0]["value"][1]) == pytest.approx(answer["forecast"][-1]["mean"])
    slow = "histogram_quantile(0.99, presurge_http_request_duration_seconds_bucket{route='/v1/observe'})"
    assert 0 < float(server.query(slow)[0]["value"][1]) < 10
