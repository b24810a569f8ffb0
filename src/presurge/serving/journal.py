"""Observations on disk: an append-only log since the last snapshot, so that none that was acknowledged is ever lost.

Each record of a log is a new line, a CRC-32 in hexadecimal, a space and JSON. ``snapshot-N`` holds everything before the log
``log-N``; the one before it stays with its logs, so a damaged snapshot costs nothing.
"""

import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from presurge import files, store
from presurge.errors import ModelError

KIND = "stream"
"""The kind of the model directories that hold snapshots."""


class Journal:
    """The directory of one service, locked while it is open.

    Args:
        directory: Where; created if needed.

    Attributes:
        warnings: What could not be read of the directory, in words.
        size: Bytes of the present log.

    Raises:
        ConfigError: Another service uses the directory.
        StorageError: The file system refuses.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.warnings, self.size = directory, list[str](), 0
        self._number, self._file, self._path, self._open = 0, -1, directory, ExitStack()
        busy = "another service uses this directory"
        hint = "Stop it, or give each service a `state` directory of its own."
        self._open.enter_context(files.locked(directory / "lock", busy=busy, hint=hint))
        for path in directory.glob(".snapshot-*"):  # begun when the process was killed
            shutil.rmtree(path, ignore_errors=True)

    def load(self) -> tuple[dict[str, Any], store.Arrays] | None:
        """The newest whole snapshot; ``replay`` goes on from it."""
        for number, path in self._found("snapshot", newest=True):
            try:
                loaded = store.load_model(path, KIND)
            except ModelError as error:
                self.warnings.append(f"{error}; the snapshot and the logs before it are used")
                continue
            self._number = number
            return loaded
        return None

    def replay(self, read: Callable[[bytes], Any]) -> Iterator[Any]:
        """The records of the logs since the snapshot, without those that are damaged; then a new log is begun.

        Args:
            read: Reads a record; a ``ValueError`` says that it is none.
        """
        for number, path in self._found("log"):
            lost = 0
            if number < self._number:
                continue
            for line in filter(None, path.read_bytes().split(b"\n")):
                try:
                    if line[:9] != b"%08x " % zlib.crc32(line[9:]):
                        raise ValueError
                    yield read(line[9:])
                except ValueError:
                    lost += 1
            if lost:
                self.warnings.append(
                    f"{path}: {lost} damaged records were left out; the others were read. The end of a log is cut off when "
                    "the machine stops while it is written, and nothing of that was acknowledged"
                )
        taken = [number for kind in ("log", "snapshot") for number, _ in self._found(kind)]
        self._number = max(taken, default=-1)
        self.rotate()

    def append(self, records: Sequence[bytes]) -> None:
        """Write records and wait until the disk holds them.

        Raises:
            StorageError: The file system refuses; the log is as it was before.
        """
        data = b"".join(b"\n%08x %b" % (zlib.crc32(record), record) for record in records)
        with files.writing(self._path):
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
                os.fdatasync(self._file)
            except OSError:
                with suppress(OSError):  # a rest that stays is a damaged record
                    os.ftruncate(self._file, self.size)
                raise
        self.size += len(data)

    def rotate(self) -> int:
        """Begin the next log; a snapshot of everything before it may then be saved under its number.

        Raises:
            StorageError: The file system refuses; the present log goes on.
        """
        path = self.directory / f"log-{self._number + 1:08}"
        with files.writing(path), ExitStack() as opened:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            opened.callback(os.close, file)
            folder = os.open(self.directory, os.O_RDONLY)
            opened.callback(os.close, folder)
            os.fsync(folder)
            file = os.dup(file)
        if self._file >= 0:
            os.close(self._file)
            if not self.size:
                self._path.unlink(missing_ok=True)
        self._number, self._file, self._path, self.size = self._number + 1, file, path, 0
        return self._number

    def save(self, number: int, config: dict[str, Any], arrays: store.Arrays) -> None:
        """Write a snapshot of everything before a log, and remove what is older than the snapshot before it.

        Raises:
            StorageError: The file system refuses; the snapshots before are as they were.
        """
        store.save_model(self.directory / f"snapshot-{number:08}", config | {"kind": KIND}, arrays)
        _, *before = [one for one, _ in self._found("snapshot", newest=True)]
        for kind in ("log", "snapshot"):
            for old, path in self._found(kind):
                if before and old < before[0]:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the log and give up the lock."""
        if self._file >= 0:
            os.close(self._file)
        self._open.close()

    def _found(self, kind: str, *, newest: bool = False) -> list[tuple[int, Path]]:
        """The logs or snapshots by number, oldest or newest first."""
        paths = [path for path in self.directory.iterdir() if re.fullmatch(rf"{kind}-\d{{8}}", path.name)]
        return sorted(((int(path.name[-8:]), path) for path in paths), reverse=newest)
