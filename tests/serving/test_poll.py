"""Rows that a real Prometheus server is asked for: right to the sample, at the start, row by row, and after it was away."""

import http.server
import json
import math
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

import presurge
from presurge.errors import ConfigError
from presurge.serving.config import PollConfig
from presurge.serving.poll import Poller

pytestmark = pytest.mark.integration

HOSTS = ("a", "b")
QUERIES = {
    "requests": "sum by (host) (increase(requests_total[1s]))",
    "queue": "max by (host) (queue)",
}


def requests_at(host: str, quarter: int) -> int:
    """A counter, by quarters of a second since 1970."""
    return quarter * (10 + HOSTS.index(host)) + quarter // 3 % 7


def queue_at(host: str, second: int) -> float:
    return round(10 + 5 * math.sin(second / 20) + HOSTS.index(host), 3)


def samples(begin: int, end: int) -> str:
    """A counter that is seen four times a second and a gauge that is seen once, of two hosts."""
    lines = ["# TYPE requests counter"]
    for host in HOSTS:
        zero = requests_at(host, 4 * begin)
        for k in range(4 * begin, 4 * end + 1):
            lines.append(
                f'requests_total{{host="{host}",code="200"}} {requests_at(host, k) - zero} {k / 4:.2f}'
            )
    lines.append("# TYPE queue gauge")
    lines += [f'queue{{host="{h}"}} {queue_at(h, at)} {at}' for h in HOSTS for at in range(begin, end + 1)]
    return "\n".join([*lines, "# EOF"]) + "\n"


