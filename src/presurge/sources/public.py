"""Public traces by name, fetched into a cache: resumed where the download stopped, checked, and put in place as a whole.

A file with a published checksum must match it. Without one, the checksum of the first download is recorded in
``SHA256SUMS`` in the cache, and every later file of that name must match the record.
"""

# Written here because a gigabyte that breaks off should resume: pooch starts it again from zero.

import difflib
import http.client
import os
import shutil
import socket
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import Field

from presurge import __version__
from presurge.config import Config, validated
from presurge.errors import ConfigError, FetchError
from presurge.files import atomic_path, locked, sha256_of, write_text, writing
from presurge.progress import Progress, silent

RETRIES = 3
TIMEOUT_SECONDS = 30.0
RECORD = "SHA256SUMS"

_TABLE = "public.toml"
_CHUNK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed."""


class RemoteFile(Config):
    """A file on the web; ``size`` in bytes and ``sha256`` where they are known."""

    file: str
    url: str
    size: int | None = None
    sha256: str | None = None

    @property
    def size_text(self) -> str:
        """The size in words."""
        return "size not published" if self.size is None else _megabytes(self.size)


class PublicTrace(RemoteFile):
    """A published trace or series, as ``public.toml`` describes it.

    Attributes:
        name: Its name in Presurge.
        title: What it holds.
        licence: The terms under which it is published.
        citation: What its authors ask to be cited.
        command: An example of a command that reads the file.
        settings: Settings of that command.
        note: What to do instead, if no command reads the file.
    """

    name: str
    title: str
    licence: str
    citation: str
    command: str = "prepare"
    settings: Mapping[str, str | int] = Field(default={"out": "data"})
    note: str | None = None

    @property
    def checksum_text(self) -> str:
        """The checksum in words."""
        return f"sha256 {self.sha256}" if self.sha256 else "recorded at first download"

    def to_dict(self, cache: Path) -> dict[str, Any]:
        """As JSON values, with its path in the cache and whether it is there."""
        path = cache / self.file
        public = self.model_dump(
            include={"name", "title", "file", "size", "sha256", "licence", "citation", "url"}
        )
        return {**public, "checksum": self.checksum_text, "path": str(path), "cached": path.is_file()}


class _Table(Config):
    """The content of ``public.toml``."""

    trace: tuple[PublicTrace, ...]


def read_catalog(text: str, where: str = _TABLE) -> tuple[PublicTrace, ...]:
    """Read a table of public traces.

    Raises:
        ConfigError: A key is unknown or missing, or a value has the wrong type.
    """
    return validated(_Table, tomllib.loads(text), where=where).trace


CATALOG = read_catalog(files(__package__).joinpath(_TABLE).read_text(encoding="utf-8"))


def cache_directory() -> Path:
    """Where fetched files are kept: $PRESURGE_CACHE, else $XDG_CACHE_HOME/presurge, else ~/.cache/presurge."""
    if own := os.environ.get("PRESURGE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "presurge"


def find_trace(name: str) -> PublicTrace:
    """Find a published trace by its name or its file name.

    Raises:
        ConfigError: There is none; the hint gives the nearest names.
    """
    known = {alias.lower(): trace for trace in CATALOG for alias in (trace.name, trace.file)}
    if trace := known.get(name.lower()):
        return trace
    near = difflib.get_close_matches(name.lower(), [trace.name for trace in CATALOG], n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise ConfigError(f"no public trace is called {name!r}", hint=f"{hint}List them: presurge data list")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A checked file.

    Attributes:
        path: Where it is.
        sha256: Its checksum.
        downloaded: Whether it was downloaded now or was there already.
        recorded: Whether its checksum was recorded now because none is published.
    """

    path: Path
    sha256: str
    downloaded: bool
    recorded: bool


def get_trace(
    name: str, *, cache: Path | None = None, out: Path | None = None, progress: Progress = silent
) -> Fetched:
    """Fetch a published trace into the cache unless it is there, and copy it to ``out`` if given.

    Raises:
        ConfigError: No trace has that name.
        FetchError: It cannot be downloaded, or is not the published file.
        StorageError: The file system refused.
    """
    fetched = fetch(find_trace(name), cache or cache_directory(), progress=progress)
    if out is not None:
        with atomic_path(out) as temporary:
            shutil.copyfile(fetched.path, temporary)
    return fetched


