"""What every model is: a Forecaster maps the past of a Panel to a Forecast.

Shapes: B windows, L context, H horizon, C channels, Q quantiles.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from presurge import __version__, store
from presurge.config import Config
from presurge.errors import HistoryError, ModelError
from presurge.models.conformal import Calibration, IntervalTracker, in_words
from presurge.progress import Progress
from presurge.series.forecast import QUANTILE_LEVELS, Forecast
from presurge.series.frequency import SECOND, format_step
from presurge.series.panel import Channel, Clock, FloatArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.training.config import TrainingConfig

LossName = Literal["mse", "mae", "huber", "quantile"]
"""Losses of a forecast: squared error, absolute error, Huber (threshold 1 on the model's scale), pinball."""


class Prediction(NamedTuple):
    """Point forecasts of B windows and, from models that learn them, quantiles; original units."""

    mean_BHC: FloatArray
    quantiles_BHQC: FloatArray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpec:
    """What a fitted model knows of its series, and demands of every history."""

    channels: tuple[Channel, ...]
    step: int
    clock: Clock
    items: tuple[str, ...]

    @classmethod
    def of(cls, panel: Panel) -> "SeriesSpec":
        """The specification of a panel."""
        return cls(channels=panel.channels, step=panel.step, clock=panel.clock, items=panel.items)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        channels = [{"name": c.name, "unit": c.unit, "kind": c.kind} for c in self.channels]
        return {
            "channels": channels,
            "step_seconds": self.step // SECOND,
            "clock": self.clock,
            "items": list(self.items),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "SeriesSpec":
        """The inverse of ``to_dict``."""
        return cls(
            channels=tuple(Channel(**channel) for channel in value["channels"]),
            step=value["step_seconds"] * SECOND,
            clock=value["clock"],
            items=tuple(value["items"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What a fit did.

    Attributes:
        model: Name of the model.
        n_windows: Training windows used.
        n_parameters: Learned numbers.
        cpu_seconds: Processor time of the fit.
        chosen: What the fit chose by validation (ridge, transform, period ...).
        candidates: The table of that choice: one dictionary a candidate with its validation error.
        notes: Plain sentences that the user should read.
        history: One dictionary an epoch, of a model that learned by gradient.
    """

    model: str
    n_windows: int
    n_parameters: int
    cpu_seconds: float
    chosen: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    history: tuple[dict[str, float], ...] = ()


class Forecaster(ABC):
    """Base of every model.

    A subclass names itself, declares ``config_class`` and implements ``fit``, ``predict``, ``n_parameters``, ``state`` and
    ``restore``; saving, loading and the public ``forecast`` come from here.

    Args:
        context: Rows of history that one forecast reads (a fit may lengthen it, for a season longer than the context).
        horizon: Rows that one forecast gives.
        config: The model's own configuration; defaults where None.
        training: How to train, for a model that learns by gradient; by its ``training_defaults`` where None.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_class: ClassVar[type[Config]] = Config
    training_defaults: ClassVar[dict[str, Any]] = {}
    """Settings of the training loop, and ``batch_size``, where the general ones do not suit the model."""
    search_space: ClassVar[dict[str, Any]] = {}
    """What ``presurge tune`` searches: setting -> a list of values, or ``{"low", "high", "log", "step"}``. A setting that means
    something only beside others adds ``{"only_with": {other setting: values}}``, and gives a list as ``{"choices": ...}``."""
    provider: ClassVar[str | None] = None
    """What brought a model that is none of Presurge's own; set when it is registered."""

    def __init__(
        self,
        *,
        context: int,
        horizon: int,
        config: Config | None = None,
        training: TrainingConfig | None = None,
    ) -> None:
        self.context = context
        self.horizon = horizon
        self.config = config if config is not None else self.config_class()
        self.training = training if training is not None else TrainingConfig(**self.training_defaults)
        self.spec: SeriesSpec | None = None
        self.calibration: Calibration | None = None
        self.error: dict[str, dict[str, float]] = {}

    @abstractmethod
    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Learn from the rows of ``train``; ``validation`` may only choose between settings, never shape weights."""

    @abstractmethod
    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows at once, in original units, never negative for counts."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of learned values."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], store.Arrays]:
        """What ``restore`` needs beside settings and specification: (JSON values, arrays)."""

    @abstractmethod
    def restore(self, state: dict[str, Any], arrays: store.Arrays) -> None:
        """The inverse of ``state``."""

    @property
    def refits(self) -> bool:
        """Whether a fit is cheap enough to be done again on training and validation rows once the choices are made."""
        return False

    @property
    def tolerates_gaps(self) -> bool:
        """Whether it forecasts from what it observed where its context has missing values, instead of NaN."""
        return False

    def fitted_spec(self) -> SeriesSpec:
        """The specification of the series that the model was fitted to.

        Raises:
            ModelError: It was not fitted yet.
        """
        if self.spec is None:
            raise ModelError(
                f"{self.name} was not trained yet", hint="Call fit first, or load a trained model."
            )
        return self.spec

    def forecast(self, panel: Panel, horizon: int | None = None) -> Forecast:
        """Forecast what follows the last row of every item.

        Args:
            panel: The history: the model's channels (others are left out) at the model's step.
            horizon: Rows to give, at most the model's horizon, which is the default.

        Raises:
            HistoryError: The history is too short, has another step, misses a channel, or has a gap in the context.
        """
        spec = self.fitted_spec()
        history = matching_history(panel, spec, self.context)
        rows = check_horizon(self.horizon if horizon is None else horizon, self.horizon)
        mean_BHC, quantiles_BHQC, followed_B = IntervalTracker(self, history).predict_last()
        levels = QUANTILE_LEVELS if self.calibration is None else self.calibration.levels
        if quantiles_BHQC is None:
            levels = ()
            quantiles_BHQC = np.zeros((len(mean_BHC), self.horizon, 0, len(spec.channels)), np.float32)
        return Forecast(
            mean=mean_BHC[:, :rows],
            quantiles=quantiles_BHQC[:, :rows],
            levels=levels,
            origin=history.start + (np.diff(history.indptr) - 1) * history.step,
            step=history.step,
            channels=spec.channels,
            items=history.items,
            clock=history.clock,
            model=self.name,
            error=self.error,
            intervals=in_words(self.calibration, followed_B),
        )

    def save(self, directory: Path, *, training: dict[str, Any] | None = None) -> None:
        """Write the model directory; ``training`` is added to its configuration (how it was trained, on what)."""
        store.save_model(directory, *self.document(training))

    def document(self, training: dict[str, Any] | None = None) -> tuple[dict[str, Any], store.Arrays]:
        """Everything that ``from_config`` needs: (configuration as JSON values, arrays)."""
        spec = self.fitted_spec()
        state, arrays = self.state()
        config: dict[str, Any] = {
            "model": self.name,
            "presurge_version": __version__,
            "context": self.context,
            "horizon": self.horizon,
            "settings": self.config.model_dump(mode="json"),
            "series": spec.to_dict(),
            "state": state,
            "error": self.error,
            "training": training or {},
        }
        if self.provider is not None:
            config["provider"] = self.provider
        if self.calibration is not None:
            config["calibration"] = self.calibration.to_dict()
            arrays = {**arrays, "calibration.residuals": self.calibration.residuals_HQC}
        return config, arrays

    @classmethod
    def from_config(cls, config: dict[str, Any], arrays: store.Arrays) -> Self:
        """Rebuild a model from what ``save`` wrote."""
        model = cls(
            context=config["context"],
            horizon=config["horizon"],
            config=cls.config_class.model_validate(config["settings"]),
        )
        model.spec = SeriesSpec.from_dict(config["series"])
        model.error = config["error"]
        arrays = dict(arrays)
        if "calibration" in config:
            counts = np.array([channel.kind == "count" for channel in model.spec.channels])
            residuals_HQC = arrays.pop("calibration.residuals")
            model.calibration = Calibration.from_dict(config["calibration"], residuals_HQC, counts)
        model.restore(config["state"], arrays)
        return model


def matching_history(panel: Panel, spec: SeriesSpec, context: int) -> Panel:
    """The model's channels of a history, if it can be forecast from.

    Raises:
        HistoryError: Another step, a missing channel, fewer rows than the context, or a missing value in it.
    """
    if panel.step != spec.step:
        raise HistoryError(
            f"the history has a step of {format_step(panel.step)}, the model one of {format_step(spec.step)}",
            hint=f"Bring the history to {format_step(spec.step)} first: prepare it with another `step`.",
        )
    names = [channel.name for channel in spec.channels]
    missing = [name for name in names if name not in panel.channel_names]
    if missing:
        raise HistoryError(
            f"the history has no channel {', '.join(map(repr, missing))}",
            hint=f"The model needs {', '.join(names)}; the history has {', '.join(panel.channel_names)}.",
        )
    history = panel.select(names)
    for item, (begin, end) in enumerate(zip(history.indptr[:-1], history.indptr[1:], strict=True)):
        where = f"item {history.items[item]!r}" if len(history.items) > 1 else None
        if end - begin < context:
            raise HistoryError(
                f"the history has {end - begin} rows, and the model reads {context}",
                where=where,
                hint="Give a longer history: nothing is filled in for rows that are not there.",
            )
        holes = int((~history.observed[end - context : end]).any(axis=1).sum())
        if holes:
            raise HistoryError(
                f"{holes} of the last {context} rows have a missing value",
                where=where,
                hint="Repair the history, or let short gaps be interpolated and flagged: `fill_gaps=interpolate`",
            )
    return history


def check_horizon(asked: int, possible: int) -> int:
    """Return ``asked`` if the model reaches that far.

    Raises:
        HistoryError: It does not.
    """
    if not 1 <= asked <= possible:
        raise HistoryError(
            f"a horizon of {asked} was asked of a model that forecasts {possible} rows",
            hint=f"Ask for 1 to {possible}, or train with `horizon={asked}`.",
        )
    return asked
