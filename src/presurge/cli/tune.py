"""``presurge tune``."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from presurge.cli.command import Options
from presurge.cli.console import console, format_table
from presurge.cli.options import (
    CommonWithModels,
    ConfigFile,
    DataOptions,
    LearningRate,
    Windows,
    setting_pairs,
)

if TYPE_CHECKING:
    from presurge.workflows.tune import Trial, TuneResult

_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """The search.

    Attributes:
        out: Directory for the search; give the same one again to continue it.
        model: Model to tune (default: dlinear).
        trials: Total number of trials.
        timeout: Start no new trial after this time, such as 90s, 10m or 2h.
        space: JSON or YAML file with the settings to search (default: those that the model declares).
        set: A setting of the model to fix, such as solver=exact; repeatable.
    """

    out: Annotated[Path, "DIR"]
    model: str | None = None
    trials: Annotated[int, typer.Option("--trials", metavar="N", min=1)] = 30
    timeout: Annotated[str | None, "TIME"] = None
    space: Annotated[Path | None, "FILE.json"] = None
    set: Annotated[list[str], "KEY=VALUE"] = field(default_factory=list)


def tune(
    search: SearchOptions,
    file: ConfigFile,
    windows: Windows,
    learning: LearningRate,
    data: DataOptions,
    common: CommonWithModels,
) -> None:
    """Find the settings of a model with the lowest validation error.

    The test rows are not used. Settings that you fix with an option, --set or --config are not searched. The best
    settings are written to DIR/best_config.json, for presurge train --config. Run the same command again to continue
    an interrupted search.

    Example:  presurge tune data --out search --model dlinear --trials 30
    """
    from presurge.config import read_mapping
    from presurge.workflows.config import GUIDE_MODEL, resolve_config
    from presurge.workflows.tune_space import space_of

    flags = file.given() | windows.given() | learning.given()
    config_file = flags.pop("config", None)
    if search.model is not None:
        flags["model"] = search.model
    given = flags | {"model_settings": setting_pairs(search.set)}
    resolved = resolve_config(given, config_file, usual=GUIDE_MODEL)
    named = read_mapping(config_file) if config_file is not None else {}
    space = space_of(resolved, search.space, fixed={*flags, *named})
    from presurge.workflows.tune import tune as workflow  # needs Optuna, which space_of checks

    timeout = _seconds(search.timeout)
    dataset = data.load()
    try:
        with console.progress() as progress:
            result = workflow(
                dataset,
                resolved,
                space,
                search.out,
                trials=search.trials,
                timeout=timeout,
                progress=progress,
            )
    except KeyboardInterrupt:
        again = shlex.join(["presurge", *sys.argv[1:]])
        console.warn(f"Interrupted; the trials so far are in {search.out}. To go on:\n  {again}")
        raise
    if common.json:
        console.result_json(result.to_dict())
        return
    _print(result)
    plugins = [word for path in common.plugin for word in ("--plugin", str(path))]
    command = ["presurge", "train", str(data.data), "--config", str(result.best_config), *plugins]
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
            f"{timeout!r} is not a duration", setting="timeout", hint="For example: 90s, 10m or 2h."
        ) from error


def _print(result: "TuneResult") -> None:
    measured = [trial for trial in result.trials if trial.error is not None]
    console.result(_table(measured[:_SHOWN], result.baselines))
    counts = {state: sum(one.state == state for one in result.trials) for state in ("pruned", "impossible")}
    left = "".join(f", {count} {state}" for state, count in counts.items() if count)
    console.result(f"{len(measured)} trials measured{left}.")
    if result.importances:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in list(result.importances.items())[:5])
        console.result(f"What distinguishes good trials: {shares}.")


def _table(trials: "list[Trial]", baselines: dict[str, float]) -> str:
    """One line per trial, with the settings last because they are long; then the best baseline."""
    from presurge.evaluation.report.tables import number

    rows = []
    for trial in trials:
        settings = " ".join(f"{name}={_word(value)}" for name, value in trial.drawn.items())
        epochs = str(trial.epochs or "-")
        rows.append([str(trial.number), number(trial.error), f"{trial.cpu_seconds:.2f}", epochs, settings])
    if baselines:
        best = min(baselines, key=lambda name: baselines[name])
        rows.append(["-", number(baselines[best]), "-", "-", f"baseline {best}"])
    return format_table(["trial", "error", "CPU-s", "epochs", "settings"], rows, ">>>><")


def _word(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
