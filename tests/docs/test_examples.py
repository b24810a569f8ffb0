"""The examples run from end to end and print what they promise."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from presurge.cli import main
from presurge.workflows.config import check_model, resolve_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, GUIDES = ROOT / "examples", ROOT / "docs" / "guides"


def run(*command: str | Path) -> str:
    """Run a command that must succeed, with the `presurge` of this environment, and return what it prints."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    manifests = {"deploy", "dynamo", "keda", "kserve"}  # tests/serving checks them
    assert {path.name for path in EXAMPLES.iterdir()} - manifests == {
        "every_minute.py",
        "own_table.sh",
        "predictor_config.json",
        "python_api.py",
    }


def test_the_configuration_is_accepted_and_the_one_that_the_guide_shows_and_runs() -> None:
    text = (EXAMPLES / "predictor_config.json").read_text()
    assert text in (GUIDES / "coming-from-the-training-guide.md").read_text()
    settings = resolve_config({}, EXAMPLES / "predictor_config.json")
    check_model(settings)
    assert (settings.context, settings.horizon, settings.patience) == (120, 3, 15)
    assert settings.model_settings == {"individual": True, "kernel_size": 25, "solver": "sgd"}


@pytest.mark.integration
def test_python_api(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "python_api.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "requests: count" in printed
    assert "cpu: gauge" in printed
    assert printed.count("baseline") == 2
    assert "2026-03-06 00:00:00 UTC" in printed


@pytest.mark.integration
def test_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As `presurge demo` lays them out, without its pictures.
    monkeypatch.chdir(tmp_path)
    for command in (
        "data synthesize --out trace.csv --rows 20000 --days 2",
        "prepare trace.csv --out data",
        "train data --model auto --out run --no-plots",
    ):
        assert main(command.split()) == 0
    monkeypatch.setattr(sys, "argv", ["every_minute.py", "."])
    capsys.readouterr()
    runpy.run_path(str(EXAMPLES / "every_minute.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("minute 0: up to ")
    assert all(", replicas: " in line for line in lines)


@pytest.mark.integration
def test_own_table() -> None:
    printed = run("bash", EXAMPLES / "own_table.sh")
    assert "seasonal-naive" in printed
    assert printed.splitlines()[-4].startswith("item,timestamp,channel,mean,median,q0.01")
    assert printed.splitlines()[-3].startswith("host-1,2026-03-03T01:20:00")
