"""``presurge predict``: the forecast that follows a history."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from presurge.cli.console import console, format_table, number
from presurge.cli.dataset import FillOption, Item, Kind, Step, Time, Value, table_changes
from presurge.cli.options import Debug, Json, Plugin, Quiet, Verbose

if TYPE_CHECKING:
    from presurge.series.forecast import Forecast

ModelDirectory = Annotated[
    Path, typer.Argument(metavar="MODEL_DIR", help="What `presurge train --out` wrote.", show_default=False)
]


def predict(
    model_dir: ModelDirectory,
    history: Annotated[
        Path, typer.Option("--history", help="The latest rows: at least as many as the model's context.")
    ],
    horizon: Annotated[
        int | None,
        typer.Option(
            "--horizon", "--prediction-horizon", help="Rows to forecast. Default: all that the model can."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE.csv|FILE.json", help="Also write the forecast to a file."),
    ] = None,
    fill_gaps: Annotated[
        str,
        typer.Option(
            "--fill-gaps",
            metavar="error|interpolate",
            help="Missing rows in the context: an error, or straight lines.",
        ),
    ] = "error",
    time: Time = None,
    value: Value = None,
    item: Item = None,
    step: Step = None,
    kind: Kind = None,
    fill: FillOption = None,
    plugin: Plugin = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Forecast what follows a history, with intervals and real time stamps.

    The first forecast row lies one step after the last complete row of the history. Columns are found under the names
    that the model was trained on, unless --time and --value name others.

    Example:  presurge predict run --history data/BurstGPT_1_compressed_60s.csv
    """
    from presurge.workflows import predict as job

    forecast = job.predict(
        model_dir,
        history,
        table=table_changes(time, value, item, step, kind, fill),
        horizon=horizon,
        gaps=job.gap_rule(fill_gaps),
    )
    for flag in forecast.flags:
        console.warn(flag)
    if output is not None:
        job.write_forecast(forecast, output)
        console.say(f"Wrote {output}")
    if json:
        console.result_json(forecast.to_dict())
    else:
        console.result(forecast_text(forecast))


def forecast_text(forecast: "Forecast") -> str:
    """The forecast as a table of 80 columns: point forecast and 80 % interval."""
    several = len(forecast.items) > 1
    header = [*(["item"] if several else []), "time", "channel", "forecast", "80 % interval"]
    rows = []
    for row in forecast.to_dict()["forecast"]:
        low, high = row["quantiles"].get("0.1"), row["quantiles"].get("0.9")
        interval = "not calibrated" if low is None else f"{number(low)} to {number(high)}"
        cells = [str(row["timestamp"]), row["channel"], number(row["mean"]), interval]
        rows.append([str(row["item"]), *cells] if several else cells)
    return format_table(header, rows, text_columns=2 + several)
