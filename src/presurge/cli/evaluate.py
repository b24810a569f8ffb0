"""``presurge backtest`` and ``presurge evaluate``: measured error, always beside the naive baselines."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presurge.cli.console import console, format_table, number
from presurge.cli.dataset import (
    Data,
    FillOption,
    Item,
    Kind,
    Step,
    TestFraction,
    Time,
    ValidationFraction,
    Value,
    dataset_from,
    table_changes,
)
from presurge.cli.options import Debug, Json, Plugin, Quiet, Verbose
from presurge.cli.predict import ModelDirectory
from presurge.cli.train_options import AllowFallback, Device, Epochs, Seed, setting_pairs

if TYPE_CHECKING:
    from presurge.evaluation.backtest import Evaluation

Context = Annotated[
    int | None,
    typer.Option(
        "--context", "--sequence-length", metavar="L", help="Rows of history that a forecast reads."
    ),
]
Horizon = Annotated[
    int | None,
    typer.Option("--horizon", "--prediction-horizon", metavar="H", help="Rows that a forecast gives."),
]
Stride = Annotated[int, typer.Option("--stride", metavar="N", help="Rows between two scored origins.")]
SetOfModel = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="[MODEL:]KEY=VALUE",
        help="A setting of one model, or of every compared model that has it; repeatable.",
    ),
]


def backtest(
    ctx: typer.Context,
    data: Data,
    models: Annotated[
        str,
        typer.Option("--models", metavar="A,B,…", help="Models to compare; the baselines are always added."),
    ] = "dlinear",
    context: Context = None,
    horizon: Horizon = None,
    stride: Stride = 1,
    season: Annotated[
        str | None,
        typer.Option("--season", metavar="1d", help="Period of the seasonal baseline. Default: detected."),
    ] = None,
    settings: SetOfModel = None,
    epochs: Epochs = None,
    seed: Seed = None,
    device: Device = None,
    allow_fallback: AllowFallback = None,
    time: Time = None,
    value: Value = None,
    item: Item = None,
    step: Step = None,
    kind: Kind = None,
    fill: FillOption = None,
    test_fraction: TestFraction = None,
    validation_fraction: ValidationFraction = None,
    plugin: Plugin = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train several models on the first rows and score them on the last, by rolling origin.

    All models are scored on the same windows. The metrics of each channel are averaged over the horizon steps.

    Example:  presurge backtest load.csv --time timestamp --value requests --models auto,gru --set gru:stride=10
    """
    _backtest(ctx.params)


def _backtest(given: dict[str, Any]) -> None:
    """Act on the parameters of ``backtest``, by their names."""
    from presurge.workflows.backtest import backtest as job
    from presurge.workflows.backtest import with_season
    from presurge.workflows.settings import resolve_each, resolve_settings

    shape = resolve_settings({name: given[name] for name in ("context", "horizon")})
    names = [name.strip() for name in given["models"].split(",") if name.strip()]
    training = {name: given[name] for name in ("epochs", "seed", "device", "allow_fallback")}
    each = resolve_each(names, training, setting_pairs(given["settings"]) or {})
    dataset = dataset_from(given)
    say_notes(dataset.notes)
    own = {name: one.model_settings for name, one in each.items()}
    with console.progress() as progress:
        evaluation = job(
            dataset,
            names,
            context=shape.context,
            horizon=shape.horizon,
            stride=given["stride"],
            settings=with_season(own, given["season"], dataset.panel.step),
            trainings={name: one.training() for name, one in each.items()},
            progress=progress,
        )
    print_evaluation(evaluation, as_json=given["json"])


def evaluate(
    model_dir: ModelDirectory,
    data: Annotated[
        Path,
        typer.Option(
            "--data", metavar="DATA", help="A prepared directory, a trace, or a table like the training one."
        ),
    ],
    stride: Stride = 1,
    time: Time = None,
    value: Value = None,
    item: Item = None,
    step: Step = None,
    kind: Kind = None,
    fill: FillOption = None,
    test_fraction: TestFraction = None,
    validation_fraction: ValidationFraction = None,
    plugin: Plugin = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score a trained model on the test rows of some data, beside baselines fitted to the rows before them.

    Example:  presurge evaluate run --data data --json
    """
    from presurge.workflows.evaluate import evaluate as job

    with console.progress() as progress:
        evaluation, notes = job(
            model_dir,
            data,
            table=table_changes(time, value, item, step, kind, fill),
            stride=stride,
            test_fraction=test_fraction,
            validation_fraction=validation_fraction,
            progress=progress,
        )
    say_notes(notes)
    print_evaluation(evaluation, as_json=json)


def say_notes(notes: "tuple[str, ...]") -> None:
    """Print what was treated on the way in."""
    for note in notes:
        console.say(f"Note: {note}")


def print_evaluation(evaluation: "Evaluation", *, as_json: bool) -> None:
    """Print the accuracy table and its verdicts, or the JSON object."""
    if as_json:
        console.result_json(evaluation.to_dict())
        return
    console.result(accuracy_table(evaluation))
    if evaluation.n_skipped:
        whole = evaluation.n_windows + evaluation.n_skipped
        console.result(
            f"{evaluation.n_skipped:,} of {whole:,} windows were left out: a row of their context is missing."
        )
    for sentence in evaluation.verdicts():
        console.result(sentence)


def accuracy_table(evaluation: "Evaluation") -> str:
    """One line a channel and model, best WAPE first; at most 80 columns wide."""
    metrics = evaluation.metrics()
    channels = list(next(iter(metrics.values())))
    rows = []
    for channel in channels:
        by_error = sorted(metrics, key=lambda model: _or_last(metrics[model][channel]["wape"]))
        for model in by_error:
            score = metrics[model][channel]
            cells = [number(score[name]) for name in ("wape", "mae", "rmse", "mase", "coverage_80")]
            rows.append([channel if model == by_error[0] else "", model, *cells])
    return format_table(["channel", "model", "WAPE", "MAE", "RMSE", "MASE", "in 80 %"], rows, text_columns=2)


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value
