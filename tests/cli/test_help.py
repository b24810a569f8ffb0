"""What the help shows, and that every setting an error names is one that the command line can spell."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from presurge.cli.app import app
from presurge.cli.console import console, flag
from presurge.errors import _SETTING
from presurge.models.registry import model_class, model_names
from presurge.training.config import TrainerConfig

SRC = Path(__file__).resolve().parents[2] / "src" / "presurge"
ELSEWHERE = {"predictor", "serving"}
"""Rooms with doors of their own, which spell settings as Python, JSON or YAML do."""


def commands(command: Any = None, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command by the words that call it."""
    command = command or typer.main.get_command(app)
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, *([] if inner.hidden else [name])))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.usefixtures("narrow")
def test_no_flag_is_cut_in_a_terminal_of_80_columns(run: Any) -> None:
    for words, command in commands():
        code, out, _ = run(*words, "--help")
        assert code == 0
        assert max(map(len, out.splitlines())) <= 80, words
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("-"):
                    assert re.search(rf"^  .*{option}\b", out, re.MULTILINE), (words, option)


@pytest.mark.usefixtures("narrow")
def test_commands_stand_in_the_order_of_work_with_a_whole_line_each(run: Any) -> None:
    _, out, _ = run("--help")
    listed = re.findall(r"^  ([a-z]+) +(\S.*)$", out.partition("Commands:")[2], re.MULTILINE)
    order = "demo data prepare train tune backtest evaluate predict serve models"
    assert [name for name, _ in listed] == order.split()
    assert set(order.split()) == set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert all(line.endswith(".") and not line.endswith("...") for _, line in listed)
    _, out, _ = run("data", "--help")
    assert "..." not in out.partition("Commands:")[2]


def test_defaults_and_placeholders_are_shown(run: Any) -> None:
    _, out, _ = run("train", "--help")
    text = " ".join(out.split())
    for shown in (
        "--out DIR The run directory (default: training_output).",
        "--context, --sequence-length L",
        "--horizon, --prediction-horizon H",
        "--patience, --early-stopping-patience N",
        "--precision fp32|tf32|bf16|fp16",
        "--individual / --shared",
        "(default: 150 unless the model sets its own)",
    ):
        assert shown in text


def test_public_holidays_stand_with_the_table_that_they_belong_to(run: Any) -> None:
    _, out, _ = run("train", "--help")
    arguments, _, rest = out.partition("Arguments:")[2].partition("\n\n")
    assert "DATA" in arguments
    assert "--holidays" not in arguments
    assert "--holidays" in rest.partition("Reading a table:")[2].partition("\n\n")[0]


def named_settings() -> Iterator[tuple[str, str]]:
    """The settings that the errors and warnings of the package name, each with its place."""
    for path in sorted(SRC.rglob("*.py")):
        if path.relative_to(SRC).parts[0] in ELSEWHERE:
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call):
                continue
            place = f"{path.relative_to(SRC)}:{call.lineno}"
            for keyword in call.keywords:
                if keyword.arg == "setting" and isinstance(getattr(keyword.value, "value", None), str):
                    yield keyword.value.value, place  # type: ignore[attr-defined]
            called = getattr(call.func, "id", getattr(call.func, "attr", ""))
            if called.endswith("Error") or called == "warning":
                for node in ast.walk(call):
                    if isinstance(node, ast.Constant) and isinstance(node.value, str):
                        yield from ((match[1], place) for match in _SETTING.finditer(node.value))
                    elif isinstance(node, ast.JoinedStr):
                        text = "".join(
                            getattr(part, "value", "x") if isinstance(part, ast.Constant) else "x"
                            for part in node.values
                        )
                        yield from ((match[1], place) for match in _SETTING.finditer(text))


def test_every_setting_that_an_error_names_can_be_given() -> None:
    flags = {one.name for _, command in commands() for one in command.params}
    own = {name for model in model_names() for name in model_class(model).config_class.model_fields}
    known = flags | own | set(TrainerConfig.model_fields) | {"model_settings"}
    named = set(named_settings())
    assert len(named) > 50, "the errors were not understood"
    assert not {(name, place) for name, place in named if name.partition(".")[0] not in known}


def test_a_setting_is_spelled_as_the_running_command_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = dict(commands())
    for words, spelled in (
        (("train",), {"horizon": "--horizon", "loggers.0": "--logger", "ridge": "--set ridge=...",
                      "model_settings.kernel_size": "--set kernel_size=...", "model_settings": "--set",
                      "kernel_size": "--kernel-size", "momentum": "momentum in the --config file"}),
        (("backtest",), {"kernel_size": "--set kernel_size=...", "allow_fallback": "--allow-fallback"}),
        (("predict",), {"fill_gaps": "--fill-gaps", "values": "--value", "batch_size": "batch_size"}),
    ):  # fmt: skip
        monkeypatch.setattr(console, "flags", {one.name: one.opts[0] for one in tree[words].params})
        assert {setting: flag(setting) for setting in spelled} == spelled
    monkeypatch.setattr(console, "flags", {one.name: one.opts[0] for one in tree[("train",)].params})
    assert flag("ridge", "0.1") == "--set ridge=0.1"
    assert flag("step", "60s") == "--step 60s"
    assert flag("set", "ridge=0.1") == "--set ridge=0.1"
