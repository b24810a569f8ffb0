"""A linear forecast on the scale that suits each channel, with the calendar where that helps; exact least squares.

Transform, calendar and ridge are chosen for every channel by rolling validation inside the training rows, unless they are
given. Shapes: B windows, L context, H horizon, C channels, K calendar terms.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from presurge.config import Config
from presurge.errors import DataError
from presurge.models.calendar import Calendar
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.linear.channel import ChannelModel, Scale
from presurge.models.linear.folds import Fold, rolling_folds
from presurge.models.linear.select import RIDGES, ChannelFit, Choice, channels_of, fit_channel
from presurge.progress import Progress
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays

_DEFAULT_RIDGE = 1_000.0


class LinearConfig(Config):
    """Settings of the linear model.

    Attributes:
        transform: Applied to every channel before anything else; ``auto`` chooses. A channel with negative training
            values is only ever taken as it is by ``auto``.
        calendar: Whether the time of day and of the week is an input; ``auto`` chooses. Only periods that the training
            rows hold twice are used.
        ridge: Penalty in rows; None chooses.
        folds: Folds of the training rows that choose.
        stride: Rows from one training window to the next.
    """

    transform: TransformName | Literal["auto"] = "auto"
    calendar: Literal["auto", "on", "off"] = "auto"
    ridge: float | None = Field(None, ge=0)
    folds: int = Field(3, ge=1, le=20)
    stride: int = Field(1, ge=1)


class Linear(Forecaster):
    """A linear forecast of every channel from its own past and the calendar, relative to its last value."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "exact linear map on the best scale, with calendar"
    config_class: ClassVar[type[Config]] = LinearConfig
    config: LinearConfig
    calendar: Calendar
    channels: list[ChannelModel]

    @property
    def refits(self) -> bool:
        """A fit costs little."""
        return True

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Choose on folds of the training rows (and on validation rows, if given), then solve for all training rows.

        Raises:
            DataError: A channel has no complete training window.
        """
        return self.fit_with_folds(panel, train, validation, progress=progress)[0]

    def fit_with_folds(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> tuple[FitReport, tuple[Fold, ...], list["Linear"]]:
        """The same, with the folds that every channel was judged by and the winner as it was fitted to each of them."""
        started = time.process_time()
        settings = self.config
        self.spec = SeriesSpec.of(panel)
        self.calendar = self._calendar(panel, train)
        folds = rolling_folds(train, validation, settings.folds)
        channels = channels_of(
            panel,
            train,
            folds,
            context=self.context,
            horizon=self.horizon,
            stride=settings.stride,
            calendar=self.calendar,
        )
        calendars = [setting for setting in (False, True) if self._may_use_calendar(setting)]
        ridges = RIDGES if settings.ridge is None else (settings.ridge,)
        fits: list[ChannelFit] = []
        for c, channel in enumerate(channels):
            if len(channel.learn[-1]) == 0:
                raise _no_window(panel, c, train, self.context, self.horizon)
            scales = _scales(panel, c, train, settings.transform)
            default = self._unjudged(scales, calendars[0])
            fits.append(fit_channel(channel, scales, calendars, ridges, default))
            if progress is not None:
                progress("Choosing by rolling validation", (c + 1) / len(channels))
        self.channels = [fit.model for fit in fits]
        usable = [f for f in range(len(folds)) if all(fit.at_fold[f] is not None for fit in fits)]
        report = self._report(fits, time.process_time() - started)
        return report, tuple(folds[f] for f in usable), [self._at_fold(fits, f) for f in usable]

    def _calendar(self, panel: Panel, train: Span) -> Calendar:
        rows = int((train.last - train.first).max()) if self.config.calendar != "off" else 0
        return Calendar.of(panel.step, rows)

    def _may_use_calendar(self, used: bool) -> bool:
        if self.calendar.size == 0:
            return not used
        return self.config.calendar in ("auto", "on" if used else "off")

    def _unjudged(self, scales: Sequence[Scale], calendar: bool) -> Choice:
        """What is taken where no row can judge: the square root where there is a choice, and a firm ridge."""
        ridge = self.config.ridge
        return Choice(
            transform=scales[min(1, len(scales) - 1)].transform,
            calendar=calendar,
            ridge=_DEFAULT_RIDGE if ridge is None else ridge,
        )

    def _at_fold(self, fits: Sequence[ChannelFit], f: int) -> "Linear":
        model = Linear(context=self.context, horizon=self.horizon, config=self.config)
        model.spec, model.calendar = self.spec, self.calendar
        model.channels = [found for fit in fits if (found := fit.at_fold[f]) is not None]
        return model

    def _report(self, fits: Sequence[ChannelFit], seconds: float) -> FitReport:
        names = self.fitted_spec().channels
        named = [(channel.name, fit) for channel, fit in zip(names, fits, strict=True)]
        notes = []
        if unjudged := [name for name, fit in named if not fit.candidates]:
            notes.append(
                f"Too few rows to judge by in {', '.join(unjudged)}: transform and ridge are defaults."
            )
        if self.config.calendar == "on" and self.calendar.size == 0:
            notes.append("The training rows hold no day twice, so no calendar was used.")
        return FitReport(
            model=self.name,
            n_windows=max(fit.n_windows for fit in fits),
            n_parameters=self.n_parameters,
            cpu_seconds=seconds,
            chosen={name: asdict(fit.choice) for name, fit in named},
            candidates=tuple(
                {"channel": name, **asdict(choice)} for name, fit in named for choice in fit.candidates
            ),
            notes=tuple(notes),
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; a channel with a missing value in its context is forecast as NaN."""
        terms_BK = self._terms(batch)
        mean_BHC = np.empty((len(batch.origin_B), self.horizon, len(self.channels)), np.float32)
        for c, channel in enumerate(self.channels):
            mean_BHC[:, :, c] = channel.predict(batch.context_BLC[:, :, c], terms_BK)
        return Prediction(mean_BHC)

    def _terms(self, batch: WindowBatch) -> Float64Array:
        if all(channel.calendar_NK is None for channel in self.channels):
            return np.zeros((len(batch.origin_B), 0))
        return self.calendar.terms(batch.origin_B)

    @property
    def n_parameters(self) -> int:
        """Weights of the context and the calendar, and biases."""
        return sum(
            channel.weight_NL.size
            + channel.bias_N.size
            + (0 if channel.calendar_NK is None else channel.calendar_NK.size)
            for channel in self.channels
        )

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Scales and harmonics as JSON, weights of each channel as arrays."""
        arrays: Arrays = {}
        for c, channel in enumerate(self.channels):
            arrays[f"{c}.weight"], arrays[f"{c}.bias"] = channel.weight_NL, channel.bias_N
            if channel.calendar_NK is not None:
                arrays[f"{c}.calendar"] = channel.calendar_NK
        scales = [asdict(channel.scale) for channel in self.channels]
        return {"scales": scales, "harmonics": self.calendar.to_list()}, arrays

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``."""
        spec = self.fitted_spec()
        self.calendar = Calendar.from_list(spec.step, state["harmonics"])
        self.channels = [
            ChannelModel(
                scale=Scale(**scale),
                weight_NL=arrays[f"{c}.weight"],
                bias_N=arrays[f"{c}.bias"],
                calendar_NK=arrays.get(f"{c}.calendar"),
                floor=0.0 if channel.kind == "count" else -np.inf,
            )
            for c, (scale, channel) in enumerate(zip(state["scales"], spec.channels, strict=True))
        ]


def _scales(panel: Panel, c: int, train: Span, transform: TransformName | Literal["auto"]) -> list[Scale]:
    """The scales to choose from; roots and logarithms only of channels that are never negative."""
    pieces = [panel.values[a:b, c] for a, b in zip(train.first, train.last, strict=True)]
    train_R = np.concatenate(pieces).astype(np.float64)
    train_R = train_R[~np.isnan(train_R)]
    if transform != "auto":
        return [Scale.fit(train_R, transform)]
    names: tuple[TransformName, ...] = ("identity", "sqrt", "log1p")
    positive = train_R.min() >= 0 and train_R.max() > 0
    return [Scale.fit(train_R, name) for name in (names if positive else names[:1])]


def _no_window(panel: Panel, c: int, train: Span, context: int, horizon: int) -> DataError:
    return DataError(
        f"the {len(train)} training rows hold no complete window of {context} + {horizon} rows",
        where=f"channel {panel.channels[c].name!r}",
        hint="Give more rows, a shorter `context` or `horizon`, repair gaps, or leave the channel out.",
    )
