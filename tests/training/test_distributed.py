"""Two processes under torchrun give what one gives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from presurge.training.distributed import Ranks, added_up, from_first, gathered, this_process

HERE = Path(__file__).parent


def torchrun(directory: Path, processes: int) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), HERE / "rank_runs.py", directory],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    for processes in (1, 2):
        torchrun(tmp_path / str(processes), processes)
    for name in ("plain", "groups"):
        one, two = (torch.load(tmp_path / n / name / "final.pt", weights_only=True) for n in ("1", "2"))
        for part, tensor in one["module"].items():
            torch.testing.assert_close(two["module"][part], tensor, rtol=1e-5, atol=1e-6)
        for row, other in zip(one["history"], two["history"], strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        log = (tmp_path / "2" / name / "metrics.jsonl").read_text()
        assert len(log.splitlines()) == len(
            (tmp_path / "1" / name / "metrics.jsonl").read_text().splitlines()
        )
    stopped, whole = (
        torch.load(tmp_path / "2" / n / "final.pt", weights_only=True) for n in ("stopped", "dropout")
    )
    assert stopped["history"] == whole["history"]
    for part, tensor in whole["module"].items():
        assert torch.equal(stopped["module"][part], tensor)


def test_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    alone = this_process()
    assert alone == Ranks(0, 1, 0)
    assert alone.first
    assert gathered(3, alone) == [3]
    assert from_first("x", alone) == "x"
    assert added_up({"a": 1.5}, alone) == {"a": 1.5}
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert this_process() == Ranks(3, 4, 1)
    assert not this_process().first
