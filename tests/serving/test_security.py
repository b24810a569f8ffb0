"""What clients may not do to the service: come without a token, send too much or too slowly, write nonsense; and how it stops."""

import json
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from presurge.cli import main

Serving = Callable[..., Any]
History = Callable[..., dict[str, Any]]
MB = 1 << 20


@pytest.fixture
def service(standing: Any) -> Any:
    return standing


def memory(pid: str | int = "self") -> int:
    """The resident memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def connected(url: str) -> socket.socket:
    at = httpx.URL(url)
    return socket.create_connection((at.host, at.port or 0), timeout=20)


def answered(connection: socket.socket) -> str:
    """What comes until the service closes the connection."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts).decode()


def test_a_token(serving: Serving, tmp_path: Path, history: History) -> None:
    (tmp_path / "token").write_text("swordfish\n")
    service = serving(token_file=tmp_path / "token")
    with httpx.Client(base_url=service.url) as client:
        for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/"):
            assert client.get(path).status_code == 200
        for path in (
            "/metrics",
            "/openapi.json",
            "/v1/models",
            "/v1/forecast/web",
            "/v2/models/load",
            "/other",
        ):
            for header in (
                None,
                "Bearer",
                "Bearer swordfis",
                "Basic swordfish",
                "swordfish",
                "Bearer swörd",
            ):
                headers = {} if header is None else {"authorization": header.encode()}
                answer = client.get(path, headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
                assert answer.json()["error"] == "no valid token"
        client.headers["authorization"] = "Bearer swordfish"
        for path in ("/metrics", "/openapi.json", "/v1/models", "/v2/models/load"):
            assert client.get(path).status_code == 200
        assert client.post("/v1/forecast", json={"history": [history()]}).status_code == 200


def test_tls(serving: Serving, tmp_path: Path, history: History) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(tmp_path / "certificate.pem", append=True)
    service = serving(certificate=tmp_path / "certificate.pem", key=tmp_path / "key.pem")
    assert service.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    answer = httpx.post(f"{service.url}/v1/forecast", json={"history": [history()]}, verify=trusting)
    assert answer.status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{service.url}/healthz", verify=ssl.create_default_context())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "truncated"),
        (b"{", 400, "truncated"),
        (b"\xff\xfe{}", 400, "malformed"),
        (b'{"history": [{"values": {"\xff": [1]}}]}', 400, "utf-8"),
        (b"[" * 1_000_000, 422, "Expected `object`, got `array`"),
        (b'{"history": ' + b"[" * 1_000_000, 422, "Expected `object`, got `array`"),
        (b'{"history": []}', 422, "length >= 1"),
        (b'{"history": [{"values": {"requests": [1]}}], "horizont": 3}', 422, "unknown field `horizont`"),
        (b'{"history": [{"values": {}}]}', 422, "there is no channel 'requests'"),
        (b'{"history": [{"values": {"requests": []}}]}', 422, ""),
        (b'{"history": [{"values": {"requests": [NaN]}}]}', 400, "malformed"),
        (b'{"history": [{"values": {"requests": [Infinity]}}]}', 400, "malformed"),
        (b'{"history": [{"values": {"requests": [1e999]}}]}', 422, "out of range"),
        (b'{"history": [{"values": {"requests": [%s]}}]}' % b",".join([b"1e300"] * 40), 422, "infinite"),
        (b'{"history": [{"values": {"requests": [[1]]}}]}', 422, "Expected `float | null`"),
        (b'{"history": [{"values": {"requests": ["1"]}}]}', 422, "Expected `float | null`"),
        (b'{"history": [{"values": {"requests": [1]}, "end": "yesterday"}]}', 422, "yesterday"),
        (b'{"history": [{"values": {"requests": [1]}, "end": 1e300}]}', 422, ""),
        (b'{"history": [{"values": {"requests": [1]}, "end": "9999-12-31T23:59:59Z"}]}', 422, ""),
        (b'{"history": [{"values": {"requests": [1]}, "item": "a\\u0000"}]}', 422, "regex"),
        (b'{"history": [{"values": {"requests": [1]}}], "levels": [1.5]}', 422, "< 1"),
        (b'{"history": [{"values": {"requests": [1]}}], "horizon": 1000000}', 422, ""),
    ],
)
def test_nonsense_is_refused(client: httpx.Client, body: bytes, status: int, words: str) -> None:
    answer = client.post("/v1/forecast", content=body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert "Traceback" not in answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "row",
    [
        {"time": "x", "values": {"requests": 1}},
        {"time": 1e300, "values": {"requests": 1}},
        {"time": -1e300, "values": {"requests": 1}},
        {"time": "2026-03-02T08:00:00Z", "values": {"requests": 1e300}},
        {"time": "2026-03-02T08:00:00Z", "values": {"nothing": 1}},
        {"values": {"requests": 1}},
    ],
)
@pytest.mark.parametrize("kind", ["rows", "events"])
def test_rows_that_cannot_be_read_are_refused(client: httpx.Client, row: dict[str, Any], kind: str) -> None:
    if kind == "events" and "nothing" in row.get("values", {}):
        pytest.skip("an event may carry more than the model reads")
    answer = client.post("/v1/observe", json={kind: [row]})
    assert answer.status_code == 422, answer.text
    assert f"{kind}[0]" in answer.json()["where"]


