"""A real process under faults: killed while it observes, its files damaged, its disk full, its directory in use."""

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import SRC

pytestmark = pytest.mark.integration

START, STEP = 1_772_409_600, 60


def observe(client: httpx.Client, item: str, number: int) -> dict[str, Any]:
    row = {"item": item, "time": START + STEP * number, "values": {"requests": 10 + number % 7}}
    answer = client.post("/v1/observe", json={"rows": [row], "id": f"{item}/{number}"})
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def told(client: httpx.Client, item: str) -> dict[str, Any]:
    return client.get("/v1/live", params={"item": item}).json()  # type: ignore[no-any-return]


def kill_while_observing(one: Any, sent: dict[str, int], rows: int) -> None:
    """Kill a service while a client for each item sends rows, each after the last; ``sent`` counts those that were acknowledged."""

    def client(item: str) -> None:
        with httpx.Client(base_url=one.url, timeout=10) as client:
            while True:
                try:
                    assert observe(client, item, sent[item])["durable"]
                except httpx.TransportError:
                    return
                sent[item] += 1

    enough = min(sent.values()) + rows
    clients = [threading.Thread(target=client, args=(item,)) for item in sent]
    for thread in clients:
        thread.start()
    while min(sent.values()) < enough and all(thread.is_alive() for thread in clients):
        time.sleep(0.01)
    one.end(signal.SIGKILL)
    for thread in clients:
        thread.join()
    assert min(sent.values()) >= enough


def test_no_acknowledged_observation_is_lost(process: Callable[..., Any], tmp_path: Path) -> None:
    """Two kills, the second after the end of the log was damaged; a row that was on its way may be there or not."""
    state, sent = tmp_path / "state", dict.fromkeys("abc", 0)
    for kill in range(2):
        one = process("--state", state)
        assert len([line for line in one.said if "damaged" in line]) == kill
        kill_while_observing(one, sent, 20)
        with max(state.glob("log-*")).open("ab") as log:
            log.write(b'\n0badc0de [17,[["a",')
    one = process("--state", state)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        ready = client.get("/readyz").json()
        assert "damaged records were left out" in ready["warnings"][0]
        for item, number in sent.items():
            rows = told(client, item)["rows"][:number]
            assert [row["values"] for row in rows] == [[10 + i % 7] for i in range(number)][-len(rows) :]
            assert observe(client, item, number - 1)["duplicate"] == 1


def test_a_second_service_and_a_full_disk(
    process: Callable[..., Any], model_dir: Path, tmp_path: Path
) -> None:
    """The second one ends with 2. With a full disk forecasting goes on; with space again, a snapshot keeps what came meanwhile."""
    state = tmp_path / "state"
    one = process("--state", state)
    command = [
        sys.executable,
        "-m",
        "presurge",
        "serve",
        str(model_dir),
        "--state",
        str(state),
        "--port",
        "0",
    ]
    second = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(SRC)}, check=False
    )
    assert second.returncode == 2
    assert "another service uses this directory" in second.stderr
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        for number in range(30):
            assert observe(client, "a", number)["durable"]
        resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (1_000, hard))
        for number in range(30, 40):
            assert not observe(client, "a", number)["durable"]
        assert client.get("/v1/forecast/a").json()["forecast"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert "cannot be written" in ready.json()["storage"]
        resource.prlimit(one.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        ends = time.monotonic() + 30
        while client.get("/readyz").json()["status"] != "ready" and time.monotonic() < ends:
            time.sleep(0.1)
        assert observe(client, "a", 40)["durable"]
        before = told(client, "a")
    one.end(signal.SIGKILL)
    snapshot = max(state.glob("snapshot-*"))
    assert json.loads((snapshot / "config.json").read_text())["streams"]["load"]["items"]["a"]
    one = process("--state", state)
    with httpx.Client(base_url=one.url, timeout=30) as client:
        assert told(client, "a") == before
