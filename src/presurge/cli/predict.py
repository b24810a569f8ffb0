"""``presurge predict``: the forecast that follows a history."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from presurge.cli.command import Options
from presurge.cli.console import console, flag, format_table
from presurge.cli.options import CommonWithModels, ModelDirectory, TableOptions, listed, moment
from presurge.errors import spelled

if TYPE_CHECKING:
    from presurge.series.forecast import Forecast

SOME_MISSING = 3
"""The exit code where some items have no forecast."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Options.

    Attributes:
        history: The latest rows: at least as many as the model's context.
        horizon: Rows to forecast (default: the model's horizon).
        items: Items to forecast (default: all).
        max_age: Largest age of the last row, such as 15m; an item whose last row is older gets no forecast (default: any age).
        future: The --known columns of the rows to forecast: exactly as many rows as the model's horizon.
        levels: Levels of the quantiles to give, such as 0.5,0.9,0.99 (default: eleven from 0.01 to 0.99).
        output: Also write the forecast to this file; /dev/stdout gets JSON and nothing else.
        fill_gaps: How to treat missing rows in the context: stop with an error, or interpolate between their neighbours.
    """

    history: Path
    horizon: Annotated[int | None, "H", "--horizon", "--prediction-horizon"] = None
    items: Annotated[list[str], "--item", "A,B,..."] = field(default_factory=list)
    max_age: Annotated[str | None, "AGE"] = None
    future: Path | None = None
    levels: Annotated[list[str], "Q,Q,..."] = field(default_factory=list)
    output: Annotated[Path | None, "FILE.csv|FILE.json"] = None
    fill_gaps: Literal["error", "interpolate"] = "error"


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(TableOptions):
    """Reading a table.

    Attributes:
        item: Column with the item names, where it has another name than in the training table.
    """

    item: Annotated[str | None, "--item-column", "COL"] = None


def predict(
    model: ModelDirectory, options: PredictOptions, table: HistoryOptions, common: CommonWithModels
) -> None:
    """Forecast the rows that follow a history, with intervals.

    The first forecast row lies one step after the last complete row of the history. Columns have the names that the model
    was trained on, unless --time and --value name others. An item that cannot be forecast is listed with the reason, and
    the exit code is then 3.

    Examples:
      presurge predict run --history data
      presurge predict run --history fleet.csv --item web-1,web-2 --max-age 15m
      presurge predict run --history latest.csv --output forecast.csv
    """
    from presurge.config import validated
    from presurge.workflows import predict as workflow

    given: dict[str, Any] = {
        "horizon": options.horizon,
        "fill_gaps": options.fill_gaps,
        "now": moment(table.now),
        "items": listed(options.items, "items") or None,
        "max_age": options.max_age,
        "levels": listed(options.levels, "levels") or None,
    }
    config = validated(workflow.PredictConfig, given)
    forecast = workflow.predict(
        model.model_dir, options.history, config, table=table.changes(), future=options.future
    )
    for text in forecast.flags:
        console.warn(spelled(text, flag))
    for item, reason in forecast.missing.items():
        console.warn(f"no forecast for {item}: {spelled(reason, flag)}")
    if options.output is not None:
        workflow.write_forecast(forecast, options.output)
        console.say(f"Wrote {options.output}")
    if str(options.output) != "/dev/stdout":  # that is the forecast itself, for a pipe
        if common.json:
            console.result_json(forecast.to_dict())
        else:
            console.result(forecast_text(forecast))
    if forecast.missing:
        raise typer.Exit(SOME_MISSING)


def forecast_text(forecast: "Forecast") -> str:
    """The forecast as a table of 80 columns: mean, median and 80 % interval of every row, and of the peak.

    Without the levels of that interval it shows the one between the outermost levels.
    """
    from presurge.evaluation.report.tables import number

    told, levels = forecast.to_dict(), forecast.levels or (0.1, 0.9)
    usual = {0.1, 0.9} <= set(levels)
    low, high = ("0.1", "0.9") if usual else (f"{levels[0]:g}", f"{levels[-1]:g}")
    peaks = told["peak"] if forecast.mean.shape[1] > 1 else []
    rows = []
    for row in [*told["forecast"], *({"timestamp": "peak", **peak} for peak in peaks)]:
        known = row["quantiles"]
        interval = f"{number(known[low])} to {number(known[high])}" if known else "not calibrated"
        median = number(row["median"]) if known else "-"
        cells = [str(row["timestamp"]), row["channel"], number(row["mean"]), median, interval]
        rows.append([str(row["item"]), *cells] if forecast.named else cells)
    between = "80 % interval" if usual else f"{low} to {high}"
    header = [*(["item"] if forecast.named else []), "time", "channel", "mean", "median", between]
    when = f", trained {forecast.trained}" if forecast.trained else ""
    table = format_table(header, rows, "<" * forecast.named + "<<>>>")
    return f"{table}\n{forecast.model}{when}; intervals {forecast.intervals}"
