"""Options that every command shares, as annotated types."""

from pathlib import Path
from typing import Annotated

import typer

from presurge.cli.console import console


def _quiet(on: bool) -> bool:
    if on:
        console.level = "quiet"
    return on


def _verbose(on: bool) -> bool:
    if on:
        console.level = "verbose"
    return on


def _debug(on: bool) -> bool:
    if on:
        console.debug = True
    return on


def _plugins(files: list[Path] | None) -> list[Path] | None:
    if files:
        from presurge.models.registry import load_plugin

        for file in files:
            load_plugin(file)
    return files


_COMMON = "Common options"

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="Print results only.", callback=_quiet, is_eager=True, rich_help_panel=_COMMON
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Print more.", callback=_verbose, is_eager=True, rich_help_panel=_COMMON),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=_debug,
        is_eager=True,
        rich_help_panel=_COMMON,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of text.", rich_help_panel=_COMMON)
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        envvar="PRESURGE_PLUGINS",
        help="Run a file of yours that registers models; repeatable.",
        callback=_plugins,
        is_eager=True,
        rich_help_panel=_COMMON,
    ),
]
