"""The OpenAPI document: its examples are answered, and schemathesis finds no request that the service answers wrongly."""

import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
Serving = Callable[..., Any]


@pytest.fixture
def service(standing: Any) -> Any:
    return standing


def filled(path: str, document: dict[str, Any], method: str) -> str:
    """A path with the names that its description proposes."""
    for parameter in document["paths"][path][method]["parameters"]:
        if parameter["in"] == "path":
            schema = parameter["schema"]
            first = (schema.get("enum") or schema["examples"])[0]
            path = path.replace("{" + parameter["name"] + "}", first)
    return path


@pytest.mark.parametrize("model", ["model_dir", "covariates_dir"])
def test_every_example_is_answered(serving: Serving, model: str, request: pytest.FixtureRequest) -> None:
    service = serving(models={"a": request.getfixturevalue(model)})
    with httpx.Client(base_url=service.url) as client:
        document = client.get("/openapi.json").json()
        asked = 0
        for path, methods in document["paths"].items():
            for method, described in methods.items():
                content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
                answer = client.request(method, filled(path, document, method), json=content.get("example"))
                good = {200} if path != "/v1/forecast/{item}" else {200, 404, 422}
                assert answer.status_code in good, (path, answer.text)
                assert described["summary"]
                asked += 1
    assert asked == 17


def test_the_document_is_whole(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    text = client.get("/openapi.json").text
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used == document["components"]["schemas"].keys()
    names = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(names) == len({*names})


def test_the_document_asks_for_the_token(serving: Serving, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("swordfish")
    service = serving(token_file=tmp_path / "token")
    headers = {"authorization": "Bearer swordfish"}
    document = httpx.get(f"{service.url}/openapi.json", headers=headers).json()
    assert document["security"] == [{"token": []}]
    for path, methods in document["paths"].items():
        (described,) = methods.values()
        open_to_all = httpx.request(next(iter(methods)), f"{service.url}{path}").status_code != 401
        assert open_to_all == (described.get("security") == []), path


@pytest.mark.integration
def test_schemathesis_finds_nothing(service: Any, tmp_path: Path) -> None:
    command = [
        str(Path(sysconfig.get_path("scripts")) / "schemathesis"),
        f"--config-file={ROOT / 'schemathesis.toml'}",
        "run",
        f"{service.url}/openapi.json",
        "--phases=coverage",
        "--generation-deterministic",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Unresolvable references" not in done.stdout
