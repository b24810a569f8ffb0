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
from presurge.series.scalers import Scaler, ScalerName, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
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
    covariates: Scaler
    features: Scaler
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
        self.covariates = Scaler.fit(train_RC[:, self._covariate_columns], "standard")
        self.features = Scaler.fit(panel.features, "standard")
        self.calendar = self._calendar_of(int((train.last - train.first).max()))
        row_R = np.arange(len(panel))
        problem = NetworkProblem(
            panel=panel,
            train=train,
            validation=validation,
            array_RD=self._inputs(panel.values, panel.times(), panel.features[panel.items_of(row_R)]),
            observed=len(columns_of(panel.channels, "observed")),
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
        context_BLC, channels = batch.context_BLC[part], self.fitted_spec().channels
        # Missing values, and what is not known of the future, must reach nothing through a sum: they become 0.
        ahead_BHC = np.full((len(context_BLC), self.horizon, len(channels)), np.nan, np.float32)
        if batch.future_BHK is not None:
            ahead_BHC[:, :, columns_of(channels, "known")] = batch.future_BHK[part]
        row_BWC = np.concatenate([context_BLC, ahead_BHC], axis=1)
        no_features = np.zeros((len(row_BWC), 0), np.float32)
        feature_BF = no_features if batch.features_BF is None else batch.features_BF[part]
        feature_BWF = np.repeat(feature_BF[:, None], row_BWC.shape[1], axis=1)
        inputs_BWD = np.nan_to_num(self._inputs(row_BWC, batch.times(self.horizon)[part], feature_BWF))
        past_only = len(channels) - len(self.fitted_spec().known)
        context, future = inputs_BWD[:, : self.context], inputs_BWD[:, self.context :, past_only:]
        place = {name: number for number, name in enumerate(self.fitted_spec().items)}
        number_of = np.array([place.get(name, -1) for name in batch.items])
        item_B = torch.from_numpy(number_of[batch.item_B[part]])
        rows = self.network(torch.from_numpy(context), torch.from_numpy(future), item_B)
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
        values |= {"covariates": self.covariates.to_dict(), "features": self.features.to_dict()}
        return values, weights

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The inverse of ``state``.

        Raises:
            ValueError: The weights are not those of this network.
        """
        none = Scaler.fit(np.zeros((0, 0)), "standard").to_dict()
        self.scaler = Scaler.from_dict(state["scaler"])
        self.covariates = Scaler.from_dict(state.get("covariates", none))
        self.features = Scaler.from_dict(state.get("features", none))
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

    @property
    def _covariate_columns(self) -> IntArray:
        """The columns of the observed covariates, then those of the known ones."""
        channels = self.fitted_spec().channels
        return np.concatenate([columns_of(channels, "observed"), columns_of(channels, "known")])

    def _inputs(self, row_XC: FloatArray, time_X: IntArray, feature_XF: FloatArray) -> FloatArray:
        """The inputs of rows of any leading shape, float32 [..., D]; a relative clock counts as one since the Unix epoch."""
        columns = self._covariate_columns
        parts = [self.scaler.scale(row_XC[..., columns_of(self.fitted_spec().channels, "target")])]
        parts.append(self.covariates.scale(row_XC[..., columns]))
        parts.append(self.features.scale(feature_XF))
        parts.append(self.calendar.terms(time_X.reshape(-1)).reshape(*time_X.shape, self.calendar.size))
        inputs: FloatArray = np.concatenate(parts, axis=-1).clip(-LARGEST, LARGEST).astype(np.float32)
        return inputs

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
