"""The main job from end to end on a synthetic trace."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from presurge.evaluation.backtest import Evaluation
from presurge.progress import Progress, silent
from presurge.series.forecast import Forecast
from presurge.sources.synthetic import SyntheticConfig, synthesize
from presurge.workflows.config import resolve_config, resolve_each
from presurge.workflows.dataset import load_dataset
from presurge.workflows.evaluate import backtest
from presurge.workflows.predict import predict
from presurge.workflows.prepare import prepare
from presurge.workflows.train import TrainResult, train

NETWORKS = {"mlp:stride": 10, "gru:stride": 10, "gru:calendar": True}
"""Settings of the networks that are compared if torch is installed; every tenth window keeps it within seconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DemoResult:
    """The results of the demo; ``comparison``, of networks on the same windows, is None if torch is not installed."""

    run: Path
    trained: TrainResult
    comparison: Evaluation | None
    forecast: Forecast


def run_demo(out: Path, *, rows: int, days: float, seed: int, progress: Progress = silent) -> DemoResult:
    """Generate a trace, prepare it, train and measure ``auto``, report, compare networks, forecast the next three minutes."""
    trace, data, run = out / "trace.csv", out / "data", out / "run"
    synthesize(SyntheticConfig(rows=rows, days=days, seed=seed), trace, progress=progress)
    prepare(trace, data, progress=progress)
    dataset = load_dataset(data)
    trained = train(dataset, resolve_config({"model": "auto"}), run, progress=progress)
    comparison = None
    if find_spec("torch") is not None:
        configs = resolve_each(["dlinear", "mlp", "gru"], {"epochs": 5}, NETWORKS)
        comparison = backtest(dataset, configs.values(), progress=progress)
    return DemoResult(run=run, trained=trained, comparison=comparison, forecast=predict(run, data))
