"""``presurge data``: public traces by name, and synthetic ones."""

from pathlib import Path
from typing import Annotated

import typer

from presurge.cli.console import console
from presurge.cli.options import Debug, Json, Quiet, Verbose

app = typer.Typer(
    name="data", help="List and fetch public traces, or draw a synthetic one.", no_args_is_help=True
)


Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        help="Where fetched files are kept. Default: $PRESURGE_CACHE, else presurge in $XDG_CACHE_HOME or ~/.cache.",
    ),
]


@app.command("list")
def list_traces(
    cache: Cache = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """List the public traces that can be fetched by name: size, licence, citation and official address.

    Example:  presurge data list --json
    """
    from presurge.sources.catalog import CATALOG, cache_directory

    folder = cache or cache_directory()
    if json:
        traces = [trace.to_dict(folder) for trace in CATALOG]
        console.result_json({"cache": str(folder), "traces": traces})
        return
    for trace in CATALOG:
        here = "  (in the cache)" if (folder / trace.file).is_file() else ""
        console.result(f"{trace.name}: {trace.title}{here}")
        console.result(f"    {trace.file}, {trace.size_text}, licence: {trace.licence}")
        console.result(f"    {trace.url}\n    checksum: {trace.checksum_text}\n    cite: {trace.citation}")
    console.say(f"\nFetch one: presurge data get NAME    Files are kept in {folder}")


@app.command()
def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `presurge data list` gives it.")],
    cache: Cache = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Also copy the file there.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Fetch a public trace from its official release, check it, and print where it is.

    A download that broke off goes on where it was. A file that was put into the cache by hand is checked and used.

    Example:  presurge data get burstgpt-1
    """
    from presurge.sources.catalog import find_trace, get_trace

    with console.progress() as progress:
        fetched = get_trace(name, cache=cache, out=out, progress=progress)
    trace, path = find_trace(name), out or fetched.path
    if fetched.recorded:
        console.say(f"No checksum is published; recorded for later ones: sha256 {fetched.sha256}")
    if json:
        source = "download" if fetched.downloaded else "cache"
        console.result_json(
            {
                "name": trace.name,
                "path": str(path),
                "size": path.stat().st_size,
                "sha256": fetched.sha256,
                "source": source,
                "licence": trace.licence,
                "citation": trace.citation,
            }
        )
        return
    console.result(str(path))
    console.say(f"Licence: {trace.licence}. Cite: {trace.citation}\nNext: {trace.use.format(path=path)}")


@app.command()
def synthesize(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Ending .csv, .csv.gz, .csv.zst or .parquet.")
    ],
    rows: Annotated[
        int | None,
        typer.Option(
            "--rows", metavar="N", help="Exact number of requests, up to 100 million. Default 400,000."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="R", help="Instead of --rows: mean requests a second.")
    ] = None,
    days: Annotated[float, typer.Option("--days", metavar="D", help="Length of the trace.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", help="The same seed gives the same file.")] = 0,
    start: Annotated[
        str,
        typer.Option(
            "--start", metavar="ISO", help="Date and time of the first minute: sets weekday and hour."
        ),
    ] = "2024-01-01",
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write a synthetic LLM request trace in BurstGPT's columns, labelled as synthetic.

    A file of the same name with .json appended says what it is and how it was made.

    Example:  presurge data synthesize --out trace.csv.gz --days 14 --rate 2 --seed 7
    """
    from presurge.sources.synthetic import SyntheticSpec, parse_start, synthesize

    spec = SyntheticSpec(rows=rows, rate=rate, days=days, seed=seed, start=parse_start(start))
    with console.progress() as progress:
        report = synthesize(spec, out, progress=progress)
    if json:
        console.result_json(report.to_dict())
        return
    console.result(
        f"Wrote {report.path}: {report.rows:,} synthetic requests, {report.failures:,} of them failed."
    )
    console.say(
        f"{report.rows / max(report.seconds, 1e-9):,.0f} rows a second; described in {report.sidecar}"
    )
