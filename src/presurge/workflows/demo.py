"""The main job from end to end on a synthetic trace."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from presurge.evaluation.backtest import Evaluation
from presurge.models.registry import model_class
from presurge.progress import Progress, silent
from presurge.series.dataset import Dataset
from presurge.series.forecast import Forecast
from presurge.sources.synthetic import SyntheticConfig, synthesize
from presurge.training.config import TrainingConfig
from presurge.workflows.backtest import backtest
from presurge.workflows.config import DEFAULT_PRESET, PRESETS, resolve_config
from presurge.workflows.data import load_dataset
from presurge.workflows.predict import predict
from presurge.workflows.prepare import prepare
from presurge.workflows.train import TrainResult, train

NETWORKS: dict[str, dict[str, Any]] = {
    "dlinear": {},
    "mlp": {"stride": 10},
    "gru": {"stride": 10, "calendar": True},
}
"""What is compared where torch is installed, and its settings; every tenth window keeps it within seconds."""
_EPOCHS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DemoResult:
    """What the demonstration gave; ``comparison`` is None where torch is not installed."""

    trained: TrainResult
    comparison: Evaluation | None
    forecast: Forecast


def run_demo(out: Path, *, rows: int, days: float, seed: int, progress: Progress = silent) -> DemoResult:
    """Synthesize, prepare, train and measure ``auto``, report, compare networks, forecast the next three minutes."""
    trace, data, run = out / "trace.csv", out / "data", out / "run"
    synthesize(SyntheticConfig(rows=rows, days=days, seed=seed), trace, progress=progress)
    prepare(trace, data, progress=progress)
    dataset = load_dataset(data)
    trained = train(dataset, resolve_config({"model": "auto"}), run, progress=progress)
    comparison = _compare(dataset, progress) if find_spec("torch") is not None else None
    return DemoResult(trained=trained, comparison=comparison, forecast=predict(run, data))


def _compare(dataset: Dataset, progress: Progress) -> Evaluation:
    """The exact linear map, a small perceptron and a recurrent network on the same windows, briefly trained."""
    trainings = {
        name: TrainingConfig(**{**model_class(name).training_defaults, "epochs": _EPOCHS})
        for name in NETWORKS
    }
    shape = PRESETS[DEFAULT_PRESET]
    return backtest(
        dataset, list(NETWORKS), **shape, settings=NETWORKS, trainings=trainings, progress=progress
    )
