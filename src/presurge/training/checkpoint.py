"""Checkpoints: written as a whole or not at all, loaded with weights only, refused where they do not belong."""

import io
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from presurge.errors import ConfigError, ModelError
from presurge.files import atomic_path

LAST = "last.pt"
BEST = "best.pt"
VERSION = 1
_HINT = "Train without --resume to start anew."


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values so that either the old file or the new one survives, whatever fails.

    The whole is made in memory first: what torch writes to a full disk ends in an error that does not say so.

    Raises:
        StorageError: The file system refused; the previous checkpoint stays.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def sweep(directory: Path) -> None:
    """Remove what a process that was killed while it wrote a checkpoint left there."""
    for name in (LAST, BEST):
        for left in directory.glob(f".{name}.*"):
            shutil.rmtree(left, ignore_errors=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing but tensors and plain values is accepted.

    Raises:
        ModelError: It is damaged, of another version, or holds anything else.
    """
    state = load_safely(path, hint=_HINT)
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ModelError("is no checkpoint of this version", where=str(path), hint=_HINT)
    return state


def load_safely(path: Path, *, hint: str) -> Any:
    """What ``torch.save`` wrote, if it is nothing but tensors and plain values: anything else could run code.

    Raises:
        ModelError: The file cannot be read, is damaged, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the form of the pickle: an error tells enough
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (
        Exception
    ) as error:  # torch meets a damaged file with almost any kind of error, and advises to trust it
        what = "is damaged, or holds more than tensors and plain values, and was not loaded"
        raise ModelError(what, where=str(path), hint=hint) from error


def check_whole(state: dict[str, Any], keys: Sequence[str], path: Path) -> None:
    """Refuse a checkpoint that is not of the kind that has these keys.

    Raises:
        ModelError: One is missing.
    """
    missing = [key for key in keys if key not in state]
    if missing:
        raise ModelError(
            f"holds nothing to resume from: {', '.join(missing)} is missing", where=str(path), hint=_HINT
        )


def check_identity(stored: dict[str, Any], current: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another configuration.

    Raises:
        ConfigError: With every key that differs, and both values.
    """
    differences = [
        f"{key}: {stored.get(key, 'not set')!r} in the checkpoint, {current.get(key, 'not set')!r} now"
        for key in sorted({*stored, *current})
        if stored.get(key) != current.get(key)
    ]
    if differences:
        raise ConfigError(
            "belongs to another configuration: " + "; ".join(differences),
            where=str(path),
            hint="Give the same settings and data to resume, or another --out to start anew.",
        )
