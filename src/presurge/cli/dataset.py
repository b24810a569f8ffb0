"""The DATA argument and its options, the same for every command that reads series."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from presurge.errors import ConfigError

if TYPE_CHECKING:
    from presurge.jobs.data import Fill, TableOptions
    from presurge.series.panel import ChannelKind

_TABLE = "Reading a table"
_SPLIT = "Splitting"

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A prepared directory, a request trace of a known format, or a table with --time and --value.",
        show_default=False,
    ),
]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="COL", help="Column of the time stamps.", rich_help_panel=_TABLE),
]
Value = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="COL[,COL…]", help="Columns of the channels.", rich_help_panel=_TABLE),
]
Item = Annotated[
    str | None,
    typer.Option(
        "--item", metavar="COL", help="Column of the item names (long form).", rich_help_panel=_TABLE
    ),
]
Step = Annotated[
    str | None,
    typer.Option(
        "--step",
        metavar="STEP",
        help="Frequency: 1s, 60s, 5m, 1h, 1d, 1w. Told from the stamps of a table; 60s for a trace.",
        rich_help_panel=_TABLE,
    ),
]
Kind = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="COL=count|gauge",
        help="What a column is. Whole, never negative numbers count; all else is a gauge.",
        rich_help_panel=_TABLE,
    ),
]
FillOption = Annotated[
    str,
    typer.Option(
        "--fill",
        metavar="auto|zero|missing",
        help="What a time without a row means. auto: zero for counts, missing for gauges.",
        rich_help_panel=_TABLE,
    ),
]
TestFraction = Annotated[
    float | None,
    typer.Option(
        "--test-fraction",
        metavar="F",
        help="Score the last part of the rows. Default: the prepared split, else 0.2.",
        rich_help_panel=_SPLIT,
    ),
]
ValidationFraction = Annotated[
    float | None,
    typer.Option(
        "--validation-fraction",
        metavar="F",
        help="Last part of the rows before the test part that chooses settings. Default 0.2.",
        rich_help_panel=_SPLIT,
    ),
]


def table_options(
    time: str | None,
    values: Sequence[str] | None,
    item: str | None,
    step: str | None,
    kinds: Sequence[str] | None,
    fill: str,
) -> "TableOptions | None":
    """Put the table options together; None where DATA is no table.

    Raises:
        ConfigError: They contradict each other.
    """
    from presurge.jobs.data import TableOptions

    columns = tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())
    if time is None and not columns:
        if item is not None or kinds:
            raise ConfigError(
                "--item and --kind need --time and --value", hint="Name the columns of the table."
            )
        return None
    if time is None or not columns:
        raise ConfigError(
            "a table needs both --time and --value", hint="For example: --time timestamp --value requests"
        )
    if fill not in ("auto", "zero", "missing"):
        raise ConfigError(f"{fill!r} is no way to fill", where="--fill", hint="Choose auto, zero or missing.")
    return TableOptions(
        time=time, values=columns, item=item, step=step, kinds=_kinds(kinds or ()), fill=cast("Fill", fill)
    )


def _kinds(pairs: Sequence[str]) -> "dict[str, ChannelKind]":
    kinds: dict[str, ChannelKind] = {}
    for pair in (part for value in pairs for part in value.split(",")):
        name, _, kind = pair.rpartition("=")
        if not name or kind not in ("count", "gauge"):
            raise ConfigError(
                f"{pair!r} names no kind", where="--kind", hint="Write for example: --kind cpu=gauge"
            )
        kinds[name] = cast("ChannelKind", kind)
    return kinds
