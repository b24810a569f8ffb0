"""Killed, interrupted, out of space: what was written stays whole, and resuming gives the run that was not stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from training_cases import RegressionTask, settings

from presurge.errors import ConfigError, ModelError, StorageError
from presurge.training.config import TrainerConfig
from presurge.training.interruption import TrainingInterrupted
from presurge.training.loggers import JsonLinesLogger
from presurge.training.task import Epoch
from presurge.training.trainer import TrainingOutcome, fit

HERE = Path(__file__).parent
DROPOUT = 0.3


@pytest.fixture(autouse=True)
def usual_signals() -> Iterator[None]:
    """Ctrl-C acts as usual, also where the tests run in the background and inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignallingTask(RegressionTask):
    """Sends its own process a signal at a batch of training or validation, counted over the run."""

    def __init__(self, at: int | None = None, *, validating: bool = False, times: int = 1) -> None:
        super().__init__(dropout=DROPOUT)
        self.at, self.validating, self.times, self.given = at, validating, times, 0

    def _count(self) -> None:
        self.given += 1
        if self.given == self.at:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)

    def train_batches(self, epoch: Epoch) -> Iterator[Any]:
        for batch in super().train_batches(epoch):
            if not self.validating:
                self._count()
            yield batch

    def validation_batches(self, rank: int, world: int) -> Iterator[Any]:
        for batch in super().validation_batches(rank, world):
            if self.validating:
                self._count()
            yield batch


def run(
    task: RegressionTask, directory: Path, *, resume: bool = False, chosen: TrainerConfig | None = None
) -> TrainingOutcome:
    log = JsonLinesLogger(directory / "metrics.jsonl")
    return fit(task, chosen or settings(), directory=directory, resume=resume, loggers=[log])


def assert_as_uninterrupted(
    task: RegressionTask, directory: Path, chosen: TrainerConfig | None = None
) -> None:
    """Resume, and compare with a run in one go: bit by bit, byte by byte."""
    outcome = run(task, directory, resume=True, chosen=chosen)
    whole = RegressionTask(dropout=DROPOUT)
    expected = run(whole, directory / "whole", chosen=chosen)
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, task.module.state_dict()[name])
    assert outcome.history == expected.history
    assert (outcome.best_epoch, outcome.best_value) == (expected.best_epoch, expected.best_value)
    log = (directory / "metrics.jsonl").read_bytes()
    assert log == (directory / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.integration
def test_killed_ten_times(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HERE / "kill_runs.py", tmp_path, "10", "0"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["killed"] * 10 + ["exit 0"] * 2
    killed, whole = (
        torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("killed", "whole")
    )
    assert killed["history"] == whole["history"]
    for name, tensor in whole["module"].items():
        assert torch.equal(tensor, killed["module"][name])
    log = (tmp_path / "killed" / "metrics.jsonl").read_bytes()
    assert log == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    names = {path.name for path in (tmp_path / "killed").iterdir()}
    assert names == {"best.pt", "final.pt", "last.pt", "metrics.jsonl"}


@pytest.mark.parametrize("at", [1, 7, 12, 24, 36])
def test_interrupted_at_a_batch(at: int, tmp_path: Path) -> None:
    """Also at the first and at the last one of an epoch and of the run."""
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(at), tmp_path)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["at"]["step"] == at
    assert_as_uninterrupted(SignallingTask(), tmp_path)


@pytest.mark.parametrize("at", [1, 6])
def test_interrupted_within_accumulated_batches_and_validation(at: int, tmp_path: Path) -> None:
    chosen = settings(accumulate=5, schedule="one-cycle")
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(at), tmp_path, chosen=chosen)
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(at, validating=True), tmp_path, resume=True, chosen=chosen)
    assert_as_uninterrupted(SignallingTask(), tmp_path, chosen=chosen)


def test_interrupted_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes, fsync = 0, os.fsync

    def interrupted(number: int) -> None:
        nonlocal writes
        writes += 1
        if writes == 3:
            signal.raise_signal(signal.SIGINT)
        fsync(number)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt", "metrics.jsonl"]
    assert_as_uninterrupted(SignallingTask(), tmp_path)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    chosen = settings(checkpoint_steps=4)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        run(SignallingTask(18, times=2), tmp_path, chosen=chosen)
    assert not isinstance(caught.value, TrainingInterrupted)
    assert signal.getsignal(signal.SIGINT) is handler
    assert torch.load(tmp_path / "last.pt", weights_only=True)["at"]["step"] == 16
    assert_as_uninterrupted(SignallingTask(), tmp_path, chosen=chosen)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As SIGINT is under nohup in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outcome = fit(SignallingTask(5), settings())
    assert len(outcome.history) == 3
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_request_to_terminate_is_one_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGINT", signal.SIGTERM)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted) as caught:
        run(SignallingTask(5), tmp_path)
    assert caught.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.undo()
    assert_as_uninterrupted(SignallingTask(), tmp_path)


