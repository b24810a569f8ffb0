"""Writes replace files as a whole, follow links, and write through whatever is no regular file."""

import multiprocessing
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from polars.exceptions import ComputeError

from presurge import files
from presurge.errors import ConfigError, StorageError

WRITE = "import sys; from pathlib import Path; from presurge import files; files.write_text(Path(sys.argv[1]), 'new\\n')"


def write_in_a_process(path: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WRITE, path],
        text=True,
        timeout=60,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    inode = path.stat().st_ino
    files.write_text(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_ino != inode
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_body_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.txt", tmp_path / "link.txt"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    files.write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_fifo_is_written_through(tmp_path: Path) -> None:
    path, read = tmp_path / "fifo", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_text()))
    reader.start()
    files.write_text(path, "new")
    reader.join(timeout=30)
    assert read == ["new"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("only root makes device nodes, and not on every file system")
    for _ in range(2):
        files.write_text(path, "new")
    assert stat.S_ISCHR(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_the_real_null_device_stays_a_device() -> None:
    files.write_text(Path(os.devnull), "new")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_full_device_is_an_error_that_names_it() -> None:
    with pytest.raises(StorageError, match=r"/dev/full: cannot be written: No space left"):
        files.write_text(Path("/dev/full"), "new")


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_through(path: str, tmp_path: Path) -> None:
    piped = write_in_a_process(path, stdout=subprocess.PIPE)
    assert (piped.returncode, piped.stdout) == (0, "new\n")
    log = tmp_path / "log"
    log.write_text("kept\n")
    with log.open("a") as output:
        assert write_in_a_process(path, stdout=output).returncode == 0
    assert log.read_text() == "kept\nnew\n"
    with log.open("w") as output:
        output.write("first\n")
        output.flush()
        assert write_in_a_process(path, stdout=output).returncode == 0
    assert log.read_text() == "first\nnew\n"
    assert Path("/dev/stdout").is_symlink()


def test_staged_files_appear_together_beside_others(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("stays")
    (tmp_path / "a").write_text("old")
    with files.staged(tmp_path) as folder:
        (folder / "a").write_text("new")
        (folder / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "other": "stays",
        "a": "new",
        "b": "new",
    }


def test_a_failure_of_a_writer_of_tables_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk is full"), files.staged(tmp_path / "new"):
        raise ComputeError("disk is full")
    assert not (tmp_path / "new").exists()


def hold(path: Path, held: object, leave: object) -> None:
    with files.locked(path):
        held.set()  # type: ignore[attr-defined]
        leave.wait(30)  # type: ignore[attr-defined]


def test_a_lock_is_refused_while_held_and_free_when_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    spawn = multiprocessing.get_context("spawn")
    held, leave = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(path, held, leave))
    process.start()
    assert held.wait(60)
    with (
        pytest.raises(ConfigError, match=r"somebody works here\n  Wait"),
        files.locked(path, busy="somebody works here", hint="Wait."),
    ):
        pass
    process.kill()
    process.join(30)
    with files.locked(path, busy="somebody works here"):
        pass


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert (
        files.sha256_of(tmp_path / "empty")
        == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
