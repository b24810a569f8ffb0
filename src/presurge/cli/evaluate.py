"""``presurge backtest`` and ``presurge evaluate``: measured error, always beside the naive baselines."""

import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from presurge.cli.command import Options
from presurge.cli.console import console, flag
from presurge.cli.options import (
    CommonWithModels,
    DataOptions,
    Learning,
    ModelDirectory,
    Split,
    TableOptions,
    Windows,
    listed,
    moment,
    say_notes,
    setting_pairs,
)

if TYPE_CHECKING:
    from presurge.evaluation.backtest import Evaluation


@dataclass(frozen=True, kw_only=True)
class Baselines(Options):
    """The baselines.

    Attributes:
        season: Period of the seasonal baseline, such as 1d (default: detected automatically).
    """

    season: Annotated[str | None, "STEP"] = None


@dataclass(frozen=True, kw_only=True)
class Stride(Options):
    """Options.

    Attributes:
        stride: Rows between two scored forecasts.
    """

    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class BacktestOptions(Stride):
    """Options.

    Attributes:
        models: Models to compare; the baselines are always added.
        set: A setting of one model, or of every compared model that has it; repeatable.
        cutoffs: Forecast from N evenly spaced rows of the test rows instead of every --stride rows.
        refit: Fit the models anew after every K forecasts, to all rows up to there (default: fit them once).
        out: Also write every forecast (forecasts.parquet), the scores (metrics.json) and a report (report.html) into this directory.
    """

    models: Annotated[str, "A,B,..."] = "auto"
    set: Annotated[list[str], "[MODEL:]KEY=VALUE"] = field(default_factory=list)
    cutoffs: int | None = None
    refit: Annotated[int | None, "K"] = None
    out: Annotated[Path | None, "DIR"] = None


def backtest(
    options: BacktestOptions,
    baselines: Baselines,
    windows: Windows,
    learning: Learning,
    data: DataOptions,
    common: CommonWithModels,
) -> None:
    """Train several models on early rows and score them on the last.

    All models are scored on the same windows, with a rolling origin. Metrics are averaged over the horizon for each
    channel.

    Examples:
      presurge backtest data --models auto,linear
      presurge backtest load.csv --time t --value requests --models gru,mlp
      presurge backtest data --models auto,gru --set gru:stride=10
      presurge backtest data --cutoffs 20 --refit 5 --out scores
    """
    from presurge.workflows.config import resolve_each
    from presurge.workflows.evaluate import backtest as run
    from presurge.workflows.evaluate import backtest_into

    names = listed([options.models], "models")
    given = windows.given() | learning.given() | baselines.given()
    configs = list(resolve_each(names, given, setting_pairs(options.set) or {}).values())
    dataset = data.load()
    origins: dict[str, Any] = {"stride": options.stride, "cutoffs": options.cutoffs, "refit": options.refit}
    with console.progress() as progress:
        if options.out is None:
            evaluation = run(dataset, configs, **origins, progress=progress)
        else:
            train = _train_command(names[0], data, baselines, windows, learning)
            into = partial(backtest_into, options.out, next_command=train)
            evaluation = into(dataset, configs, **origins, progress=progress)
    print_evaluation(evaluation, as_json=common.json)
    if options.out is not None:
        console.say(f"Forecasts: {options.out / 'forecasts.parquet'}\nReport: {options.out / 'report.html'}")


def _train_command(model: str, data: DataOptions, *groups: Options) -> str:
    """The command that trains a model of the backtest on the same data."""
    words = ["presurge", "train", str(data.data), "--model", model]
    for name, value in [pair for group in (data, *groups) for pair in group.given().items()]:
        if name != "data" and value is not False:
            texts = [] if value is True else [",".join(value) if isinstance(value, list) else str(value)]
            words += [flag(name), *texts]
    return shlex.join([*words, "--out", "RUN"])


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Stride):
    """Options.

    Attributes:
        data: A prepared directory, a trace, or a table like the one that the model was trained on.
    """

    data: Annotated[Path, "DATA"]


def evaluate(
    model: ModelDirectory,
    options: EvaluateOptions,
    table: TableOptions,
    split: Split,
    common: CommonWithModels,
) -> None:
    """Score a trained model on the test rows of a data set.

    The naive baselines are fitted to the rows before them and scored on the same windows.

    Example:  presurge evaluate run --data data
    """
    from presurge.workflows.evaluate import evaluate as run

    with console.progress() as progress:
        evaluation, notes = run(
            model.model_dir,
            options.data,
            table=table.changes(),
            stride=options.stride,
            **split.fractions(),
            now=moment(table.now),
            progress=progress,
        )
    say_notes(notes)
    print_evaluation(evaluation, as_json=common.json)


def print_evaluation(evaluation: "Evaluation", *, as_json: bool) -> None:
    """Print the accuracy table and its verdicts, or the JSON object."""
    from presurge.evaluation.report.tables import text_evaluation

    if as_json:
        console.result_json(evaluation.to_dict())
    else:
        console.result(text_evaluation(evaluation, console.width))
