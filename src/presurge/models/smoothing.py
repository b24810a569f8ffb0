"""Exponential smoothing: a level that follows each value by a share of its error, alone or with a damped trend.

    made = level + damping x trend,    error = y(t) - made
    level = made + gain x error,       trend = damping x trend + gain x trend_gain x error

The forecast of step h is the level and ``damping + ... + damping^h`` times the trend. Before the first row of a context the
level is the mean of the context and there is no trend, so a gain of 0 forecasts that mean, and one of 1 the last value. All of
it is linear in the context: a grid of parameters is one matrix, which forecasts from all origins at once. Sources: Brown,
"Exponential Smoothing for Predicting Demand", 1956; Gardner and McKenzie, "Forecasting trends in time series", 1985.

Shapes: B windows, L context, H horizon, C channels, P alternative parameters.
"""

import time
from itertools import product, starmap
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from presurge.models.forecaster import FitReport, SeriesSpec
from presurge.models.linear.select import thinned, window_forecasts
from presurge.models.naive import Baseline
from presurge.progress import Progress
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, window_origins
from presurge.store import Arrays

_MOST_WINDOWS = 1_000
"""Windows that choose; more choose the same."""


class Smoothing(NamedTuple):
    """Parameters of exponential smoothing; without a trend those of simple exponential smoothing.

    Attributes:
        gain: Share of an error that the level follows, 0 to 1.
        trend_gain: Share of a change of the level that the trend follows, 0 to 1.
        damping: What is left of the trend after each row, 0 to 1.
    """

    gain: float
    trend_gain: float = 0.0
    damping: float = 0.0


_GAINS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SIMPLE = tuple(map(Smoothing, _GAINS))
"""The gains to choose from; the last of them repeats the last value."""
_TRENDS = tuple(
    starmap(Smoothing, product((0.1, 0.2, 0.3, 0.5, 0.7, 0.9), (0.05, 0.1, 0.3), (0.8, 0.9, 0.98)))
)


def smoothing_maps(grid: tuple[Smoothing, ...], context: int, horizon: int) -> Float64Array:
    """The weights of the context in the forecast of every step, for each of P parameters: float64 [P, H, L]."""
    gain_P1, trend_gain_P1, damping_P1 = np.array(grid, np.float64).T[:, :, None]
    level_PL = np.full((len(grid), context), 1 / context)
    trend_PL = np.zeros((len(grid), context))
    for row in range(context):
        level_PL = level_PL + damping_P1 * trend_PL
        error_PL = -gain_P1 * level_PL
        error_PL[:, row] += gain_P1[:, 0]
        level_PL += error_PL
        trend_PL = damping_P1 * trend_PL + trend_gain_P1 * error_PL
    reach_PH1 = np.cumsum(damping_P1 ** np.arange(1, horizon + 1), axis=1)[:, :, None]
    maps_PHL: Float64Array = level_PL[:, None] + reach_PH1 * trend_PL[:, None]
    return maps_PHL


class SimpleSmoothing(Baseline):
    """Every future row equals the level. The gain of each channel has the least squared error over the training windows.

    Missing rows of a context are skipped. The forecast of a channel without an observed value in its context is NaN.
    """

    name: ClassVar[str] = "ses"
    summary: ClassVar[str] = "simple exponential smoothing"
    grid: ClassVar[tuple[Smoothing, ...]] = SIMPLE
    chosen: tuple[Smoothing, ...] = ()

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Choose the parameters of each channel; those in the middle of the grid where no window can judge."""
        started = time.process_time()
        panel = panel.only_targets()
        self.spec = SeriesSpec.of(panel)
        origins = window_origins(panel, train, context=self.context, horizon=self.horizon)
        judging = thinned(origins, _MOST_WINDOWS)
        maps_NL = smoothing_maps(self.grid, self.context, self.horizon).reshape(-1, self.context)

        def forecast(batch: WindowBatch) -> Float64Array:
            context_BCL = _filled(batch.context_BLC).transpose(0, 2, 1)
            made_XN = context_BCL.reshape(-1, self.context) @ maps_NL.T  # one product, which is faster
            return made_XN.reshape(*context_BCL.shape[:2], -1).transpose(0, 2, 1)

        total_PC = np.zeros((len(self.grid), len(panel.channels)))
        size = self.context, self.horizon
        made = window_forecasts(forecast, panel, judging, *size, alternatives=len(self.grid))
        for _, actual_B1HC, made_BPHC in made:
            total_PC += np.nansum(np.square(made_BPHC - actual_B1HC).sum(axis=2), axis=0)
        total_PC[len(self.grid) // 2, ~total_PC.any(axis=0)] = -1
        self.chosen = tuple(self.grid[p] for p in total_PC.argmin(axis=0))
        return FitReport(
            model=self.name,
            n_windows=len(origins),
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen={name: one._asdict() for name, one in zip(panel.channel_names, self.chosen, strict=True)},
        )

    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        maps_CHL = smoothing_maps(self.chosen, self.context, self.horizon)
        point_BHC: Float64Array = np.einsum("chl,blc->bhc", maps_CHL, _filled(context_BLC), optimize=True)
        return point_BHC

    @property
    def n_parameters(self) -> int:
        """One gain a channel, and two more with a trend."""
        return sum(3 if one.damping else 1 for one in self.chosen)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """The parameters of each channel."""
        return {"parameters": [list(one) for one in self.chosen]}, {}

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The parameters of each channel."""
        self.chosen = tuple(Smoothing(*one) for one in state["parameters"])


class DampedTrend(SimpleSmoothing):
    """Future rows go on from the level by the trend, which dies away. Parameters are chosen as those of ``ses``."""

    name: ClassVar[str] = "damped-trend"
    summary: ClassVar[str] = "exponential smoothing with a damped trend"
    grid: ClassVar[tuple[Smoothing, ...]] = _TRENDS


def _filled(context_BLC: FloatArray) -> Float64Array:
    """Contexts whose missing rows come first and hold the mean of the others, from where the level starts anyway."""
    rows_BLC = context_BLC.astype(np.float64)
    if not np.isnan(rows_BLC).any():
        return rows_BLC
    seen_BLC = ~np.isnan(rows_BLC)
    order_BLC = np.argsort(seen_BLC, axis=1, kind="stable")
    rows_BLC = np.take_along_axis(rows_BLC, order_BLC, axis=1)
    n_B1C = seen_BLC.sum(axis=1, keepdims=True)
    total_B1C = np.nansum(rows_BLC, axis=1, keepdims=True)
    mean_B1C = np.where(n_B1C > 0, total_B1C / np.maximum(n_B1C, 1), np.nan)
    return np.where(np.isnan(rows_BLC), mean_B1C, rows_BLC)
