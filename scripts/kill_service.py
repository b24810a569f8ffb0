"""Kill the service again and again while clients send rows: `python scripts/kill_service.py [KILLS]` (default: 20).

Each time the service goes on from what is on disk. At the end every row that was acknowledged has to be there, once. The exit
status is 1 where one is lost, or counted twice.
"""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np

import presurge
from presurge.series.panel import Channel, Panel

START, STEP, CLIENTS, ROWS = 1_772_409_600, 60, 4, 40


def value(number: int) -> int:
    return 10 + number % 7


class Client(threading.Thread):
    """Sends the rows of one item, each after the last, until the service is gone."""

    def __init__(self, url: str, item: str, sent: dict[str, int]) -> None:
        super().__init__()
        self.url, self.item, self.sent = url, item, sent

    def run(self) -> None:
        """Send until the connection breaks."""
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while True:
                number = self.sent[self.item]
                row = {
                    "item": self.item,
                    "time": START + STEP * number,
                    "values": {"requests": value(number)},
                }
                body = {"rows": [row], "id": f"{self.item}/{number}"}
                try:
                    assert client.post("/v1/observe", json=body).raise_for_status().json()["durable"]
                except httpx.TransportError:
                    return
                self.sent[self.item] += 1


def started(model: Path, state: Path) -> tuple[subprocess.Popen[str], str]:
    """A service, and where it listens."""
    command = [sys.executable, "-m", "presurge", "serve", str(model), "--state", str(state), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = list[str]()
    for line in process.stderr:
        said.append(line)
        if line.startswith("HTTP: "):
            break
    else:
        raise SystemExit("the service does not start:\n" + "".join(said))
    url = said[-1].split()[1]
    threading.Thread(target=process.stderr.read, daemon=True).start()
    return process, url


def main(kills: int) -> int:
    """Kill, and count what is there: the exit status."""
    rng, sent = np.random.default_rng(0), {f"item-{i}": 0 for i in range(CLIENTS)}
    with tempfile.TemporaryDirectory() as folder:
        model, state = Path(folder) / "load", Path(folder) / "state"
        values = rng.poisson(20, (400, 1)).astype(np.float32)
        channels, start = (Channel("requests", kind="count"),), np.array([(START - 10**6) * 1_000_000])
        panel = Panel(values=values, channels=channels, step=STEP * 1_000_000, start=start)
        presurge.fit(panel, model="linear", context=24, horizon=6).save(model)
        for _ in range(kills):
            process, url = started(model, state)
            clients = [Client(url, item, sent) for item in sent]
            enough = min(sent.values()) + ROWS
            for client in clients:
                client.start()
            while min(sent.values()) < enough:
                time.sleep(0.003)
            time.sleep(float(rng.random()) * 0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
            for client in clients:
                client.join()
        process, url = started(model, state)
        wrong = 0
        for item, number in sent.items():
            told = httpx.get(f"{url}/v1/live", params={"item": item}, timeout=30).json()["rows"]
            kept = [row["values"][0] for row in told][-240:]
            last = (
                np.datetime64(told[-1]["timestamp"].rstrip("Z")).astype("M8[s]").astype(int) - START
            ) // STEP
            wanted = [value(i) for i in range(int(last) + 1)][-len(kept) :]
            wrong += last < number - 1 or kept != wanted
        process.send_signal(signal.SIGTERM)
        process.wait()
    print(f"{kills} kills, {sum(sent.values()):,} rows acknowledged, {wrong} of {CLIENTS} items differ")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
