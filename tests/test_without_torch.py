"""The main job in an environment as the core install leaves it: no torch, matplotlib or pandas, nothing of the test tools."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"
ABSENT = (
    "torch",
    "functorch",
    "torchgen",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "statsmodels",
    "pytest",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Links to every installed package but the absent ones; `python -S` then sees these and nothing else."""
    links = tmp_path_factory.mktemp("packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name.partition("-")[0].lower() not in ABSENT and entry.suffix != ".pth":
            (links / entry.name).symlink_to(entry)
    return os.environ | {"PYTHONPATH": f"{SRC}{os.pathsep}{links}", "OMP_NUM_THREADS": "1"}


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.integration
def test_the_absent_are_absent(environment: dict[str, str], tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    assert run(["-c", code], environment, tmp_path).strip() == "[]"


@pytest.mark.integration
def test_the_main_job(environment: dict[str, str], tmp_path: Path) -> None:
    def presurge(line: str) -> str:
        return run(["-m", "presurge", *line.split()], environment, tmp_path)

    presurge("data synthesize --rows 20000 --days 2 --seed 1 --out trace.csv")
    presurge("prepare trace.csv --out data")
    presurge("train data --out run --model dlinear")
    assert (tmp_path / "run" / "report.html").stat().st_size > 0

    metrics = json.loads(presurge("evaluate run --data data --json"))["metrics"]
    assert "dlinear" in metrics
    assert len(metrics) > 1, "the baselines are always in the table"
    assert all(channels["requests"]["wape"] > 0 for channels in metrics.values())

    predicted = json.loads(presurge("predict run --history data/trace_compressed_60s.csv --json"))
    assert predicted["step_seconds"] == 60
    requests = [row for row in predicted["forecast"] if row["channel"] == "requests"]
    assert len(requests) == 3
    assert all(row["mean"] >= 0 for row in requests)
