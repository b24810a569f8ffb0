"""A linear forecast on the scale that suits each channel, with the calendar where that helps, by exact least squares.

Transform, terms and ridge are chosen for every channel by rolling validation inside the training rows, unless they are
given. Shapes: B windows, L context, H horizon, C channels.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from presurge.config import Config
from presurge.models.calendar import Calendar
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.linear.channel import (
    TERMS,
    ChannelFit,
    ChannelModel,
    ChannelProblem,
    Choice,
    Covariates,
    Scale,
    covariate_inputs,
)
from presurge.models.linear.select import Fold, complete_starts, no_window, rolling_folds, thinned
from presurge.models.linear.solve import DEFAULT_RIDGE, RIDGES
from presurge.progress import Progress
from presurge.series.panel import Panel
from presurge.series.scalers import TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays

Use = Literal["auto", "on", "off"]


class LinearConfig(Config):
    """Configuration of the linear model.

    Attributes:
        transform: Applied to every channel before anything else; ``auto`` chooses, and never transforms a channel with
            negative training values.
        calendar: Whether the time of day and of the week is an input; ``auto`` chooses. Only periods that the training
            rows hold twice are used.
        covariates: Whether known and observed channels are inputs; ``auto`` chooses.
        ridge: Penalty in rows; None chooses.
        folds: Folds of the training rows that choose.
        stride: Rows from one training window to the next.
    """

    transform: TransformName | Literal["auto"] = "auto"
    calendar: Use = "auto"
    covariates: Use = "auto"
    ridge: float | None = Field(None, ge=0)
    folds: int = Field(3, ge=1, le=20)
    stride: int = Field(1, ge=1)


class Linear(Forecaster):
    """A linear forecast of every channel from its own past and the calendar, relative to its last value."""

    name: ClassVar[str] = "linear"
    summary: ClassVar[str] = "exact linear map on the best scale, with calendar"
    config_class: ClassVar[type[Config]] = LinearConfig
    search_space: ClassVar[dict[str, Any]] = {
        "transform": ["auto", "identity", "sqrt", "log1p"],
        "calendar": ["auto", "on", "off"],
        "ridge": [None, 10.0, 100.0, 1_000.0, 10_000.0],
    }
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
        """The same, with the folds that judged every channel and the winner as it was fitted to each of them."""
        started = time.process_time()
        panel = panel.only_targets() if self.config.covariates == "off" else panel.select_features(())
        self.spec = SeriesSpec.of(panel.only_targets())
        rows = int((train.last - train.first).max()) if self.config.calendar != "off" else 0
        self.calendar = Calendar.of(panel.step, rows)
        folds = rolling_folds(train, validation, self.config.folds)
        problems = self._problems(panel, train, folds)
        fits: list[ChannelFit] = []
        for c, problem in enumerate(problems):
            fits.append(self._choose(problem, self.spec.targets[c].name, train))
            if progress is not None:
                progress("Choosing by rolling validation", (c + 1) / len(problems))
        self.channels = [fit.model for fit in fits]
        if any("covariates" in channel.terms for channel in self.channels):
            self.spec = SeriesSpec.of(panel)
        usable = [f for f in range(len(folds)) if all(fit.at_fold[f] is not None for fit in fits)]
        report = self._report(fits, time.process_time() - started)
        return report, tuple(folds[f] for f in usable), [self._at_fold(fits, f) for f in usable]

    def _problems(self, panel: Panel, train: Span, folds: Sequence[Fold]) -> list[ChannelProblem]:
        shape = {"context": self.context, "horizon": self.horizon}
        learn_FC = [
            complete_starts(panel, span, **shape, stride=self.config.stride)
            for span in (*(fold.learn for fold in folds), train)
        ]
        judge_FC = [complete_starts(panel, fold.judge, **shape) for fold in folds]
        time_R, covariates = panel.times(), Covariates.of(panel, train)
        return [
            ChannelProblem(
                y_R=np.ascontiguousarray(panel.values[:, column]),
                time_R=time_R,
                covariates=covariates,
                learn=tuple(starts_C[c] for starts_C in learn_FC),
                judge=tuple(thinned(starts_C[c]) for starts_C in judge_FC),
                calendar=self.calendar,
                **shape,
                floor=0.0 if panel.channels[column].kind == "count" else -np.inf,
            )
            for c, column in enumerate(panel.targets)
        ]

    def _choose(self, problem: ChannelProblem, name: str, train: Span) -> ChannelFit:
        if len(problem.learn[-1]) == 0:
            raise no_window(train, self.context, self.horizon, name)
        ridge = self.config.ridge
        scales = self._scales(problem, train)
        terms = TERMS if problem.covariates.roles else TERMS[:1]
        term_sets = [
            dict(zip(terms, used, strict=True)) for used in product(*(self._options(term) for term in terms))
        ]
        unjudged = Choice(
            transform=scales[min(1, len(scales) - 1)].transform,  # the square root where there is a choice
            terms=term_sets[0],
            ridge=DEFAULT_RIDGE if ridge is None else ridge,
        )
        return problem.choose(scales, term_sets, RIDGES if ridge is None else (ridge,), unjudged)

    def _scales(self, problem: ChannelProblem, train: Span) -> list[Scale]:
        """The scales to choose from: roots and logarithms only of channels that are never negative."""
        pieces = [problem.y_R[a:b] for a, b in zip(train.first, train.last, strict=True)]
        train_R = np.concatenate(pieces).astype(np.float64)
        train_R = train_R[~np.isnan(train_R)]
        names: tuple[TransformName, ...] = ("identity",)
        if self.config.transform != "auto":
            names = (self.config.transform,)
        elif train_R.min() >= 0 and train_R.max() > 0:
            names = ("identity", "sqrt", "log1p")
        return [Scale.fit(train_R, name) for name in names]

    def _options(self, term: str) -> tuple[bool, ...]:
        """Whether to use a term: the candidates."""
        use: Use = getattr(self.config, term)
        if use == "off" or (term == "calendar" and self.calendar.size == 0):
            return (False,)
        return (False, True) if use == "auto" else (True,)

    def _at_fold(self, fits: Sequence[ChannelFit], f: int) -> "Linear":
        model = Linear(context=self.context, horizon=self.horizon, config=self.config)
        model.spec, model.calendar = self.spec, self.calendar
        model.channels = [found for fit in fits if (found := fit.at_fold[f]) is not None]
        return model

    def _report(self, fits: Sequence[ChannelFit], seconds: float) -> FitReport:
        names = self.fitted_spec().targets
        named = [(channel.name, fit) for channel, fit in zip(names, fits, strict=True)]
        notes = []
        if unjudged := [name for name, fit in named if not fit.candidates]:
            notes.append(
                f"Too few rows to judge by in {', '.join(unjudged)}: transform and ridge are defaults."
            )
        if self.config.calendar == "on" and self.calendar.size == 0:
            notes.append("The training rows do not hold two days, so the calendar is not used.")
        return FitReport(
            model=self.name,
            n_windows=max(fit.n_windows for fit in fits),
            n_parameters=self.n_parameters,
            cpu_seconds=seconds,
            chosen={name: fit.choice.row() for name, fit in named},
            candidates=tuple(
                {"channel": name, **choice.row()} for name, fit in named for choice in fit.candidates
            ),
            notes=tuple(notes),
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a channel with a missing value in its context is NaN."""
        used = {term for channel in self.channels for term in channel.terms}
        inputs = {"calendar": self.calendar.terms(batch.origin_B)} if "calendar" in used else {}
        if "covariates" in used:
            inputs["covariates"] = covariate_inputs(batch.select(self.fitted_spec().channels))
        context_BLC = batch.targets()
        mean_BHC = np.empty((len(batch.origin_B), self.horizon, len(self.channels)), np.float32)
        for c, channel in enumerate(self.channels):
            mean_BHC[:, :, c] = channel.predict(context_BLC[:, :, c], inputs)
        return Prediction(mean_BHC)

    @property
    def n_parameters(self) -> int:
        """Weights of the context and of further inputs, and biases."""
        return sum(channel.n_parameters for channel in self.channels)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Scales and harmonics as JSON, weights of each channel as arrays."""
        arrays: Arrays = {}
        for c, channel in enumerate(self.channels):
            weights = {"weight": channel.weight_NL, "bias": channel.bias_N, **channel.terms}
            arrays |= {f"{c}.{name}": weight for name, weight in weights.items()}
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
                terms={term: arrays[f"{c}.{term}"] for term in TERMS if f"{c}.{term}" in arrays},
                floor=0.0 if channel.kind == "count" else -np.inf,
            )
            for c, (scale, channel) in enumerate(zip(state["scales"], spec.targets, strict=True))
        ]
