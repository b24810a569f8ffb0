"""A linear forecast on the scale that suits each channel, with the calendar where that helps, by exact least squares.

Transform, terms and ridge are chosen for every channel by rolling validation inside the training rows, unless they are
given. In a fleet, weights for all items learn from more rows, and those of one item from the right ones: every item with
enough rows gets a model of its own too, and the folds choose between the two and their mean.

Shapes: B windows, L context, H horizon, C channels, I items, P shares.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from presurge.config import Config
from presurge.errors import DataError
from presurge.models.calendar import Calendar
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.linear.channel import (
    CALENDARS,
    TERMS,
    ChannelFit,
    ChannelModel,
    ChannelProblem,
    further_inputs,
)
from presurge.models.linear.scale import Scale
from presurge.models.linear.select import Fold, rolling_folds, thinned, window_forecasts
from presurge.progress import Progress, silent
from presurge.series.panel import Panel
from presurge.series.scalers import Float64Array, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, window_origins
from presurge.store import Arrays

Use = Literal["auto", "on", "off"]
_SHARES = {0.0: 1.05, 0.5: 1.0, 1.0: 0.98}
"""How much of a forecast may come from the weights of the item, and what the error of each share counts for: the folds hold
fewer rows of an item than the final fit, so they flatter weights that learn from all items."""
_CANDIDATES: dict[Use, tuple[bool, ...]] = {"auto": (False, True), "on": (True,), "off": (False,)}


class LinearConfig(Config):
    """Configuration of the linear model.

    Attributes:
        transform: Applied to every channel before anything else; ``auto`` chooses, and never transforms a channel with
            negative training values.
        calendar: Whether the time of day and of the week is an input; ``auto`` chooses. Only periods that the training
            rows hold twice are used.
        weekdays: Whether every weekday has a daily shape of its own, beside the calendar; ``auto`` chooses it where it is
            clearly better. It takes four weeks of training rows.
        reactions: Whether the reaction to the last rows depends on the time of day, where weekdays have shapes of their own;
            ``auto`` chooses it where it is clearly better.
        covariates: Whether known and observed channels are inputs; ``auto`` chooses.
        own: Whether an item of several has weights of its own, beside or instead of those of all items; ``auto`` chooses for
            each item.
        ridge: Penalty in rows; None chooses.
        folds: Folds of the training rows that choose.
        stride: Rows from one training window to the next.
    """

    transform: TransformName | Literal["auto"] = "auto"
    calendar: Use = "auto"
    weekdays: Use = "auto"
    reactions: Use = "auto"
    covariates: Use = "auto"
    own: Use = "auto"
    ridge: float | None = Field(None, ge=0)
    folds: int = Field(3, ge=1, le=20)
    stride: int = Field(1, ge=1)


class Own(NamedTuple):
    """The model of one item, and its share of the forecast of every target: float64 [C]."""

    model: "Linear"
    share_C: Float64Array


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
    calendars: dict[str, Calendar]
    channels: list[ChannelModel]
    own: dict[str, Own]

    refits = True

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
    ) -> tuple[FitReport, dict[int, tuple[Fold, "Linear"]]]:
        """The same, with the folds that judged every channel, by their number, and the winner as it was fitted to each."""
        started = time.process_time()
        config, self.own = self.config, {}
        panel = panel.only_targets() if config.covariates == "off" else panel.select_features(())
        self.spec = SeriesSpec.of(panel)
        rows = int((train.last - train.first).max()) if config.calendar != "off" else 0
        many = rows if config.weekdays != "off" else 0
        plain = Calendar.of(panel.step, rows)
        made = (plain, Calendar.of_weekdays(panel.step, many), plain.of_the_day())
        self.calendars = dict(zip(CALENDARS, made, strict=True))
        covariates = [channel.name for channel in panel.channels if channel.role != "target"]
        term_sets = self._term_sets(covariates)
        folds = rolling_folds(train, validation, config.folds)
        fits: dict[str, ChannelFit] = {}
        for name in (channel.name for channel in self.spec.targets):
            problem = ChannelProblem(self, panel.select([name, *covariates]), train, folds)
            fits[name] = problem.choose(term_sets)
            (progress or silent)("Choosing by rolling validation", len(fits) / len(self.spec.targets))
        self.channels = [fit.model for fit in fits.values()]
        at_fold = {}
        for f, fold in enumerate(folds):
            if all(f in fit.at_fold for fit in fits.values()):
                model = copy(self)
                model.channels, model.own = [fit.at_fold[f] for fit in fits.values()], {}
                at_fold[f] = fold, model
        if len(panel.items) > 1 and config.own != "off":
            self._fit_items(panel, train, validation, at_fold)
        models = [self, *(own.model for own in self.own.values())]
        if not any("covariates" in channel.weights for model in models for channel in model.channels):
            self.spec = SeriesSpec.of(panel.only_targets())
        return self._report(fits, time.process_time() - started), at_fold

    def _fit_items(
        self, panel: Panel, train: Span, validation: Span | None, at_fold: dict[int, tuple[Fold, "Linear"]]
    ) -> None:
        """Fit a model to every item that has enough rows, and to each fold: all that get a share of the forecast."""
        for item, name in enumerate(panel.items):
            one = panel.take_items([item])
            own = Linear(context=self.context, horizon=self.horizon, config=self.config)
            later = None if validation is None else _shifted(validation, panel, item)
            with suppress(DataError):  # too few rows
                _, alone = own.fit_with_folds(one, _shifted(train, panel, item), later)
                both = {f: (at_fold[f][1], *alone[f]) for f in at_fold.keys() & alone.keys()}
                share_C = self._share_of_item(one, list(both.values()))
                if share_C.any():
                    self.own[name] = Own(own, share_C)
                    for pooled, _, fitted in both.values():
                        pooled.own[name] = Own(fitted, share_C)

    def _share_of_item(self, panel: Panel, both: Sequence[tuple["Linear", Fold, "Linear"]]) -> Float64Array:
        """The share of least absolute error over all folds, for each target; unless it is given, none without a fold."""
        shares = _SHARES if self.config.own == "auto" else {1.0: 1.0}
        share_P, counts_P1 = np.array([*shares]), np.array([*shares.values()])[:, None]
        total_PC = np.zeros((len(shares), len(panel.targets)))
        for pooled, fold, own in both if len(shares) > 1 else ():

            def mixed(batch: WindowBatch, pooled: Linear = pooled, own: Linear = own) -> Float64Array:
                pooled_BHC, own_BHC = (m.predict(batch).point_BHC.astype(np.float64) for m in (pooled, own))
                mixed_PBHC = [(1 - share) * pooled_BHC + share * own_BHC for share in shares]
                return np.concatenate(mixed_PBHC, axis=1)

            size = self.context, self.horizon
            origins = thinned(window_origins(panel, fold.judge, context=size[0], horizon=size[1]))
            for _, actual_B1HC, made_BPHC in window_forecasts(mixed, panel, origins, *size):
                total_PC += np.nansum(np.abs(made_BPHC - actual_B1HC).sum(axis=2), axis=0)
        share_C: Float64Array = share_P[(total_PC * counts_P1).argmin(axis=0)]
        return share_C

    def _term_sets(self, covariates: Sequence[str]) -> list[dict[str, bool]]:
        """Whether each term that there is may be used: all candidates, that without any first, weekdays last."""
        uses: dict[str, Use] = {
            "calendar": self.config.calendar if self.calendars["calendar"].size else "off"
        }
        if self.calendars["weekdays"].size:
            uses["weekdays"] = self.config.weekdays
        if covariates:
            uses["covariates"] = self.config.covariates
        candidates = product(*(_CANDIDATES[use] for use in uses.values()))
        sets = [dict(zip(uses, used, strict=True)) for used in candidates]
        sets = [terms for terms in sets if terms["calendar"] or not terms.get("weekdays")]
        return sorted(sets, key=lambda terms: terms.get("weekdays", False))

    def _report(self, fits: dict[str, ChannelFit], seconds: float) -> FitReport:
        notes = []
        if unjudged := ", ".join(name for name, fit in fits.items() if not fit.candidates):
            notes.append(f"Too few rows to judge by in {unjudged}: transform and ridge are defaults.")
        if self.config.calendar == "on" and self.calendars["calendar"].size == 0:
            notes.append("The training rows do not hold two days, so the calendar is not used.")
        if self.config.weekdays == "on" and self.calendars["weekdays"].size == 0:
            notes.append(
                "Weekdays get no shapes of their own: that takes the calendar and four weeks of rows."
            )
        chosen = {name: dict(fit.chosen) for name, fit in fits.items()}
        if len(self.fitted_spec().items) > 1:
            for c, row in enumerate(chosen.values()):
                row["own"] = sum(bool(own.share_C[c]) for own in self.own.values())
        return FitReport(
            model=self.name,
            n_windows=max(fit.n_windows for fit in fits.values()),
            n_parameters=self.n_parameters,
            cpu_seconds=seconds,
            chosen=chosen,
            candidates=tuple(
                {"channel": name, **row} for name, fit in fits.items() for row in fit.candidates
            ),
            notes=tuple(notes),
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a channel with a missing value in its context is NaN."""
        terms = {term for channel in self.channels for term in channel.weights}
        inputs = further_inputs(terms, self.calendars, batch.select(self.fitted_spec().channels))
        context_BLC = batch.targets()
        point_BHC = np.empty((len(batch.origin_B), self.horizon, len(self.channels)), np.float32)
        for c, channel in enumerate(self.channels):
            point_BHC[:, :, c] = channel.predict(batch, context_BLC[:, :, c], inputs)
        for item in np.unique(batch.item_B) if self.own else ():
            if (own := self.own.get(batch.items[item])) is not None:
                rows = np.flatnonzero(batch.item_B == item)
                made = own.model.predict(batch.rows(rows)).point_BHC
                point_BHC[rows] = (1 - own.share_C) * point_BHC[rows] + own.share_C * made
        return Prediction(point_BHC)

    @property
    def n_parameters(self) -> int:
        """Weights of the context and of further inputs, and biases; those of single items too."""
        arrays = [array for channel in self.channels for array in channel.weights.values()]
        return sum(array.size for array in arrays) + sum(own.model.n_parameters for own in self.own.values())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Scales and harmonics as JSON, weights of each channel as arrays; the same of each item with weights of its own."""
        scales = [channel.scale.to_dict() for channel in self.channels]
        arrays = {
            f"{c}.{name}": array
            for c, channel in enumerate(self.channels)
            for name, array in channel.weights.items()
        }
        harmonics = {name: calendar.harmonics for name, calendar in self.calendars.items()}
        own = []
        for number, (name, (model, share_C)) in enumerate(self.own.items()):
            state, weights = model.state()
            own.append({"item": name, "share": share_C.tolist(), **state})
            arrays |= {f"own.{number}.{key}": array for key, array in weights.items()}
        return {"scales": scales, "harmonics": harmonics, "own": own}, arrays

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``."""
        spec = self.fitted_spec()
        self.calendars = {
            name: Calendar(step=spec.step, harmonics=state["harmonics"][name]) for name in CALENDARS
        }
        self.channels = []
        for c, (scale, channel) in enumerate(zip(state["scales"], spec.targets, strict=True)):
            names = ["weight", "bias", *(term for term in TERMS if f"{c}.{term}" in arrays)]
            weights = {name: arrays[f"{c}.{name}"] for name in names}
            floor = 0.0 if channel.kind == "count" else -np.inf
            self.channels.append(ChannelModel(Scale.from_dict(scale), weights, floor))
        self.own = {}
        for number, document in enumerate(state["own"]):
            prefix = f"own.{number}."
            own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            model = Linear(context=self.context, horizon=self.horizon, config=self.config)
            model.spec = spec
            model.restore(document, own)
            self.own[document["item"]] = Own(model, np.array(document["share"]))


def _shifted(span: Span, panel: Panel, item: int) -> Span:
    """The rows of one item, counted within it."""
    begin, at = panel.indptr[item], slice(item, item + 1)
    return Span(span.first[at] - begin, span.last[at] - begin)
