"""The DATA argument and its options, the same for every command that reads series."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from presurge.errors import ConfigError

if TYPE_CHECKING:
    from presurge.series.dataset import Dataset
    from presurge.series.panel import ChannelKind
    from presurge.workflows.data import TableOptions

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
    typer.Option(
        "--value",
        metavar="COL[,COL…]",
        help="Columns of the channels; channels of a prepared directory or trace.",
        rich_help_panel=_TABLE,
    ),
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
    str | None,
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
    fill: str | None,
    *,
    needs_time: bool = True,
) -> "TableOptions | None":
    """Put the table options together; None where DATA is no table.

    ``needs_time`` is false where the values may name channels of a prepared directory or a trace instead of columns.

    Raises:
        ConfigError: They contradict each other.
    """
    from presurge.workflows.data import TableOptions

    changes = table_changes(time, values, item, step, kinds, fill)
    if time is None and ("values" not in changes or not needs_time):
        lonely = [f"--{name}" for name, value in (("item", item), ("kind", kinds), ("fill", fill)) if value]
        if lonely:
            raise ConfigError(
                f"{' and '.join(lonely)} cannot be used without --time and --value",
                hint="Name the columns of the table.",
            )
        return None
    if time is None or "values" not in changes:
        raise ConfigError(
            "a table needs both --time and --value", hint="For example: --time timestamp --value requests"
        )
    return TableOptions(**changes)


def table_changes(
    time: str | None,
    values: Sequence[str] | None,
    item: str | None,
    step: str | None,
    kinds: Sequence[str] | None,
    fill: str | None,
) -> dict[str, Any]:
    """The table options that were given, by their names in ``TableOptions``.

    Raises:
        ConfigError: One of them cannot be used.
    """
    if fill not in (None, "auto", "zero", "missing"):
        raise ConfigError(f"{fill!r} is no way to fill", where="--fill", hint="Choose auto, zero or missing.")
    columns = tuple(name.strip() for value in values or () for name in value.split(",") if name.strip())
    given = {
        "time": time,
        "values": columns,
        "item": item,
        "step": step,
        "kinds": _kinds(kinds or ()),
        "fill": fill,
    }
    return {name: value for name, value in given.items() if value}


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


def dataset_from(given: dict[str, Any]) -> "Dataset":
    """Load the data set that the parameters of a command name."""
    from presurge.workflows.data import load_dataset

    flags = [given[name] for name in ("time", "value", "item", "step", "kind", "fill")]
    table = table_options(*flags, needs_time=False)
    channels = table_changes(*flags).get("values") if table is None else None
    return load_dataset(
        given["data"],
        table,
        step=given["step"],
        channels=channels,
        test_fraction=given["test_fraction"],
        validation_fraction=given["validation_fraction"],
    )