def fetch(
    remote: RemoteFile, cache: Path, *, progress: Progress = silent, pause_seconds: float = 1.0
) -> Fetched:
    """Check a public file in the cache; download it only if it is not there.

    Args:
        remote: What to fetch.
        cache: Directory; a file put there by hand under the right name is checked and used.
        progress: Called with the share that has arrived.
        pause_seconds: Pause before the first retry; later pauses are longer.

    Raises:
        FetchError: It cannot be downloaded, or is not the published file.
        StorageError: The file system refused. What has arrived is kept for the next attempt.
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
    """Download into ``part``, over several connections if need be, and return its checksum."""
    reason = ""
    for attempt in range(1 + RETRIES):
        time.sleep(attempt * pause_seconds)
        if expected is None:
            part.unlink(missing_ok=True)  # without a checksum two halves may be of different files
        begun = part.exists()
        try:
            _receive(remote, part, progress)
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # longer than the file on the server
            elif error.code not in _PASSING:
                break
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            if isinstance(cause, socket.gaierror):
                break  # no network: a few seconds will not help
        else:
            digest, difference = _compared(remote, part, expected)
            if difference is None:
                return digest
            part.unlink()
            reason = f"what arrived {difference}"
            if not begun:
                break  # otherwise the old half may be to blame: start again from zero
    raise FetchError(
        f"cannot be fetched: {reason}",
        where=remote.url,
        hint=f"The file is {remote.file} ({remote.size_text}). Fetch it some other way, put it at\n"
        f"  {part.with_suffix('')}\n  and run this again: Presurge checks it and uses it from there.",
    )


def _receive(remote: RemoteFile, part: Path, progress: Progress) -> None:
    """Append what one connection delivers to ``part``.

    Raises:
        OSError: The connection failed or broke off.
    """
    have = part.stat().st_size if part.exists() else 0
    if have and have == remote.size:
        return  # complete; an earlier run ended before checking it
    request = urllib.request.Request(remote.url, headers={"User-Agent": f"presurge/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        have = have if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = remote.size if length is None else have + int(length)
        if remote.size not in (None, total):  # before downloading a gigabyte of something else
            raise FetchError(
                f"the server offers {total:,} bytes, but the published file has {remote.size:,}",
                where=remote.url,
            )
        with writing(part):  # what the file system refuses must not pass for a broken connection
            file = part.open("ab" if have else "wb", buffering=0)
        with file:
            while chunk := response.read(_CHUNK):
                left = memoryview(chunk)
                with writing(part):
                    while left:
                        left = left[file.write(left) :]
                have += len(chunk)
                share, detail = (have / total, f" of {_megabytes(total)}") if total else (0.0, "")
                progress(f"Fetching {remote.file}", share, _megabytes(have) + detail)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def _checked(remote: RemoteFile, path: Path, expected: str | None) -> str:
    """Return the checksum of a file in the cache.

    Raises:
        FetchError: It is not the published or recorded one.
    """
    digest, difference = _compared(remote, path, expected)
    if difference is None:
        return digest
    hint = f"It is damaged or a different file. Delete it and fetch it again from {remote.url}"
    raise FetchError(difference, where=str(path), hint=hint)


def _compared(remote: RemoteFile, path: Path, expected: str | None) -> tuple[str, str | None]:
    """The checksum of a file, and how the file differs from the expected one."""
    size = path.stat().st_size
    digest = sha256_of(path)
    if remote.size not in (None, size):
        return digest, f"has {size:,} bytes, but the published file has {remote.size:,}"
    if expected not in (None, digest):
        source = "published" if remote.sha256 else f"recorded in {RECORD}"
        return digest, f"has the SHA-256 {digest}, but {expected} is {source}"
    return digest, None


def _expected(remote: RemoteFile, cache: Path) -> str | None:
    return remote.sha256 or _records(cache).get(remote.file)


def _records(cache: Path) -> dict[str, str]:
    """The recorded checksums by file name, in the form of ``sha256sum``."""
    record = cache / RECORD
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _record(cache: Path, name: str, digest: str) -> None:
    records = {**_records(cache), name: digest}
    write_text(cache / RECORD, "".join(f"{records[name]}  {name}\n" for name in sorted(records)))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
