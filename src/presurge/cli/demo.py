"""``presurge demo``: the whole job on a synthetic trace, from requests to a forecast, a report and a service."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from presurge.cli.command import Options
from presurge.cli.console import console
from presurge.cli.evaluate import print_evaluation
from presurge.cli.options import Common
from presurge.cli.predict import forecast_text
from presurge.errors import ConfigError, install_command

_PATIENCE_SECONDS = 60
"""How long the service may take to start on a busy machine."""


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
    minutes; then serves the model, lets it observe the last rows, asks for the forecast and stops it.

    Example:  presurge demo --out demo_output
    """
    from presurge.workflows.demo import run_demo

    with console.progress() as progress:
        result = run_demo(
            options.out, rows=options.rows, days=options.days, seed=options.seed, progress=progress
        )
    served = served_forecast(result.run, options.out / "data") if find_spec("fastapi") else None
    if common.json:
        console.result_json(
            {
                **result.trained.evaluation.to_dict(),
                **result.forecast.to_dict(),
                "comparison": result.comparison.to_dict() if result.comparison is not None else None,
                "report": str(result.run / "report.html"),
                "served": served,
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
    if served is None:
        console.say(f"The service needs more packages: {install_command('serve')}")
        return
    first = served["forecast"][0]
    console.result(
        f"Service: observed {served['observed']} rows; next, {first['channel']} at {first['timestamp']}: mean {first['mean']:.2f}"
        f"\nTo serve it yourself: presurge serve {result.run}"
    )


def served_forecast(run: Path, data: Path) -> dict[str, Any]:
    """Serve a model in a process of its own, let it observe the last rows of prepared data, and ask for the forecast.

    Raises:
        ConfigError: The service does not start.
    """
    from presurge.models import registry
    from presurge.workflows.dataset import load_dataset

    model, _ = registry.load(run)
    panel = load_dataset(data).panel.select([channel.name for channel in model.fitted_spec().channels])
    last = range(max(0, len(panel) - 2 * model.context), len(panel))
    rows = [
        {
            "time": time_us / 1e6,
            "values": dict(zip(panel.channel_names, panel.values[row].tolist(), strict=True)),
        }
        for row, time_us in zip(last, panel.times()[last.start :].tolist(), strict=True)
    ]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "presurge", "serve", f"demo={run}", "--port", str(port), "--quiet"]
    service = subprocess.Popen(command)
    try:
        _wait(service, f"http://127.0.0.1:{port}/readyz")
        _ask(f"http://127.0.0.1:{port}/v1/observe", {"rows": rows})
        return {"observed": len(rows), **_ask(f"http://127.0.0.1:{port}/v1/forecast/")}
    finally:
        service.terminate()
        service.wait()


def _wait(service: "subprocess.Popen[bytes]", address: str) -> None:
    until = time.monotonic() + _PATIENCE_SECONDS
    while service.poll() is None and time.monotonic() < until:
        try:
            _ask(address)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise ConfigError("the service did not start", hint="Start it by hand to see why: presurge serve DIR")


def _ask(address: str, body: Any = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address, data), timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
