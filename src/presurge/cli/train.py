"""``presurge train``."""

from pathlib import Path
from typing import Annotated, Any

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
    table_options,
)
from presurge.cli.evaluate import Context, Horizon, print_evaluation, say_notes
from presurge.cli.options import Debug, Json, Quiet, Verbose


def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run directory.")] = Path(
        "training_output"
    ),
    model: Annotated[
        str | None, typer.Option("--model", help="Model to train; `auto` chooses by validation.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="minute-3 (120 to 3 rows, the default) or long-20 (100 to 20 rows)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE.json", help="Settings; a flag beats them.")
    ] = None,
    context: Context = None,
    horizon: Horizon = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the model, for example ridge=0.01."),
    ] = None,
    time: Time = None,
    value: Value = None,
    item: Item = None,
    step: Step = None,
    kind: Kind = None,
    fill: FillOption = "auto",
    test_fraction: TestFraction = None,
    validation_fraction: ValidationFraction = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train a forecaster, measure it beside the naive baselines, and write a run directory with a report.

    Example:  presurge train data --out run --model auto
    """
    from presurge.jobs.data import load_dataset
    from presurge.jobs.settings import resolve_settings
    from presurge.jobs.train import train as job

    flags = {"model": model, "preset": preset, "context": context, "horizon": horizon}
    resolved = resolve_settings(flags | {"model_settings": _pairs(settings)}, config)
    dataset = load_dataset(
        data,
        table_options(time, value, item, step, kind, fill),
        step=step,
        test_fraction=test_fraction,
        validation_fraction=validation_fraction,
    )
    say_notes(dataset.notes)
    split = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    with console.progress() as progress:
        result = job(dataset, resolved, out, progress=progress, split=split)
    console.say(f"Trained {resolved.model}{_chosen(result.fitted.report.chosen)}")
    print_evaluation(result.evaluation, as_json=json)
    console.say(f"Model:  {result.directory / 'models'}\nReport: {result.report}")


def _chosen(chosen: dict[str, Any]) -> str:
    """What validation chose, one line a channel where channels chose for themselves."""
    plain = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    lines = [f"\n  {key}: {_words(value)}" for key, value in chosen.items() if isinstance(value, dict)]
    return (f" ({_words(plain)})" if plain else "") + "".join(lines)


def _words(chosen: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items())


def _pairs(settings: list[str] | None) -> dict[str, object] | None:
    import json

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


def models(json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the models that can be trained and compared.

    Example:  presurge models
    """
    from presurge.models.registry import BASELINES, model_class, model_names

    rows = [
        {"name": name, "summary": model_class(name).summary, "baseline": name in BASELINES}
        for name in model_names()
    ]
    if json:
        console.result_json({"models": rows})
        return
    console.result(
        format_table(["model", "what it is"], [[r["name"], r["summary"]] for r in rows], text_columns=2)
    )
