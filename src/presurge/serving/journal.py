"""Observations on disk: an append-only log since the last snapshot, so that none that was acknowledged is ever lost.

Each line of a log is a CRC-32 in hexadecimal, a space and JSON. ``snapshot-N`` holds everything before the log ``log-N``; the one
before it stays with its logs until a newer one is complete, so a damaged snapshot costs nothing.
"""

import os
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from presurge import files, store
from presurge.errors import ModelError, StorageError

KIND = "stream"
"""The kind of the model directories that hold snapshots."""
_LOG = re.compile(r"log-(\d{8})\.jsonl")
_SNAPSHOT = re.compile(r"snapshot-(\d{8})")


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
        self.directory, self.warnings = directory, list[str]()
        self._open = ExitStack()
        self._open.enter_context(
            files.locked(
                directory / "lock",
                busy="another service uses this directory",
                hint="Stop it, or give each service a `state` directory of its own.",
            )
        )
        self.number, self.size, self._file = 0, 0, -1

    def load(self) -> tuple[dict[str, Any], store.Arrays] | None:
        """The newest whole snapshot; ``replay`` goes on from it."""
        for number, path in sorted(self._found(_SNAPSHOT), reverse=True):
            try:
                loaded = store.load_model(path, KIND)
            except ModelError as error:
                self.warnings.append(f"{error}; the snapshot and the log before it are used")
                continue
            self.number = number
            return loaded
        return None

    def replay(self) -> Iterator[bytes]:
        """The records of the logs since the snapshot, without those that are damaged; then a new log is begun."""
        last = self.number
        for number, path in sorted(self._found(_LOG)):
            if number < self.number:
                continue
            last = max(last, number + 1)
            lines, lost = path.read_bytes().split(b"\n"), 0
            for line in filter(None, lines):
                if _whole(line):
                    yield line[9:]
                else:
                    lost += 1
            if lost:
                self.warnings.append(
                    f"{path}: {lost} damaged records were left out; the others were read. The end of a log is cut off when "
                    "the machine stops while it is written, and nothing of that was acknowledged"
                )
        self.number = last
        self._begin()

    def append(self, records: Sequence[bytes]) -> None:
        """Write records and wait until the disk holds them.

        Raises:
            StorageError: The file system refuses; the log is as it was before.
        """
        data = b"".join(b"%08x %b\n" % (zlib.crc32(record), record) for record in records)
        path = self._path(self.number)
        try:
            with files.writing(path):
                written = 0
                while written < len(data):
                    written += os.write(self._file, data[written:])
                os.fdatasync(self._file)
        except StorageError:
            os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def rotate(self) -> int:
        """Begin the next log; a snapshot of everything before it may then be saved under its number.

        Raises:
            StorageError: The file system refuses; the present log goes on.
        """
        before = self._file, self.number
        self.number += 1
        try:
            self._begin()
        except StorageError:
            self._file, self.number = before
            raise
        os.close(before[0])
        return self.number

    def save(self, number: int, config: dict[str, Any], arrays: store.Arrays) -> None:
        """Write a snapshot of everything before a log, and remove what only older ones need.

        Raises:
            StorageError: The file system refuses; the snapshots before are as they were.
        """
        store.save_model(self.directory / f"snapshot-{number:08}", config | {"kind": KIND}, arrays)
        kept = sorted(n for n, _ in self._found(_SNAPSHOT))[-2:]
        for pattern in (_LOG, _SNAPSHOT):
            for old, path in self._found(pattern):
                if old < kept[0] and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif old < kept[0]:
                    path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the log and give up the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._open.close()

    def _found(self, pattern: re.Pattern[str]) -> list[tuple[int, Path]]:
        paths = [(pattern.fullmatch(path.name), path) for path in self.directory.iterdir()]
        return [(int(match[1]), path) for match, path in paths if match]

    def _path(self, number: int) -> Path:
        return self.directory / f"log-{number:08}.jsonl"

    def _begin(self) -> None:
        path = self._path(self.number)
        with files.writing(path):
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            folder = os.open(self.directory, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        self.size = os.fstat(self._file).st_size


def _whole(line: bytes) -> bool:
    """Whether a line is a record with its own checksum."""
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:])