def test_deep_nesting_where_fields_are_unknown(client: httpx.Client) -> None:
    body = b'{"inputs": [], "other": ' + b"[" * 1_000_000
    assert client.post("/v2/models/load/infer", content=body).status_code == 400


def test_a_million_items_are_refused_and_cost_no_memory(service: Any, client: httpx.Client) -> None:
    def items() -> Any:
        yield b'{"history": ['
        for _ in range(1000):
            yield b'{"values": {"requests": [1, 2, 3]}, "item": "a"},' * 1000

    client.get("/healthz")
    before = memory()
    large = b"".join(items())
    sized, chunked = client.post("/v1/forecast", content=large), client.post("/v1/forecast", content=items())
    for answer in (sized, chunked):
        assert (answer.status_code, "larger than 8,388,608 bytes" in answer.text) == (413, True)
    small = b'{"rows": [' + b'{"time":1},' * 300_000 + b'{"time":1}]}'
    many = client.post("/v1/observe", content=small)
    assert (many.status_code, "10,000 are allowed" in many.text) == (422, True)
    many = client.post(
        "/v1/forecast", content=b'{"history":[' + b'{"values":{}},' * 10_000 + b'{"values":{}}]}'
    )
    assert (many.status_code, "10,000 are allowed" in many.text) == (422, True)
    assert memory() - before < len(large) + 400 * MB
    assert client.get("/healthz").status_code == 200


def test_an_answer_has_a_size_too(client: httpx.Client, history: History) -> None:
    values = history()["values"]
    body = {
        "history": [{"item": str(i), "values": values} for i in range(9_000)],
        "levels": [round(0.01 * (1 + q), 2) for q in range(99)],
    }
    answer = client.post("/v1/forecast", json=body)
    assert (answer.status_code, "numbers" in answer.text) == (422, True)


def test_a_slow_client_is_dropped_and_others_are_served(serving: Serving, history: History) -> None:
    service = serving(deadline=2)
    head = b"POST /v1/forecast HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    with connected(service.url) as slow, connected(service.url) as silent:
        slow.sendall(head + b"{")
        silent.sendall(head)
        assert httpx.post(f"{service.url}/v1/forecast", json={"history": [history()]}).status_code == 200
        for _ in range(3):
            time.sleep(0.1)
            slow.sendall(b" ")
        for connection in (slow, silent):
            answer = answered(connection)
            assert answer.startswith("HTTP/1.1 408 ")
            assert "connection: close" in answer
            assert json.loads(answer.partition("\r\n\r\n")[2])["error"] == "took longer than 2 s"


def test_no_client_keeps_a_connection_with_a_head_that_never_ends(serving: Serving) -> None:
    service = serving(deadline=2)
    asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(service.url) as silent, connected(service.url) as slow, connected(service.url) as second:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost: ")
        second.sendall(asked + asked[:20])
        for _ in range(3):
            time.sleep(0.1)
            slow.sendall(b"x")
        assert answered(silent) == answered(slow) == ""
        assert answered(second).count("HTTP/1.1 200") == 1
    with connected(service.url) as large:
        large.sendall(b"GET /healthz HTTP/1.1\r\nhost: " + b"x" * 100_000)
        assert answered(large).startswith("HTTP/1.1 400 ")


