"""``presurge tune``."""

import shlex
import sys
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
)
from presurge.cli.evaluate import Context, Horizon, say_notes
from presurge.cli.options import Debug, Json, Plugin, Quiet, Verbose
from presurge.cli.train_options import (
    AllowFallback,
    BatchSize,
    Config,
    Device,
    Epochs,
    LearningRate,
    Model,
    Patience,
    Preset,
    Set,
    Threads,
    setting_pairs,
)

if TYPE_CHECKING:
    from presurge.workflows.tune import Trial, TuneResult

_SEARCH = "The search"
_SHOWN = 10

Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Its directory; the same one goes on with the search.")
]
Trials = Annotated[
    int,
    typer.Option("--trials", min=1, help="How many trials there shall be in all.", rich_help_panel=_SEARCH),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="10m", help="Begin no trial after so long.", rich_help_panel=_SEARCH),
]
SpaceFile = Annotated[
    Path | None,
    typer.Option(
        "--space",
        metavar="FILE.json",
        help="What to search, instead of what is declared for the model.",
        rich_help_panel=_SEARCH,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", help="Of the search and of every training. 0.", rich_help_panel=_SEARCH),
]


def tune(
    ctx: typer.Context,
    data: Data,
    out: Out,
    model: Model = None,
    trials: Trials = 30,
    timeout: Timeout = None,
    space: SpaceFile = None,
    seed: Seed = None,
    preset: Preset = None,
    config: Config = None,
    context: Context = None,
    horizon: Horizon = None,
    settings: Set = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    patience: Patience = None,
    device: Device = None,
    allow_fallback: AllowFallback = None,
    threads: Threads = None,
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
    """Search the settings of a model by their error on the validation rows; the test rows take no part.

    What an option, --set or --config fixes is not searched. The best settings go into DIR/best_config.json, which
    presurge train --config takes. The same command goes on with a search that was cut off.

    Example:  presurge tune data --out search --model dlinear --trials 30
    """
    _tune(ctx.params)


def _tune(given: dict[str, Any]) -> None:
    """Act on the parameters of ``tune``, by their names."""
    from presurge.workflows.settings import TrainConfig, resolve_settings
    from presurge.workflows.tune import config_keys, space_of
    from presurge.workflows.tune import tune as job

    flags = {name: given[name] for name in TrainConfig.model_fields if given.get(name) is not None}
    resolved = resolve_settings(flags | {"model_settings": setting_pairs(given["settings"])}, given["config"])
    space = space_of(resolved, given["space"], fixed={*flags, *config_keys(given["config"])})
    timeout = _seconds(given["timeout"])
    dataset = dataset_from(given)
    say_notes(dataset.notes)
    try:
        with console.progress() as progress:
            result = job(
                dataset,
                resolved,
                space,
                given["out"],
                trials=given["trials"],
                timeout=timeout,
                progress=progress,
            )
    except KeyboardInterrupt:
        console.warn(
            f"Interrupted; the trials so far are in {given['out']}. To go on:\n  "
            + shlex.join(["presurge", *sys.argv[1:]])
        )
        raise
    if given["json"]:
        console.result_json(result.to_dict())
        return
    _print(result)
    plugins = [word for file in given["plugin"] or () for word in ("--plugin", str(file))]
    command = ["presurge", "train", str(given["data"]), "--config", str(result.best_config), *plugins]
    console.say(f"Best settings: {result.best_config}\nTrain with them: {shlex.join(command)}")


def _seconds(timeout: str | None) -> float | None:
    from presurge.errors import ConfigError
    from presurge.series.frequency import SECOND, parse_step

    if timeout is None:
        return None
    try:
        return parse_step(timeout) / SECOND
    except ConfigError as error:
        raise ConfigError(
            f"{timeout!r} is no duration", where="--timeout", hint="For example: 90s, 10m or 2h."
        ) from error


def _print(result: "TuneResult") -> None:
    measured = [trial for trial in result.trials if trial.error is not None]
    console.result(_table(measured[:_SHOWN], result.baselines))
    counts = {state: sum(one.state == state for one in result.trials) for state in ("pruned", "impossible")}
    left = "".join(f", {count} {state}" for state, count in counts.items() if count)
    console.result(f"{len(measured)} trials measured{left}.")
    if result.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(result.importances.items())[:5])
        console.result(f"What tells good trials from the others: {shares}.")


def _table(trials: "list[Trial]", baselines: dict[str, float]) -> str:
    """One line a trial, the settings last because they are long; then the best baseline."""
    rows = [
        [
            str(trial.number),
            number(trial.error),
            f"{trial.cpu_seconds:.2f}",
            str(trial.epochs) if trial.epochs else "-",
        ]
        for trial in trials
    ]
    words = [" ".join(f"{name}={_word(value)}" for name, value in trial.drawn.items()) for trial in trials]
    if baselines:
        best = min(baselines, key=lambda name: baselines[name])
        rows.append(["-", number(baselines[best]), "-", "-"])
        words.append(f"baseline {best}")
    lines = format_table(["trial", "error", "CPU-s", "epochs"], rows, text_columns=0).splitlines()
    return "\n".join(
        f"{line}  {word}" for line, word in zip(lines, ["settings", "--------", *words], strict=True)
    )


def _word(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
