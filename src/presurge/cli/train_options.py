"""The options of ``presurge train``, as annotated types, and the pairs of ``--set``."""

import json
from pathlib import Path
from typing import Annotated

import typer

_MODEL = "The model"
_GRADIENT = "Learning by gradient"
_LOGGERS = "Metric loggers"

Epochs = Annotated[
    int | None,
    typer.Option("--epochs", help="Passes at most. 150, if the model has no own.", rich_help_panel=_GRADIENT),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Windows of a step. 128.", rich_help_panel=_GRADIENT)
]
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="Peak learning rate. 0.001.", rich_help_panel=_GRADIENT),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        metavar="NAME",
        help="constant, cosine, one-cycle, step or plateau.",
        rich_help_panel=_GRADIENT,
    ),
]
Patience = Annotated[
    int | None,
    typer.Option(
        "--patience",
        "--early-stopping-patience",
        help="Epochs without a better validation loss before it stops. 15.",
        rich_help_panel=_GRADIENT,
    ),
]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Of weights, order and dropout. 0.", rich_help_panel=_GRADIENT)
]
Device = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or mps.", rich_help_panel=_GRADIENT),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", metavar="NAME", help="fp32, bf16 or fp16 (mixed).", rich_help_panel=_GRADIENT
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Processor threads of torch. 1.", rich_help_panel=_GRADIENT)
]
Kernel = Annotated[
    int | None,
    typer.Option("--kernel-size", help="Rows of DLinear's moving average, odd. 25.", rich_help_panel=_MODEL),
]
Individual = Annotated[
    bool | None,
    typer.Option(
        "--individual/--shared", help="Own weights for each channel. Default.", rich_help_panel=_MODEL
    ),
]


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model to train; auto chooses by validation. dlinear.", rich_help_panel=_MODEL
    ),
]
Preset = Annotated[
    str | None,
    typer.Option("--preset", help="minute-3 (120 to 3 rows, the default) or long-20 (100 to 20 rows)."),
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE.json", help="Settings; a flag beats them.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the model, for example ridge=0.01.",
        rich_help_panel=_MODEL,
    ),
]
Solver = Annotated[
    str | None,
    typer.Option("--solver", metavar="NAME", help="auto, exact or sgd (DLinear).", rich_help_panel=_MODEL),
]
Loss = Annotated[
    str | None,
    typer.Option("--loss", metavar="NAME", help="mse, mae, huber or quantile.", rich_help_panel=_MODEL),
]
Channels = Annotated[
    int | None,
    typer.Option("--channels", help="How many channels the data must have.", rich_help_panel=_MODEL),
]
WeightDecay = Annotated[
    float | None,
    typer.Option("--weight-decay", help="Decay of the weights. 0.", rich_help_panel=_GRADIENT),
]
ClipNorm = Annotated[
    float | None, typer.Option("--clip-norm", help="Largest gradient norm.", rich_help_panel=_GRADIENT)
]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", help="Batches averaged into a step. 1.", rich_help_panel=_GRADIENT),
]
AllowFallback = Annotated[
    bool | None,
    typer.Option(
        "--allow-fallback", help="Take the cpu where --device is missing.", rich_help_panel=_GRADIENT
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the last checkpoint in --out.", rich_help_panel=_GRADIENT),
]
UseWandb = Annotated[
    bool | None,
    typer.Option("--use-wandb/--no-wandb", help="Log to Weights & Biases. No.", rich_help_panel=_LOGGERS),
]
WandbProject = Annotated[
    str | None, typer.Option("--wandb-project", help="Its project.", rich_help_panel=_LOGGERS)
]
WandbEntity = Annotated[
    str | None, typer.Option("--wandb-entity", help="Its team.", rich_help_panel=_LOGGERS)
]
WandbRunName = Annotated[
    str | None,
    typer.Option("--wandb-run-name", help="The name of the run there.", rich_help_panel=_LOGGERS),
]
Loggers = Annotated[
    list[str] | None,
    typer.Option(
        "--logger", metavar="NAME", help="tensorboard or mlflow; repeatable.", rich_help_panel=_LOGGERS
    ),
]
Plots = Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the pictures of the report.")]


def setting_pairs(settings: list[str] | None) -> dict[str, object] | None:
    """The pairs of ``--set``, their values read as JSON where they are JSON; None where there are none.

    Raises:
        ConfigError: One is no pair.
    """
    from presurge.errors import ConfigError

    if not settings:
        return None
    pairs: dict[str, object] = {}
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigError(
                f"{text!r} is no setting", where="--set", hint="Write for example: --set ridge=0.01"
            )
        try:
            pairs[key] = json.loads(value)
        except ValueError:
            pairs[key] = value
    return pairs
