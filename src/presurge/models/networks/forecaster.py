"""The base of the networks: it scales inputs, adds the calendar and the items, trains and forecasts.

A model adds a *body*: a module that maps the past of a window, and what is known of its future, to values. Shapes: B
windows, L context, H horizon, C targets, O observed covariates, K inputs known in advance (known channels, static
features, calendar terms), D = C + O + K inputs of a row, F static features, Q outputs per value (1, or quantiles).
"""

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from presurge.config import Config
from presurge.errors import HistoryError
from presurge.models.calendar import Calendar
from presurge.models.forecaster import FitReport, Forecaster, LossName, Prediction, SeriesSpec
from presurge.models.networks.task import train_network
from presurge.models.networks.window import NetworkShape, WindowNetwork, WindowNormalisation
from presurge.progress import Progress
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import ChannelRole, FloatArray, IntArray, Panel, columns_of
from presurge.series.scalers import Scaler, ScalerName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, take_columns
from presurge.store import Arrays
from presurge.training.devices import threads

COVARIATES: tuple[ChannelRole, ...] = ("observed", "known")
WAVES = 3
"""Harmonics of the day and of the week among the inputs; a network bends them itself where it needs sharper ones."""
LARGEST = 1e18
"""Largest input of a network: the square of a larger one would overflow float32."""
ROWS_AT_ONCE = 1 << 16
"""Rows of all windows in one forward pass, which bounds the memory."""


