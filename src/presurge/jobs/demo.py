"""The main job from end to end on a synthetic trace."""

from dataclasses import dataclass
from pathlib import Path

from presurge.jobs.data import load_dataset
from presurge.jobs.predict import predict
from presurge.jobs.prepare import prepare
from presurge.jobs.settings import resolve_settings
from presurge.jobs.train import TrainResult, train
from presurge.progress import Progress, silent
from presurge.series.forecast import Forecast
from presurge.sources.synthetic import SyntheticSpec, synthesize


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DemoResult:
    """What the demonstration gave."""

    trained: TrainResult
    forecast: Forecast


def run_demo(out: Path, *, rows: int, days: float, seed: int, progress: Progress = silent) -> DemoResult:
    """Synthesize, prepare, train and measure ``auto``, report, and forecast the next three minutes."""
    trace, data, run = out / "trace.csv", out / "data", out / "run"
    spec = SyntheticSpec(rows=rows, days=days, seed=seed)
    synthesize(spec, trace, progress=progress)
    prepare(trace, data, progress=progress)
    trained = train(load_dataset(data), resolve_settings({"model": "auto"}), run, progress=progress)
    return DemoResult(trained=trained, forecast=predict(run, data))
