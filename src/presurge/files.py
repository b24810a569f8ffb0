"""Writing files so that a reader finds the old one or the new one, never half of either; hashes and locks."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from presurge.errors import ConfigError, StorageError

_DESCRIPTOR = re.compile(r"(?:/dev|/proc/(?:self|\d+))/fd/(\d+)")
_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}


def storage_error(error: Exception, path: Path) -> StorageError:
    """Say what the file system refused, and where."""
    return StorageError(
        f"cannot be written: {getattr(error, 'strerror', None) or error}",
        where=str(path),
        hint="Free some space or choose another place; what was there before is untouched.",
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what the file system refuses to the body, and where; a reader that went away is no such error.

    Raises:
        StorageError: The file system refused.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(error, path) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` at the end, or delete it after an error.

    The body creates a file or a directory under that name, which replaces what stands at ``path``. A symbolic link is
    followed: its target is replaced and the link stays. A device, FIFO or open descriptor such as ``/dev/stdout`` is
    never replaced: the finished file is written through it.

    Raises:
        StorageError: The file system refused; nothing is left behind and what stood at ``path`` is untouched.
    """
    with writing(path):
        through = _is_stream(path)
        target = Path(path) if through else Path(os.path.realpath(path))
        if not through:
            target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=None if through else target.parent))
        try:
            yield folder / target.name
            if through:
                _write_through(folder / target.name, target)
            else:
                _put_in_place(folder / target.name, target, aside=folder / "replaced")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _is_stream(path: Path) -> bool:
    """Whether a path leads to something that exists and is neither a regular file nor a directory."""
    if _descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - path may be a plain string
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _descriptor(path: Path) -> int | None:
    """The number of the open descriptor that a path such as ``/dev/stdout`` names."""
    match = _DESCRIPTOR.fullmatch(str(path))
    return int(match[1]) if match else _STREAMS.get(str(path))


def _write_through(file: Path, target: Path) -> None:
    """Copy a finished file into a device, a FIFO or an open descriptor."""
    number = _descriptor(target)
    if number in _STREAMS.values():
        (sys.stdout if number == 1 else sys.stderr).flush()  # keep the order of what this process prints
    # A descriptor is duplicated and not opened again: opening would start at the beginning of a redirected file.
    output = target.open("wb") if number is None else os.fdopen(os.dup(number), "wb")
    with output, file.open("rb") as source:
        shutil.copyfileobj(source, output)


def _put_in_place(new: Path, path: Path, *, aside: Path) -> None:
    """Rename ``new`` to ``path``; move a directory that stands there aside first, and back if that fails."""
    if not (new.is_dir() and path.is_dir()):
        new.replace(path)
        return
    path.rename(aside)
    try:
        new.rename(path)
    except OSError:
        aside.rename(path)
        raise


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk holds it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as a whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end move its files into ``directory``, in the order in which they were written.

    Files of the same name are replaced and others stay. The directory is created if needed. After an error, even halfway
    through the moves, it is as it was before.

    Raises:
        StorageError: The file system refused, which Polars reports by errors of its own.
    """
    from polars.exceptions import PolarsError

    folder: Path | None = None
    made = [parent for parent in (directory, *directory.parents) if not parent.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".presurge-", dir=directory))
        new = folder / "new"
        new.mkdir()
        yield new
        _move_all(new, directory, aside=folder / "old")
        made = []
    except (OSError, PolarsError) as error:
        raise storage_error(error, directory) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _move_all(new: Path, directory: Path, *, aside: Path) -> None:
    """Take the files to be replaced away, last one first, then bring the new ones in, last one last.

    So a reader that finds the last file, the manifest, finds every file that belongs to it.
    """
    files = sorted(
        (path for path in new.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns
    )
    names = [file.relative_to(new) for file in files]
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        moved.append((source, target))

    try:
        for name in reversed(names):
            if (directory / name).exists():
                move(directory / name, aside / name)
        for name in names:
            move(new / name, directory / name)
    except BaseException:
        for source, target in reversed(moved):
            target.rename(source)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 digest of a file in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, *, busy: str | None = None, hint: str | None = None) -> Iterator[IO[str]]:
    """Hold an exclusive lock on a file, which the kernel drops when this process ends, however it ends.

    Args:
        path: The lock file, created if needed; it stays.
        busy: What to say when another process holds the lock; None waits for it.
        hint: What to do in that case.

    Raises:
        ConfigError: Another process holds the lock and ``busy`` was given.
        StorageError: The lock file cannot be written.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise ConfigError(busy or "is locked", where=str(path.parent), hint=hint) from error
        yield file
