"""The baselines that every accuracy table holds: zero, recent values and their mean, median and drift, earlier seasons.

They learn nothing or next to nothing. Each skips the missing values of its context: the last value is the last observed one,
and a mean counts observed rows only. The forecast of a channel without an observed value in its context is NaN.
"""

import time
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from presurge.config import Config
from presurge.errors import DataError
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.season import Season, detect_season
from presurge.progress import Progress
from presurge.series.frequency import DAY, WEEK, format_step
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays


class Baseline(Forecaster):
    """What models share that read the observed rows of a context as they are: nothing to store, counts never below zero."""

    refits = True
    tolerates_gaps = True
    shortens = True

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Note the specification of the series; there is nothing to learn."""
        self.spec = SeriesSpec.of(panel.only_targets())
        return FitReport(model=self.name)

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows."""
        floor_C = np.where(self.fitted_spec().count_mask, np.float32(0), np.float32(-np.inf))
        point_BXC = np.maximum(self._points(batch.targets()), floor_C).astype(np.float32)
        return Prediction(np.repeat(point_BXC, self.horizon // point_BXC.shape[1], axis=1))

    @abstractmethod
    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        """Point forecasts [B, H, C], or [B, 1, C] if they are the same for every row; not yet clipped at zero."""

    @property
    def n_parameters(self) -> int:
        """None."""
        return 0

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Nothing."""
        return {}, {}

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """Nothing to restore."""


class Zero(Baseline):
    """Every future row is zero: what a forecast is worth that gives up on the load."""

    name: ClassVar[str] = "zero"
    summary: ClassVar[str] = "forecasts no load at all"

    def _points(self, context_BLC: FloatArray) -> FloatArray:
        return np.zeros((len(context_BLC), 1, context_BLC.shape[2]), np.float32)


class LastValue(Baseline):
    """Every future row equals the last observed value."""

    name: ClassVar[str] = "last-value"
    summary: ClassVar[str] = "repeats the last observed value"

    def _points(self, context_BLC: FloatArray) -> FloatArray:
        return _last_observed(context_BLC)[0][:, None]


class RecentMeanConfig(Config):
    """Configuration of the recent mean and the recent median.

    Attributes:
        window: Rows to summarise; the whole context if that is shorter.
    """

    window: int = Field(10, ge=1)


class RecentMean(Baseline):
    """Every future row equals the mean of the observed values among the last ``window`` rows.

    If none of them was observed, it equals the last observed value of the context.
    """

    name: ClassVar[str] = "recent-mean"
    summary: ClassVar[str] = "repeats the mean of the last rows"
    config_class: ClassVar[type[Config]] = RecentMeanConfig
    search_space: ClassVar[dict[str, Any]] = {"window": {"low": 2, "high": 120, "log": True}}
    config: RecentMeanConfig

    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        recent = context_BLC[:, -self.config.window :]
        n_BC = (~np.isnan(recent)).sum(axis=1)
        total_BC = np.nansum(recent, axis=1, dtype=np.float64)
        mean_BC = np.where(n_BC > 0, total_BC / np.maximum(n_BC, 1), _last_observed(context_BLC)[0])
        return mean_BC[:, None]


class RecentMedian(RecentMean):
    """Every future row equals the median of the observed values among the last ``window`` rows.

    If none of them was observed, it equals the last observed value of the context.
    """

    name: ClassVar[str] = "recent-median"
    summary: ClassVar[str] = "repeats the median of the last rows"

    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        ordered_BWC = np.sort(context_BLC[:, -self.config.window :], axis=1)  # missing values come last
        n_B1C = (~np.isnan(ordered_BWC)).sum(axis=1, keepdims=True)
        middle = (np.maximum(n_B1C - 1, 0) // 2, np.minimum(n_B1C // 2, ordered_BWC.shape[1] - 1))
        low_B1C, high_B1C = (np.take_along_axis(ordered_BWC, row, axis=1) for row in middle)
        return np.where(n_B1C > 0, low_B1C / 2 + high_B1C / 2, _last_observed(context_BLC)[0][:, None])


class Drift(Baseline):
    """The line through the first and the last observed value of the context goes on.

    Source: Hyndman and Athanasopoulos, "Forecasting: Principles and Practice", 3rd edition, section 5.2.
    """

    name: ClassVar[str] = "drift"
    summary: ClassVar[str] = "extends the line through the ends of the context"

    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        last_BC, age_BC = _last_observed(context_BLC)
        first_BC, lead_BC = _last_observed(context_BLC[:, ::-1])
        between_BC = context_BLC.shape[1] - 1 - age_BC - lead_BC
        slope_BC = (last_BC - first_BC).astype(np.float64) / np.maximum(between_BC, 1)
        ahead_BHC = age_BC[:, None, :] + np.arange(1, self.horizon + 1)[None, :, None]
        point_BHC: npt.NDArray[np.float64] = last_BC[:, None, :] + slope_BC[:, None, :] * ahead_BHC
        return point_BHC


class SeasonalNaiveConfig(Config):
    """Configuration of the seasonal naive forecast.

    Attributes:
        period: Rows of a season; None detects it from the training rows.
    """

    period: int | None = Field(None, ge=1)


class SeasonalNaive(Baseline):
    """Every future row equals the one a season before it.

    The period is given, or detected for each channel on the training rows. The fit lengthens the context to hold the longest
    season. If it finds no season, the period is 1, which repeats the last value, and the fit report says so. The last
    observed value replaces a value that is missing a season ago.
    """

    name: ClassVar[str] = "seasonal-naive"
    summary: ClassVar[str] = "repeats the last season"
    config_class: ClassVar[type[Config]] = SeasonalNaiveConfig
    config: SeasonalNaiveConfig
    periods: tuple[int, ...] = ()

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Detect the seasons on the training rows, unless one was given."""
        started = time.process_time()
        panel = panel.only_targets()
        self.spec = SeriesSpec.of(panel)
        given = self.config.period
        seasons = {
            name: detect_season(panel, train, c) if given is None else Season(given)
            for c, name in enumerate(panel.channel_names)
        }
        self.periods = tuple(season.period for season in seasons.values())
        self.context = max(self.context, *self.periods)
        return FitReport(
            model=self.name,
            cpu_seconds=time.process_time() - started,
            chosen={"period": dict(zip(seasons, self.periods, strict=True))},
            candidates=tuple(
                {"channel": name, **row} for name, one in seasons.items() for row in one.candidates
            ),
            notes=_season_notes(seasons, panel.step) if given is None else (),
        )

    def _points(self, context_BLC: FloatArray) -> npt.NDArray[Any]:
        period_C, ahead_H1 = np.array(self.periods), np.arange(self.horizon)[:, None]
        rows_HC = context_BLC.shape[1] - period_C + ahead_H1 % period_C
        season_BHC = context_BLC[:, rows_HC, np.arange(len(period_C))]
        return np.where(np.isnan(season_BHC), _last_observed(context_BLC)[0][:, None, :], season_BHC)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """The periods."""
        return {"periods": list(self.periods)}, {}

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The periods."""
        self.periods = tuple(state["periods"])


class DayAgo(SeasonalNaive):
    """Every future row equals the one a day before it; the last observed value replaces a missing one."""

    name: ClassVar[str] = "day-ago"
    summary: ClassVar[str] = "repeats the value of a day ago"
    config_class: ClassVar[type[Config]] = Config
    lag: ClassVar[int] = DAY

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Count the rows of a lag.

        Raises:
            DataError: The lag is not a whole number of steps, or a single one.
        """
        report = Baseline.fit(self, panel, train)
        period = self.lag // panel.step
        if self.lag % panel.step or period < 2:
            lag, step = format_step(self.lag), format_step(panel.step)
            raise DataError(f"{self.name} needs a step that divides {lag}, and the rows are {step} apart")
        self.periods = (period,) * len(self.fitted_spec().targets)
        self.context = max(self.context, period)
        return report


class WeekAgo(DayAgo):
    """Every future row equals the one a week before it; the last observed value replaces a missing one."""

    name: ClassVar[str] = "week-ago"
    summary: ClassVar[str] = "repeats the value of a week ago"
    lag: ClassVar[int] = WEEK


def _last_observed(context_BLC: FloatArray) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """The last observed value of each channel, and how many rows before the end it stands; NaN and 0 if there is none."""
    if not np.isnan(context_BLC[:, -1]).any():
        return context_BLC[:, -1], np.zeros((len(context_BLC), context_BLC.shape[2]), np.int64)
    age_BC = (~np.isnan(context_BLC[:, ::-1])).argmax(axis=1)
    row_BC = context_BLC.shape[1] - 1 - age_BC
    return np.take_along_axis(context_BLC, row_BC[:, None, :], axis=1)[:, 0], age_BC


def _season_notes(seasons: dict[str, Season], step: int) -> tuple[str, ...]:
    """One sentence for the channels of each period."""
    notes = []
    for period in dict.fromkeys(season.period for season in seasons.values()):
        names = ", ".join(name for name, season in seasons.items() if season.period == period)
        found = f"A season of {period} rows ({format_step(period * step)}) was found in {names}."
        none = f"No season was found in {names}: seasonal-naive repeats the last value."
        notes.append(none if period == 1 else found)
    return tuple(notes)
