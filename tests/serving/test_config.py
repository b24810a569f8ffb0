"""The configuration of the service: every setting has its words, options override the file, and bad values name their path."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pydantic import BaseModel

from presurge.config import read_mapping, validated
from presurge.errors import ConfigError
from presurge.serving.config import DynamoConfig, PollConfig, ServeConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [ServeConfig, PollConfig, DynamoConfig])
def test_every_setting_is_described(kind: type[BaseModel]) -> None:
    told = re.findall(r"^ {4}(\w+): \S", inspect.getdoc(kind) or "", re.MULTILINE)
    assert told == [*kind.model_fields]


def test_the_guide_names_every_setting() -> None:
    text = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
    table = text.partition("## Settings")[2].partition("\n## ")[0]
    keys = {
        key
        for row in re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    }
    assert keys == {*ServeConfig.model_fields}


def test_the_example_is_one() -> None:
    path = ROOT / "examples" / "deploy" / "serve.yaml"
    config = validated(ServeConfig, read_mapping(path), where=str(path))
    assert config.prometheus[0].delay == 5_000_000
    assert {*config.prometheus[0].queries} == {"requests"}


@pytest.mark.parametrize(
    ("settings", "path", "words"),
    [
        ({"port": 70_000}, "port", "less than or equal to 65535"),
        ({"models": {"../etc": "m"}}, "models.../etc.[key]", "should match pattern"),
        ({"models": {}}, "models", "at least 1 item"),
        ({"lateness": "soon"}, "lateness", "is no time such as 30s or 5m"),
        ({"window": 29}, "window", "at least 30"),
        ({"dynamo": {"port": 1, "point": "q2"}}, "dynamo.point", "should match pattern"),
        ({"dynamo": {"port": 1, "horizon": 2}}, "", "unknown key 'dynamo.horizon'"),
        ({"prometheus": [{"url": "http://h:1", "queries": {}}]}, "prometheus.0.queries", "at least 1 item"),
        (
            {"prometheus": [{"url": "http://u:pw@h", "queries": {"a": "up"}}]},
            "prometheus.0.url",
            "is not the address",
        ),
        (
            {"prometheus": [{"url": "http://h", "queries": {"a": "up"}, "delay": "x"}]},
            "prometheus.0.delay",
            "no time",
        ),
        ({"certificate": "a.pem"}, "", "certificate and key belong together"),
        (
            {"prometheus": [{"url": "http://h", "queries": {"a": "up"}, "model": "n"}]},
            "",
            "there is no model 'n'",
        ),
        ({"ports": 1}, "", "unknown key 'ports'"),
    ],
)
def test_a_bad_value_is_named_by_its_path(settings: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        validated(ServeConfig, {"models": {"m": "m"}} | settings, where="serve.yaml")
    assert caught.value.where == f"serve.yaml: {path}".removesuffix(": ")
    assert "pw" not in str(caught.value)


def test_times_are_written_with_a_unit_or_in_seconds() -> None:
    for given, wanted in (("30s", 30), ("5m", 300), (90, 90), ("0s", 0), (0, 0)):
        config = ServeConfig.model_validate({"models": {"m": "m"}, "lateness": given})
        assert config.lateness == wanted * 1_000_000


def test_options_override_the_file(process: Callable[..., Any], model_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    told = {"models": {"other": "nowhere"}, "state": str(tmp_path / "a"), "window": 77, "port": 70_000}
    path.write_text(yaml.safe_dump(told))
    running = process("--config", path, "--state", tmp_path / "b")
    assert running.url, running.said
    assert [one["name"] for one in httpx.get(f"{running.url}/v1/models").json()["models"]] == ["load"]
    assert (tmp_path / "b").is_dir()
    assert not (tmp_path / "a").exists()
