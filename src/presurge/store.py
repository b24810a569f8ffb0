"""The model directory: ``config.json`` (what it is) and ``model.safetensors`` (weights). No pickle is ever loaded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.errors import ConfigError, ModelError
from presurge.files import atomic_path, storage_error, write_synced

FORMAT = "presurge-model"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORECASTER = "forecaster"
"""The kind of a model directory that names none: the first version wrote no kind."""

Arrays = dict[str, npt.NDArray[Any]]


def save_model(directory: Path, config: dict[str, Any], arrays: Arrays) -> None:
    """Write a model directory atomically.

    Args:
        directory: Where; an existing model directory is replaced.
        config: What the model is, JSON values only, among them its ``kind``; format, version and checksums are added.
        arrays: The weights by name.

    Raises:
        ConfigError: The directory contains something else, or a model of another kind.
        StorageError: The file system refused; an earlier model is untouched.
    """
    from safetensors.numpy import save

    check_place(directory, config.get("kind", FORECASTER))
    weights = save({name: np.asarray(array, order="C") for name, array in sorted(arrays.items())})
    document = sealed(config, hashlib.sha256(weights).hexdigest())
    with atomic_path(directory) as temporary:
        temporary.mkdir()
        write_synced(temporary / WEIGHTS_FILE, weights)
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        write_synced(temporary / CONFIG_FILE, text.encode())


def check_place(directory: Path, kind: str = FORECASTER) -> None:
    """Refuse to replace a directory that contains anything but a model of this kind.

    Raises:
        ConfigError: The message names what would be lost.
        StorageError: The directory cannot be read.
    """
    try:
        names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    except OSError as error:
        raise storage_error(error, directory) from error
    others = names - {CONFIG_FILE, WEIGHTS_FILE}
    found = None if others else _kind_of(directory / CONFIG_FILE)
    if not names or found == kind:
        return
    what = (
        f"contains files that are not a model ({min(others or names)})"
        if found is None
        else f"contains a model of the kind {found}"
    )
    raise ConfigError(
        f"refusing to overwrite a directory that {what}",
        where=str(directory),
        hint="Choose a new directory, or move this one away.",
    )


def sealed(config: dict[str, Any], weights_sha256: str) -> dict[str, Any]:
    """Add format, version and checksums to the configuration of a model; ``unsealed`` verifies them."""
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **config,
        "weights_sha256": weights_sha256,
    }
    document["config_sha256"] = _digest(document)
    return document


def find_model(path: Path) -> Path:
    """The model directory at ``path``: itself, or the ``models`` folder of a run directory.

    Raises:
        ModelError: There is no model.
    """
    for candidate in (path, path / "models"):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    raise ModelError(
        f"contains no model: it has no {CONFIG_FILE}",
        where=str(path),
        hint="Give the run directory that `presurge train` wrote, or its models folder.",
    )


def load_model(directory: Path, kind: str = FORECASTER) -> tuple[dict[str, Any], Arrays]:
    """Read a model directory and verify its checksums: (config, weights).

    Raises:
        ModelError: It is damaged, unsafe, incomplete, of a newer format version or another kind, or no model directory.
    """
    config = unsealed(_read(directory / CONFIG_FILE), where=str(directory / CONFIG_FILE))
    if (found := config.get("kind", FORECASTER)) != kind:
        raise ModelError(
            f"contains a model of the kind {found}, where one of the kind {kind} is needed",
            where=str(directory),
            hint="Give another model directory.",
        )
    path = directory / WEIGHTS_FILE
    weights = _read(path)
    # The first eight bytes of safetensors are a length, which may begin like a pickle; its header follows.
    if weights[8:9] != b"{" and (weights[:1] == b"\x80" or weights[:2] == b"PK"):
        raise ModelError(
            "is a Python pickle or a zip archive, not safetensors; it was not opened, because loading it could run code",
            where=str(path),
            hint="Use the weights that `presurge train` wrote.",
        )
    if hashlib.sha256(weights).hexdigest() != config["weights_sha256"]:
        raise ModelError(
            "does not match the checksum in config.json: the file is damaged or was replaced",
            where=str(path),
            hint="Copy the model directory again, or train it again.",
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return config, load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"is not a readable safetensors file: {error}", where=str(path)) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        hint = "Train the model or copy it again."
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path), hint=hint) from error


def unsealed(text: str | bytes, *, where: str) -> dict[str, Any]:
    """Parse the JSON text of a sealed configuration, and verify its format, version and checksum.

    Raises:
        ModelError: It is damaged, of a newer format version, or not a model.
    """
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "The file is damaged: copy or train the model again."
        raise ModelError(f"is not valid JSON: {error}", where=where, hint=hint) from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ModelError(f'is not a Presurge model: it lacks "format": "{FORMAT}"', where=where)
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ModelError(
            f"has format version {version}, but this version of Presurge reads up to {FORMAT_VERSION}",
            where=where,
            hint="Upgrade: pip install --upgrade presurge",
        )
    if config.pop("config_sha256", None) != _digest(config):
        raise ModelError(
            "does not match its own checksum: it is damaged or was edited by hand",
            where=where,
            hint="Copy the model again, or train it again.",
        )
    return config


def _kind_of(path: Path) -> str | None:
    """The kind of model that a configuration file describes; None if it describes none."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    is_model = isinstance(config, dict) and config.get("format") == FORMAT
    return str(config.get("kind", FORECASTER)) if is_model else None


def _digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