def test_in_a_thread_there_are_no_signals_and_the_same_weights() -> None:
    """Python lets only the main thread handle signals."""
    tasks = RegressionTask(dropout=DROPOUT), RegressionTask(dropout=DROPOUT)
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(fit, tasks[0], settings()).result().history
    assert history == fit(tasks[1], settings()).history


@pytest.mark.integration
def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    """A process of its own, in the middle of a long run; it says at which step it stopped, and that is in the file."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom training_cases import RegressionTask, settings\n"
        "from presurge.training.interruption import TrainingInterrupted\n"
        "from presurge.training.loggers import JsonLinesLogger\nfrom presurge.training.trainer import fit\n"
        "out = Path(sys.argv[1])\n"
        "try:\n    fit(RegressionTask(), settings(epochs=10**6, patience=None), directory=out,\n"
        "        loggers=[JsonLinesLogger(out / 'metrics.jsonl')])\n"
        "except TrainingInterrupted:\n    sys.exit(130)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path],
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    log = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size > 1_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    last = torch.load(tmp_path / "last.pt", weights_only=True)
    assert json.loads(log.read_text().splitlines()[-1])["step"] == last["at"]["step"] > 0


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    task, again = RegressionTask(), RegressionTask()
    first = run(task, tmp_path)
    JsonLinesLogger(tmp_path / "metrics.jsonl").finish({"parameters": 5}, [])
    second = run(again, tmp_path, resume=True)
    assert (second.history, second.best_epoch) == (first.history, first.best_epoch)
    for name, tensor in task.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name])
    assert "summary" not in (tmp_path / "metrics.jsonl").read_text()


def test_early_stopping_is_remembered(tmp_path: Path) -> None:
    chosen = settings(epochs=50, patience=2, min_delta=1e9)
    first = run(RegressionTask(), tmp_path, chosen=chosen)
    second = run(RegressionTask(), tmp_path, resume=True, chosen=chosen)
    assert len(first.history) == 3
    assert first.stopped_early
    assert second.stopped_early
    assert second.history == first.history


def test_a_new_run_leaves_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    run(RegressionTask(), tmp_path)
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(1), tmp_path)
    assert not (tmp_path / "best.pt").exists()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1]
    assert_as_uninterrupted(SignallingTask(), tmp_path)


def test_without_a_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit(RegressionTask(), settings(), resume=True)
    assert not list(tmp_path.iterdir())


def test_resuming_without_a_checkpoint_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(RegressionTask(), tmp_path, resume=True)
    assert "There is no checkpoint" in caplog.text
    caplog.clear()
    run(RegressionTask(), tmp_path, resume=True)
    assert "There is no checkpoint" not in caplog.text


def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    run(RegressionTask(), tmp_path)
    (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())
    with pytest.raises(ModelError, match="nothing to resume from: identity, at, learner"):
        run(RegressionTask(), tmp_path, resume=True)


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    run(RegressionTask(), tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ConfigError) as caught:
        run(RegressionTask(batch_size=16), tmp_path, resume=True, chosen=settings(learning_rate=0.5))
    text = str(caught.value)
    assert "batch_size: 8 in the checkpoint, 16 now" in text
    assert "learning_rate: 0.01 in the checkpoint, 0.5 now" in text
    assert "rows" not in text.replace(str(tmp_path), "")
    assert "another out" in text
    assert (tmp_path / "last.pt").read_bytes() == before


def test_what_may_change(tmp_path: Path) -> None:
    """How often something is written, and on how many threads, is no part of the configuration of a run."""
    with pytest.raises(TrainingInterrupted):
        run(SignallingTask(7), tmp_path)
    run(SignallingTask(), tmp_path, resume=True, chosen=settings(threads=2, checkpoint_steps=5))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


@pytest.mark.integration
def test_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """The run stops, the checkpoints before stay, and once there is space the run goes on as if nothing had been."""

    class Filling(RegressionTask):
        def train_batches(self, epoch: Epoch) -> Iterator[Any]:
            if epoch.number == 1:
                fill(disk / "other")
            yield from super().train_batches(epoch)

    log = JsonLinesLogger(tmp_path / "metrics.jsonl")
    with pytest.raises(StorageError, match="No space left") as caught:
        fit(Filling(dropout=DROPOUT), settings(), directory=disk, loggers=[log])
    assert "last.pt" in str(caught.value) or "best.pt" in str(caught.value)
    assert {path.name for path in disk.iterdir()} == {"last.pt", "best.pt", "other"}
    assert torch.load(disk / "last.pt", weights_only=True)["at"]["epoch"] == 1
    assert torch.load(disk / "best.pt", weights_only=True)["epoch"] in (0, 1)
    (disk / "other").unlink()
    task, whole = RegressionTask(dropout=DROPOUT), RegressionTask(dropout=DROPOUT)
    outcome = fit(task, settings(), directory=disk, resume=True, loggers=[log])
    other = JsonLinesLogger(tmp_path / "whole.jsonl")
    assert outcome.history == fit(whole, settings(), loggers=[other]).history
    assert log.path.read_bytes() == other.path.read_bytes()
    assert torch.equal(task.module.layer.weight, whole.module.layer.weight)
