"""Two processes under torchrun give what one gives, whatever their batches hold, and end as they should."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import rank_runs
import torch
from systems import TableTask
from torch import nn
from training_cases import settings

from presurge.errors import ConfigError
from presurge.training.distributed import Ranks, average_buffers, from_first, gathered, this_process
from presurge.training.trainer import fit

HERE = Path(__file__).parent
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def final(directory: Path, name: str = "final.pt") -> Any:
    return torch.load(directory / name, weights_only=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, trained by this process (``1``) and by two under torchrun (``2``), each then resuming a run of the other."""
    directory = tmp_path_factory.mktemp("ranks")
    alone, together = directory / "1", directory / "2"
    rank_runs.train_all(alone)
    shutil.copytree(alone / "moved", together / "handed over")
    script = (
        "from pathlib import Path\nfrom rank_runs import resume_handed_over, train_all\n"
        f"directory = Path({str(together)!r})\ntrain_all(directory)\nresume_handed_over(directory)\n"
    )
    launch(script, together)
    shutil.copytree(together / "moved", alone / "handed over")
    rank_runs.resume_handed_over(alone)
    return directory


CASES = {
    "plain": "even batches",
    "groups": "accumulated even batches",
    "windows": "a batch of 101 windows",
    "gaps": "missing targets",
    "masks": "two networks with masks",
    "one row": "a last batch of one row, so that the other share is empty",
    "accumulated masks": "five batches a step, and three in the last",
    "ddp": "the same through DistributedDataParallel",
    "one row ddp": "an empty share there",
}


