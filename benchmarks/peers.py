"""Forecasters of other packages on the same windows: LightGBM for long series, the load predictors of a planner for short traces.

A peer whose package is missing is left out and named; ``pip install -e '.[bench]'`` brings them all.

Shapes: R rows, H horizon, C channels, F features.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from presurge.evaluation.fit import Fitted, calibrate
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.series.dataset import Dataset
from presurge.series.frequency import DAY
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch

Array = npt.NDArray[np.float64]
WEEK = 7 * DAY
OBJECTIVES = {"lightgbm": "l1", "lightgbm-l2": "l2"}
"""Peer -> loss: absolute errors aim at the median, squared errors at the mean."""
_BOOSTING = {
    "learning_rate": 0.08, "min_child_samples": 20, "feature_fraction": 0.5, "bagging_fraction": 0.8,
    "bagging_freq": 1, "seed": 0, "deterministic": True, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
_ROUNDS, _PATIENCE = 600, 30
_RECENT = 24


def missing(*packages: str) -> list[str]:
    """Those of some packages that are not installed."""
    return [package for package in packages if find_spec(package) is None]


class Recorded(Forecaster):
    """Forecasts that were made before, looked up by the time of their origin; calibrated like every other model.

    Attributes:
        points_RHC: float32, the forecast from every row of the only item.
    """

    summary = "forecasts of another package"
    tolerates_gaps = True

    def __init__(self, name: str, panel: Panel, points_RHC: npt.NDArray[np.float32], *, context: int) -> None:
        super().__init__(context=context, horizon=points_RHC.shape[1])
        self.name = name
        self.points_RHC, self._start, self.spec = points_RHC, int(panel.start[0]), SeriesSpec.of(panel)

    def fit(self, *_: Any, **__: Any) -> FitReport:
        """Nothing is left to learn."""
        return FitReport(model=self.name)

    def predict(self, batch: WindowBatch) -> Prediction:
        """Look up the forecasts from the origins."""
        return Prediction(self.points_RHC[(batch.origin_B - self._start) // batch.step])

    @property
    def n_parameters(self) -> int:
        """Not known here."""
        return 0

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Not stored."""
        return {}, {}

    def restore(self, state: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Not stored."""


def lightgbm_peers(
    dataset: Dataset, *, context: int, horizon: int, scored: tuple[str, ...], keep: Callable[..., Any]
) -> Iterator[Fitted]:
    """LightGBM for the median and for the mean, tuned on the last fifth of the rows before the test rows.

    Its intervals, median and mean are calibrated on those rows and followed as those of Presurge's own models.

    Args:
        dataset: One item.
        context: Rows that calibration and scoring leave before the first origin.
        horizon: H, with a model of its own for each step.
        scored: The channels to learn; of the others, the last value stands.
        keep: Calls a function, or returns what it kept of an earlier call of the same name.
    """
    panel = dataset.panel
    for name, objective in OBJECTIVES.items():
        began = time.process_time()
        early_RHC = np.repeat(panel.values[:, None, panel.targets], horizon, axis=1)
        final_RHC = early_RHC.copy()
        for channel in scored:
            place = panel.channel_names.index(channel)
            job = DirectBoosting(panel, place, horizon, objective)
            found = keep(f"{name}-{channel}", lambda job=job: job.forecast(dataset))
            early_RHC[:, :, place], final_RHC[:, :, place] = found
        model = Recorded(name, panel, np.nan_to_num(early_RHC), context=context)
        calibration = calibrate(model, panel, dataset.validation)
        model = Recorded(name, panel, np.nan_to_num(final_RHC), context=context)
        model.calibration = calibration
        report = FitReport(model=name, chosen={})
        yield Fitted(model=model, report=report, cpu_seconds=time.process_time() - began)


@dataclass(frozen=True, slots=True)
class DirectBoosting:
    """Gradient-boosted trees for one channel, one model a step ahead, of the difference to the recent level."""

    panel: Panel
    place: int
    horizon: int
    objective: str

    def forecast(self, dataset: Dataset) -> npt.NDArray[np.float32]:
        """Forecasts from every row: of models that have not seen the validation rows, and of those refitted with them.

        Returns:
            float32 [2, R, H].
        """
        train, validation = dataset.train, dataset.validation
        chosen = self._tuned(train, validation)
        made = np.full((2, len(self.panel), self.horizon), np.nan, np.float32)
        for step in range(1, self.horizon + 1):
            early = self._boosted(step, chosen, train, validation)
            rounds = max(early.best_iteration, 10)
            final = self._boosted(step, chosen, dataset.fit_span, None, rounds)
            for part, model in enumerate((early, final)):
                made[part, :, step - 1] = self._of(model, step, chosen)
        return made

    def _tuned(self, train: Span, validation: Span) -> tuple[int, int, bool]:
        """Leaves, rows of the level and whether to take roots, by the loss of the middle step on the validation rows."""
        step = (self.horizon + 1) // 2
        counts = bool(self.panel.count_mask[self.place]) and self.objective == "l1"
        grid = list(product((15, 63), (1, 12), (False, True) if counts else (False,)))
        rows = self._origins(validation, step)
        actual = self.panel.values[rows + step, self.place]

        def loss(chosen: tuple[int, int, bool]) -> float:
            model = self._boosted(step, chosen, train, validation)
            error = np.abs(self._of(model, step, chosen)[rows] - actual)
            return float(np.nanmean(error if self.objective == "l1" else error**2))

        return min(grid, key=loss)

    def _boosted(
        self, step: int, chosen: tuple[int, int, bool], span: Span, judge: Span | None, rounds: int = _ROUNDS
    ) -> Any:
        import lightgbm

        features, level, values = self._rows(step, chosen)

        def of(rows: npt.NDArray[np.int64], reference: Any = None) -> Any:
            target = values[rows + step] - level[rows]
            seen = np.isfinite(target)
            return lightgbm.Dataset(features[rows[seen]], target[seen], reference=reference)

        learned = of(self._origins(span, step))
        parameters = {**_BOOSTING, "objective": self.objective, "num_leaves": chosen[0]}
        if judge is None:
            return lightgbm.train(parameters, learned, rounds)
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        judged = of(self._origins(judge, step), learned)
        return lightgbm.train(parameters, learned, rounds, valid_sets=[judged], callbacks=[stop])

    def _of(self, model: Any, step: int, chosen: tuple[int, int, bool]) -> Array:
        """The forecasts of a model from every row, in original units."""
        features, level, _ = self._rows(step, chosen)
        made = model.predict(features, num_threads=1) + level
        if self.panel.count_mask[self.place]:
            made = np.maximum(made, 0)
        return np.square(made) if chosen[2] else made

    def _origins(self, span: Span, step: int) -> npt.NDArray[np.int64]:
        return np.arange(max(int(span.first[0]) - step, 0), int(span.last[0]) - step)

    def _rows(self, step: int, chosen: tuple[int, int, bool]) -> tuple[Array, Array, Array]:
        """What each row knows [R, F], its level [R] and the values [R]; all differences are to the level."""
        panel = self.panel
        values_RC = panel.values.astype(np.float64)
        if chosen[2]:
            values_RC = np.sqrt(np.maximum(values_RC, 0))
        values = values_RC[:, self.place]
        level = _mean_of_last(values, chosen[1])
        columns = [_shifted(values, lag) - level for lag in range(_RECENT)]
        columns += [_mean_of_last(values, rows) - level for rows in (6, 24, 96)] + [level]
        for rows in (DAY // panel.step, WEEK // panel.step):
            if step < rows < len(panel):
                near = [_shifted(values, rows - step + by) for by in (-1, 0, 1) if rows - step + by >= 0]
                columns += [value - level for value in near]
                columns.append(_shifted(values, rows - step) - _shifted(level, rows))  # what it did then
                columns.append(_mean_of_last(values, rows) - level)
        columns += [
            _shifted(values_RC[:, c], lag)
            for c in range(values_RC.shape[1])
            if c != self.place
            for lag in (0, 1)
        ]
        target_us = panel.times() + step * panel.step
        columns += [target_us % DAY / DAY, target_us // DAY % 7]
        return np.stack(columns, axis=1).astype(np.float32), level, values


def _shifted(values: Array, lag: int) -> Array:
    """The value ``lag`` rows before; NaN before the first row."""
    found = np.full(len(values), np.nan)
    found[lag:] = values[: len(values) - lag]
    return found


def _mean_of_last(values: Array, rows: int) -> Array:
    """The mean of the observed ones of the last rows."""
    total, count = (
        np.cumsum(np.append(np.zeros(rows), x)) for x in (np.nan_to_num(values), np.isfinite(values))
    )
    seen = count[rows:] - count[:-rows]
    return np.divide(total[rows:] - total[:-rows], seen, out=np.full(len(values), np.nan), where=seen > 0)
