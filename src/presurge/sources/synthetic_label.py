"""The label beside a synthetic trace: ``trace.csv.json`` says of ``trace.csv`` that it was drawn, and how."""

import json
from pathlib import Path


def label_path(trace: Path) -> Path:
    """Where the label of a trace lies."""
    return trace.with_name(trace.name + ".json")


def is_synthetic(trace: Path) -> bool:
    """Whether a trace carries the label; a file beside it that is no label says nothing."""
    try:
        label = json.loads(label_path(trace).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(label, dict) and label.get("synthetic") is True