@pytest.fixture(scope="module")
def second_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of rows a second apart."""
    rng, row = np.random.default_rng(7), np.arange(300)
    frame = pl.DataFrame(
        {
            "time": np.datetime64("2026-03-02T00:00:00", "us") + row * np.timedelta64(1, "s"),
            "requests": rng.poisson(12, 300),
            "queue": 10 + 5 * np.sin(row / 20) + 0.01 * rng.random(300),
        }
    )
    path = tmp_path_factory.mktemp("models") / "second"
    columns: dict[str, Any] = {"time": "time", "value": ["requests", "queue"], "step": "1s"}
    presurge.fit(frame, model="linear", context=10, horizon=3, **columns).save(path)
    return path


@pytest.fixture
def server(prometheus: Callable[[str], Any]) -> tuple[Any, int]:
    """A server that knows the last 40 seconds and the next 120, and when its samples begin."""
    begin = int(time.time()) - 40
    one = prometheus(samples(begin, begin + 160))
    one.start()
    return one, begin


def rows_of(running: Any, host: str) -> dict[int, list[float]]:
    """Second at which a bucket begins -> its values."""
    told = httpx.get(f"{running.url}/v1/live", params={"item": host}).json()
    stamps = [np.datetime64(row["timestamp"].removesuffix("Z"), "s").astype(int) for row in told["rows"]]
    return {int(at): row["values"] for at, row in zip(stamps, told["rows"], strict=True)}


def wait_until(good: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not good():
        assert time.monotonic() < end
        time.sleep(0.05)


def right(running: Any, begin: int) -> int:
    """Check every row since the samples began, and that none is missing; returns when the last one ends."""
    for host in HOSTS:
        found = rows_of(running, host)
        # At the first sample there is nothing that the counter could have grown by.
        assert found.pop(begin - 1) == [None, pytest.approx(queue_at(host, begin), abs=1e-5)]
        assert [*found] == list(range(begin, begin + len(found)))
        for at, (requests, queue) in found.items():
            assert requests == requests_at(host, 4 * at + 4) - requests_at(host, 4 * at), (host, at)
            assert queue == pytest.approx(queue_at(host, at + 1), abs=1e-5)
    return max(found) + 1


def test_rows_are_asked_for_from_the_start_and_after_an_outage(
    server: tuple[Any, int], serving: Callable[..., Any], second_dir: Path, tmp_path: Path
) -> None:
    prometheus, begin = server
    poll = {"url": prometheus.url, "queries": QUERIES, "item": "host", "delay": "0s"}
    settings = {"models": {"second": second_dir}, "prometheus": [poll], "state": tmp_path / "state"}
    source = f"{prometheus.url} for second"

    def state(running: Any) -> Any:
        answer = httpx.get(f"{running.url}/readyz")
        assert answer.status_code == 200
        return answer.json()

    def newest(running: Any) -> int:
        return int(running.service.served["second"].stream.items["a"].rows.last)

    running = serving(**settings)
    wait_until(lambda: state(running)["status"] == "ready")
    first = right(running, begin)  # the buckets before the start
    assert first - begin >= 38
    wait_until(lambda: newest(running) >= first + 1)  # and new ones as they end
    answer = httpx.get(f"{running.url}/v1/forecast/b").json()
    assert {row["channel"] for row in answer["forecast"]} == {"requests", "queue"}
    right(running, begin)

    prometheus.stop()
    wait_until(lambda: state(running)["status"] == "degraded")
    assert "cannot be asked" in state(running)["sources"][source]
    metrics = httpx.get(f"{running.url}/metrics").text
    assert f'presurge_source_ok{{source="{source}"}} 0.0' in metrics
    httpx.get(f"{running.url}/v1/forecast/b").raise_for_status()  # from the rows that there are
    stopped = newest(running)
    time.sleep(2)
    prometheus.start()
    wait_until(lambda: state(running)["status"] == "ready")
    assert right(running, begin) - 1 > stopped + 1

    running.stop()  # a restart asks for what it does not have, and adds nothing up twice
    again = serving(**settings)
    wait_until(lambda: state(again)["status"] == "ready")
    right(again, begin)


def test_what_the_server_does_not_give_is_said(
    server: tuple[Any, int], serving: Callable[..., Any], second_dir: Path, tmp_path: Path
) -> None:
    """In ``/readyz`` while the rows go on as far as they can; each source speaks for itself."""
    prometheus, _ = server
    cases = {
        "broken": (QUERIES | {"requests": "sum(("}, "host", "refuses the query (bad_data)"),
        "silent": (QUERIES | {"queue": "queue_of_nobody"}, "host", "no value of queue"),
        "unnamed": (QUERIES, None, "gives several series. Add them up"),
        "summed": (QUERIES | {"queue": "queue"}, "job", "gives several series of job ''"),
        "good": (QUERIES, "host", "ok"),
    }
    polls = [
        {"url": f"{prometheus.url}/", "queries": queries, "item": item, "model": name, "delay": "0s"}
        for name, (queries, item, _) in cases.items()
    ]
    running = serving(models=dict.fromkeys(cases, second_dir), prometheus=polls)

    def sources() -> dict[str, str]:
        found: dict[str, str] = httpx.get(f"{running.url}/readyz").json()["sources"]
        return {name.rpartition(" ")[2]: text for name, text in found.items()}

    wait_until(lambda: "not asked yet" not in sources().values())
    for name, (_, _, words) in cases.items():
        assert words in sources()[name], name
    followed = {name: [*served.stream.items] for name, served in running.service.served.items()}
    assert followed == {"broken": [], "silent": [*HOSTS], "unnamed": [], "summed": [], "good": [*HOSTS]}


def test_queries_are_those_of_the_model(serving: Callable[..., Any], second_dir: Path) -> None:
    running = serving(models={"second": second_dir})
    config = PollConfig(url="http://h", queries={"requests": "up", "cpu": "up"})
    with pytest.raises(ConfigError, match="for requests, cpu, and model 'second' reads requests, queue"):
        Poller(running.service, config, "second")


def test_a_token_opens_the_server(serving: Callable[..., Any], second_dir: Path, tmp_path: Path) -> None:
    """A server that lets only the bearer of a token through."""

    class Gate(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers.get("Authorization") == "Bearer open sesame"
            self.send_response(200 if good else 401)
            self.end_headers()
            end = int(urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["end"][0])
            data = {"resultType": "matrix", "result": [{"metric": {"host": "a"}, "values": [[end, "7"]]}]}
            self.wfile.write(json.dumps({"status": "success", "data": data}).encode() if good else b"no")

        def log_message(self, *_: Any) -> None:
            pass

    gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=gate.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("open sesame\n")
    poll = {"url": f"http://127.0.0.1:{gate.server_port}", "queries": QUERIES, "delay": "0s"}
    tokens = {"closed": {}, "open": {"token_file": tmp_path / "token"}}
    try:
        running = serving(
            models=dict.fromkeys(tokens, second_dir),
            prometheus=[poll | own | {"model": name} for name, own in tokens.items()],
        )
        wait_until(lambda: "not asked yet" not in running.service.sources.values())
        closed, opened = running.service.sources.values()
        assert "HTTP 401" in closed
        assert "Give a token with token_file" in closed
        assert opened == ""
        assert not running.service.served["closed"].stream.items
        assert [*running.service.served["open"].stream.items] == [""]  # no label names the item
    finally:
        gate.shutdown()
        gate.server_close()
