"""``presurge train`` and ``presurge models``."""

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from presurge.cli.command import Options
from presurge.cli.console import console, flag, format_table
from presurge.cli.evaluate import Baselines, print_evaluation
from presurge.cli.options import (
    CommonWithModels,
    ConfigFile,
    DataOptions,
    LearningRate,
    Windows,
    say_notes,
    setting_pairs,
)

if TYPE_CHECKING:
    from presurge.models.forecaster import FitReport
    from presurge.workflows.config import TrainConfig

_FOR_EVERY_MODEL = ("device", "allow_fallback", "threads", "weight_decay")
"""Options of learning by gradient that also concern a model that is solved in closed form."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The run.

    Attributes:
        out: The run directory.
        resume: Continue from the last checkpoint in --out.
        plots: Draw the plots of the report (default: --plots).
    """

    out: Annotated[Path, "DIR"] = Path("training_output")
    resume: bool = False
    plots: Annotated[bool, "--plots/--no-plots"] = True


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """The model.

    Attributes:
        model: Model to train; `presurge models` lists all (default: auto, which chooses by validation; dlinear with --preset and --solver).
        set: A setting of the model, such as folds=5; repeatable.
        final_fit: After scoring, fit the model again to all rows, test rows included (default: for auto).
        solver: How DLinear is fitted: exact, or sgd for steps along the gradient, with Adam unless --optimizer names another (default: auto).
        loss: Loss to minimise (default: mse).
        individual: Give each channel its own weights (default), or share them.
        kernel_size: Rows in DLinear's moving average, an odd number (default: 25).
        channels: Refuse data with a different number of channels.
    """

    model: str | None = None
    set: Annotated[list[str], "KEY=VALUE"] = field(default_factory=list)
    final_fit: Annotated[bool | None, "--final-fit/--no-final-fit"] = None
    solver: Annotated[str | None, "auto|exact|sgd"] = None
    loss: Annotated[str | None, "mse|mae|huber|quantile"] = None
    individual: Annotated[bool | None, "--individual/--shared"] = None
    kernel_size: int | None = None
    channels: int | None = None


@dataclass(frozen=True, kw_only=True)
class AllLearning(LearningRate):
    """Learning by gradient.

    Attributes:
        optimizer: What turns gradients into steps (default: adam).
        schedule: How the learning rate changes (default: constant unless the model sets its own).
        weight_decay: Strength of the weight decay (default: 0 unless the model sets its own).
        clip_norm: Maximum norm of the gradient (default: unlimited unless the model sets its own).
        accumulate: Batches averaged into one optimizer step (default: 1).
        precision: Number format: tf32 is coarser and faster on a GPU, bf16 and fp16 are mixed precision (default: fp32).
    """

    optimizer: Literal["adam", "adamw", "sgd"] | None = None
    schedule: Literal["constant", "cosine", "one-cycle", "step", "plateau"] | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    accumulate: int | None = None
    precision: Literal["fp32", "tf32", "bf16", "fp16"] | None = None


@dataclass(frozen=True, kw_only=True)
class LoggerOptions(Options):
    """Metric loggers.

    Attributes:
        use_wandb: Log to Weights & Biases (default: --no-wandb).
        wandb_project: Weights & Biases project.
        wandb_entity: Weights & Biases team.
        wandb_run_name: Name of the run in Weights & Biases.
        loggers: Also log to TensorBoard or MLflow; repeatable.
    """

    use_wandb: Annotated[bool | None, "--use-wandb/--no-wandb"] = None
    wandb_project: str | None = None
    wandb_entity: str | None = None
    wandb_run_name: str | None = None
    loggers: Annotated[list[str], "--logger", "tensorboard|mlflow"] = field(default_factory=list)


