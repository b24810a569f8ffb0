"""``presurge prepare``: a trace becomes a prepared directory; ``dense``, ``compress`` and ``split`` are its steps."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from presurge.cli.command import Options, command
from presurge.cli.console import console, format_table
from presurge.cli.options import Common, listed, moment, say_notes
from presurge.errors import ConfigError

if TYPE_CHECKING:
    from presurge.sources.files import RowFile
    from presurge.workflows.prepare import PrepareConfig
    from presurge.workflows.prepare.directory import Prepared

_ALL = "all"
_STAMPS = ("first", "last", "densest_second")


class _WholeByDefault(TyperGroup):
    """A group whose subcommand is optional: arguments that do not begin with a step run all steps at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [_ALL, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Name the command in errors as it was typed, without a step."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _ALL else name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the help of the whole command, which also names the steps."""
        command = self.commands[_ALL]
        with typer.Context(command, info_name=ctx.info_name, parent=ctx.parent) as own:
            command.format_help(own, formatter)


app = typer.Typer(
    name="prepare",
    cls=_WholeByDefault,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Turn a request trace into a regular series and its split.",
)


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """Reading the log.

    Attributes:
        time: Column with the time of each request, for a log of no known format; the field of an object is usage.tokens.
        input_tokens: Column with the tokens of the prompt (default: that of the format; no tokens with --time alone).
        output_tokens: Column with the tokens of the answer (default: that of the format; no tokens with --time alone).
        status: Column that tells failed requests (default: that of the format; without one, no output token is a failure).
        ok: Values of --status that mean success (default: 100 to 399, and words such as ok, success and completed).
        failures: Count failed requests as requests and as failures (keep), or only as failures (drop).
        format: Format of the log (default: recognised by the columns).
        time_unit: Unit of numeric timestamps (default: inferred from their magnitude).
        bad_rows: Stop at a bad timestamp or token count, or drop the row.
        now: What time it is: a date and time, seconds since 1970, or now-1h; rows whose step is not over are left out (default: the system clock, for stamps close to it).
    """

    time: Annotated[str | None, "COL"] = None
    input_tokens: Annotated[str | None, "COL"] = None
    output_tokens: Annotated[str | None, "COL"] = None
    status: Annotated[str | None, "COL"] = None
    ok: Annotated[list[str], "VALUE[,VALUE...]"] = field(default_factory=list)
    failures: Literal["keep", "drop"] = "keep"
    format: str | None = None
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    bad_rows: Literal["error", "drop"] = "error"
    now: Annotated[str | None, "TIME"] = None


@dataclass(frozen=True, kw_only=True)
class PrometheusOptions(Options):
    """Asking a Prometheus server.

    Attributes:
        prometheus: Address of the server, instead of a file.
        query: Expression in PromQL; each series becomes an item, each metric a channel.
        start: First time: 2024-05-01T00:00:00Z, seconds since 1970, or now-7d.
        end: Last time.
        token_file: File with a bearer token.
    """

    prometheus: Annotated[str | None, "URL"] = None
    query: Annotated[str | None, "PROMQL"] = None
    start: Annotated[str | None, "TIME"] = None
    end: Annotated[str, "TIME"] = "now"
    token_file: Path | None = None

    def ask(self, step: str) -> "RowFile":
        """The answer of the server.

        Raises:
            ConfigError: An option is missing, or is none of its kind.
            FetchError: The server cannot be reached or refuses the query.
        """
        from presurge.series.frequency import SECOND, parse_step
        from presurge.sources.prometheus import Query, fetch, parse_moment

        if self.query is None or self.start is None:
            missing = "query" if self.query is None else "start"
            hint = "For example: `query=sum(rate(http_requests_total[1m]))` `start=now-7d`"
            raise ConfigError("a server also needs this", setting=missing, hint=hint)
        start, end = (parse_moment(text, name) for name, text in (("start", self.start), ("end", self.end)))
        query = Query(
            url=str(self.prometheus),
            query=self.query,
            start=start,
            end=end,
            step=parse_step(step) // SECOND,
            token_file=self.token_file,
        )
        return fetch(query)


@dataclass(frozen=True, kw_only=True)
class NameOptions(Options):
    """Options.

    Attributes:
        name: Prefix of the file names (default: the name of the input).
    """

    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Options.

    Attributes:
        split: Shares of train, val, rl and test, in chronological order.
    """

    split: Annotated[str, "F,F,F,F"] = "0.6,0.1,0.2,0.1"


@dataclass(frozen=True, kw_only=True)
class StepOptions(Options):
    """Options.

    Attributes:
        step: Time between two rows: 1s, 60s, 5m, 1h, 1d, up to 1w.
    """

    step: Annotated[str, "STEP"] = "60s"


@dataclass(frozen=True, kw_only=True)
class AnalyzeOptions(Options):
    """Options.

    Attributes:
        analyze: Print statistics of the trace.
    """

    analyze: bool = False


@dataclass(frozen=True, kw_only=True)
class WholeOptions(NameOptions, AnalyzeOptions, SplitOptions, StepOptions):
    """Options.

    Attributes:
        log: A log of requests: a file, or - for standard input.
        model: Column with the model, for a series of each model (default: one series of all).
        out: Directory to write to; other files in it are kept.
        dense: Also write the series with one row per second.
    """

    log: Annotated[Path | None, typer.Argument(metavar="LOG")] = None
    out: Annotated[Path, "DIR"]
    model: Annotated[str | None, "COL"] = None
    dense: bool = False


@command(app, _ALL, hidden=True)
def whole(options: WholeOptions, reading: ReadingOptions, server: PrometheusOptions, common: Common) -> None:
    r"""Turn a log of requests into a regular series with its split: a directory that train, evaluate and predict read.

    Recognises BurstGPT, Azure LLM and Mooncake traces, OpenAI, vLLM, LiteLLM and Dynamo logs (JSON lines), and access logs
    of nginx and Apache (combined and JSON), plain or compressed (gz, zst); of any other CSV, Parquet or JSON lines you name
    the columns. Requests and tokens are compared as exact integers at every step; if one is lost, nothing is written.

    It also takes the answer of a Prometheus server to a range query, from a file or with --prometheus.

    You can also run the steps one by one, with the names and files of the training guide:
    presurge prepare dense, presurge prepare compress, presurge prepare split (each has its own --help).

    Examples:
      presurge prepare trace.csv --out data --step 60s --analyze
      zcat access.log.*.gz | presurge prepare - --out data
      presurge prepare log.jsonl --out data --time ts \
        --input-tokens usage.prompt_tokens --output-tokens usage.completion_tokens
      presurge prepare log.csv --out data --time at --status code --ok 200,201
      presurge prepare trace.csv --out data --model Model
      presurge prepare --out data --prometheus http://localhost:9090 \
        --query 'sum(rate(http_requests_total[1m]))' --start now-7d
    """
    from presurge.workflows.prepare import prepare

    if (options.log is None) == (server.prometheus is None):
        hint = "Name one of them: a file (- for standard input), or `prometheus=http://HOST:9090`"
        raise ConfigError(
            "LOG and `prometheus` are two sources" if options.log else "no LOG is named", hint=hint
        )
    lone = [f"`{name}`" for name in ("query", "start", "token_file") if getattr(server, name) is not None]
    if options.log and lone:
        raise ConfigError(f"{' and '.join(lone)} cannot be used without `prometheus`")
    source = options.log or server.ask(options.step)
    with console.progress() as progress:
        prepared = prepare(source, options.out, _config(options, reading), progress=progress)
    _print(prepared, as_json=common.json)


@dataclass(frozen=True, kw_only=True)
class GuideOptions(NameOptions):
    """Options.

    Attributes:
        out: Directory to read from and write to; other files in it are kept.
    """

    out: Annotated[Path, "DIR"] = Path("dataset")


@dataclass(frozen=True, kw_only=True)
class DenseOptions(GuideOptions, AnalyzeOptions):
    """Options.

    Attributes:
        trace: A request trace (default: DIR/NAME.csv).
        convert_original: Convert the original trace, DIR/NAME.csv, as in the guide.
    """

    trace: Annotated[Path | None, typer.Argument(metavar="TRACE")] = None
    convert_original: bool = False


@command(app)
def dense(options: DenseOptions, reading: ReadingOptions, common: Common) -> None:
    """First step of the training guide: one row per second of the trace.

    Example:  presurge prepare dense --convert-original --analyze
    """
    from presurge.workflows.prepare.burstgpt import NAME
    from presurge.workflows.prepare.steps import prepare_dense

    if options.convert_original and options.trace is not None:
        raise ConfigError(
            "`convert_original` means the original trace, but another is named",
            where=str(options.trace),
            hint=f"Leave one of them out; the original trace is {options.out / (options.name or NAME)}.csv.",
        )
    with console.progress() as progress:
        prepared = prepare_dense(options.trace, options.out, _config(options, reading), progress=progress)
    _print(prepared, as_json=common.json)


@dataclass(frozen=True, kw_only=True)
class CompressOptions(GuideOptions, StepOptions):
    """Options.

    Attributes:
        source: A file with one row per second, or a request trace (default: what `presurge prepare dense` wrote in DIR).
    """

    source: Annotated[Path | None, typer.Argument(metavar="INPUT")] = None


@command(app)
def compress(options: CompressOptions, reading: ReadingOptions, common: Common) -> None:
    """Second step of the training guide: one row per minute, or per --step.

    Example:  presurge prepare compress --step 60s
    """
    from presurge.workflows.prepare.steps import prepare_compress

    with console.progress() as progress:
        prepared = prepare_compress(options.source, options.out, _config(options, reading), progress=progress)
    _print(prepared, as_json=common.json)


@dataclass(frozen=True, kw_only=True)
class SplitStepOptions(GuideOptions, SplitOptions):
    """Options.

    Attributes:
        source: A file with one row per minute (default: what `presurge prepare compress` wrote in DIR).
    """

    source: Annotated[Path | None, typer.Argument(metavar="INPUT")] = None


@command(app)
def split(options: SplitStepOptions, common: Common) -> None:
    """Third step of the training guide: split the rows and write the manifest.

    The parts are for training, validation, reinforcement learning and testing.

    Example:  presurge prepare split --split 0.6,0.1,0.2,0.1
    """
    from presurge.workflows.prepare.steps import prepare_split

    _print(prepare_split(options.source, options.out, _config(options)), as_json=common.json)


def _config(*classes: Options) -> "PrepareConfig":
    """The options of a command as the workflow takes them."""
    from presurge.series.frequency import parse_step
    from presurge.workflows.prepare import PrepareConfig

    given = {name: value for options in classes for name, value in options.given().items()}
    if "step" in given:
        given["step"] = parse_step(given["step"])
    if "now" in given:
        given["now"] = moment(given["now"])
    names = ("time", "input_tokens", "output_tokens", "status", "ok", "model")
    given["columns"] = {name: given[name] for name in names if name in given}
    if "ok" in given:
        given["columns"]["ok"] = listed(given["ok"], "ok")
        if "status" not in given:
            raise ConfigError(
                "means nothing without a column", setting="ok", hint="For example: `status=code`"
            )
    if "split" in given:
        given["split"] = tuple(share.strip() for share in given["split"].split(","))
    return PrepareConfig(**{one.name: given[one.name] for one in fields(PrepareConfig) if one.name in given})


def _print(prepared: "Prepared", *, as_json: bool) -> None:
    if as_json:
        console.result_json(prepared.to_dict())
        return
    if prepared.statistics:
        rows = [(name.replace("_", " "), _shown(name, value)) for name, value in prepared.statistics.items()]
        console.result(format_table(("statistic", "value"), rows, "<>") + "\n")
    totals = ", ".join(f"{total:,} {name.replace('_', ' ')}" for name, total in prepared.totals.items())
    console.result(f"{prepared.rows:,} rows of {prepared.step // 1_000_000} s: {totals}")
    if prepared.manifest and "split" in prepared.manifest:
        parts = ", ".join(
            f"{part} {last - first:,}" for part, (first, last) in prepared.manifest["split"].items()
        )
        console.result(f"Split: {parts}")
    say_notes(prepared.notes)
    console.say(f"Wrote {len(prepared.files)} files into {prepared.directory}")
    for file in prepared.files:
        console.say(f"  {file}", level="verbose")


def _shown(name: str, value: float | str | None) -> str:
    """A statistic as the table shows it."""
    if value is None:
        return "unknown"
    if name in _STAMPS or isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1%}" if name.endswith("share") else f"{value:,.2f}"
