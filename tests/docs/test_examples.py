"""The examples run from end to end, and say what they are there to say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*command: str | Path) -> str:
    """What a command prints; it has to succeed. `presurge` is the one of this environment."""
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
    assert {path.name for path in EXAMPLES.iterdir()} == {"every_minute.py", "own_table.sh", "python_api.py"}


@pytest.mark.integration
def test_python_api() -> None:
    printed = run(sys.executable, EXAMPLES / "python_api.py")
    assert "requests: count" in printed
    assert "cpu: gauge" in printed
    assert printed.count("baseline") == 2
    assert "2026-03-06 00:00:00 UTC" in printed


@pytest.mark.integration
def test_every_minute(tmp_path: Path) -> None:
    run("presurge", "demo", "--rows", "20000", "--days", "2", "--out", tmp_path)
    lines = run(sys.executable, EXAMPLES / "every_minute.py", tmp_path).splitlines()
    assert lines[0].startswith("minute 0: up to ")
    assert all(", replicas: " in line for line in lines)


@pytest.mark.integration
def test_own_table() -> None:
    printed = run("bash", EXAMPLES / "own_table.sh")
    assert "seasonal-naive" in printed
    assert printed.splitlines()[-4].startswith("item,timestamp,channel,mean,q0.025")
    assert printed.splitlines()[-3].startswith("host-1,2026-03-03T01:20:00")