def train(
    run: RunOptions,
    file: ConfigFile,
    windows: Windows,
    model: ModelOptions,
    learning: AllLearning,
    baselines: Baselines,
    loggers: LoggerOptions,
    data: DataOptions,
    common: CommonWithModels,
) -> None:
    """Train a forecaster and score it beside the naive baselines.

    Writes a run directory with the model, plots and a report. Options override the --config file, which overrides
    the preset, which overrides the defaults.

    Examples:
      presurge train data --out run
      presurge train data --out run --preset minute-3
      presurge train load.csv --time t --value requests --model gru --epochs 20
      presurge train data --config config.yaml --set hidden_size=32
    """
    from presurge.training.interruption import TrainingInterrupted
    from presurge.workflows.evaluate import fit
    from presurge.workflows.train import train as workflow

    helper = os.environ.get("RANK", "0") != "0"  # torchrun started this process to help the first one
    if helper:
        console.level = "quiet"
    resolved = _resolved(file, windows, model, learning, baselines, loggers)
    if helper:
        fit(data.load(), resolved)
        return
    console.say(f"Configuration: {resolved}")  # the log has all of it
    dataset = data.load()
    try:
        with console.progress() as progress:
            result = workflow(
                dataset,
                resolved,
                run.out,
                progress=progress,
                split=data.fractions(),
                resume=run.resume,
                plots=run.plots,
                next_command=f"presurge predict {shlex.quote(str(run.out))} --history HISTORY",
            )
    except TrainingInterrupted:
        _say_interrupted(run.out)
        raise
    fitted = result.fitted
    console.say(f"Trained {resolved.model}{_chosen(fitted.report, resolved.patience)}")
    say_notes(fitted.report.notes)
    if fitted.model.refits and not fitted.report.history:
        _warn_without_effect(learning, resolved.model)
    print_evaluation(result.evaluation, as_json=common.json)
    console.say(f"Model:  {run.out / 'models'}\nReport: {run.out / 'report.html'}")


def _resolved(file: ConfigFile, *groups: Options) -> "TrainConfig":
    """The configuration that the options and their file make."""
    from presurge.workflows.config import check_model, resolve_config

    given = {key: value for group in (file, *groups) for key, value in group.given().items()}
    given |= {"model_settings": setting_pairs(given.pop("set", [])), "config": None}
    resolved = resolve_config(given, file.config)
    check_model(resolved)
    if resolved.model_settings.get("solver") == "sgd" and "optimizer" not in given:
        console.say(
            f"Note: the solver sgd trains by gradient with the optimizer {resolved.optimizer}; --optimizer chooses another."
        )
    return resolved


def _say_interrupted(out: Path) -> None:
    """Say what an interrupted training left, and how to go on."""
    from presurge.workflows.train import resumable

    if resumable(out):
        models = out / "models"
        kept = f"the best model so far is in {models}, without scores" if models.is_dir() else "no model yet"
        console.warn(f"Interrupted; {kept}. To go on from the last checkpoint:{_resuming()}")


def _warn_without_effect(learning: AllLearning, model: str) -> None:
    """Name the options of learning by gradient that were given to a model that was solved."""
    idle = ", ".join(flag(name) for name in learning.given() if name not in _FOR_EVERY_MODEL)
    if idle:
        console.warn(f"{idle} had no effect: {model} was solved, not trained by gradient.")


def _resuming() -> str:
    """The command that resumes this run."""
    words = ["presurge", *sys.argv[1:]]
    return "\n  " + shlex.join(words if "--resume" in words else [*words, "--resume"])


def _chosen(report: "FitReport", patience: int | None) -> str:
    """What validation chose, one line for each channel if channels chose for themselves, and when training stopped."""
    from presurge.evaluation.report.summary import in_words

    chosen, epochs = dict(report.chosen), len(report.history)
    lines = [f"\n  {key}: {in_words(value)}" for key, value in chosen.items() if isinstance(value, dict)]
    plain = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    epoch = plain.pop("epoch", None) if epochs else None
    words = [in_words(plain)] if plain else []
    if epoch is not None:
        words.append(f"weights of epoch {epoch} of {epochs}")
        if patience is not None and epochs - epoch >= patience:
            words.append(f"stopped early: no better validation loss in {patience} epochs")
    return (f" ({', '.join(words)})" if words else "") + "".join(lines)


def models(common: CommonWithModels) -> None:
    """List the models that can be trained and compared.

    Example:  presurge models
    """
    from presurge.models.registry import BASELINES, model_names, summary

    summaries = {name: summary(name) for name in model_names()}
    if common.json:
        rows = [{"name": n, "summary": s, "baseline": n in BASELINES} for n, s in summaries.items()]
        console.result_json({"models": rows})
        return
    console.result(format_table(["model", "what it is"], list(summaries.items()), "<<"))
