"""From a request trace to a regular series, its split and its files, at once or in the training guide's three steps."""

from presurge.workflows.prepare.aggregate import PrepareConfig, trace_panel
from presurge.workflows.prepare.steps import prepare

__all__ = ["PrepareConfig", "prepare", "trace_panel"]
