"""Score a trained model on data, beside baselines fitted to the rows before the scored ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from presurge.errors import HistoryError
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.fit import Fitted
from presurge.models import registry
from presurge.models.forecaster import FitReport
from presurge.progress import Progress
from presurge.series.frequency import SECOND, format_step
from presurge.workflows.backtest import fit_baselines, score_fitted
from presurge.workflows.data import load_dataset
from presurge.workflows.predict import history_table


def evaluate(
    model_directory: Path,
    data: Path,
    *,
    table: Mapping[str, Any] | None = None,
    stride: int = 1,
    test_fraction: float | None = None,
    validation_fraction: float | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, tuple[str, ...]]:
    """Score a model on the test rows of DATA: (evaluation, notes on how the data were read).

    Raises:
        HistoryError: The data do not fit the model.
    """
    model, config = registry.load(model_directory)
    spec = model.fitted_spec()
    split = config["training"].get("split", {})
    dataset = load_dataset(
        data,
        history_table(data, model, config, table),
        step=f"{spec.step // SECOND}s",
        channels=[channel.name for channel in spec.channels],
        test_fraction=split.get("test_fraction") if test_fraction is None else test_fraction,
        validation_fraction=split.get("validation_fraction")
        if validation_fraction is None
        else validation_fraction,
    )
    if dataset.panel.step != spec.step:
        raise HistoryError(
            f"the data have a step of {format_step(dataset.panel.step)}, the model one of {format_step(spec.step)}",
            where=str(data),
            hint=f"Bring the data to {format_step(spec.step)} with `step`, or prepare it again.",
        )
    report = FitReport(model=model.name, n_windows=0, n_parameters=model.n_parameters, cpu_seconds=0.0)
    scored = [Fitted(model=model, report=report, cpu_seconds=0.0)]
    scored += [
        one
        for one in fit_baselines(dataset, context=model.context, horizon=model.horizon, progress=progress)
        if one.model.name != model.name
    ]
    return score_fitted(scored, dataset, stride=stride, progress=progress), dataset.notes
