"""A real Prometheus server: what it answers becomes a table, whether saved as a file or asked for."""

import http.server
import json
import math
import os
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.cli.app import main
from presurge.errors import ConfigError, DataError, FetchError
from presurge.sources import open_file, read_table
from presurge.sources.prometheus import MAX_POINTS, Query, fetch, parse_answer, parse_moment
from presurge.workflows.dataset import load_series

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "prometheus.sh"
PROGRAMS = Path(os.environ.get("PRESURGE_PROMETHEUS", ROOT / ".venv" / "prometheus"))
START, SCRAPE, SAMPLES = 1_714_521_600, 15, 960  # four hours
END = START + SCRAPE * (SAMPLES - 1)
HOSTS = ("a", "b")

integration = pytest.mark.integration


def queue_of(host: str, at: int) -> float:
    return round(10 + 5 * math.sin(at / 600) + HOSTS.index(host), 3)


def samples() -> str:
    """Two gauges of two hosts, a counter, and a gauge that is not always a number, in OpenMetrics."""
    moments = range(START, END + 1, SCRAPE)
    lines = []
    for name in ("queue", "load"):
        lines.append(f"# TYPE {name} gauge")
        lines += [
            f'{name}{{host="{h}"}} {queue_of(h, at) * (1 + (name == "load"))} {at}'
            for h in HOSTS
            for at in moments
        ]
    lines.append("# TYPE requests counter")
    lines += [f'requests_total{{host="a",code="200"}} {3 * i} {at}' for i, at in enumerate(moments)]
    lines.append("# TYPE odd gauge")
    odd = ["NaN", "+Inf", "-Inf", "7"]
    lines += [f"odd {odd[i % 4]} {at}" for i, at in enumerate(moments)]
    return "\n".join([*lines, "# EOF"]) + "\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (PROGRAMS / "usr" / "bin" / "prometheus").is_file():
        pytest.skip("no Prometheus server: run scripts/prometheus.sh install")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples.om").write_text(samples())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    subprocess.run([SCRIPT, "start", folder, str(port)], check=True)
    yield f"http://127.0.0.1:{port}"
    subprocess.run([SCRIPT, "stop", folder], check=True)


def ask(server: str, **more: Any) -> Query:
    return Query(**{"url": server, "query": "queue", "start": START, "end": END, "step": SCRAPE, **more})


def saved(server: str, path: Path, query: str) -> Path:
    """The answer as curl saves it."""
    words = urllib.parse.urlencode({"query": query, "start": START, "end": END, "step": SCRAPE})
    with urllib.request.urlopen(f"{server}/api/v1/query_range?{words}") as response:
        path.write_bytes(response.read())
    return path


@integration
def test_series_become_items_and_metrics_channels(server: str, tmp_path: Path) -> None:
    answer = fetch(ask(server, query='{__name__=~"queue|load"}'))
    assert sorted(answer.frame.columns) == ["item", "load", "queue", "time"]
    assert answer.frame["item"].unique().sort().to_list() == list(HOSTS)
    for row in answer.frame.sample(50, seed=0).iter_rows(named=True):
        assert row["queue"] == queue_of(row["item"], int(row["time"]))
        assert row["load"] == pytest.approx(2 * row["queue"])
    file = open_file(saved(server, tmp_path / "a.json", '{__name__=~"queue|load"}'))
    table = read_table(file, **file.table)
    panel = table.panel
    assert (panel.items, panel.step, len(panel)) == (HOSTS, SCRAPE * 1_000_000, 2 * SAMPLES)
    assert panel.observed.all()
    assert file.scan().collect().equals(answer.frame)