@pytest.mark.integration
@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(name: str, runs: Path) -> None:
    one, two = (final(runs / n / name) for n in ("1", "2"))
    for part, tensor in one["module"].items():
        torch.testing.assert_close(two["module"][part], tensor, rtol=1e-5, atol=1e-6)
    for row, other in zip(one["history"], two["history"], strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    logs = [(runs / n / name / "metrics.jsonl").read_text().splitlines() for n in ("1", "2")]
    assert len(logs[0]) == len(logs[1])


@pytest.mark.integration
def test_two_processes_are_stopped_and_go_on(runs: Path) -> None:
    stopped, whole = (final(runs / "2" / name) for name in ("stopped", "dropout"))
    assert stopped["history"] == whole["history"]
    for part, tensor in whole["module"].items():
        assert torch.equal(stopped["module"][part], tensor)


@pytest.mark.integration
def test_the_threads_of_a_group_end_with_the_training(runs: Path) -> None:
    """What lives on until Python ends may abort the process then: also after ``ddp``, and after an interruption."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("the threads of a process are listed on Linux only")
    for rank in (0, 1):
        names = (runs / "2" / f"threads of {rank}").read_text().splitlines()
        assert names
        assert not [name for name in names if "gloo" in name]


@pytest.mark.integration
def test_the_place_of_an_iterator_is_refused_by_another_number_of_processes(runs: Path) -> None:
    """Two generators that stand somewhere cannot become one."""
    table = runs / "2" / "table"
    before = (table / "last.pt").read_bytes()
    chosen = settings(**rank_runs.PLAIN)
    with pytest.raises(ConfigError, match="was written by 2 processes") as caught:
        fit(TableTask(), chosen, directory=table, resume=True)
    assert caught.value.hint == "Resume with as many processes as before."
    assert (table / "last.pt").read_bytes() == before


@pytest.mark.integration
@pytest.mark.parametrize("way", ["flat", "ddp"])
def test_a_layer_that_no_process_uses_does_not_move(way: str, runs: Path) -> None:
    """AdamW decays whatever has a gradient, zero or not; a layer that one process uses learns on both."""
    one, two, other = (
        final(runs / n / f"one-sided {way}", file)["module"]
        for n, file in (("1", "final.pt"), ("2", "final.pt"), ("2", "other.pt"))
    )
    for name in ("unused.weight", "unused.bias"):
        assert torch.equal(one[name], two[name])
        assert torch.equal(one[name], other[name])
    assert not torch.equal(two["used.weight"], two["unused.weight"])
    for name, tensor in two.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.integration
def test_buffers_are_equal_on_all_processes(runs: Path) -> None:
    first, other = (final(runs / "2" / "table", name)["buffers"] for name in ("final.pt", "other.pt"))
    assert {name.split(".")[-1] for name in first} == {"running_mean", "running_var", "num_batches_tracked"}
    for name, buffer in first.items():
        assert torch.equal(buffer, other[name]), name


@pytest.mark.integration
def test_another_number_of_processes_goes_on(runs: Path) -> None:
    """Three epochs by one process and three by two, and the other way round, give six by one."""
    results = [final(runs / n / "handed over") for n in ("1", "2")]
    assert len(results[0]["history"]) == 6
    for row, other in zip(*(result["history"] for result in results), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for part, tensor in results[0]["module"].items():
        torch.testing.assert_close(results[1]["module"][part], tensor, rtol=1e-5, atol=1e-6)


def launch(script: str, directory: Path, *options: str, **further: Any) -> Any:
    """Run a script in two processes under torchrun, and wait for them."""
    file = directory / "script.py"
    directory.mkdir(exist_ok=True)
    file.write_text(script)
    command = [sys.executable, *LAUNCHER, *options, str(file)]
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=240,
        **further,
    )
    assert further or done.returncode == 0, done.stderr
    return done


@pytest.mark.integration
def test_a_process_that_torchrun_starts_again_goes_on(runs: Path, tmp_path: Path) -> None:
    """Killed at step 20, both go on from step 15, and end as if nothing had been."""
    script = (
        "import os, signal\nfrom pathlib import Path\nimport rank_runs as runs\n"
        "class Dying(runs.RegressionTask):\n"
        "    def after_step(self, step):\n"
        "        if step == 20 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and runs.RANK == 1:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        f"out = Path({str(tmp_path)!r})\ntask = Dying(dropout=0.3)\n"
        "seen = []\ntask.load_state = seen.append\n"
        "runs.train(out, task, checkpoint_steps=5)\n"
        "assert len(seen) == 1\n"
    )
    launch(script, tmp_path, "--max-restarts", "1")
    restarted, whole = final(tmp_path), final(runs / "2" / "dropout")
    assert [row["step"] for row in restarted["history"]] == [12, 24, 36]
    assert restarted["history"] == whole["history"]
    for part, tensor in whole["module"].items():
        assert torch.equal(restarted["module"][part], tensor)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    assert log == (runs / "2" / "dropout" / "metrics.jsonl").read_bytes()


@pytest.mark.integration
def test_ctrl_c_under_torchrun_ends_plainly(tmp_path: Path) -> None:
    """The terminal and torchrun both send it; every process ends at the same step, and the run can go on."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom training_cases import RegressionTask, settings\n"
        "from presurge.training.interruption import TrainingInterrupted\n"
        "from presurge.training.loggers import JsonLinesLogger\nfrom presurge.training.trainer import fit\n"
        f"out = Path({str(tmp_path)!r})\n"
        "try:\n    fit(RegressionTask(), settings(epochs=10**6, patience=None), directory=out,\n"
        "        loggers=[JsonLinesLogger(out / 'metrics.jsonl')])\n"
        "except TrainingInterrupted:\n    print('interrupted', flush=True)\n    sys.exit(130)\n"
    )
    (tmp_path / "script.py").write_text(script)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, *LAUNCHER, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )
    log = tmp_path / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size > 1_000):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert out.count("interrupted") == 2, errors
    assert "gloo" not in errors
    assert torch.load(tmp_path / "last.pt", weights_only=True)["at"]["step"] > 0


@pytest.mark.integration
def test_a_process_that_is_left_alone_says_so_and_does_not_abort(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom training_cases import RegressionTask, settings\n"
        "from presurge.errors import PresurgeError\nfrom presurge.training.trainer import fit\n"
        "rank = os.environ['RANK']\n"
        "task = RegressionTask(spoiled=7 if rank == '1' else None)\n"
        "try:\n    fit(task, settings())\n"
        "except PresurgeError as error:\n    print(rank, type(error).__name__, flush=True)\n    raise\n"
    )
    done = launch(script, tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 NonFiniteLossError" in done.stdout
    assert "exitcode  : -6" not in done.stderr


def test_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone = this_process()
    assert alone == Ranks(0, 1, 0)
    assert alone.first
    assert gathered(3, alone) == [3]
    assert from_first("x", alone) == "x"
    average_buffers(nn.BatchNorm1d(2), alone)
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert this_process() == Ranks(3, 4, 1)
    assert not this_process().first
