"""Metric logs, each through its real package; what fails outside never stops a training."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_cases import RegressionTask, settings

from presurge.errors import ConfigError, StorageError
from presurge.training import loggers
from presurge.training.loggers import JsonLinesLogger, flat, open_logger
from presurge.training.trainer import fit

SUMMARY = {"parameters": 5, "requests": {"wape": 0.25, "note": None}}


def trained(name: str, directory: Path, **options: str) -> Any:
    """A short run with one optional logger, and the history of the run."""
    directory.mkdir(parents=True, exist_ok=True)
    log = open_logger(name, directory, {"epochs": 2, "model": {"kind": "test"}}, dict(options))
    outcome = fit(RegressionTask(), settings(epochs=2, log_steps=4), loggers=[log])
    log.finish(SUMMARY, [])
    return outcome.history


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the loop logs in a short run: one JSON object a line."""
    log = JsonLinesLogger(tmp_path_factory.mktemp("curves") / "metrics.jsonl")
    fit(RegressionTask(), settings(epochs=2, log_steps=4), loggers=[log])
    return log.path


def test_json_lines(tmp_path: Path) -> None:
    log = JsonLinesLogger(tmp_path / "logs" / "metrics.jsonl")
    assert log.mark() == 0
    log.rewind(0)
    log.log(1, {"train_loss": 2.0, "odd": float("nan")})
    mark = log.mark()
    log.log(2, {"train_loss": 1.0})
    log.rewind(mark)
    log.log(2, {"train_loss": 0.5})
    log.rewind(10**6)
    log.finish(SUMMARY, [])
    rows = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert rows == [
        {"step": 1, "train_loss": 2.0, "odd": None},
        {"step": 2, "train_loss": 0.5},
        {"summary": {"parameters": 5, "requests.wape": 0.25}},
    ]


def test_json_lines_on_a_disk_that_refuses() -> None:
    with pytest.raises(StorageError, match="No space left"):
        JsonLinesLogger(Path("/dev/full")).log(1, {})


def test_tensorboard(tmp_path: Path) -> None:
    """The event file, read back record by record with the schema that tensorboardX brings."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    history = trained("tensorboard", tmp_path)
    (file,) = (tmp_path / "tensorboard").iterdir()
    data, found, place = file.read_bytes(), {}, 0
    while place < len(data):  # length (8 bytes), its checksum (4), the record, its checksum (4)
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        place += 16 + length
    for row in history:
        assert found["validation_loss", row["step"]] == pytest.approx(row["validation_loss"], rel=1e-6)
        assert found["train_absolute", row["step"]] == pytest.approx(row["train_absolute"], rel=1e-6)
    assert ("train_loss", 4) in found
    assert found["final/requests.wape", 0] == 0.25


@pytest.mark.integration
def test_mlflow(tmp_path: Path, curves: Path) -> None:
    """Its file store: a folder an experiment, a folder a run, a file a curve with a line ``time value step`` a point."""
    pytest.importorskip("mlflow")
    done = python(
        tmp_path,
        "for row in logged('mlflow', out / 'run', project='loads', run_name='first'):\n"
        "    if 'validation_loss' in row:\n        print(row['step'], row['validation_loss'])\n",
        curves,
    )
    assert "could not" not in done.stderr
    assert len(done.stdout.splitlines()) == 2
    (curve,) = tmp_path.glob("run/mlruns/*/*/metrics/validation_loss")
    points = [line.split() for line in curve.read_text().splitlines()]
    assert [f"{step} {value}" for _, value, step, *_ in points] == done.stdout.splitlines()
    run = curve.parents[1]
    assert "name: loads" in (run.parent / "meta.yaml").read_text()
    assert "run_name: first" in (run / "meta.yaml").read_text()
    assert (run / "metrics" / "final.requests.wape").read_text().split()[1] == "0.25"
    assert json.loads((run / "artifacts" / "config.json").read_text()) == {"model": "test"}


@pytest.mark.integration
def test_wandb_offline(tmp_path: Path, curves: Path) -> None:
    """The real package, in a process of its own, and the name of what was sent in the file that would be synchronised."""
    pytest.importorskip("wandb")
    done = python(
        tmp_path,
        "logged('wandb', out, project='loads', run_name='first')\n",
        curves,
        WANDB_MODE="offline",
    )
    assert "could not" not in done.stderr
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for word in (b"validation_loss", b"train_absolute", b"loads", b"first", b"parameters", b"model"):
        assert word in content


@pytest.mark.integration
def test_wandb_without_a_login_leaves_a_warning(tmp_path: Path, curves: Path) -> None:
    pytest.importorskip("wandb")
    lines = "print(len(logged('wandb', out)))\n"
    done = python(tmp_path, lines, curves, WANDB_MODE="online", WANDB_API_KEY="")
    assert done.stdout.split()[-1] == str(len(curves.read_text().splitlines()))
    assert done.stderr.count("wandb could not start and is left out from here on") == 1


def python(directory: Path, lines: str, curves: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run lines in a fresh home without any login, and with no way out of the machine.

    ``logged`` gives a logger the curves of a run, as the loop does; without torch, whose import takes longer than all else.
    """
    script = (
        "import json, logging, sys\nfrom pathlib import Path\n"
        "from presurge.training.loggers import open_logger\n"
        "logging.basicConfig(level=logging.WARNING)\nout, curves = map(Path, sys.argv[1:])\n"
        "def logged(name, directory, **options):\n"
        "    log = open_logger(name, directory, {'model': 'test'}, options)\n"
        "    rows = [json.loads(line) for line in curves.read_text().splitlines()]\n"
        "    for row in rows:\n"
        "        log.log(row['step'], {key: value for key, value in row.items() if key != 'step'})\n"
        "    log.finish({'parameters': 5, 'requests': {'wape': 0.25}}, [])\n"
        "    return rows\n" + lines
    )
    nowhere = dict.fromkeys(("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", script, directory, curves],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "HOME": str(directory),
            **nowhere,
            **environment,
        },
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


class Broken:
    """Works once."""

    name = "broken"

    def __init__(self, directory: Path, config: dict[str, Any], options: dict[str, str | None]) -> None:
        self.logged = 0

    def log(self, step: int, values: dict[str, float]) -> None:
        self.logged += 1
        if self.logged > 1:
            raise ConnectionError("the network is gone\nand more")


def test_a_logger_of_ones_own_and_its_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loggers.LOGGERS, "broken", Broken)
    with caplog.at_level(logging.WARNING):
        trained("broken", tmp_path)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == [
        "broken could not resume and is left out from here on: 'Broken' object has no attribute 'rewind'"
    ]
    monkeypatch.setattr(Broken, "rewind", lambda self, mark: None, raising=False)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trained("broken", tmp_path)
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings == ["broken could not log and is left out from here on: the network is gone"]


def test_a_package_that_is_not_installed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with caplog.at_level(logging.WARNING):
        trained("tensorboard", tmp_path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "the package tensorboardX is not installed: pip install 'presurge[tensorboard]'" in message


def test_unknown_names() -> None:
    with pytest.raises(ConfigError, match="no logger 'visdom'") as caught:
        open_logger("visdom", Path(), {}, {})
    assert "mlflow, tensorboard, wandb" in str(caught.value)


def test_flat() -> None:
    assert flat({"a": 1, "b": {"c": {"d": 0.5}, "e": None}, "f": "text"}) == {"a": 1.0, "b.c.d": 0.5}
