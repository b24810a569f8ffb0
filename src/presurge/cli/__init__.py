"""The command ``presurge``: it parses, calls and prints, and holds no logic."""

from presurge.cli.app import main

__all__ = ["main"]
