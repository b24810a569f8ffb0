"""Your own model, from the file of the guide and from a package, used everywhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from presurge.cli import main
from presurge.errors import ConfigError, ModelError
from presurge.models import registry
from presurge.models.naive import LastValue

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, str, str]]
COLUMNS = ("--time", "t", "--value", "requests")
SHAPE = ("--context", "20", "--horizon", "3")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder, and forget what it registers: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})

    def run_command(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        registry._registered.clear()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The file that the guide shows."""
    pytest.importorskip("torch")
    guide = (ROOT / "docs/guides/custom-models.md").read_text(encoding="utf-8")
    found = re.search(r"cat > my_model.py <<'(\w+)'\n(.*?)\n\1\n", guide, re.DOTALL)
    assert found
    path = tmp_path / "my_model.py"
    path.write_text(found.group(2), encoding="utf-8")
    return path


@pytest.fixture
def load_file(tmp_path: Path) -> Path:
    """Requests per minute, with an hourly rhythm."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(30 + 20 * np.sin(2 * np.pi * np.arange(600) / 60))
    path = tmp_path / "load.csv"
    path.write_text("t,requests\n" + "".join(f"{60 * i},{n}\n" for i, n in enumerate(counts)))
    return path


def test_every_command_accepts_the_file_of_the_guide(run: Run, plugin: Path, load_file: Path) -> None:
    own = ("--plugin", plugin)
    code, out, _ = run("models", *own)
    assert code == 0
    assert "filters over the last rows" in out
    code, out, err = run(
        "train", load_file, *COLUMNS, *SHAPE, *own, "--model", "filters", "--set", "filters=4", "--epochs", "2", "--quiet"
    )  # fmt: skip
    assert code == 0, err
    assert "filters" in out
    output = Path("training_output")
    assert "filters" in (output / "report.html").read_text()
    assert "filters" in (output / "training_report.txt").read_text()
    resolved = json.loads((output / "training_config.json").read_text())
    assert (resolved["epochs"], resolved["learning_rate"], resolved["batch_size"]) == (2, 3e-3, 64)
    assert resolved["model_settings"] == {"filters": 4}

    code, out, err = run("predict", "training_output", "--history", load_file, *own, "--json")
    assert code == 0, err
    predicted = json.loads(out)
    assert predicted["model"] == "filters"
    assert len(predicted["forecast"]) == 3
    code, out, err = run("evaluate", "training_output", "--data", load_file, *own, "--json")
    assert code == 0, err
    assert {"filters", "zero", "recent-median", "seasonal-naive"} < set(json.loads(out)["metrics"])
    code, out, err = run(
        "backtest", load_file, *COLUMNS, *SHAPE, *own, "--models", "filters,dlinear", "--json"
    )
    assert code == 0, err
    assert {"filters", "dlinear"} < set(json.loads(out)["metrics"])


def test_without_the_file_the_message_names_it(run: Run, plugin: Path, load_file: Path) -> None:
    brief = ("--model", "filters", "--epochs", "1", "--quiet", "--no-plots")
    trained = ("train", load_file, *COLUMNS, *SHAPE, *brief)
    assert run(*trained, "--plugin", plugin)[0] == 0
    code, _, err = run("predict", "training_output", "--history", load_file)
    assert code == 2
    assert "'filters'" in err
    assert "my_model.py" in err
    assert "--plugin" in err
    code, _, err = run(*trained)
    assert code == 2
    assert "--plugin FILE.py" in err


def test_the_environment_can_name_files(run: Run, plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRESURGE_PLUGINS", str(plugin))
    assert "filters" in run("models")[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "not a Python file"), ("1 / 0", "ZeroDivisionError"), ("def", "SyntaxError")],
)
def test_a_broken_file_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        registry.load_plugin(path)


def test_a_plugin_cannot_take_a_name_of_presurge() -> None:
    class Other(LastValue):
        """Takes a name that is taken."""

    with pytest.raises(ConfigError, match="last-value"):
        registry.register(Other)


PACKAGE = """
from presurge.models.naive import LastValue


class Copycat(LastValue):
    name = "copycat"
    summary = "the last value, from another package"
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package, as pip leaves it."""
    folder = tmp_path / "installed"
    info = folder / "tiny_models-0.3.dist-info"
    info.mkdir(parents=True)
    (folder / "tiny_models.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(
        "[presurge.models]\ncopycat = tiny_models:Copycat\nbroken = tiny_models:Missing\n"
        "misnamed = tiny_models:Copycat\nlast-value = tiny_models:Copycat\n"
    )
    return folder


def test_a_package_offers_models(
    package: Path, load_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{package}"}
    command = [
        "train",
        str(load_file),
        *COLUMNS,
        *SHAPE,
        "--model",
        "copycat",
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "presurge", *command, "--no-plots"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "copycat" in done.stdout
    with pytest.raises(ModelError, match=r"the package tiny-models 0\.3: install that first"):
        registry.load(tmp_path / "run")  # it is not installed in this process


def test_a_broken_package_is_named(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    monkeypatch.setattr(registry, "_registered", {})
    registry._offered.cache_clear()
    try:
        assert registry.summary("copycat") == "the last value, from another package"
        assert registry.model_class("last-value") is LastValue
        for name in ("broken", "misnamed"):
            assert name in registry.model_names()
            assert registry.summary(name).startswith("unusable")
            with pytest.raises(ConfigError, match=r"tiny-models 0\.3"):
                registry.model_class(name)
    finally:
        registry._offered.cache_clear()
