"""What every forecasting network shares: scaling, normalisation of a window, calendar, items, training, prediction.

A model adds a *body*: a module that maps the past of a window, and what is known of its future, to values. Shapes: B
windows, L context, H horizon, C targets, O observed covariates, K inputs known in advance (known channels, static
features, calendar terms), D = C + O + K inputs of a row, F static features, Q outputs per value (1, or quantiles).
"""

import time
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from presurge.config import Config
from presurge.errors import HistoryError
from presurge.models.calendar import Calendar
from presurge.models.forecaster import FitReport, Forecaster, LossName, Prediction, SeriesSpec
from presurge.models.networks.train import NetworkProblem, train_network
from presurge.models.networks.window import NetworkShape, WindowNetwork, WindowNormalisation
from presurge.progress import Progress, silent
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, IntArray, Panel, columns_of
from presurge.series.scalers import Float64Array, Scaler, ScalerName, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, take_columns
from presurge.store import Arrays
from presurge.training.devices import threads

WAVES = 3
"""Harmonics of the day and of the week that a network is told; it bends them itself where it needs sharper ones."""
LARGEST = 1e18
"""On the scale of a network nothing is larger: its square would be no float32."""
ROWS_AT_ONCE = 1 << 16
"""Rows of all windows of one forward pass: what a network computes of them has to fit into memory."""


class NetworkConfig(Config):
    """Settings of every network.

    Attributes:
        loss: What is minimised on the model's scale; ``quantile`` learns every level of the intervals.
        transform: Applied before scaling; ``auto`` is the square root where every channel counts, else none.
        scaler: Applied after the transform, fitted on the training rows.
        normalisation: What is taken off every window and put back on its forecast: nothing, its last value, its mean, or
            (``revin``) its mean and its standard deviation. ``meanabs`` divides every window by its mean absolute value
            instead, and every target by that of its training rows, whatever ``scaler`` says.
        affine: Whether ``revin`` learns a gain and a shift for each channel.
        level_inputs: Whether what is taken off a window is an input, so that the forecast can depend on it.
        calendar: Whether the time of day and of the week of every row, past and future, is an input.
        item_embedding: Learned numbers that tell an item from others, where there are several; 0 tells none.
        stride: Rows from one training window to the next.
    """

    loss: LossName = "mse"
    transform: Literal["auto", "identity", "sqrt", "log1p"] = "auto"
    scaler: ScalerName = "standard"
    normalisation: WindowNormalisation = "revin"
    affine: bool = False
    level_inputs: bool = False
    calendar: bool = False
    item_embedding: int = Field(4, ge=0)
    stride: int = Field(1, ge=1)


