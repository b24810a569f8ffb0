"""The automatic choice: a linear model on the best scale, unless a baseline is clearly and steadily better.

The linear model chooses transform, inputs and ridge for each channel by rolling validation. Challengers (the baselines and
exponential smoothing, unless you name others) are then fitted to the same folds and judged on the same windows, by the weighted
quantile loss of forecasts with the quantiles of their own errors. A challenger takes a channel only if it is better in *every*
fold and by a clear margin in all folds together, because a small lead on validation rows says little about later rows; and only
if its squared error is no larger, so that no shrunken forecast wins. Any model of the registry may challenge.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from presurge.config import Config
from presurge.errors import DataError
from presurge.models import plugins, registry
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.models.linear.select import Fold, item_sizes, quantile_loss, thinned
from presurge.progress import Progress, silent
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.scalers import Float64Array
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, batch_of, chunks, targets_of, window_origins
from presurge.store import Arrays
from presurge.training.config import TrainingConfig

_VALUES_AT_ONCE = 1 << 21
_FEWEST_WINDOWS = 20
"""Windows of a fold below which it cannot judge a challenger: on short real series most switches did harm."""
_VALUES_SCORED = 6_000
"""Rows and channels of windows that judge a challenger in one fold."""


class AutoConfig(Config):
    """Configuration of the automatic choice.

    Attributes:
        challengers: Models that may take a channel from the linear model.
        margin: Share of the linear model's WQL by which a challenger has to be better. It guards against series that no
            linear map suits and is not tuned: on real series no margin lowered the average error on later rows, so this one
            keeps switches rare.
        folds: Folds of the training rows that choose.
        stride: Rows from one training window of the linear model to the next.
        epochs: Maximum number of passes of a challenger that learns by gradient; None takes the model's own.
    """

    challengers: tuple[str, ...] = (*registry.BASELINES, "ses", "damped-trend")
    margin: float = Field(0.15, ge=0, lt=1)
    folds: int = Field(3, ge=1, le=20)
    stride: int = Field(1, ge=1)
    epochs: int | None = Field(None, ge=1)

    @field_validator("challengers")
    @classmethod
    def _others(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # fit checks that they exist: a stored model may name one that is not installed any more and that no channel uses.
        if {Linear.name, "auto"} & set(names):
            raise ValueError(f"{Linear.name} and auto cannot challenge themselves")
        return names


class Member(NamedTuple):
    """A fitted model and the channels that it forecasts."""

    model: Forecaster
    channels: IntArray


class _Judged(NamedTuple):
    """A fold, the windows that judge in it, and the points of the linear model that was fitted to it."""

    fold: Fold
    origins: IntArray
    own_BHC: FloatArray


class Auto(Forecaster):
    """Transform, calendar, ridge and model chosen for each channel by rolling validation error."""

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "transform, ridge, solver and baseline chosen by rolling validation"
    config_class: ClassVar[type[Config]] = AutoConfig
    search_space: ClassVar[dict[str, Any]] = {
        "margin": {"low": 0.0, "high": 0.3},
        "folds": {"low": 2, "high": 6},
    }
    shortens: ClassVar[bool] = True
    config: AutoConfig
    members: list[Member]

    @property
    def refits(self) -> bool:
        """A fit costs little unless a challenger's does."""
        return all(self._new(name).refits for name in self.config.challengers)

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Choose on folds of the training rows (and on validation rows, if given), then fit to all training rows.

        Raises:
            DataError: A channel has no complete training window.
            ConfigError: There is no such challenger.
        """
        started = time.process_time()
        challengers = self.config.challengers
        for name in challengers:
            registry.model_class(name)
        own = LinearConfig(folds=self.config.folds, stride=self.config.stride)
        linear = Linear(context=self.context, horizon=self.horizon, config=own)
        report, judged = linear.fit_with_folds(panel, train, validation, progress=progress)
        tried: list[tuple[dict[str, Any], bool]] = []
        folds = [self._judged(fold, own, panel) for fold, own in judged.values() if challengers]
        enough = min((len(fold.origins) for fold in folds), default=0) >= _FEWEST_WINDOWS
        for done, name in enumerate(challengers if enough else (), 1):
            tried += self._challenge(name, panel, folds)
            (progress or silent)("Comparing with the baselines", done / len(challengers), name)
        best: dict[str, dict[str, Any]] = {}
        rivals, winners = [row for row, _ in tried], [row for row, won in tried if won]
        for rival in sorted(winners, key=lambda row: row["wql"] / row["linear_wql"]):
            best.setdefault(rival["channel"], rival)
        names = [best[name]["model"] if name in best else linear.name for name in report.chosen]
        self.members = []
        for name in dict.fromkeys(names):
            model = linear if name == linear.name else self._fitted(name, panel, train)
            self.members.append(Member(model, np.flatnonzero(np.array(names) == name)))
        self.context = max(member.model.context for member in self.members)
        # With the covariates that linear uses, if it is in use.
        self.spec = linear.spec if linear.name in names else SeriesSpec.of(panel.only_targets())
        unbeaten = f"no challenger is better in every fold and by {self.config.margin:.0%} overall"
        why = unbeaten if enough else "too few rows to judge"
        return FitReport(
            model=self.name,
            n_windows=report.n_windows,
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen={name: _reason(row, why, best.get(name)) for name, row in report.chosen.items()},
            candidates=(*({"model": linear.name, **row} for row in report.candidates), *rivals),
            notes=report.notes,
        )

    def _judged(self, fold: Fold, linear: Linear, panel: Panel) -> _Judged:
        """Forecast from evenly spaced origins of a fold with the linear model that was fitted to it."""
        origins = window_origins(panel, fold.judge, context=linear.context, horizon=self.horizon)
        origins = thinned(origins, max(1, _VALUES_SCORED // (self.horizon * len(panel.targets))))
        return _Judged(fold, origins, _points(linear, panel, origins))

    def _challenge(
        self, name: str, panel: Panel, judged: Sequence[_Judged]
    ) -> list[tuple[dict[str, Any], bool]]:
        """Compare a challenger with the linear model: for each channel a row of WQLs over all folds, and whether it won.

        A challenger that cannot be fitted to a fold, or forecast one of its windows, has no row.
        """
        try:
            sums_FKMC = np.array([self._losses(name, panel, one) for one in judged])
        except DataError:
            return []
        won_C = clearly_better(sums_FKMC[:, :, 0], sums_FKMC[:, :, 1], self.config.margin)
        loss_MC, _, (size_C, _) = sums_FKMC.sum(axis=0)
        wql_MC = loss_MC / np.where(size_C > 0, size_C, 1)
        channels = [panel.channel_names[column] for column in panel.targets]
        return [
            ({"model": name, "channel": channel, "wql": wql, "linear_wql": own}, won)
            for channel, wql, own, won in zip(channels, *wql_MC.tolist(), won_C.tolist(), strict=True)
            if wql or own
        ]

    def _losses(self, name: str, panel: Panel, judged: _Judged) -> Float64Array:
        """Sums over the windows of a fold that both models can forecast [3, M = 2, C], of the challenger and of linear.

        They are those of the quantile loss, of the squared error and of the absolute actual values.
        """
        rival = self._fitted(name, panel, judged.fold.learn)
        within = window_origins(panel, judged.fold.judge, context=rival.context, horizon=self.horizon)
        both_B = np.isin(judged.origins, within)
        origins = judged.origins[both_B]
        made = (
            _points(rival, panel, origins),
            judged.own_BHC[both_B],
            targets_of(panel, origins, self.horizon),
        )
        size_B1C = item_sizes(panel, judged.fold.learn)[panel.items_of(origins), None]
        made_MBHC = np.stack(made) / size_B1C  # every item counts in its size
        sums_KMC = np.zeros((3, 2, len(panel.targets)))
        for c, column in enumerate(panel.targets):
            whole_B = ~np.isnan(made_MBHC[..., c]).any(axis=(0, 2))
            *points_MBH, actual_BH = made_MBHC[..., c][:, whole_B]
            for m, point_BH in enumerate(points_MBH if len(actual_BH) else ()):
                counts = panel.channels[column].kind == "count"
                losses = (quantile_loss(actual_BH, point_BH, counts=counts), np.square(point_BH - actual_BH))
                sums_KMC[:, m, c] = *(loss.sum() for loss in losses), np.abs(actual_BH).sum()
        return sums_KMC

    def _fitted(self, name: str, panel: Panel, train: Span) -> Forecaster:
        model = self._new(name)
        plugins.fit(model, panel, train)
        return model

    def _new(self, name: str) -> Forecaster:
        kind = registry.model_class(name)
        own = {key: getattr(self.training, key) for key in ("seed", "device", "allow_fallback", "threads")}
        epochs = {} if self.config.epochs is None else {"epochs": self.config.epochs}
        training = TrainingConfig(**{**kind.training_defaults, **own, **epochs})
        return plugins.make(kind, context=self.context, horizon=self.horizon, training=training)

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows, each channel by the model that won it."""
        point_BHC = np.empty((len(batch.origin_B), self.horizon, len(self.fitted_spec().targets)), np.float32)
        for model, channels in self.members:
            own_BHC = plugins.predict(model, batch.last_rows(model.context)).point_BHC
            point_BHC[:, :, channels] = own_BHC[:, :, channels]
        return Prediction(point_BHC)

    @property
    def n_parameters(self) -> int:
        """Learned values of all models in use."""
        return sum(member.model.n_parameters for member in self.members)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """All that a directory of each model in use would hold, and the channels that it forecasts."""
        members: list[dict[str, Any]] = []
        arrays: Arrays = {}
        for number, (model, channels) in enumerate(self.members):
            document, own = model.document()
            members.append({**document, "channels": channels.tolist()})
            arrays |= {f"{number}.{key}": array for key, array in own.items()}
        return {"members": members}, arrays

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``.

        Raises:
            ModelError: A model in use is not known here.
        """
        spec = self.fitted_spec()
        self.members = []
        for number, document in enumerate(state["members"]):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            channels = ", ".join(spec.targets[channel].name for channel in document["channels"])
            model = registry.from_document(document, own, where=f"the choice for {channels}")
            self.members.append(Member(model, np.array(document["channels"], np.int64)))


def clearly_better(rival_FKC: Float64Array, linear_FKC: Float64Array, margin: float) -> npt.NDArray[np.bool_]:
    """Whether a challenger is better in every fold, and by the margin in all together, for each channel: bool [C].

    Args:
        rival_FKC: Sums of its quantile loss and of its squared error, perhaps of more, by fold and channel.
        linear_FKC: The same of the linear model.
        margin: Share of the quantile loss of the linear model.
    """
    rival_KC, linear_KC = rival_FKC.sum(axis=0), linear_FKC.sum(axis=0)
    clear_C = (rival_KC[0] < (1 - margin) * linear_KC[0]) & (rival_KC[1] <= linear_KC[1])
    won_C: npt.NDArray[np.bool_] = clear_C & (rival_FKC[:, 0] < linear_FKC[:, 0]).all(axis=0)
    return won_C


def _reason(own: dict[str, Any], why: str, rival: dict[str, Any] | None) -> dict[str, Any]:
    """The model of a channel and why: a challenger that won, or the linear model."""
    if rival is None:
        return {"model": Linear.name, "solver": "exact", **own, "why": why}
    why = f"better than linear ({rival['linear_wql']:.4g}) in every fold and by the margin"
    return {"model": rival["model"], "wql": rival["wql"], "why": why}


def _points(model: Forecaster, panel: Panel, origins: IntArray) -> FloatArray:
    """The points of all windows: float32 [B, H, C], NaN where none can be made."""
    made_BHC = [np.zeros((0, model.horizon, len(panel.targets)), np.float32)]
    for part in chunks(origins, max(1, _VALUES_AT_ONCE // (model.context * len(panel.channels)))):
        made_BHC.append(plugins.predict(model, batch_of(panel, part, model.context, model.horizon)).point_BHC)
    return np.concatenate(made_BHC)