class NetworkConfig(Config):
    """Settings of every network.

    Attributes:
        loss: Loss of the scaled values; ``quantile`` learns every level of the intervals.
        transform: Applied before scaling; ``auto`` is the square root if every target is a count, otherwise none.
        scaler: Applied after the transform, fitted on the training rows.
        normalisation: What is removed from every window and restored in its forecast: nothing, its last value, its mean,
            or (``revin``) its mean and standard deviation. ``meanabs`` divides every window by its mean absolute value
            instead, and every target by that of its training rows, whatever ``scaler`` says.
        affine: Whether ``revin`` learns a gain and a shift for each channel.
        level_inputs: Whether what is removed from a window is an input, so that the forecast can depend on it.
        calendar: Whether the time of day and of the week of every row, past and future, is an input.
        item_embedding: Length of the vector learned for each item if there are several; 0 for none.
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
    """Base of the networks: a subclass sets ``name``, ``summary`` and ``config_class``, and implements ``body``.

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
    """Of these, a search takes the settings that the network has."""
    config: NetworkConfig
    scaler: Scaler
    scalers: dict[str, Scaler]
    """By what they scale, if there is any: ``observed`` and ``known`` covariates, static ``features``."""
    calendar: Calendar
    network: WindowNetwork

    @abstractmethod
    def body(self, shape: NetworkShape) -> nn.Module:
        """The module in the middle: called with past [B, L, D] and future [B, H, K], it returns B x (H, C, Q) values."""

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Train by gradient; only training rows fit scalers and weights, validation rows stop early and pick the epoch.

        Raises:
            DataError: There is no complete training window.
        """
        started = time.process_time()
        self.spec, config = SeriesSpec.of(panel), self.config
        rows_RN = panel.take(train).values
        scaler = "meanabs" if config.normalisation == "meanabs" else config.scaler
        transform = config.transform
        if transform == "auto":
            transform = "sqrt" if self.spec.count_mask.all() else "identity"
        self.scaler = Scaler.fit(rows_RN[:, panel.targets], scaler, transform)
        beside: dict[str, FloatArray] = {"features": panel.features}
        beside |= {role: rows_RN[:, columns_of(panel.channels, role)] for role in COVARIATES}
        self.scalers = {name: Scaler.fit(rows, "standard") for name, rows in beside.items() if rows.shape[1]}
        longest = int((train.last - train.first).max())
        waves = Calendar.of(panel.step, longest).harmonics if config.calendar else ()
        self.calendar = Calendar(step=panel.step, harmonics=tuple(w for w in waves if w[1] <= WAVES))
        features_RF = panel.features[panel.items_of(np.arange(len(panel)))]
        array_RD = self._inputs(panel.values, features_RF, panel.times)
        network, report = train_network(self._build, self, panel, array_RD, train, validation, progress)
        self.network = network.eval()
        return replace(
            report,
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen={**report.chosen, "transform": transform},
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a window with a missing input is NaN.

        Raises:
            HistoryError: The batch carries no future of the known channels.
        """
        spec = self.fitted_spec()
        batch = batch.select(spec.channels)
        if spec.known and batch.future_BHK is None:
            raise HistoryError(f"{self.name} needs the known channels of the rows to forecast")
        shape = (len(batch.origin_B), self.horizon, self.network.shape.outputs, len(spec.targets))
        scaled_BHQC = np.empty(shape, np.float32)
        at_once = max(1, ROWS_AT_ONCE // (self.context + self.horizon))
        with torch.inference_mode(), threads(1):
            for begin in range(0, len(scaled_BHQC), at_once):
                part = slice(begin, begin + at_once)
                scaled_BHQC[part] = self._forward(batch, part)
        floor_C = np.where(spec.count_mask, 0.0, -np.inf)
        rows_BHQC = np.maximum(self.scaler.unscale(scaled_BHQC), floor_C).astype(np.float32)
        if self.config.loss != "quantile":
            return Prediction(rows_BHQC[:, :, 0])
        rows_BHQC.sort(axis=2)  # sorted, quantiles never cross
        return Prediction(rows_BHQC[:, :, QUANTILE_LEVELS.index(0.5)], rows_BHQC)

    def _forward(self, batch: WindowBatch, part: slice) -> FloatArray:
        """Forecast some of the windows on the model's scale: [b, H, Q, C]."""
        spec, context_BLN = self.fitted_spec(), batch.context_BLC[part]
        windows, context, channels = context_BLN.shape
        row_BWN = np.zeros((windows, context + self.horizon, channels), np.float32)
        row_BWN[:, :context] = context_BLN
        if batch.future_BHK is not None:
            row_BWN[:, context:, columns_of(spec.channels, "known")] = batch.future_BHK[part]
        feature_B1F = None if batch.features_BF is None else batch.features_BF[part, None]
        input_BWD = self._inputs(row_BWN, feature_B1F, lambda: batch.times(self.horizon)[part])
        # A missing value becomes 0, so that it cannot spread to other windows, and the forecast of its own is blanked.
        blank_B = np.isnan(input_BWD).any(axis=(1, 2))
        filled_BWD = torch.from_numpy(np.nan_to_num(input_BWD, copy=False))
        number_of = {name: number for number, name in enumerate(spec.items)}
        item_I = np.array([number_of.get(name, -1) for name in batch.items])
        known_BHK = filled_BWD[:, context:, len(spec.channels) - len(spec.known) :]
        rows = self.network(filled_BWD[:, :context], known_BHK, torch.from_numpy(item_I[batch.item_B[part]]))
        rows_BHQC: FloatArray = (rows if rows.ndim == 4 else rows[:, :, None]).numpy()
        rows_BHQC[blank_B] = np.nan
        return rows_BHQC

    def _inputs(
        self, row_XN: FloatArray, feature_XF: FloatArray | None, times: Callable[[], IntArray]
    ) -> FloatArray:
        """The scaled inputs of rows of any leading shape X, kept within what a network can square: float32 [X, D].

        On a relative clock the calendar begins at the Unix epoch.

        Args:
            row_XN: The rows, with all channels.
            feature_XF: The static features of their items, or of something that broadcasts to them.
            times: Gives the times of the rows in microseconds, if there is a calendar.
        """
        channels, leading = self.fitted_spec().channels, row_XN.shape[:-1]
        parts = [self.scaler.scale(take_columns(row_XN, columns_of(channels, "target")))]
        for role in COVARIATES:
            if role in self.scalers:
                parts.append(self.scalers[role].scale(row_XN[..., columns_of(channels, role)]))
        if feature_XF is not None and "features" in self.scalers:
            scaled_XF = self.scalers["features"].scale(feature_XF)
            parts.append(np.broadcast_to(scaled_XF, (*leading, scaled_XF.shape[-1])))
        if self.calendar.size:
            parts.append(self.calendar.terms(times().reshape(-1)).reshape(*leading, -1))
        narrow = [part.clip(-LARGEST, LARGEST).astype(np.float32) for part in parts]
        return np.ascontiguousarray(np.concatenate(narrow, axis=-1))

    @property
    def n_parameters(self) -> int:
        """Learned numbers of the network."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Scalers and calendar, and the weights by their names in the network."""
        weights = {name: tensor.numpy() for name, tensor in self.network.state_dict().items()}
        values: dict[str, Any] = {"scaler": self.scaler.to_dict(), "calendar": self.calendar.harmonics}
        return values | {"scalers": {name: one.to_dict() for name, one in self.scalers.items()}}, weights

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``.

        Raises:
            RuntimeError: The weights are not those of this network.
        """
        self.scaler = Scaler.from_dict(state["scaler"])
        self.scalers = {name: Scaler.from_dict(one) for name, one in state.get("scalers", {}).items()}
        self.calendar = Calendar(step=self.fitted_spec().step, harmonics=state["calendar"])
        self.network = self._build().eval()
        self.network.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})

    def _build(self) -> WindowNetwork:
        spec, config = self.fitted_spec(), self.config
        embedding = config.item_embedding if len(spec.items) > 1 else 0
        levels = 2 * len(spec.targets) if config.level_inputs else 0
        shape = NetworkShape(
            context=self.context,
            horizon=self.horizon,
            channels=len(spec.targets),
            observed=len(spec.channels) - len(spec.targets) - len(spec.known),
            given=len(spec.known),
            known=len(spec.known) + len(spec.features) + self.calendar.size + embedding + levels,
            outputs=len(QUANTILE_LEVELS) if config.loss == "quantile" else 1,
            levels=levels,
            embedding=embedding,
        )
        return WindowNetwork(self.body(shape), shape, config, len(spec.items))
