"""A small model, and services that serve it: in a thread of the test on a port of the kernel's choice, or as a real process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from uvicorn.loops.auto import auto_loop_factory

import presurge
from presurge.serving.config import ServeConfig
from presurge.serving.server import Server, running
from presurge.serving.service import Service

ROWS, CONTEXT, HORIZON = 480, 24, 6
ROOT = Path(__file__).resolve().parents[2]
SRC, PROMETHEUS = ROOT / "src", ROOT / "scripts" / "prometheus.sh"


@pytest.fixture(scope="session")
def loads() -> pl.DataFrame:
    """Requests, their seconds and a campaign of two hosts, each minute up to 2026-03-02T07:59Z, with a rhythm of 48 rows."""
    rng, row = np.random.default_rng(7), np.arange(ROWS)
    rhythm = 1 + 0.5 * np.sin(2 * np.pi * row / 48)
    campaign = np.repeat(rng.integers(0, 2, ROWS // 5), 5)
    times = np.datetime64("2026-03-02T00:00:00", "us") + row * np.timedelta64(60, "s")
    hosts = [
        pl.DataFrame(
            {
                "time": times,
                "host": [f"host-{i}"] * ROWS,
                "requests": rng.poisson(20 * (i + 1) * rhythm),
                "seconds": np.round(rhythm + campaign + 0.1 * rng.random(ROWS), 3),
                "campaign": campaign.astype(float),
            }
        )
        for i in range(2)
    ]
    return pl.concat(hosts)


@pytest.fixture(scope="session")
def model_dir(loads: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model of one count, ``requests``: a row a minute, context 24, horizon 6."""
    path = tmp_path_factory.mktemp("models") / "load"
    columns: dict[str, Any] = {"time": "time", "value": ["requests"], "item": "host", "step": "1m"}
    presurge.fit(loads, model="linear", context=CONTEXT, horizon=HORIZON, **columns).save(path)
    return path


@pytest.fixture(scope="session")
def covariates_dir(loads: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model of the count ``requests`` and the gauge ``seconds``, with ``campaign`` known."""
    path = tmp_path_factory.mktemp("models") / "covariates"
    columns: dict[str, Any] = {
        "time": "time",
        "value": ["requests", "seconds"],
        "known": "campaign",
        "item": "host",
        "step": "1m",
    }
    presurge.fit(loads, model="linear", context=CONTEXT, horizon=HORIZON, **columns).save(path)
    return path


class Running:
    """A service in a thread of this process.

    Attributes:
        said: What it told: its addresses and warnings.
        service: The service itself; touch it only while nothing is asked of it, or through ``call``.
    """

    service: Service
    server: Server

    def __init__(self, config: ServeConfig) -> None:
        self.config, self.said, self.failed = config, list[str](), list[BaseException]()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._up.wait()
        if self.failed:
            self._thread.join()
            raise self.failed[0]

    def _run(self) -> None:
        async def main() -> None:
            async with running(self.config, self.said.append) as (self.service, self.server):
                self._loop = asyncio.get_running_loop()
                self._up.set()
                await self.server.serve()

        try:
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                runner.run(main())
        except BaseException as error:
            self.failed.append(error)
        finally:
            self._up.set()

    def address(self, door: str) -> str:
        """Where a door listens: HTTP as a URL, KEDA and Dynamo as ``host:port``."""
        (found,) = [text.partition(": ")[2] for text in self.said if text.startswith(f"{door}: ")]
        return found.removeprefix("grpc://")

    @property
    def url(self) -> str:
        """Where HTTP listens, without a slash at the end."""
        return self.address("HTTP")

    def call(self, work: Any) -> Any:
        """What a coroutine of the service gives, run in its event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def stop(self) -> None:
        """Stop as SIGTERM does, and wait for the end."""
        self.server.should_exit = True
        self._thread.join()
        if self.failed:
            raise self.failed[0]


class Process:
    """``presurge serve`` as a process of its own, which listens.

    Attributes:
        url: Where HTTP listens, without a slash at the end; empty if the process ended before.
        said: The lines of stderr up to this one.
    """

    def __init__(self, arguments: list[str | Path], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "presurge", "serve", *map(str, arguments)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SRC), "PYTHONUNBUFFERED": "1"} | environment,
        )
        self.url, self.said = "", list[str]()
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if line.startswith("HTTP: "):
                self.url = line.partition(": ")[2].strip()
                break

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, if it still runs, and wait: exit code and the rest of stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, rest


