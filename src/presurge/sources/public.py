"""Public traces by name, fetched into a cache: resumed where the download stopped, checked, and put in place as a whole."""

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
from presurge.files import atomic_path, locked, sha256_of, writing
from presurge.progress import Progress, silent

RETRIES = 3
TIMEOUT_SECONDS = 30.0

_TABLE = "public.toml"
_CHUNK = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed."""


class RemoteFile(Config):
    """A file on the web, with its checksum and, where it is known, its size in bytes."""

    file: str
    url: str
    sha256: str
    size: int | None = None

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
        note: What to do instead, if no command reads the file as it is.
    """

    name: str
    title: str
    licence: str
    citation: str
    command: str = "prepare"
    settings: Mapping[str, str | int] = Field(default={"out": "data"})
    note: str | None = None

    def to_dict(self, cache: Path) -> dict[str, Any]:
        """As JSON values, with its path in the cache and whether it is there."""
        path = cache / self.file
        public = self.model_dump(
            include={"name", "title", "file", "size", "sha256", "licence", "citation", "url"}
        )
        return {**public, "checksum": f"sha256 {self.sha256}", "path": str(path), "cached": path.is_file()}


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
        downloaded: Whether it was downloaded now or was there already.
    """

    path: Path
    downloaded: bool


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
    downloaded = False
    if not path.is_file():  # a cache that cannot be written may have it
        with locked(cache / ".lock"):
            downloaded = not path.is_file()
            if downloaded:
                part = path.with_name(path.name + ".part")
                _download(remote, part, progress, pause_seconds)
                part.replace(path)
    if not downloaded and (difference := _difference(remote, path)):
        hint = f"It is damaged or a different file. Delete it and fetch it again from {remote.url}"
        raise FetchError(difference, where=str(path), hint=hint)
    return Fetched(path=path, downloaded=downloaded)


def _download(remote: RemoteFile, part: Path, progress: Progress, pause_seconds: float) -> None:
    """Download into ``part``, over several connections if need be, and check it."""
    reason = ""
    for attempt in range(1 + RETRIES):
        time.sleep(attempt * pause_seconds)
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
            difference = _difference(remote, part)
            if difference is None:
                return
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


def _difference(remote: RemoteFile, path: Path) -> str | None:
    """How a file differs from the published one; None if it does not."""
    size = path.stat().st_size
    if remote.size not in (None, size):
        return f"has {size:,} bytes, but the published file has {remote.size:,}"
    digest = sha256_of(path)
    return None if digest == remote.sha256 else f"has the SHA-256 {digest}, but {remote.sha256} is published"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
