"""``presurge prepare``: a trace becomes a prepared directory; ``dense``, ``compress`` and ``split`` are its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from presurge.cli.console import console, format_table
from presurge.cli.options import Debug, Json, Quiet, Verbose

if TYPE_CHECKING:
    from presurge.workflows.prepared_files import Prepared
    from presurge.workflows.statistics import Statistics

_ALL = "all"
_STAMPS = ("first", "last", "densest_second")


class _WholeByDefault(TyperGroup):
    """A group whose first word may be left out: what is no step's name begins the arguments of all steps in one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_ALL, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Errors of all steps in one name the command as it was written, without a step."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _ALL else name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The help of all steps in one, which names the steps too."""
        command = self.commands[_ALL]
        with typer.Context(command, info_name=ctx.info_name, parent=ctx.parent) as own:
            command.format_help(own, formatter)


app = typer.Typer(
    name="prepare",
    cls=_WholeByDefault,
    no_args_is_help=True,
    help="Turn a request trace into a regular series, its split and its files.",
)

_READING = "Reading the trace"
Trace = Annotated[Path, typer.Argument(metavar="TRACE", help="A request trace.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write; other files there stay.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="What the file names begin with.")]
Step = Annotated[
    str, typer.Option("--step", metavar="STEP", help="Distance of the rows: 1s, 60s, 5m, 1h, 1d, up to 1w.")
]
Split = Annotated[
    str,
    typer.Option(
        "--split", metavar="F,F,F,F", help="Shares of train, val, rl and test, in the order of time."
    ),
]
Analyze = Annotated[bool, typer.Option("--analyze", help="Print what the trace holds, in numbers.")]
Failures = Annotated[
    Literal["keep", "drop"],
    typer.Option(
        "--failures",
        help="Failed requests (no output token): keep counts them as requests too, drop as failures only.",
        rich_help_panel=_READING,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", metavar="FORMAT", help="Told by the columns if not given.", rich_help_panel=_READING
    ),
]
TimeUnit = Annotated[
    Literal["s", "ms", "us", "ns"] | None,
    typer.Option(
        "--time-unit", help="Of numeric stamps; told by their size if not given.", rich_help_panel=_READING
    ),
]
BadRows = Annotated[
    Literal["error", "drop"],
    typer.Option(
        "--bad-rows", help="A bad stamp or token count: an error, or left out.", rich_help_panel=_READING
    ),
]


@app.command(_ALL, hidden=True)
def whole(
    trace: Trace,
    out: Out,
    step: Step = "60s",
    dense: Annotated[bool, typer.Option("--dense", help="Write the series of seconds too.")] = False,
    split: Split = "0.6,0.1,0.2,0.1",
    name: Name = "BurstGPT_1",
    analyze: Analyze = False,
    failures: Failures = "keep",
    format: Format = None,
    time_unit: TimeUnit = None,
    bad_rows: BadRows = "error",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Turn a request trace into a regular series with its split: a directory that train, evaluate and predict read.

    Reads BurstGPT, Azure LLM and Mooncake traces, as CSV, Parquet or JSON lines, plain or compressed (gz, zst).
    Requests and tokens are compared as exact integers at every step; if one is lost, nothing is written.

    The steps are there one by one too, under the names and with the files of the training guide:
    presurge prepare dense, presurge prepare compress, presurge prepare split (each has its own --help).

    Example:  presurge prepare trace.csv --out data --step 60s --analyze
    """
    from presurge.series.frequency import parse_step
    from presurge.workflows.counted_input import TraceReading
    from presurge.workflows.prepare import PrepareOptions, prepare

    options = PrepareOptions(
        step=parse_step(step),
        dense=dense,
        split=_fractions(split),
        name=name,
        analyze=analyze,
        reading=TraceReading(failures=failures, format=format, time_unit=time_unit, bad_rows=bad_rows),
    )
    with console.progress() as progress:
        prepared = prepare(trace, out, options, progress=progress)
    _print(prepared, as_json=json)


@app.command()
def dense(
    trace: Annotated[
        Path | None, typer.Argument(metavar="TRACE", help="A request trace; DIR/NAME.csv if not given.")
    ] = None,
    out: Out = Path("dataset"),
    convert_original: Annotated[
        bool,
        typer.Option("--convert-original", help="As in the guide: convert the original trace, DIR/NAME.csv."),
    ] = False,
    analyze: Analyze = False,
    name: Name = "BurstGPT_1",
    failures: Failures = "keep",
    format: Format = None,
    time_unit: TimeUnit = None,
    bad_rows: BadRows = "error",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """First step of the guide: a row for every second of the trace.

    Example:  presurge prepare dense --convert-original --analyze
    """
    from presurge.errors import ConfigError
    from presurge.workflows.counted_input import TraceReading
    from presurge.workflows.guide_steps import prepare_dense

    if convert_original and trace is not None:
        raise ConfigError(
            "--convert-original means the original trace, but another is named",
            where=str(trace),
            hint=f"Leave one of them out; the original trace is {out / name}.csv.",
        )
    reading = TraceReading(failures=failures, format=format, time_unit=time_unit, bad_rows=bad_rows)
    with console.progress() as progress:
        prepared = prepare_dense(trace, out, name=name, analyze=analyze, reading=reading, progress=progress)
    _print(prepared, as_json=json)


@app.command()
def compress(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT",
            help="A file of seconds or a request trace; what dense wrote in DIR if not given.",
        ),
    ] = None,
    out: Out = Path("dataset"),
    step: Step = "60s",
    name: Name = "BurstGPT_1",
    failures: Failures = "keep",
    format: Format = None,
    time_unit: TimeUnit = None,
    bad_rows: BadRows = "error",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Second step of the guide: a row for every minute, or another step.

    Example:  presurge prepare compress --step 60s
    """
    from presurge.series.frequency import parse_step
    from presurge.workflows.counted_input import TraceReading
    from presurge.workflows.guide_steps import prepare_compress

    reading = TraceReading(failures=failures, format=format, time_unit=time_unit, bad_rows=bad_rows)
    with console.progress() as progress:
        prepared = prepare_compress(
            source, out, step=parse_step(step), name=name, reading=reading, progress=progress
        )
    _print(prepared, as_json=json)


@app.command()
def split(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="INPUT", help="A file of minutes; what compress wrote in DIR if not given."),
    ] = None,
    out: Out = Path("dataset"),
    split: Split = "0.6,0.1,0.2,0.1",
    name: Name = "BurstGPT_1",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Third step of the guide: training, validation, reinforcement learning and test rows, and the manifest.

    Example:  presurge prepare split --split 0.6,0.1,0.2,0.1
    """
    from presurge.workflows.guide_steps import prepare_split

    _print(prepare_split(source, out, split=_fractions(split), name=name), as_json=json)


def _fractions(text: str) -> list[str]:
    from presurge.errors import ConfigError

    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        try:
            float(part)
        except ValueError as error:
            hint = "Write four shares, for example 0.6,0.1,0.2,0.1."
            raise ConfigError(f"{part!r} is no number", where="--split", hint=hint) from error
    return parts


def _print(prepared: "Prepared", *, as_json: bool) -> None:
    if as_json:
        console.result_json(prepared.to_dict())
        return
    if prepared.statistics:
        console.result(_statistics_table(prepared.statistics) + "\n")
    totals = ", ".join(f"{total:,} {name.replace('_', ' ')}" for name, total in prepared.totals.items())
    console.result(f"{prepared.rows:,} rows of {prepared.step // 1_000_000} s: {totals}")
    if prepared.manifest:
        parts = ", ".join(
            f"{part} {last - first:,}" for part, (first, last) in prepared.manifest["split"].items()
        )
        console.result(f"Split: {parts}")
    for note in prepared.notes:
        console.say(f"Note: {note}")
    _print_files(prepared.directory, prepared.files)


def _print_files(directory: Path, files: Sequence[Path]) -> None:
    console.say(f"Wrote {len(files)} files into {directory}")
    for file in files:
        console.say(f"  {file}", level="verbose")


def _statistics_table(statistics: "Statistics") -> str:
    rows = []
    for name, value in statistics.to_dict().items():
        if isinstance(value, float) and name.endswith("share"):
            shown = f"{value:.1%}"
        elif isinstance(value, float):
            shown = f"{value:,.2f}"
        elif isinstance(value, int) and name not in _STAMPS:
            shown = f"{value:,}"
        else:
            shown = "unknown" if value is None else str(value)
        rows.append((name.replace("_", " "), shown))
    return format_table(("statistic", "value"), rows)
