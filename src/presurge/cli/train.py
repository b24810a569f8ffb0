"""``presurge train``."""

import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from presurge.cli.console import console, format_table
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
from presurge.cli.evaluate import Context, Horizon, print_evaluation, say_notes
from presurge.cli.options import Debug, Json, Plugin, Quiet, Verbose
from presurge.cli.train_options import (
    Accumulate,
    AllowFallback,
    BatchSize,
    Channels,
    ClipNorm,
    Config,
    Device,
    Epochs,
    Individual,
    Kernel,
    LearningRate,
    Loggers,
    Loss,
    Model,
    Out,
    Patience,
    Plots,
    Precision,
    Preset,
    Resume,
    Schedule,
    Seed,
    Set,
    Solver,
    Threads,
    UseWandb,
    WandbEntity,
    WandbProject,
    WandbRunName,
    WeightDecay,
    setting_pairs,
)

_GRADIENT_ONLY = (
    "epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "clip_norm",
    "accumulate",
    "patience",
    "precision",
    "seed",
)
"""Options that a model solved in closed form does not read."""


def train(
    ctx: typer.Context,
    data: Data,
    out: Out = Path("training_output"),
    model: Model = None,
    preset: Preset = None,
    config: Config = None,
    context: Context = None,
    horizon: Horizon = None,
    settings: Set = None,
    solver: Solver = None,
    loss: Loss = None,
    individual: Individual = None,
    kernel_size: Kernel = None,
    channels: Channels = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    schedule: Schedule = None,
    weight_decay: WeightDecay = None,
    clip_norm: ClipNorm = None,
    accumulate: Accumulate = None,
    patience: Patience = None,
    seed: Seed = None,
    device: Device = None,
    allow_fallback: AllowFallback = None,
    precision: Precision = None,
    threads: Threads = None,
    resume: Resume = False,
    use_wandb: UseWandb = None,
    wandb_project: WandbProject = None,
    wandb_entity: WandbEntity = None,
    wandb_run_name: WandbRunName = None,
    loggers: Loggers = None,
    plots: Plots = True,
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
    """Train a forecaster, measure it beside the naive baselines, and write a run directory with a report.

    A flag beats the --config file, that beats the preset, and that the default.

    Example:  presurge train data --out run --model auto
    """
    _train(ctx.params)


def _train(given: dict[str, Any]) -> None:
    """Act on the parameters of ``train``, by their names."""
    from presurge.training.interruption import TrainingInterrupted
    from presurge.workflows.run_directory import CHECKPOINTS, resumable
    from presurge.workflows.settings import MODEL_KEYS, TrainConfig, check_model, resolve_settings
    from presurge.workflows.train import further_process, help_to_train
    from presurge.workflows.train import train as job

    flags = {name: given[name] for name in (*TrainConfig.model_fields, *MODEL_KEYS) if name in given}
    flags |= {"model_settings": setting_pairs(given["settings"]), "loggers": given["loggers"] or None}
    resolved = resolve_settings(flags, given["config"])
    check_model(resolved)
    dataset = dataset_from(given)
    if further_process():
        help_to_train(dataset, resolved)
        return
    say_notes(dataset.notes)
    out = given["out"]
    try:
        with console.progress() as progress:
            result = job(
                dataset,
                resolved,
                out,
                progress=progress,
                split={name: given[name] for name in ("test_fraction", "validation_fraction")},
                resume=given["resume"],
                plots=given["plots"],
            )
    except TrainingInterrupted:
        if resumable(out):
            console.warn(
                f"Interrupted; the last checkpoint is in {out / CHECKPOINTS}. To go on:\n  {_resume_command()}"
            )
        raise
    console.say(f"Trained {resolved.model}{_chosen(result.fitted.report.chosen)}")
    if not result.fitted.report.history and result.fitted.model.refits:
        idle = [f"--{name.replace('_', '-')}" for name in _GRADIENT_ONLY if given.get(name) is not None]
        if idle:
            console.warn(
                f"{', '.join(idle)} had no effect: {resolved.model} was solved, not trained by gradient."
            )
    print_evaluation(result.evaluation, as_json=given["json"])
    console.say(f"Model:  {out / 'models'}\nReport: {result.report}")


def _resume_command() -> str:
    words = ["presurge", *sys.argv[1:]]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])


def _chosen(chosen: dict[str, Any]) -> str:
    """What validation chose, one line a channel where channels chose for themselves."""
    plain = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    lines = [f"\n  {key}: {_words(value)}" for key, value in chosen.items() if isinstance(value, dict)]
    return (f" ({_words(plain)})" if plain else "") + "".join(lines)


def _words(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items())


def models(plugin: Plugin = None, json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the models that can be trained and compared.

    Example:  presurge models
    """
    from presurge.models.registry import BASELINES, model_names, summary

    summaries = {name: summary(name) for name in model_names()}
    if json:
        rows = [{"name": n, "summary": s, "baseline": n in BASELINES} for n, s in summaries.items()]
        console.result_json({"models": rows})
        return
    console.result(
        format_table(["model", "what it is"], [[*pair] for pair in summaries.items()], text_columns=2)
    )