@pytest.fixture
def serving(model_dir: Path) -> Iterator[Callable[..., Running]]:
    """Start a service in a thread, with a ``ServeConfig`` or with settings of one; its model is ``model_dir`` as ``load``."""
    started: list[Running] = []

    def start(config: ServeConfig | None = None, **settings: Any) -> Running:
        one = Running(config or ServeConfig(**({"models": {"load": model_dir}, "port": 0} | settings)))
        started.append(one)
        return one

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def process(model_dir: Path) -> Iterator[Callable[..., Process]]:
    """Start ``presurge serve`` with arguments, behind the model ``load``; keywords are variables of the environment."""
    with ExitStack() as stack:

        def start(*arguments: str | Path, model: str | Path | None = None, **environment: str) -> Process:
            named = f"load={model_dir}" if model is None else model
            one = Process([named, "--port", "0", *arguments], environment)
            stack.callback(one.end, signal.SIGKILL)
            return one

        yield start


@pytest.fixture
def history(loads: pl.DataFrame) -> Callable[..., dict[str, Any]]:
    """The last rows of a host as a request to /v1/forecast holds them."""

    def history_of(
        host: str = "host-0", rows: int = 48, columns: Sequence[str] = ("requests",)
    ) -> dict[str, Any]:
        frame = loads.filter(host=host).tail(rows)
        values = {name: frame[name].cast(float).to_list() for name in columns}
        return {"item": host, "end": "2026-03-02T07:59:00Z", "values": values}

    return history_of


@pytest.fixture(scope="module")
def standing(model_dir: Path) -> Iterator[Running]:
    """A service with the defaults that the tests of a file share, for those that do not mind what others observed."""
    one = Running(ServeConfig(models={"load": model_dir}, port=0))
    yield one
    one.stop()


@pytest.fixture
def service(serving: Callable[..., Running]) -> Running:
    """A service with the defaults."""
    return serving()


@pytest.fixture
def client(service: Running) -> Iterator[httpx.Client]:
    """A client of ``service``."""
    with httpx.Client(base_url=service.url, timeout=30) as one:
        yield one


class Prometheus:
    """A real Prometheus server.

    Attributes:
        folder: Holds its samples and, if it has one, its configuration.
        url: Where it listens.
    """

    def __init__(self, folder: Path, samples: str = "# EOF\n") -> None:
        self.folder, self._runs = folder, False
        (folder / "samples.om").write_text(samples)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, with the samples of the time before."""
        subprocess.run([PROMETHEUS, "start", self.folder, str(self.port)], check=True)
        self._runs = True

    def stop(self) -> None:
        """Stop, if it runs."""
        if self._runs:
            subprocess.run([PROMETHEUS, "stop", self.folder], check=True)
        self._runs = False

    def query(self, words: str) -> list[dict[str, Any]]:
        """The result of an instant query."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": words}).json()
        return list(answer["data"]["result"])


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    """Make Prometheus servers with samples in OpenMetrics."""
    programs = Path(os.environ.get("PRESURGE_PROMETHEUS", ROOT / ".venv" / "prometheus"))
    if not (programs / "usr" / "bin" / "prometheus").is_file():
        pytest.skip("no Prometheus server: run scripts/prometheus.sh install")
    with ExitStack() as stack:

        def make(samples: str = "# EOF\n") -> Prometheus:
            (folder := tmp_path / "prometheus").mkdir()
            one = Prometheus(folder, samples)
            stack.callback(one.stop)
            return one

        yield make
