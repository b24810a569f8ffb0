"""Models as ``.pt`` files: tensors and one JSON text, readable with weights only."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from presurge.errors import ModelError
from presurge.models.forecaster import Forecaster
from presurge.store import Arrays, atomic_path
from presurge.training.checkpoint import load_safely


def write_torch_file(path: Path, model: Forecaster, training: dict[str, Any] | None = None) -> None:
    """Write ``{"model_state_dict": tensors, "config": JSON text}``.

    Raises:
        StorageError: The file system refused; what stood at ``path`` is untouched.
    """
    config, arrays = model.document(training)
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    buffer = io.BytesIO()
    torch.save({"model_state_dict": tensors, "config": json.dumps(config)}, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_torch_file(path: Path) -> tuple[dict[str, Any], Arrays]:
    """Read what ``write_torch_file`` wrote: (configuration, arrays). Nothing but tensors and text is accepted.

    Raises:
        ModelError: The file is damaged, or holds anything else.
    """
    stored = load_safely(path, hint="Give a .pt file that Presurge wrote; anything else could run code.")
    try:
        config = dict(json.loads(stored["config"]))
        arrays = {name: tensor.numpy() for name, tensor in stored["model_state_dict"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError("holds no model of Presurge", where=str(path)) from error
    return config, arrays