@integration
def test_a_long_time_is_asked_for_in_pieces(server: str) -> None:
    query = ask(server, step=1, query="sum by (host) (queue)", end=START + 12_345)
    assert len(list(query.pieces())) == 2
    frame = fetch(query).frame.filter(pl.col("item") == "a")
    assert frame["time"].to_list() == list(range(START, START + 12_346))
    told = [queue_of("a", at // SCRAPE * SCRAPE) for at in range(START, START + 12_346)]
    np.testing.assert_allclose(frame["value"].to_numpy(), told)
    words = {"query": "queue", "start": START, "end": START + MAX_POINTS + 1, "step": 1}
    with pytest.raises(urllib.error.HTTPError):  # one piece would be too many points
        urllib.request.urlopen(f"{server}/api/v1/query_range?{urllib.parse.urlencode(words)}")


@integration
def test_values_that_are_no_numbers_are_missing(server: str, tmp_path: Path) -> None:
    file = open_file(saved(server, tmp_path / "a.json", "odd"))
    assert list(file.columns) == ["time", "odd"]
    table = read_table(file, **{**file.table, "step": "15s"})
    assert table.panel.observed[:, 0].sum() == SAMPLES // 4
    assert f"infinite values taken as missing: {SAMPLES // 2}" in file.notes
    answer = fetch(ask(server, query="queue unless queue or vector(1)"))
    assert answer.frame.columns == ["time", "value"]  # no labels, no item


@integration
def test_what_the_server_refuses_is_said(server: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"refuses the query \(bad_data\): .*parse error"):
        fetch(ask(server, query="sum(("))
    with pytest.raises(DataError, match="no series has a value"):
        fetch(ask(server, query="nothing_of_this_name"))
    with pytest.raises(FetchError, match=r"HTTP 404 .*\n.*address and its path"):
        fetch(ask(f"{server}/elsewhere"))
    with urllib.request.urlopen(f"{server}/api/v1/query?query=up") as response:
        (tmp_path / "a.json").write_bytes(response.read())
    with pytest.raises(DataError, match="is a vector, not the answer to a range query"):
        open_file(tmp_path / "a.json")


@integration
def test_prepare_train_and_predict(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Any:
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    moments = ["--start", str(START), "--end", "2024-05-01T03:59:45Z"]
    prepared = run(
        "prepare", "--prometheus", server, "--query", "queue", *moments, "--step", "30s", "--out", "data"
    )
    assert (prepared["rows"], prepared["step_seconds"]) == (SAMPLES, 30)
    small = ["--model", "linear", "--context", "20", "--horizon", "2", "--no-plots"]
    run("train", "data", "--out", "run", *small)
    forecast = run("predict", "run", "--history", "data")["forecast"]
    assert {row["item"] for row in forecast} == set(HOSTS)
    assert {row["channel"] for row in forecast} == {"queue"}
    for row in forecast:
        at = np.datetime64(row["timestamp"].removesuffix("Z"), "s").astype(int)
        assert row["mean"] == pytest.approx(queue_of(row["item"], int(at)), abs=1)
    saved(server, tmp_path / "a.json", "queue")
    again = run("predict", "run", "--history", "a.json")["forecast"]  # two samples, averaged
    means = [row["mean"] for row in forecast]
    np.testing.assert_allclose([row["mean"] for row in again], means, atol=0.1)
    assert (
        main(["prepare", "--prometheus", server, "--query", "queue(", "--start", "now-1h", "--out", "no"])
        == 2
    )
    assert not Path("no").exists()


@pytest.fixture
def gate(server: str, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A proxy with TLS that lets only the bearer of a token through to the server, and what it was asked with."""
    seen: list[str] = []

    class Gate(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            seen.append(given)
            self.send_response(200 if given == "Bearer s3cret" else 401)
            self.end_headers()
            if given == "Bearer s3cret":
                with urllib.request.urlopen(server + self.path) as response:
                    self.wfile.write(response.read())

        def log_message(self, *_: Any) -> None:
            pass

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", *key, "-out", "cert.pem", *name]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield f"https://localhost:{proxy.server_port}", seen
    proxy.shutdown()
    proxy.server_close()


@integration
def test_a_token_opens_the_gate(
    gate: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = gate
    with pytest.raises(FetchError, match="certificate"):
        fetch(ask(address))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with pytest.raises(FetchError, match=r"HTTP 401 .*\n.*token_file"):
        fetch(ask(address))
    (tmp_path / "token").write_text("s3cret\n")
    assert len(fetch(ask(address, token_file=tmp_path / "token")).frame) == 2 * SAMPLES
    assert seen == ["", "Bearer s3cret"]
    with pytest.raises(ConfigError, match="token_file: cannot be read"):
        fetch(ask(address, token_file=tmp_path / "none"))


def test_a_token_does_not_follow_a_redirect(tmp_path: Path) -> None:
    """The header that carries it is one that urllib leaves out where it was sent on."""
    asked: list[dict[str, str]] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            moved = not self.path.startswith("/there")
            self.send_response(302 if moved else 200)
            if moved:
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/there")
            self.end_headers()
            if not moved:
                values = {"metric": {}, "values": [[1714521600, "1"]]}
                answer = {"status": "success", "data": {"resultType": "matrix", "result": [values]}}
                self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = tmp_path / "token"
    token.write_text("s3cret")
    try:
        assert len(fetch(ask(f"http://127.0.0.1:{server.server_port}", token_file=token)).frame) == 1
    finally:
        server.shutdown()
        server.server_close()
    assert [headers.get("Authorization") for headers in asked] == ["Bearer s3cret", None]


def test_a_server_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(FetchError, match=r"cannot be asked: .*refused"):
        fetch(ask(f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "localhost:9090", "http://", "http://u:pw@host", "http://h/?a=b"]
)
def test_only_addresses_of_servers_are_asked(url: str) -> None:
    with pytest.raises(ConfigError, match="not the address of a server") as caught:
        ask(url)
    assert "pw" not in str(caught.value).partition("\n")[0]


def test_moments() -> None:
    assert parse_moment("2024-05-01T02:00:00+02:00", "start") == START
    assert parse_moment("1714521600", "start") == START
    assert parse_moment("2024-05-01", "start") == START
    now = parse_moment("now", "end")
    assert now - parse_moment("now-7d", "start") in (7 * 86_400, 7 * 86_400 + 1, 7 * 86_400 - 1)
    for text in ("yesterday", "now-7", "", "-7d"):
        with pytest.raises(ConfigError, match="is not a time"):
            parse_moment(text, "start")
    with pytest.raises(ConfigError, match="before the first"):
        ask("http://h", end=START - 1)


def test_a_saved_answer_may_be_pretty_and_have_labels(tmp_path: Path) -> None:
    series = [
        {"metric": {"job": "x", "code": str(c)}, "values": [[START, "1"], [START + 60, "2.5"]]}
        for c in (200, 500)
    ]
    answer = {"status": "success", "isPartial": False, "data": {"resultType": "matrix", "result": series}}
    for indent in (None, 2):
        (tmp_path / "a.json").write_text(json.dumps(answer, indent=indent))
        file = open_file(tmp_path / "a.json")
        panel = read_table(file, **file.table).panel
        assert panel.items == ("code=200,job=x", "code=500,job=x")
        assert panel.channel_names == ("value",)
        assert panel.values[:, 0].tolist() == [1, 2.5, 1, 2.5]


def test_items_of_different_labels_stay_apart(tmp_path: Path) -> None:
    series = [{"metric": {name: "x"}, "values": [[START, text]]} for name, text in (("a", "1"), ("b", "2"))]
    answer = parse_answer(
        json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}}), "a.json"
    )
    assert answer.frame.select("item", "value").rows() == [("a=x", 1), ("b=x", 2)]


def test_of_samples_of_one_moment_the_last_one_counts() -> None:
    series = [
        {"metric": {"job": "x"}, "values": [[START, "1"], [START + 60, text]]} for text in ("2", "3", "NaN")
    ]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    assert parse_answer(json.dumps(answer), "a.json").frame["value"].to_list() == [1, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"status": "error", "errorType": "timeout", "error": "too slow"}',
            r"refuses the query \(timeout\): too slow",
        ),
        ('{"status": "success", "data": {"resultType": "matrix", "result": []}}', "no series has a value"),
        (
            '{"status": "success", "data": {"resultType": "matrix", "result": [5]}}',
            "is neither JSON lines nor",
        ),
        ("<html>", "is neither JSON lines nor"),
    ],
)
def test_answers_without_series(text: str, message: str) -> None:
    with pytest.raises((DataError, FetchError), match=message):
        parse_answer(text, "a.json")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a.json --dense", "--dense: is for a log of requests"),
        ("a.json --time time", "--time"),
        ("a.json --query up", "--query cannot be used without --prometheus"),
        ("", "no LOG is named"),
        ("a.json --prometheus http://localhost:1", "two sources"),
        ("--prometheus http://localhost:1 --start now-1h", "--query: a server also needs this"),
        ("--prometheus http://localhost:1 --query up", "--start: a server also needs this"),
    ],
)
def test_options_that_do_not_go_together(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"metric": {}, "values": [[START, "1"], [START + 60, "2"]]}
    answer = {"status": "success", "data": {"resultType": "matrix", "result": [values]}}
    Path("a.json").write_text(json.dumps(answer))
    assert main(["prepare", *words.split(), "--out", "x"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("x").exists()


def test_whole_numbers_of_samples_are_levels(tmp_path: Path) -> None:
    values = [[START + 15 * i, str(3 + i % 2)] for i in range(40)]
    series = [{"metric": {"__name__": "running"}, "values": values}]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    (tmp_path / "a.json").write_text(json.dumps(answer))
    assert main(["prepare", str(tmp_path / "a.json"), "--out", str(tmp_path / "data")]) == 0
    for source in ("data", "a.json"):  # the step of a saved answer can be given, as that of a log
        panel = load_series(tmp_path / source, step="60s").panel
        assert panel.channels[0].kind == "gauge"
        np.testing.assert_array_equal(panel.values, np.full((10, 1), 3.5, np.float32))
    now = ("--now", str(START + 300))  # a level is known from its stamp on
    assert main(["prepare", str(tmp_path / "a.json"), "--out", str(tmp_path / "data"), *now]) == 0
    assert len(load_series(tmp_path / "data").panel) == 6
