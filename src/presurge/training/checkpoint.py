"""Checkpoints: written as a whole or not at all, loaded with weights only, refused where they do not belong."""

import io
import math
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from presurge.errors import ConfigError, ModelError
from presurge.files import atomic_path

LAST = "last.pt"
BEST = "best.pt"
VERSION = 2
_HINT = "Train without `resume` to start anew."


@dataclass(slots=True)
class Position:
    """Where a run stands: ``batch`` batches of ``epoch`` were trained on.

    ``step`` steps were made in all, ``epoch_step`` of them before this epoch. A lower ``best_value`` is better, whatever the
    monitor's mode.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    epoch_step: int = 0
    best_value: float = math.inf
    best_epoch: int = -1
    bad_epochs: int = 0
    decay: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)


class _File(io.BufferedWriter):
    """A file that remembers why a write failed: torch reports a full disk as an error that does not say so."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values so that either the old file or the new one survives, whatever fails.

    Raises:
        StorageError: The file system refused; the previous checkpoint stays.
    """
    with atomic_path(path) as temporary, _File(io.FileIO(temporary, "w")) as file:
        try:
            torch.save({"version": VERSION, **state}, file)
        except RuntimeError as error:
            raise file.error or error from None
        file.flush()
        os.fsync(file.fileno())


def sweep(directory: Path) -> None:
    """Remove what a process left that was killed while it wrote a checkpoint."""
    for name in (LAST, BEST):
        for left in directory.glob(f".{name}.*"):
            shutil.rmtree(left, ignore_errors=True)


def read_checkpoint(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """Read a checkpoint that has these keys; nothing but tensors and plain values is accepted.

    Raises:
        ModelError: It is damaged, of another version, lacks a key, or holds anything else.
    """
    state = load_safely(path, hint=_HINT)
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ModelError("is not a checkpoint of this version", where=str(path), hint=_HINT)
    if missing := [key for key in keys if key not in state]:
        what = f"holds nothing to resume from: {', '.join(missing)} is missing"
        raise ModelError(what, where=str(path), hint=_HINT)
    return state


def load_safely(path: Path, *, hint: str) -> Any:
    """Load what ``torch.save`` wrote if it is nothing but tensors and plain values: anything else could run code.

    Raises:
        ModelError: The file cannot be read, is damaged, or holds anything else.
    """
    try:
        with warnings.catch_warnings():
            # About the pickle's form; an error says enough.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    # Torch meets damage with almost any kind of error, and advises to trust the file.
    except Exception as error:
        what = "is damaged, or holds more than tensors and plain values, and was not loaded"
        raise ModelError(what, where=str(path), hint=hint) from error


def check_identity(
    stored: dict[str, Any], current: dict[str, Any], path: Path, defaults: dict[str, Any] | None = None
) -> None:
    """Refuse a checkpoint of another configuration.

    Args:
        stored: What the checkpoint was written for.
        current: What it is to be used for.
        path: The checkpoint.
        defaults: Settings by name: one that the checkpoint does not know had this value, and one that is not in ``current``
            may have any.

    Raises:
        ConfigError: With every key that differs, and both values.
    """
    defaults = defaults or {}
    stored = {**defaults, **stored}
    names = {*stored, *current} - (defaults.keys() - current.keys())
    differences = [
        f"{key}: {stored.get(key, 'not set')!r} in the checkpoint, {current.get(key, 'not set')!r} now"
        for key in sorted(names)
        if stored.get(key) != current.get(key)
    ]
    if differences:
        what = "belongs to another configuration: " + "; ".join(differences)
        hint = "Give the same settings and data to resume, or another `out` to start anew."
        raise ConfigError(what, where=str(path), hint=hint)
