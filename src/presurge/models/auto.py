"""The automatic choice: a linear model on the best scale, unless a baseline is clearly and steadily better.

The linear model chooses transform, inputs and ridge for each channel by rolling validation. Challengers (the baselines, unless
you name others) are then fitted to the same folds and judged on the same windows. A challenger takes a channel only if it is
better in *every* fold and by a clear margin in all folds together, because a small lead on validation rows says little about
later rows. Any model of the registry may challenge.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from presurge.config import Config
from presurge.models import plugins, registry
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.models.linear.select import Fold, compare
from presurge.progress import Progress
from presurge.series.panel import IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays
from presurge.training.config import TrainingConfig


class AutoConfig(Config):
    """Configuration of the automatic choice.

    Attributes:
        challengers: Models that may take a channel from the linear model.
        margin: Share of the linear model's error by which a challenger has to be better. It guards against series that no
            linear map suits and is not tuned: on real series no margin lowered the average error on later rows, so this one
            keeps switches rare.
        folds: Folds of the training rows that choose.
        stride: Rows from one training window of the linear model to the next.
        epochs: Maximum number of passes of a challenger that learns by gradient; None takes the model's own.
    """

    challengers: tuple[str, ...] = registry.BASELINES
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Member:
    """A fitted model and the channels that it forecasts."""

    model: Forecaster
    channels: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rival:
    """A challenger on one channel: WAPE of both over the folds, on the windows that both can forecast."""

    model: str
    channel: str
    error: float
    linear_error: float
    won: bool

    def row(self) -> dict[str, Any]:
        """As a row of a table."""
        return {key: value for key, value in asdict(self).items() if key != "won"}


class Auto(Forecaster):
    """Transform, calendar, ridge and model chosen for each channel by rolling validation error."""

    name: ClassVar[str] = "auto"
    summary: ClassVar[str] = "transform, ridge, solver and baseline chosen by rolling validation"
    config_class: ClassVar[type[Config]] = AutoConfig
    search_space: ClassVar[dict[str, Any]] = {
        "margin": {"low": 0.0, "high": 0.3},
        "folds": {"low": 2, "high": 6},
    }
    config: AutoConfig
    members: list[_Member]

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
        for name in self.config.challengers:
            registry.model_class(name)
        self.spec = SeriesSpec.of(panel.only_targets())
        shape = LinearConfig(folds=self.config.folds, stride=self.config.stride)
        linear = Linear(context=self.context, horizon=self.horizon, config=shape)
        report, folds, at_folds = linear.fit_with_folds(panel, train, validation, progress=progress)
        rivals: list[_Rival] = []
        for done, name in enumerate(self.config.challengers, 1):
            rivals += self._challenge(name, panel, folds, at_folds)
            if progress is not None:
                progress("Comparing with the baselines", done / len(self.config.challengers), name)
        best_C = [_best_rival(rivals, channel.name) for channel in self.spec.targets]
        names = [rival.model if rival else linear.name for rival in best_C]
        models = {
            name: linear if name == linear.name else self._fitted(name, panel, train)
            for name in dict.fromkeys(names)
        }
        self._adopt(list(models.values()), names)
        if linear.name in names:
            self.spec = linear.fitted_spec()  # with the covariates that it uses
        return FitReport(
            model=self.name,
            n_windows=report.n_windows,
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen=self._chosen(report, best_C, judged=bool(folds)),
            candidates=(
                *({"model": linear.name, **candidate} for candidate in report.candidates),
                *(rival.row() for rival in rivals),
            ),
            notes=report.notes,
        )

    def _challenge(
        self, name: str, panel: Panel, folds: Sequence[Fold], at_folds: Sequence[Linear]
    ) -> list[_Rival]:
        if not folds:
            return []
        challengers = [self._fitted(name, panel, fold.learn) for fold in folds]
        comparison = compare(at_folds, challengers, panel, folds)
        columns = (self.fitted_spec().targets, *comparison.errors(), comparison.won(self.config.margin))
        return [
            _Rival(model=name, channel=channel.name, error=float(error), linear_error=float(linear), won=won)
            for channel, linear, error, won in zip(*columns, strict=True)
        ]

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

    def _adopt(self, models: Sequence[Forecaster], names: Sequence[str]) -> None:
        """Take over the models, each for the channels that ``names`` gives it."""
        self.members = [
            _Member(model=model, channels=np.flatnonzero(np.array(names) == model.name)) for model in models
        ]
        self.context = max(model.context for model in models)

    def _chosen(self, report: FitReport, best_C: Sequence[_Rival | None], *, judged: bool) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for channel, rival in zip(self.fitted_spec().targets, best_C, strict=True):
            if rival is not None:
                why = f"better than linear ({rival.linear_error:.4g}) in every fold and by the margin"
                chosen[channel.name] = {"model": rival.model, "error": rival.error, "why": why}
                continue
            why = f"no challenger is better in every fold and by {self.config.margin:.0%} overall"
            chosen[channel.name] = {
                "model": "linear",
                "solver": "exact",
                **report.chosen[channel.name],
                "why": why if judged else "too few rows to judge",
            }
        return chosen

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows, each channel by the model that won it."""
        if len(self.members) == 1:
            return Prediction(plugins.predict(self.members[0].model, batch).mean_BHC)
        mean_BHC = np.empty((len(batch.origin_B), self.horizon, len(self.fitted_spec().targets)), np.float32)
        for member in self.members:
            part = batch.last_rows(member.model.context)
            own_BHC = plugins.predict(member.model, part).mean_BHC
            mean_BHC[:, :, member.channels] = own_BHC[:, :, member.channels]
        return Prediction(mean_BHC)

    @property
    def n_parameters(self) -> int:
        """Learned values of all models in use."""
        return sum(member.model.n_parameters for member in self.members)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Name, settings and state of every model in use, and the channels that it forecasts."""
        described: list[dict[str, Any]] = []
        arrays: Arrays = {}
        for number, member in enumerate(self.members):
            model = member.model
            state, own = plugins.state_of(model)
            described.append(
                {
                    "model": model.name,
                    "provider": model.provider,
                    "context": model.context,
                    "settings": model.config.model_dump(mode="json"),
                    "state": state,
                    "channels": member.channels.tolist(),
                    **({} if model.spec == self.spec else {"series": model.fitted_spec().to_dict()}),
                }
            )
            arrays |= {f"{number}.{key}": array for key, array in own.items()}
        return {"members": described}, arrays

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``.

        Raises:
            ModelError: A model in use is not known here.
        """
        spec = self.fitted_spec()
        self.members = []
        for number, part in enumerate(state["members"]):
            prefix = f"{number}."
            own = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
            config = {"series": spec.to_dict(), **part, "horizon": self.horizon, "error": {}}
            channels = ", ".join(spec.targets[channel].name for channel in part["channels"])
            model = registry.from_document(config, own, where=f"the choice for {channels}")
            self.members.append(_Member(model=model, channels=np.array(part["channels"], np.int64)))


def _best_rival(rivals: Sequence[_Rival], channel: str) -> _Rival | None:
    """The winning challenger of a channel that is furthest ahead of the linear model."""
    winners = [rival for rival in rivals if rival.won and rival.channel == channel]
    return min(winners, key=lambda rival: rival.error / rival.linear_error, default=None)
