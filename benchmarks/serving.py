"""How many forecasts a second the service gives on two cores, beside a bare FastAPI endpoint, under wrk on the same cores.

Three parts: forecasts from a history of 120 rows of one and of three channels (alternately the service and an endpoint that
returns the same bytes; CPU microseconds of the server for each request are from /proc); the same for a minute; and a thousand
items whose rows are observed and whose forecasts are asked for once a second, with the service on one core. scripts/wrk.sh installs wrk.

    OMP_NUM_THREADS=1 python benchmarks/serving.py [SECONDS]
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import presurge

CONTEXT, HORIZON, CHANNELS = 120, 3, ("requests", "input_tokens", "output_tokens")
CONNECTIONS, ROUNDS, ROUND_SECONDS, SECONDS = 32, 3, 5, 60
ITEMS, STEP, START = 1_000, 60, 1_760_000_040
WRK = Path(__file__).parents[1] / "scripts" / "wrk.sh"
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("{body}"):read("*a")
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{{"requests": %d, "us": %d, "errors": %d, "p50_ms": %f, "p99_ms": %f, "max_ms": %f}}\\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
"""
_BARE = """
import sys
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Response
app, content = FastAPI(), Path(sys.argv[2]).read_bytes()
@app.post("/constant")
async def constant() -> Response:
    return Response(content, media_type="application/json")
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
"""


def load() -> np.ndarray:
    """Three days of requests and tokens a minute."""
    rng = np.random.default_rng(0)
    requests = rng.poisson(60 * (1 + 0.6 * np.sin(2 * np.pi * np.arange(3 * 1440) / 1440)))
    tokens = [rng.poisson(np.maximum(requests * each, 1)) for each in (300, 150)]
    return np.column_stack((requests, *tokens)).astype(np.float64)


def train(directory: Path, channels: tuple[str, ...]) -> None:
    """Fit the linear model to some channels of the load."""
    times = pl.from_epoch(pl.Series("time", START + STEP * np.arange(len(rows := load()))), "s")
    frame = pl.DataFrame(rows, schema=list(CHANNELS)).insert_column(0, times)
    made = presurge.fit(frame, time="time", value=channels, model="linear", context=CONTEXT, horizon=HORIZON)
    made.save(directory)


@contextmanager
def server(*command: str, port: int, core: int | None = None) -> Iterator[int]:
    """The process of a server that answers at a port."""
    process = subprocess.Popen([sys.executable, *command])
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0 or process.poll() is not None:
                    break
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def press(url: str, script: Path, seconds: int, pid: int) -> dict[str, Any]:
    """What wrk measured, and the CPU time of the server for each request."""
    before = cpu_seconds(pid)
    command = [
        str(WRK),
        "run",
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    found["rate"] = found["requests"] / found["us"] * 1e6
    found["cpu_us"] = (cpu_seconds(pid) - before) / found["requests"] * 1e6
    return found


def line(name: str, found: dict[str, Any]) -> None:
    print(
        f"  {name:<34} {found['rate']:>6.0f}/s  {found['cpu_us']:>5.0f} us CPU  p50 {found['p50_ms']:>5.1f} ms  "
        f"p99 {found['p99_ms']:>5.1f} ms  max {found['max_ms']:>6.1f} ms  errors {found['errors']}",
        flush=True,
    )


def forecasts(place: Path, channels: tuple[str, ...], seconds: int) -> None:
    """Forecasts from histories of some channels, beside the bare endpoint."""
    train(place / "model", channels)
    history = dict(zip(CHANNELS, load()[1000 : 1000 + CONTEXT].T.tolist(), strict=True))
    values = {name: history[name] for name in channels}
    (place / "body.json").write_text(
        json.dumps({"history": [{"end": "2025-10-11T09:00:00Z", "values": values}]})
    )
    script = place / "post.lua"
    script.write_text(_SCRIPT.format(body=place / "body.json"))
    (place / "bare.py").write_text(_BARE)
    port, other = free_port(), free_port()
    url, bare = f"http://127.0.0.1:{port}/v1/forecast", f"http://127.0.0.1:{other}/constant"
    with server("-m", "presurge", "serve", str(place / "model"), "--port", str(port), port=port) as pid:
        answer = ask(port, "POST", "/v1/forecast", (place / "body.json").read_bytes())
        (place / "answer.json").write_bytes(answer)
        print(
            f"forecasts {CONTEXT} -> {HORIZON}, {len(channels)} channels, an answer of {len(answer):,} bytes"
        )
        with server(str(place / "bare.py"), str(other), str(place / "answer.json"), port=other) as bare_pid:
            press(url, script, 2, pid)
            press(bare, script, 2, bare_pid)
            made: dict[str, list[dict[str, Any]]] = {"presurge": [], "bare FastAPI": []}
            for _ in range(ROUNDS):
                made["presurge"].append(press(url, script, ROUND_SECONDS, pid))
                made["bare FastAPI"].append(press(bare, script, ROUND_SECONDS, bare_pid))
            for name, rounds in made.items():
                for found in rounds:
                    line(name, found)
            rates, costs = (
                [np.median([found[key] for found in rounds]) for rounds in made.values()]
                for key in ("rate", "cpu_us")
            )
            print(
                f"  of the bare endpoint: {rates[0] / rates[1]:.2f} by rate, {costs[1] / costs[0]:.2f} by CPU time"
            )
        before = resident_mib(pid)
        line(f"presurge for {seconds} s", press(url, script, seconds, pid))
        print(f"  memory: {before:.1f} MiB before, {resident_mib(pid):.1f} MiB after")


def ask(port: int, method: str, path: str, body: bytes | None = None) -> bytes:
    """The answer to one request.

    Raises:
        RuntimeError: It is an error.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port)
    return _ask(connection, method, path, body)


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> bytes:
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer[:300]!r}")
    return answer


def observations(place: Path) -> None:
    """A thousand items, whose rows come and whose forecasts are asked for once a second; the service has one core."""
    port, rows = free_port(), load()
    first = len(rows) - CONTEXT - 20
    command = [
        "-m",
        "presurge",
        "serve",
        str(place / "model"),
        "--port",
        str(port),
        "--state",
        str(place / "state"),
    ]
    with server(*command, port=port, core=0) as pid:
        connection, taken, spent = http.client.HTTPConnection("127.0.0.1", port), [], []
        for number in range(CONTEXT + 15):
            row = dict(zip(CHANNELS, rows[first + number].tolist(), strict=True))
            at = START + STEP * (first + number)
            body = {"rows": [{"item": f"service-{k}", "time": at, "values": row} for k in range(ITEMS)]}
            began, before = time.perf_counter(), cpu_seconds(pid)
            _ask(connection, "POST", "/v1/observe", json.dumps(body).encode())
            if number >= CONTEXT:
                for k in range(ITEMS):
                    _ask(connection, "GET", f"/v1/forecast/service-{k}")
                if number >= CONTEXT + 5:  # the first forecasts are from all rows
                    taken.append(time.perf_counter() - began)
                    spent.append(cpu_seconds(pid) - before)
        print(
            f"observe, then forecast {ITEMS:,} items: {np.median(taken):.2f} s (slowest of {len(taken)}: "
            f"{max(taken):.2f} s), {np.median(spent):.2f} s of CPU, {resident_mib(pid):.0f} MiB"
        )


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        for number in (1, 3):
            forecasts(place, CHANNELS[:number], seconds)
        observations(place)


if __name__ == "__main__":
    main()
