"""``presurge demo``: the whole job on a synthetic trace, from requests to a forecast and a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from presurge.cli.command import Options
from presurge.cli.console import console
from presurge.cli.evaluate import print_evaluation
from presurge.cli.options import Common
from presurge.cli.predict import forecast_text


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Options.

    Attributes:
        out: Directory to write to.
        days: Length of the synthetic trace in days.
        rows: Requests in the synthetic trace.
        seed: Random seed of the synthetic trace.
    """

    out: Annotated[Path, "DIR"] = Path("demo_output")
    days: float = 14.0
    rows: int = 600_000
    seed: int = 1


def demo(options: DemoOptions, common: Common) -> None:
    """See how it works: train and forecast on a synthetic trace.

    Generates a request trace, prepares it, trains and scores a forecaster, writes a report and forecasts the next
    minutes.

    Example:  presurge demo --out demo_output
    """
    from presurge.workflows.demo import run_demo

    with console.progress() as progress:
        result = run_demo(
            options.out, rows=options.rows, days=options.days, seed=options.seed, progress=progress
        )
    if common.json:
        console.result_json(
            {
                **result.trained.evaluation.to_dict(),
                **result.forecast.to_dict(),
                "comparison": result.comparison.to_dict() if result.comparison is not None else None,
                "report": str(result.run / "report.html"),
            }
        )
        return
    console.result("\nAccuracy on the test rows of the synthetic trace\n")
    print_evaluation(result.trained.evaluation, as_json=False)
    if result.comparison is not None:
        console.result("\nThe same windows with briefly trained networks\n")
        print_evaluation(result.comparison, as_json=False)
    console.result("\nForecast of the next three minutes\n")
    console.result(forecast_text(result.forecast))
    console.result(f"\nReport: {(result.run / 'report.html').resolve()}")
