"""The Forecaster, base of every model: it maps the past of a Panel to a Forecast.

Shapes: B windows, L context, H horizon, C target channels, Q quantiles.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from presurge import __version__, store
from presurge.config import Config
from presurge.errors import HistoryError, ModelError
from presurge.models import plugins
from presurge.models.conformal import Calibration, at_levels, extrapolated, in_words
from presurge.models.history import followed, matching_channels, unfit_items
from presurge.models.tracking import IntervalTracker, Tracked
from presurge.progress import Progress
from presurge.series.forecast import QUANTILE_LEVELS, Forecast, Peak
from presurge.series.frequency import SECOND
from presurge.series.holidays import with_holidays
from presurge.series.panel import Channel, Clock, FloatArray, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, batch_of
from presurge.training.config import TrainingConfig

LossName = Literal["mse", "mae", "huber", "quantile"]
"""Losses of a forecast: squared error, absolute error, Huber (threshold 1 on the model's scale), pinball."""


class Prediction(NamedTuple):
    """What a model says itself of B windows, in original units: points and, from models that learn them, quantiles.

    A point is the model's best guess, by promise neither mean nor median: calibration makes both of it. ``levels`` are the Q
    levels of the quantiles, ascending.
    """

    point_BHC: FloatArray
    quantiles_BHQC: FloatArray | None = None
    levels: tuple[float, ...] = QUANTILE_LEVELS


class Caveats(NamedTuple):
    """What the intervals of a forecast rest on, and its flags."""

    intervals: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesSpec:
    """What a fitted model knows about its series, and needs from every history.

    Attributes:
        channels: The channels that it reads: its targets and the covariates that it uses.
        features: Names of the static features that it uses.
    """

    channels: tuple[Channel, ...]
    step: int
    clock: Clock
    items: tuple[str, ...]
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, panel: Panel) -> "SeriesSpec":
        """The specification of a panel; of ``panel.only_targets()`` for a model that uses no covariates."""
        return cls(
            channels=panel.channels,
            step=panel.step,
            clock=panel.clock,
            items=panel.items,
            features=panel.feature_names,
        )

    @property
    def targets(self) -> tuple[Channel, ...]:
        """The channels that are forecast."""
        return tuple(channel for channel in self.channels if channel.role == "target")

    @property
    def known(self) -> tuple[Channel, ...]:
        """The covariates whose future rows the model reads."""
        return tuple(channel for channel in self.channels if channel.role == "known")

    @property
    def count_mask(self) -> npt.NDArray[np.bool_]:
        """bool [C], true for the targets that count and so are never negative."""
        return np.array([channel.kind == "count" for channel in self.targets], np.bool_)

    def view(self, panel: Panel) -> Panel:
        """What a panel holds of the channels and static features that the model reads, in its order and with its roles.

        Channels of holidays come from the times of the rows.

        Raises:
            DataError: A channel or a static feature is missing.
        """
        names = [channel.name for channel in self.channels]
        selected = with_holidays(panel, names).select(names).select_features(self.features)
        both = zip(selected.channels, self.channels, strict=True)
        channels = tuple(replace(channel, role=own.role) for channel, own in both)
        return selected if channels == selected.channels else selected.replace(channels=channels)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        value = asdict(self)
        return value | {"step_seconds": value.pop("step") // SECOND}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "SeriesSpec":
        """The inverse of ``to_dict``."""
        return cls(
            channels=tuple(Channel(**channel) for channel in value["channels"]),
            step=value["step_seconds"] * SECOND,
            clock=value["clock"],
            items=tuple(value["items"]),
            features=tuple(value.get("features", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """The outcome of a fit.

    Attributes:
        model: Name of the model.
        n_windows: Training windows used.
        n_parameters: Learned numbers.
        cpu_seconds: Processor time of the fit.
        chosen: What validation chose (ridge, transform, period ...).
        candidates: The table of that choice: one dictionary for each candidate with its validation error.
        notes: Sentences that the user should read.
        history: One dictionary for each epoch of a model that learned by gradient.
    """

    model: str
    n_windows: int = 0
    n_parameters: int = 0
    cpu_seconds: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    history: tuple[dict[str, float], ...] = ()


class Forecaster(ABC):
    """Base of every model.

    A subclass sets ``name`` and ``config_class`` and implements ``fit``, ``predict``, ``n_parameters``, ``state`` and
    ``restore``; the base class saves, loads and forecasts.

    Args:
        context: Rows of history that a forecast reads (a fit may lengthen it to hold a longer season).
        horizon: Rows that a forecast returns.
        config: The model's own configuration (default: that of ``config_class``).
        training: How to train a model that learns by gradient (default: its ``training_defaults``).
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    config_class: ClassVar[type[Config]] = Config
    training_defaults: ClassVar[dict[str, Any]] = {}
    """Settings of the training loop that suit the model better than the general defaults."""
    search_space: ClassVar[dict[str, Any]] = {}
    """What ``presurge tune`` searches: setting -> a list of values, or ``{"low", "high", "log", "step"}``. A setting that means
    something only beside others adds ``{"only_with": {other setting: values}}``, and gives a list as ``{"choices": ...}``."""
    shortens: ClassVar[bool] = False
    """Whether it takes a shorter context where the training rows hold next to no window of the one asked for."""
    provider: ClassVar[str | None] = None
    """Where a model from outside Presurge came from; set when it is registered."""

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
        self.trained = ""

    @abstractmethod
    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Learn from the rows of ``train``; ``validation`` may choose between settings but must not affect weights."""

    @abstractmethod
    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast the targets of B windows at once, in original units, never negative for counts."""

    @property
    @abstractmethod
    def n_parameters(self) -> int:
        """Number of learned values."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], store.Arrays]:
        """What ``restore`` needs besides configuration and specification: (JSON values, arrays)."""

    @abstractmethod
    def restore(self, state: dict[str, Any], arrays: store.Arrays) -> None:
        """The inverse of ``state``."""

    @property
    def refits(self) -> bool:
        """Whether a fit is cheap enough to repeat on training and validation rows after the choices are made."""
        return False

    @property
    def tolerates_gaps(self) -> bool:
        """Whether it forecasts from the observed values of a context with gaps; otherwise that forecast is NaN."""
        return False

    def fitted_spec(self) -> SeriesSpec:
        """The specification of the series that the model was fitted to.

        Raises:
            ModelError: It has not been fitted.
        """
        if self.spec is None:
            raise ModelError(f"{self.name} is not trained", hint="Call fit first, or load a trained model.")
        return self.spec

    def forecast(
        self,
        panel: Panel,
        horizon: int | None = None,
        *,
        future: Panel | None = None,
        levels: Sequence[float] | None = None,
    ) -> Forecast:
        """Forecast what follows the last row of every item.

        Args:
            panel: The history: the model's channels (others are left out) at the model's step.
            horizon: Rows to give, at most the model's horizon, which is the default.
            future: The known channels for the rows after the history: exactly the model's horizon of every item. Only a
                model that was fitted with known channels needs it. Where the history carries stamps, those of the
                future become the stamps of the forecast; without them its rows follow a nominal step apart.
            levels: Levels of the quantiles to give (default: the calibrated ones); others are interpolated between those.

        Raises:
            HistoryError: The history is too short, has another step, misses a channel or a static feature, or has a gap
                in the context; or the future misses known channels, items or rows.
            ConfigError: A level does not lie between 0 and 1, or the model has no quantiles.
        """
        spec = self.fitted_spec()
        history = matching_channels(panel, spec)
        for unfit in unfit_items(history, self.context).values():
            raise unfit
        rows = self._rows(horizon)
        series, origins = followed(history, future, spec, self.horizon)
        made = IntervalTracker(self, series, peaks=True).predict(origins)
        stamps = series.stamps
        if stamps is not None:
            stamps = batch_of(series, origins, 1, rows).times(rows)[:, 1:]
        forecast = self.told(made, history.items, series.times_of(origins), rows, levels=levels)
        return replace(forecast, clock=history.clock, stamps=stamps)

    def told(
        self,
        made: Tracked,
        items: tuple[str, ...],
        origin_I: IntArray,
        horizon: int | None = None,
        *,
        levels: Sequence[float] | None = None,
    ) -> Forecast:
        """What a tracker made of the last row of every item, as a forecast with its flags.

        Args:
            made: Forecasts of I items.
            items: Their names.
            origin_I: int64, times of their last rows in microseconds since the Unix epoch.
            horizon: As in ``forecast``.
            levels: As in ``forecast``.

        Raises:
            HistoryError: The model forecasts fewer rows.
            ConfigError: A level does not lie between 0 and 1, or the model has no quantiles.
        """
        spec, rows = self.fitted_spec(), self._rows(horizon)
        asked = made.at_levels(levels, spec.count_mask)
        (caveats,) = self.caveats(made, items, rows, asked.levels, sizes=[len(items)])
        return Forecast(
            mean=asked.mean_BHC[:, :rows],
            median=asked.median_BHC[:, :rows],
            quantiles=asked.quantiles_BHQC[:, :rows],
            levels=asked.levels,
            origin=origin_I,
            step=spec.step,
            channels=spec.targets,
            items=items,
            clock=spec.clock,
            model=self.name,
            error=self.error,
            intervals=caveats.intervals,
            flags=caveats.flags,
            trained=self.trained,
            peak=Peak(*(top[:, rows - 1] for top in asked.peak[:3])) if asked.peak else None,
        )

    def caveats(
        self,
        made: Tracked,
        items: tuple[str, ...],
        rows: int,
        levels: tuple[float, ...],
        *,
        sizes: Sequence[int],
    ) -> list[Caveats]:
        """What readers of forecasts of consecutive items must know of intervals, means and outer quantiles.

        Args:
            made: Forecasts of I items, with the calibrated levels.
            items: Their names.
            rows: Rows that are given of each.
            levels: Levels of the quantiles that are given.
            sizes: How many items each reader is told of.
        """
        calibration, followed = self.calibration, made.followed_B.tolist()
        if calibration is None:
            return [Caveats(in_words(None, []), ())] * len(sizes)
        ends = np.cumsum([0, *sizes]).tolist()
        away_IC, names = self._away(made, rows), [channel.name for channel in self.fitted_spec().targets]
        aways = np.add.reduceat(away_IC, ends[:-1]).tolist()
        found = []
        for begin, end, away_C in zip(ends[:-1], ends[1:], aways, strict=True):
            flags = [
                f"the mean of {name} lies outside the 80 % interval in {away} of {rows * (end - begin)} rows: a few "
                "extreme values carry it, so plan with the quantiles"
                for name, away in zip(names, away_C, strict=True)
                if away
            ]
            n_windows = calibration.support_of(items[begin:end])
            if beyond := extrapolated(levels, calibration.levels, n_windows):
                flags.append(beyond)
            found.append(Caveats(in_words(calibration, followed[begin:end]), tuple(flags)))
        return found

    def _rows(self, horizon: int | None) -> int:
        """The rows to give.

        Raises:
            HistoryError: The model forecasts fewer.
        """
        rows = self.horizon if horizon is None else horizon
        if not 1 <= rows <= self.horizon:
            train = f", or train with `horizon={rows}`" if rows > 0 else ""
            raise HistoryError(
                f"a horizon of {rows} was asked of a model that forecasts {self.horizon} rows",
                hint=f"Ask for 1 to {self.horizon}{train}.",
            )
        return rows

    def _away(self, made: Tracked, rows: int) -> IntArray:
        """int64 [I, C], in how many rows the mean lies outside the 80 % interval."""
        count_C = self.fitted_spec().count_mask
        ends = at_levels(made.quantiles_BHQC[:, :rows], made.levels, (0.1, 0.9), count_C)
        mean_BHC = made.mean_BHC[:, :rows]
        nearest_BHC = np.clip(mean_BHC, ends[:, :, 0], ends[:, :, 1])
        away_IC: IntArray = (np.abs(mean_BHC - nearest_BHC) > 1e-6 * np.abs(nearest_BHC)).sum(axis=1)
        return away_IC

    def save(self, directory: Path, *, training: dict[str, Any] | None = None) -> None:
        """Write the model directory; its configuration records ``training``: how and on what the model was trained."""
        store.save_model(directory, *self.document(training))

    def document(self, training: dict[str, Any] | None = None) -> tuple[dict[str, Any], store.Arrays]:
        """All that ``from_config`` needs: (configuration as JSON values, arrays)."""
        spec = self.fitted_spec()
        state, arrays = plugins.state_of(self)
        config: dict[str, Any] = {
            "kind": store.FORECASTER,
            "model": self.name,
            "presurge_version": __version__,
            "context": self.context,
            "horizon": self.horizon,
            "settings": self.config.model_dump(mode="json"),
            "series": spec.to_dict(),
            "state": state,
            "error": self.error,
            "trained": self.trained,
            "training": training or {},
        }
        if self.provider is not None:
            config["provider"] = self.provider
        if self.calibration is not None:
            config["calibration"] = self.calibration.to_dict()
            arrays = arrays | {f"calibration.{name}": a for name, a in self.calibration.arrays().items()}
        return config, arrays

    @classmethod
    def from_config(cls, config: dict[str, Any], arrays: store.Arrays) -> Self:
        """Rebuild a model from what ``save`` wrote.

        Raises:
            ModelError: It learned the quantiles of other levels than those of today.
        """
        levels = tuple(config.get("calibration", {}).get("levels", QUANTILE_LEVELS))
        if config["settings"].get("loss") == "quantile" and levels != QUANTILE_LEVELS:
            names = [", ".join(f"{level:g}" for level in some) for some in (levels, QUANTILE_LEVELS)]
            raise ModelError(
                f"the model learned the quantiles {names[0]}, and this version of Presurge forecasts {names[1]}",
                hint="Train it again.",
            )
        own, arrays = cls.config_class.model_validate(config["settings"]), dict(arrays)
        spec, calibration = SeriesSpec.from_dict(config["series"]), None
        if "calibration" in config:
            kept = {name: arrays.pop(name) for name in [*arrays] if name.startswith("calibration.")}
            kept = {name.removeprefix("calibration."): array for name, array in kept.items()}
            calibration = Calibration.from_dict(config["calibration"], kept, spec.count_mask)
        with plugins.faults_of(cls):
            model = cls(context=config["context"], horizon=config["horizon"], config=own)
            model.spec, model.calibration, model.error = spec, calibration, config["error"]
            model.trained = config.get("trained", "")
            model.restore(config["state"], arrays)
        return model
