"""Configurations: unknown keys and bad values are named by their path, in JSON and in YAML."""

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from presurge.config import Config, read_mapping, validated
from presurge.errors import ConfigError


class Inner(Config):
    rate: float = Field(1.0, gt=0)


class Outer(Config):
    epochs: int = Field(1, ge=1)
    inner: Inner = Inner()


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Outer().epochs = 2


@pytest.mark.parametrize(
    ("values", "where", "message"),
    [
        ({"epochs": 0}, None, r"^epochs: input should be at least 1 \(got 0\)$"),
        ({"epochs": 0}, "a.yaml", r"^a.yaml: epochs: input should be at least 1 \(got 0\)$"),
        (
            {"inner": {"rate": -1}},
            "a.yaml",
            r"^a.yaml: inner.rate: input should be greater than 0 \(got -1\)$",
        ),
        ({"epoch": 1}, "a.yaml", r"^a.yaml: unknown key 'epoch'\n  Known keys: also, epochs, inner\.$"),
        ({"inner": {"rat": 1}}, "a.yaml", r"^a.yaml: unknown key 'inner.rat'$"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(
    values: dict[str, object], where: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        validated(Outer, values, where=where, known=["also"])


def test_a_bad_value_of_the_caller_carries_its_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        validated(Outer, {"inner": {"rate": 0}})
    assert caught.value.setting == "inner.rate"


def test_json_and_yaml_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"epochs": 3, "inner": {"rate": 0.5}}')
    (tmp_path / "a.yaml").write_text("# comment\nepochs: 3\ninner:\n  rate: 0.5\n")
    first, second = (validated(Outer, read_mapping(tmp_path / name)) for name in ("a.json", "a.yaml"))
    assert first == second == Outer(epochs=3, inner=Inner(rate=0.5))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "is not valid JSON"),
        ("a.json", b"[" * 100_000, "is not valid JSON"),
        ("a.json", b"[1]", "must hold keys and values"),
        ("a.json", b"\xff\xfe", "is not a UTF-8 text file"),
        ("a.yaml", b"a: [", "is not valid YAML"),
        ("a.yml", b"- 1", "must hold keys and values"),
        ("a.yaml", b"a: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("b.json", None, "cannot be read: No such file"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_mapping(tmp_path / name)
    assert name in str(caught.value)
