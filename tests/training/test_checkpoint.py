"""Checkpoint files: tensors and plain values only, whole or not at all."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError, ModelError
from presurge.training.checkpoint import check_identity, read_checkpoint, sweep, write_checkpoint


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "last.pt"
    write_checkpoint(path, {"weight": torch.arange(3.0), "at": {"best": float("inf"), "rows": [{"a": 1}]}})
    write_checkpoint(path, {"weight": torch.arange(4.0), "at": {"best": float("inf"), "rows": [{"a": 1}]}})
    state = read_checkpoint(path)
    assert state["weight"].tolist() == [0, 1, 2, 3]
    assert state["at"] == {"best": float("inf"), "rows": [{"a": 1}]}
    assert [one.name for one in path.parent.iterdir()] == ["last.pt"]


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap))])
def test_nothing_is_run_by_loading(save: object, tmp_path: Path) -> None:
    path, touched = tmp_path / "last.pt", tmp_path / "touched"
    save({"version": 1, "trap": Trap(touched)}, path)  # type: ignore[operator]
    with pytest.raises(ModelError, match="holds more than tensors") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not touched.exists()


@given(garbage=st.binary(max_size=60), cut=st.integers(0, 900))
def test_damaged_files_are_named(garbage: bytes, cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("damaged") / "last.pt"
    write_checkpoint(path, {"weight": torch.arange(3.0)})
    path.write_bytes(garbage + path.read_bytes()[:cut])
    with pytest.raises(ModelError):
        read_checkpoint(path)


def test_other_versions_and_missing_files(tmp_path: Path) -> None:
    torch.save({"version": 99}, tmp_path / "last.pt")
    with pytest.raises(ModelError, match="version"):
        read_checkpoint(tmp_path / "last.pt")
    with pytest.raises(ModelError, match="No such file"):
        read_checkpoint(tmp_path / "best.pt")


def test_differences_are_named_with_both_values(tmp_path: Path) -> None:
    check_identity({"a": 1, "b": [2]}, {"b": [2], "a": 1}, tmp_path)
    with pytest.raises(ConfigError) as caught:
        check_identity({"a": 1, "b": [2], "c": None}, {"a": 1, "b": [3], "d": "x"}, tmp_path)
    assert caught.value.what.endswith(
        "b: [2] in the checkpoint, [3] now; d: 'not set' in the checkpoint, 'x' now"
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_checkpoint_is_streamed_to_disk(tmp_path: Path) -> None:
    """Not built in memory first: 200 MB of weights are written with less than a quarter of that on top."""
    script = (
        "import sys, torch\nfrom pathlib import Path\n"
        "from presurge.training.checkpoint import write_checkpoint\n"
        "write_checkpoint(Path(sys.argv[1]) / 'small.pt', {'weight': torch.ones(3)})\n"
        "state = {'weights': [torch.ones(5_000_000) for _ in range(10)]}\n"
        "def peak():\n"  # getrusage would begin with that of the process that runs the tests
        "    return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
        "before = peak()\n"
        "write_checkpoint(Path(sys.argv[1]) / 'last.pt', state)\n"
        "print(peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "last.pt").stat().st_size > 200_000_000
    assert int(done.stdout) < 50_000


def test_leftovers_of_a_killed_process_are_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.abcd").mkdir()
    (tmp_path / ".last.pt.abcd" / "last.pt").write_bytes(b"half")
    (tmp_path / "other").mkdir()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
