"""A public file into a cache: resumed where it broke off, checked, and put in place as a whole.

Where a checksum is published, the file is held to it. Where none is, the checksum of the first download is recorded in
``SHA256SUMS`` of the cache, and every later file of that name is held to the record.
"""

# Of our own because a gigabyte that breaks off should go on where it was: pooch begins it again from zero.

import http.client
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from presurge import __version__
from presurge.errors import FetchError
from presurge.files import locked, sha256_of, storage_error, write_text
from presurge.progress import Progress, silent

RETRIES = 3
TIMEOUT_SECONDS = 30.0
RECORD = "SHA256SUMS"

_CHUNK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file of the web; ``size`` in bytes and ``sha256`` where they are known."""

    file: str
    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def size_text(self) -> str:
        """The size in words."""
        return "size not published" if self.size is None else megabytes(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A checked file.

    Attributes:
        path: Where it is.
        sha256: Its checksum.
        downloaded: Whether it came over the network now, or was there already.
        recorded: Whether its checksum was recorded now, for want of a published one.
    """

    path: Path
    sha256: str
    downloaded: bool
    recorded: bool


def megabytes(size: int) -> str:
    """Bytes as megabytes in words."""
    return f"{size / 1e6:,.1f} MB"


def fetch(
    remote: RemoteFile, cache: Path, *, progress: Progress = silent, pause_seconds: float = 1.0
) -> Fetched:
    """Have a public file in the cache, checked; download it only if it is not there.

    Args:
        remote: What to fetch.
        cache: Directory; a file that was put there by hand under the right name is checked and used.
        progress: Told the share that has arrived.
        pause_seconds: Before the first retry; later ones wait longer.

    Raises:
        FetchError: It cannot be downloaded, or is not the published file.
        StorageError: The file system refused. What has arrived stays for the next time.
    """
    path = cache / remote.file
    expected = _expected(remote, cache)
    if path.is_file() and expected is not None:  # also in a cache that cannot be written
        return Fetched(path=path, sha256=_checked(remote, path, expected), downloaded=False, recorded=False)
    with locked(cache / ".lock"):
        expected = _expected(remote, cache)
        downloaded = not path.is_file()
        part = path.with_name(path.name + ".part")
        if downloaded:
            digest = _download(remote, part, expected, progress, pause_seconds)
        else:
            digest = _checked(remote, path, expected)
        if expected is None:
            _record(cache, remote.file, digest)
        if downloaded:
            part.replace(path)
    return Fetched(path=path, sha256=digest, downloaded=downloaded, recorded=expected is None)


def _download(
    remote: RemoteFile, part: Path, expected: str | None, progress: Progress, pause_seconds: float
) -> str:
    """Bring ``part`` to its full length over as many connections as it takes; return its checksum."""
    reason = ""
    for attempt in range(1 + RETRIES):
        time.sleep(attempt * pause_seconds)
        if expected is None:
            part.unlink(missing_ok=True)  # nothing would prove that two halves are of the same file
        begun = part.exists()
        try:
            _receive(remote, part, progress)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # longer than the file that is there now
            elif error.code not in _PASSING:
                break
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if isinstance(cause, socket.gaierror):
                break  # no network: waiting a few seconds does not help
        else:
            digest, difference = _compared(remote, part, expected)
            if difference is None:
                return digest
            part.unlink()
            reason = f"what arrived {difference}"
            if not begun:
                break  # otherwise an old half may be to blame: once more from the start
    raise FetchError(
        f"cannot be fetched: {reason}",
        where=remote.url,
        hint=f"It is {remote.file} ({remote.size_text}). Fetch it some other way, put it at\n"
        f"  {part.with_suffix('')}\n  and run this again: it is checked and used from there.",
    )


def _receive(remote: RemoteFile, part: Path, progress: Progress) -> None:
    """Append to ``part`` what one connection brings.

    Raises:
        OSError: The connection failed or broke off.
    """
    have = part.stat().st_size if part.exists() else 0
    if have and have == remote.size:
        return  # all there; an earlier run ended before it was checked
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"presurge/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        have = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = remote.size if length is None else have + int(length)
        if remote.size not in (None, total):  # said before a gigabyte of something else has arrived
            raise FetchError(
                f"offers {total:,} bytes, and the published file has {remote.size:,}", where=remote.url
            )
        with _opened(part, "ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                _write(file, chunk, part)
                have += len(chunk)
                share, detail = (have / total, f" of {megabytes(total)}") if total else (0.0, "")
                progress(f"Fetching {remote.file}", share, megabytes(have) + detail)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def _checked(remote: RemoteFile, path: Path, expected: str | None) -> str:
    """The checksum of a file in the cache.

    Raises:
        FetchError: It is not the published or recorded one.
    """
    digest, difference = _compared(remote, path, expected)
    if difference is None:
        return digest
    hint = f"It is damaged or another file. Delete it and fetch it again from {remote.url}"
    raise FetchError(difference, where=str(path), hint=hint)


def _compared(remote: RemoteFile, path: Path, expected: str | None) -> tuple[str, str | None]:
    """The checksum of a file, and in which way it is not the expected one."""
    size = path.stat().st_size
    digest = sha256_of(path)
    if remote.size not in (None, size):
        return digest, f"has {size:,} bytes, and the published file has {remote.size:,}"
    if expected not in (None, digest):
        source = "published" if remote.sha256 else f"recorded in {RECORD}"
        return digest, f"has the SHA-256 {digest}, and {expected} is {source}"
    return digest, None


def _expected(remote: RemoteFile, cache: Path) -> str | None:
    return remote.sha256 or _records(cache).get(remote.file)


def _records(cache: Path) -> dict[str, str]:
    """Checksums by file name; the form is that of ``sha256sum``."""
    record = cache / RECORD
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _record(cache: Path, name: str, digest: str) -> None:
    records = {**_records(cache), name: digest}
    write_text(cache / RECORD, "".join(f"{records[name]}  {name}\n" for name in sorted(records)))


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return path.open(mode, buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise storage_error(error, path) from error


def _write(file: BinaryIO, chunk: bytes, path: Path) -> None:
    """Write all of it; a refusal is the file system's and must not pass for a broken connection."""
    left = memoryview(chunk)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise storage_error(error, path) from error