class NetworkForecaster(Forecaster):
    """Base of the networks: a subclass names itself, declares its settings and implements ``body``.

    ``training_defaults`` are the settings of the training loop, and ``batch_size``, that suit the model.
    """

    config_class: ClassVar[type[Config]] = NetworkConfig
    search_space: ClassVar[dict[str, Any]] = {
        "hidden_size": [16, 32, 64, 128],
        "d_model": [32, 64, 128],
        "num_layers": {"low": 1, "high": 3},
        "dropout": {"low": 0.0, "high": 0.5},
        "normalisation": ["none", "last", "mean", "revin"],
        "transform": ["auto", "identity", "log1p"],
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": [32, 64, 128, 256, 512],
    }
    """What networks share; a network that lacks a setting is searched without it."""
    config: NetworkConfig
    scaler: Scaler
    scalers: dict[str, Scaler]
    """Those of the covariates and static features, if there are any: observed, known, features."""
    calendar: Calendar
    network: WindowNetwork

    @abstractmethod
    def body(self, shape: NetworkShape) -> nn.Module:
        """The module in the middle: called with past [B, L, D] and future [B, H, K], it gives B x (H, C, Q) values."""

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Train by gradient; scaler and weights know the training rows only, validation stops and picks the epoch.

        Raises:
            DataError: There is no complete training window.
        """
        started = time.process_time()
        settings = self.config
        self.spec = SeriesSpec.of(panel)
        scaler = "meanabs" if settings.normalisation == "meanabs" else settings.scaler
        train_RC = panel.take(train).values
        self.scaler = Scaler.fit(train_RC[:, panel.targets], scaler, self._transform())
        observed, known = (columns_of(panel.channels, role) for role in ("observed", "known"))
        beside = {"observed": train_RC[:, observed], "known": train_RC[:, known], "features": panel.features}
        self.scalers = {name: Scaler.fit(rows, "standard") for name, rows in beside.items() if rows.shape[1]}
        self.calendar = self._calendar_of(int((train.last - train.first).max()))
        array_RD = self._past(panel.values)
        if known.size or panel.feature_names or self.calendar.size:
            features_RF = panel.features[panel.items_of(np.arange(len(panel)))]
            known_RK = self._known(panel.values[:, known], features_RF, panel.times())
            array_RD = np.concatenate([array_RD, known_RK], axis=1)
        problem = NetworkProblem(
            panel=panel,
            train=train,
            validation=validation,
            array_RD=array_RD,
            observed=len(observed),
            context=self.context,
            horizon=self.horizon,
            loss=settings.loss,
            levels=QUANTILE_LEVELS,
            stride=settings.stride,
            architecture={"model": self.name, **settings.model_dump(mode="json")},
            architecture_defaults=type(settings)().model_dump(mode="json"),
        )
        network, outcome, windows = train_network(
            self._build, problem, self.training, progress=progress or silent
        )
        self.network = network.eval()
        return FitReport(
            model=self.name,
            n_windows=windows,
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen={"epoch": outcome.best_epoch + 1, "transform": self.scaler.transform},
            history=tuple(outcome.history),
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a window with a missing input is NaN.

        Raises:
            HistoryError: The batch carries no future of the known channels.
        """
        batch = batch.select(self.fitted_spec().channels)
        if self.fitted_spec().known and batch.future_BHK is None:
            raise HistoryError(f"{self.name} needs the known channels of the rows to forecast")
        counts_C = self.fitted_spec().count_mask
        shape = (len(batch.origin_B), self.horizon, self._outputs, len(counts_C))
        scaled_BHQC = np.empty(shape, np.float32)
        with torch.inference_mode(), threads(1):
            at_once = max(1, ROWS_AT_ONCE // (self.context + self.horizon))
            for begin in range(0, len(scaled_BHQC), at_once):
                part = slice(begin, begin + at_once)
                scaled_BHQC[part] = self._forward(batch, part)
        scaled_BHQC[np.isnan(batch.context_BLC).any(axis=(1, 2))] = np.nan
        if batch.future_BHK is not None:
            scaled_BHQC[np.isnan(batch.future_BHK).any(axis=(1, 2))] = np.nan
        floor_C = np.where(counts_C, 0.0, -np.inf)
        rows_BHQC = np.maximum(self.scaler.unscale(scaled_BHQC), floor_C).astype(np.float32)
        if self.config.loss != "quantile":
            return Prediction(rows_BHQC[:, :, 0])
        rows_BHQC.sort(axis=2)  # sorted, quantiles never cross
        return Prediction(rows_BHQC[:, :, QUANTILE_LEVELS.index(0.5)], rows_BHQC)

    def _forward(self, batch: WindowBatch, part: slice) -> FloatArray:
        """Forecasts of some windows on the model's scale [b, H, Q, C]."""
        spec, context_BLC = self.fitted_spec(), batch.context_BLC[part]
        # A missing value must not reach the others through a sum: it becomes 0, and predict blanks its window.
        past = np.nan_to_num(self._past(context_BLC))
        future = np.zeros((len(past), self.horizon, 0), np.float32)
        if spec.known or spec.features or self.calendar.size:
            time_BW = batch.times(self.horizon)[part]
            known_BWK = take_columns(context_BLC, columns_of(spec.channels, "known"))
            if batch.future_BHK is not None:
                known_BWK = np.concatenate([known_BWK, batch.future_BHK[part]], axis=1)
            feature_B1F = batch.features_BF[part, None] if batch.features_BF is not None else None
            known = np.nan_to_num(self._known(known_BWK, feature_B1F, time_BW))
            past, future = np.concatenate([past, known[:, : self.context]], axis=2), known[:, self.context :]
        place = {name: number for number, name in enumerate(self.fitted_spec().items)}
        number_of = np.array([place.get(name, -1) for name in batch.items])
        item_B = torch.from_numpy(number_of[batch.item_B[part]])
        rows = self.network(torch.from_numpy(past), torch.from_numpy(future), item_B)
        rows_BHQC: FloatArray = (rows if rows.ndim == 4 else rows[:, :, None]).numpy()
        return rows_BHQC

    @property
    def n_parameters(self) -> int:
        """Learned numbers of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Scalers and calendar, and the weights by their names in the network."""
        weights = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        values: dict[str, Any] = {"scaler": self.scaler.to_dict(), "calendar": self.calendar.to_list()}
        return values | {"scalers": {name: one.to_dict() for name, one in self.scalers.items()}}, weights

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``.

        Raises:
            ValueError: The weights are not those of this network.
        """
        self.scaler = Scaler.from_dict(state["scaler"])
        self.scalers = {name: Scaler.from_dict(one) for name, one in state.get("scalers", {}).items()}
        self.calendar = Calendar.from_list(self.fitted_spec().step, state["calendar"])
        self.network = self._build().eval()
        try:
            self.network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from error

    @property
    def _outputs(self) -> int:
        return len(QUANTILE_LEVELS) if self.config.loss == "quantile" else 1

    def _transform(self) -> TransformName:
        if self.config.transform != "auto":
            return self.config.transform
        counts = bool(self.fitted_spec().count_mask.all())
        return "sqrt" if counts else "identity"

    def _calendar_of(self, rows: int) -> Calendar:
        """The slow waves among those that so many rows can teach; none where no calendar is wanted."""
        step = self.fitted_spec().step
        every: Sequence[tuple[int, int]] = Calendar.of(step, rows).harmonics if self.config.calendar else ()
        return Calendar(step=step, harmonics=tuple(wave for wave in every if wave[1] <= WAVES))

    def _past(self, row_XC: FloatArray) -> FloatArray:
        """The scaled targets and observed covariates of rows of any leading shape: float32 [..., C + O]."""
        channels = self.fitted_spec().channels
        parts = [self.scaler.scale(take_columns(row_XC, columns_of(channels, "target")))]
        observed = columns_of(channels, "observed")
        if observed.size:
            parts.append(self.scalers["observed"].scale(row_XC[..., observed]))
        return _joined(parts)

    def _known(self, known_XK: FloatArray, feature_XF: FloatArray | None, time_X: IntArray) -> FloatArray:
        """The inputs known in advance, float32 [..., K]; a relative clock counts as if it began on the Unix epoch.

        Args:
            known_XK: The known channels of rows of any leading shape.
            feature_XF: The static features of their items.
            time_X: Their times in microseconds.
        """
        spec, parts = self.fitted_spec(), []
        if spec.known:
            parts.append(self.scalers["known"].scale(known_XK))
        if spec.features and feature_XF is not None:
            scaled = self.scalers["features"].scale(feature_XF)
            parts.append(np.broadcast_to(scaled, (*time_X.shape, len(spec.features))))
        if self.calendar.size:
            terms = self.calendar.terms(time_X.reshape(-1))
            parts.append(terms.reshape(*time_X.shape, self.calendar.size))
        return _joined(parts)

    def _build(self) -> WindowNetwork:
        spec = self.fitted_spec()
        embedding = self.config.item_embedding if len(spec.items) > 1 else 0
        levels = 2 * len(spec.targets) if self.config.level_inputs else 0
        shape = NetworkShape(
            context=self.context,
            horizon=self.horizon,
            channels=len(spec.targets),
            observed=len(spec.channels) - len(spec.targets) - len(spec.known),
            given=len(spec.known),
            known=len(spec.known) + len(spec.features) + self.calendar.size + embedding + levels,
            outputs=self._outputs,
            levels=levels,
        )
        return WindowNetwork(
            self.body(shape),
            shape,
            normalisation=self.config.normalisation,
            affine=self.config.affine,
            items=len(spec.items),
            embedding=embedding,
        )


def _joined(parts: list[Float64Array]) -> FloatArray:
    """Inputs side by side as float32, kept within what a network can square."""
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    result: FloatArray = whole.clip(-LARGEST, LARGEST).astype(np.float32)
    return result
