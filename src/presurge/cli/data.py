"""``presurge data``: public traces by name, and synthetic ones."""

from pathlib import Path
from typing import Annotated

import typer

from presurge.cli.console import console
from presurge.cli.options import Debug, Json, Quiet, Verbose

app = typer.Typer(
    name="data", help="List and fetch public traces, or draw a synthetic one.", no_args_is_help=True
)


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
        report = synthesize(
            spec, out, lambda done, total: progress("Writing the trace", done / max(total, 1))
        )
    if json:
        console.result_json(report.to_dict())
        return
    console.result(
        f"Wrote {report.path}: {report.rows:,} synthetic requests, {report.failures:,} of them failed."
    )
    console.say(
        f"{report.rows / max(report.seconds, 1e-9):,.0f} rows a second; described in {report.sidecar}"
    )
