"""``presurge data``: public traces by name, and synthetic ones."""

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from presurge.cli.command import Options, command
from presurge.cli.console import console
from presurge.cli.options import Common

app = typer.Typer(
    name="data",
    help="List and fetch public traces, or generate a synthetic one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Options):
    """Options.

    Attributes:
        cache: Directory for fetched files (default: $PRESURGE_CACHE, or presurge in $XDG_CACHE_HOME or ~/.cache).
    """

    cache: Annotated[Path | None, "DIR"] = None


@command(app, "list")
def list_traces(options: CacheOptions, common: Common) -> None:
    """List the public traces that you can fetch by name.

    Shows their size, licence, official address, checksum and citation.

    Example:  presurge data list --json
    """
    from presurge.sources.public import CATALOG, cache_directory

    folder = options.cache or cache_directory()
    if common.json:
        traces = [trace.to_dict(folder) for trace in CATALOG]
        console.result_json({"cache": str(folder), "traces": traces})
        return
    for trace in CATALOG:
        here = "  (in the cache)" if (folder / trace.file).is_file() else ""
        console.result(f"{trace.name}: {trace.title}{here}")
        console.result(f"    {trace.file}, {trace.size_text}, licence: {trace.licence}")
        console.result(f"    {trace.url}\n    checksum: sha256 {trace.sha256}\n    cite: {trace.citation}")
    console.say(f"\nFetch one: presurge data get NAME    Files are kept in {folder}")


@dataclass(frozen=True, kw_only=True)
class GetOptions(CacheOptions):
    """Options.

    Attributes:
        name: Name of the trace, from `presurge data list`.
        out: Also copy the file to this path.
    """

    name: Annotated[str, typer.Argument(metavar="NAME")]
    out: Path | None = None


@command(app)
def get(options: GetOptions, common: Common) -> None:
    """Fetch a public trace from its official release.

    Checks the file and prints where it is. Resumes a download that broke off. You can also put the file into the cache
    yourself; Presurge then checks it and uses it.

    Example:  presurge data get burstgpt-1
    """
    from presurge.sources.public import find_trace, get_trace

    with console.progress() as progress:
        fetched = get_trace(options.name, cache=options.cache, out=options.out, progress=progress)
    trace, path = find_trace(options.name), options.out or fetched.path
    if common.json:
        source = "download" if fetched.downloaded else "cache"
        console.result_json(
            {
                "name": trace.name,
                "path": str(path),
                "size": fetched.path.stat().st_size,
                "sha256": trace.sha256,
                "source": source,
                "licence": trace.licence,
                "citation": trace.citation,
            }
        )
        return
    console.result(str(path))
    settings = [f"--{name} {quote(str(value))}" for name, value in trace.settings.items()]
    example = ["presurge", trace.command, quote(str(path)), *settings]
    console.say(f"Licence: {trace.licence}. Cite: {trace.citation}")
    console.say(f"Next: {trace.note or ' '.join(example)}")


@dataclass(frozen=True, kw_only=True)
class SynthesizeOptions(Options):
    """Options.

    Attributes:
        out: File to write; its name ends in .csv, .csv.gz, .csv.zst or .parquet.
        rows: Exact number of requests, up to 100 million (default: 400000).
        rate: Mean number of requests per second, instead of --rows.
        days: Length of the trace in days.
        seed: Random seed; the same seed gives the same file.
        start: Date and time of the first minute, in ISO format; sets weekday and hour.
    """

    out: Path
    rows: int | None = None
    rate: float | None = None
    days: float = 10.0
    seed: int = 0
    start: Annotated[str, "TIME"] = "2024-01-01"


@command(app, "synthesize")
def synthesize_trace(options: SynthesizeOptions, common: Common) -> None:
    """Write a synthetic LLM request trace.

    It has BurstGPT's columns and is labelled as synthetic: a file of the same name with .json appended says how it was
    made.

    Example:  presurge data synthesize --out trace.csv.gz --days 14 --rate 2
    """
    from presurge.sources.synthetic import SyntheticConfig, parse_start, synthesize

    config = SyntheticConfig(
        rows=options.rows,
        rate=options.rate,
        days=options.days,
        seed=options.seed,
        start=parse_start(options.start),
    )
    with console.progress() as progress:
        report = synthesize(config, options.out, progress=progress)
    if common.json:
        console.result_json(report.to_dict())
        return
    console.result(
        f"Wrote {report.path}: {report.rows:,} synthetic requests, {report.failures:,} of them failed."
    )
    console.say(
        f"{report.rows / max(report.seconds, 1e-9):,.0f} rows per second; described in {report.sidecar}"
    )
