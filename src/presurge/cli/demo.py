"""``presurge demo``: the whole way on a synthetic trace, from requests to a forecast and a report."""

from pathlib import Path
from typing import Annotated

import typer

from presurge.cli.console import console
from presurge.cli.evaluate import print_evaluation
from presurge.cli.options import Debug, Json, Quiet, Verbose
from presurge.cli.predict import forecast_text


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where everything goes.")] = Path(
        "demo_output"
    ),
    days: Annotated[float, typer.Option("--days", help="Length of the synthetic trace.")] = 14.0,
    rows: Annotated[int, typer.Option("--rows", help="Requests in the synthetic trace.")] = 600_000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the synthetic trace.")] = 1,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run the main job on a synthetic trace: requests in, minute series, trained forecaster, report and forecast out.

    Example:  presurge demo --out demo_output
    """
    from presurge.workflows.demo import run_demo

    with console.progress() as progress:
        result = run_demo(out, rows=rows, days=days, seed=seed, progress=progress)
    if json:
        console.result_json(
            {
                **result.trained.evaluation.to_dict(),
                **result.forecast.to_dict(),
                "comparison": result.comparison.to_dict() if result.comparison is not None else None,
                "report": str(result.trained.report),
            }
        )
        return
    console.result("\nAccuracy over the test part (synthetic trace)\n")
    print_evaluation(result.trained.evaluation, as_json=False)
    if result.comparison is not None:
        console.result("\nThe same windows with networks, briefly trained\n")
        print_evaluation(result.comparison, as_json=False)
    console.result("\nForecast of the next three minutes\n")
    console.result(forecast_text(result.forecast))
    console.result(f"\nReport: {result.trained.report.resolve()}")