def test_a_request_that_takes_too_long_is_given_up(serving: Serving, history: History) -> None:
    service = serving(deadline=0.05)
    values = history("host-0", 200)["values"]
    body = {"history": [{"item": str(i), "values": values} for i in range(500)]}
    with httpx.Client(base_url=service.url, timeout=30) as client:
        answer = client.post("/v1/forecast", json=body)
        assert answer.status_code in (408, 504)
        later = (client.post("/v1/forecast", json={"history": [history()]}).status_code for _ in range(100))
        assert 200 in later  # as soon as the thread of the first has ended


def test_a_client_that_goes_away_harms_nobody(service: Any, client: httpx.Client) -> None:
    for sent in (
        b"",
        b"POST /v1/fore",
        b"POST /v1/observe HTTP/1.1\r\ncontent-length: 50\r\n\r\n{",
        b"\x16\x03\x01" * 40,
    ):
        with connected(service.url) as one:
            one.sendall(sent)
    assert client.get("/healthz").status_code == 200


@pytest.mark.integration
def test_sigterm_finishes_what_is_in_flight(
    process: Callable[..., Any], serving: Serving, history: History, tmp_path: Path
) -> None:
    one = process("--state", tmp_path / "state")
    asked = json.dumps({"history": [history()]}).encode()
    row = json.dumps({"rows": [{"time": 1.77e9, "values": {"requests": 3}}]}).encode()
    assert "torch" not in Path(f"/proc/{one.process.pid}/maps").read_text()
    started = []
    for path, body in (("/v1/forecast", asked), ("/v1/observe", row), ("/v1/forecast", asked)):
        connection = connected(one.url)
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:20])
        started.append((connection, body[20:]))
    idle = connected(one.url)
    assert httpx.get(f"{one.url}/healthz").status_code == 200  # whatever came before has been read
    one.process.send_signal(signal.SIGTERM)
    idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answered(idle).startswith("HTTP/1.1 200 ")  # and was closed: the service has begun to stop
    for connection, rest in started:
        connection.sendall(rest)
    for connection, _ in started:
        with connection:
            assert answered(connection).startswith("HTTP/1.1 200 ")
    idle.close()
    _, said = one.process.communicate(timeout=60)
    assert (one.process.returncode, "Traceback" in said) == (0, False), said
    again = serving(state=tmp_path / "state")
    assert httpx.get(f"{again.url}/v1/live").json()["items"][0]["item"] == ""


def test_what_cannot_be_served_ends_with_a_sentence(
    model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "text.pem").write_text("no certificate")
    text, empty = str(tmp_path / "text.pem"), str(tmp_path / "empty")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases: list[tuple[list[Any], str]] = [
            (["--port", port], f"--port: cannot listen at 127.0.0.1:{port}: Address already in use"),
            (
                ["--keda-port", port],
                f"--keda-port: cannot listen at 127.0.0.1:{port}: Address already in use",
            ),
            (["--host", "nowhere.invalid"], "--host: there is no address 'nowhere.invalid'"),
            (["--token-file", str(tmp_path / "missing")], "--token-file: cannot be read"),
            (["--token-file", empty], "is empty"),
            (["--certificate", text], "certificate and key belong together"),
            (["--certificate", text, "--key", text], "--certificate: cannot be read"),
            (["--state", empty], "empty"),
            (["--config", empty], "empty"),
            (["--item-label", "host"], "--prometheus"),
            (["--query", "requests=up"], "--prometheus"),
            (["--point", "q0.9"], "--dynamo-port"),
        ]
        ended = [
            (main(["serve", str(model_dir), "--port", "0", *arguments]), capfd.readouterr(), words)
            for arguments, words in cases
        ]
        missing = main(["serve", str(tmp_path / "nothing"), "--port", "0"])
        ended.append((missing, capfd.readouterr(), "nothing"))
    for code, (printed, said), words in ended:
        assert (code, printed, words in " ".join(said.split())) == (2, "", True), said
        assert said.startswith("Error: ")
        assert "Traceback" not in said


def test_without_its_packages_the_command_says_how_to_install_them(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [*sys.modules]:
        if name.startswith("presurge.serving"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", str(model_dir)]) == 2
    assert "presurge[serve]" in capsys.readouterr().err


def test_the_help_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["serve", "--help"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "--keda-port" in printed
