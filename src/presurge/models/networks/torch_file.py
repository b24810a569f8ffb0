"""Models as ``.pt`` files: tensors and one JSON text, readable with weights only, verified by checksums."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from presurge.errors import ModelError
from presurge.files import atomic_path, write_synced
from presurge.models.forecaster import Forecaster
from presurge.store import Arrays, sealed, unsealed
from presurge.training.checkpoint import load_safely


def write_torch_file(path: Path, model: Forecaster, training: dict[str, Any] | None = None) -> None:
    """Write ``{"model_state_dict": tensors, "config": JSON text}``.

    The text is the configuration of a model directory, with checksums of itself and of the tensors.

    Raises:
        StorageError: The file system refused; an earlier file at ``path`` is untouched.
    """
    config, arrays = model.document(training)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    text, buffer = json.dumps(sealed(config, _digest(arrays))), io.BytesIO()
    torch.save({"model_state_dict": tensors, "config": text}, buffer)
    with atomic_path(path) as temporary:
        write_synced(temporary, buffer.getvalue())


def read_torch_file(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read what ``write_torch_file`` wrote: (configuration, arrays). Only tensors and text are loaded.

    Raises:
        ModelError: The file is damaged, of a newer format version, or contains anything else.
    """
    stored = load_safely(path, hint="Give a .pt file that Presurge wrote; anything else could run code.")
    if not (isinstance(stored, dict) and isinstance(stored.get("config"), str)):
        raise ModelError("is not a Presurge model", where=str(path))
    config = unsealed(stored["config"], where=str(path))
    try:
        arrays = {name: tensor.numpy() for name, tensor in stored["model_state_dict"].items()}
        intact = config["weights_sha256"] == _digest(arrays)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError("contains something other than the tensors of a model", where=str(path)) from error
    if not intact:
        raise ModelError(
            "contains tensors that do not match their checksum: it is damaged or was changed",
            where=str(path),
            hint="Copy the file again, or train the model again.",
        )
    return config, arrays


def _digest(arrays: Arrays) -> str:
    """Checksum of names, types, shapes and values; it does not depend on how a library writes them."""
    whole = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()
