"""DLinear: two linear maps from context to horizon, one of the season and one of the trend; solved exactly or by gradient.

The trend is a moving average of the context, the season is the rest. With squared error DLinear is ordinary least squares:
with M the moving average, ``Ws (I - M) + Wt M`` reaches every matrix W, and does so with ``Ws = Wt = W``. That is what the
exact solver stores, so that the weights are those of a genuine DLinear; a forecast folds them back into one matrix. Source
of the model: Zeng, Chen, Zhang, Xu, "Are Transformers Effective for Time Series Forecasting?", AAAI 2023.

Shapes: R rows, B windows, L context, H horizon, W = L + H, C channels, G groups of channels that share weights (C or 1),
P ridges, N outputs (H, or P x H).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from presurge.config import Config
from presurge.errors import ConfigError
from presurge.models.forecaster import FitReport, Forecaster, LossName, Prediction, SeriesSpec
from presurge.models.linear.moments import LEAST_SIZE, Moments, Normalisation, anchor, moments_of, no_moments
from presurge.models.linear.select import complete_starts, item_sizes, no_window, window_forecasts
from presurge.models.linear.solve import DEFAULT_RIDGE, RIDGES, solve, squared_errors, without_anchor
from presurge.progress import Progress, silent
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import TRANSFORMS, Float64Array, Scaler, ScalerName, Transform, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch, window_origins
from presurge.store import Arrays
from presurge.training.config import require_torch

_TAIL = "0.2"
"""The share of the training rows that chooses the ridge where there are no validation rows."""
_Maps = tuple[Float64Array, Float64Array]
"""Weights [P, H, L] and biases [P, H] of P ridges."""


class DLinearConfig(Config):
    """Configuration of DLinear.

    Attributes:
        individual: Whether each channel has its own weights, or all share one set.
        kernel_size: Rows of the moving average; odd.
        solver: How the weights are found: ``exact`` least squares, ``sgd`` by the training loop (needs torch), or
            ``auto``, which is exact where the loss is the squared error without weight decay.
        loss: What training minimises; all but ``mse`` need ``sgd``. ``quantile`` forecasts every level of the intervals.
        transform: Applied before scaling.
        scaler: Applied after the transform.
        normalisation: What is taken off every window and put back on its forecast: nothing, its last value or its mean.
            ``meanabs`` divides every window by its mean absolute value and multiplies its forecast; the scaler is then
            ``meanabs`` too, which shifts nothing.
        ridge: Penalty of the weights in rows; None chooses it on validation.
        stride: Rows from one training window to the next.
    """

    individual: bool = True
    kernel_size: int = Field(25, ge=1)
    solver: Literal["auto", "exact", "sgd"] = "auto"
    loss: LossName = "mse"
    transform: TransformName = "identity"
    scaler: ScalerName = "standard"
    normalisation: Normalisation = "none"
    ridge: float | None = Field(None, ge=0)
    stride: int = Field(1, ge=1)

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a moving average is centred on a row, so its size must be odd")
        return value

    @model_validator(mode="after")
    def _exact_only_for_squares(self) -> "DLinearConfig":
        if self.solver == "exact" and self.loss != "mse":
            raise ValueError(
                f"the exact solver minimises the squared error, not {self.loss}: choose solver sgd"
            )
        return self


_SGD = {"solver": ["sgd"]}


@dataclass(frozen=True, slots=True, eq=False)
class FoldedLinear:
    """Forecast = inverse(weight @ transform(context) + bias), not below the floor; original units in and out.

    Attributes:
        weight_CHL: float64, one matrix a channel.
        bias_C1H: float64.
        floor_C11: float64, zero for counts, minus infinity for gauges.
        transform: Applied to contexts, and taken back from forecasts.
        size_C11: If given, the bias is multiplied by the mean absolute transformed context as a share of this.
    """

    weight_CHL: Float64Array
    bias_C1H: Float64Array
    floor_C11: Float64Array
    transform: Transform
    size_C11: Float64Array | None

    def predict(self, context_BLC: FloatArray) -> FloatArray:
        """Forecast B windows: [B, L, C] to float32 [B, H, C]. A channel with a missing value is forecast as NaN."""
        x_CBL = self.transform.forward(context_BLC.transpose(2, 0, 1).astype(np.float64, order="C"))
        bias_CBH = self.bias_C1H
        if self.size_C11 is not None:
            share_CB1 = np.abs(x_CBL).mean(axis=2, keepdims=True) / self.size_C11
            bias_CBH = bias_CBH * np.maximum(share_CB1, LEAST_SIZE)
        y_CBH = self.transform.inverse(x_CBL @ self.weight_CHL.transpose(0, 2, 1) + bias_CBH)
        mean_CBH = np.maximum(y_CBH, self.floor_C11)
        point_BHC: FloatArray = mean_CBH.transpose(1, 2, 0).astype(np.float32, order="C")
        return point_BHC

    def predict_one(self, context_LC: FloatArray) -> FloatArray:
        """Forecast one window: [L, C] to float32 [H, C]."""
        mean_HC: FloatArray = self.predict(context_LC[None])[0]
        return mean_HC


class DLinear(Forecaster):
    """Season and trend, each by its own linear map, from exact least squares or the training loop."""

    name: ClassVar[str] = "dlinear"
    summary: ClassVar[str] = "linear maps of season and trend, solved exactly"
    config_class: ClassVar[type[Config]] = DLinearConfig
    training_defaults: ClassVar[dict[str, Any]] = {"schedule": "one-cycle"}
    search_space: ClassVar[dict[str, Any]] = {
        "solver": ["exact", "sgd"],
        "transform": ["identity", "sqrt", "log1p"],
        "normalisation": ["none", "last", "mean"],
        "individual": [True, False],
        "ridge": {
            "choices": [None, 10.0, 100.0, 1_000.0, 10_000.0],
            "only_with": {"solver": ["auto", "exact"]},
        },
        "loss": {"choices": ["mse", "mae", "huber"], "only_with": _SGD},
        "scaler": {"choices": ["standard", "robust"], "only_with": _SGD},
        "kernel_size": {"choices": [5, 13, 25, 49], "only_with": _SGD},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True, "only_with": _SGD},
        "batch_size": {"choices": [32, 128, 512], "only_with": _SGD},
    }
    config: DLinearConfig
    scaler: Scaler
    sizes: dict[str, Float64Array]
    """Of several items: mean absolute training values [C], which contexts are divided by and forecasts multiplied."""
    weights: dict[str, FloatArray]
    """``seasonal.weight`` and ``trend.weight`` [G, H, L], ``seasonal.bias`` and ``trend.bias`` [G, H]; scaled values."""
    folded: FoldedLinear
    """The same in one matrix a channel, in original units: ``folded.predict_one`` is the fastest forecast."""

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Find the weights; the scaler and the weights know the training rows only.

        Raises:
            DataError: There is no complete training window.
            ConfigError: The solver is ``exact`` and there is a weight decay.
            MissingDependencyError: The solver is ``sgd`` and torch is not installed.
        """
        started = time.process_time()
        if self.config.solver == "exact" and self.training.weight_decay:
            raise ConfigError(
                "the exact solver has no weight decay for each of the two maps",
                setting="weight_decay",
                hint="Use `ridge`, its penalty of both together, or `solver=sgd`.",
            )
        panel = panel.only_targets()
        self.spec = SeriesSpec.of(panel)
        self.sizes = {}
        if len(panel.items) > 1:
            sizes_IC = item_sizes(panel, train)
            self.sizes = dict(zip(panel.items, sizes_IC, strict=True))
            sizes_RC = np.repeat(sizes_IC, np.diff(panel.indptr), axis=0)
            panel = panel.replace(values=(panel.values / sizes_RC).astype(np.float32))
        scaler = "meanabs" if self.config.normalisation == "meanabs" else self.config.scaler
        self.scaler = Scaler.fit(panel.take(train).values, scaler, self.config.transform)
        if self.solver == "exact":
            weight_GHL, bias_GH, report = ExactProblem(self, panel, train).solve(validation)
            own = {"weight": weight_GHL.astype(np.float32), "bias": (bias_GH / 2).astype(np.float32)}
            arrays = {f"{part}.{kind}": own[kind] for part in ("seasonal", "trend") for kind in own}
            (progress or silent)("Solving", 1.0)
        else:
            require_torch("training by gradient")
            from presurge.models.networks.linear_maps import learn

            arrays, report = learn(self, panel, train, validation, progress)
            report = replace(report, chosen={"solver": "sgd", **report.chosen})
        self._adopt(arrays)
        seconds = time.process_time() - started
        return replace(report, n_parameters=self.n_parameters, cpu_seconds=seconds)

    @property
    def solver(self) -> Literal["exact", "sgd"]:
        """The solver that ``auto`` stands for, under the loss and the weight decay."""
        if self.config.solver != "auto":
            return self.config.solver
        plain = self.config.loss == "mse" and self.training.weight_decay == 0
        return "exact" if plain else "sgd"

    @property
    def refits(self) -> bool:
        """Only the exact solution is cheap enough to compute twice."""
        return self.solver == "exact"

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a channel with a missing value in its context is NaN."""
        context_BLC = batch.targets()
        if self.sizes:
            size_B1C = self._sizes(batch, context_BLC)[:, None]
            rows_BRC = (self.folded.predict(context_BLC / size_B1C) * size_B1C).astype(np.float32)
        else:
            rows_BRC = self.folded.predict(context_BLC)
        if self.config.loss != "quantile":
            return Prediction(rows_BRC)
        levels = len(QUANTILE_LEVELS)
        shape = (len(rows_BRC), self.horizon, levels, rows_BRC.shape[2])
        quantiles_BHQC = np.sort(rows_BRC.reshape(shape), axis=2)  # sorted, quantiles never cross
        return Prediction(quantiles_BHQC[:, :, QUANTILE_LEVELS.index(0.5)], quantiles_BHQC)

    def _sizes(self, batch: WindowBatch, context_BLC: FloatArray) -> FloatArray:
        """The size of the item of every window [B, C]; of an item that is new, that of its context."""
        new_C = np.full(context_BLC.shape[2], np.nan)
        known_IC = np.array([self.sizes.get(name, new_C) for name in batch.items])
        own_BC = np.abs(context_BLC).mean(axis=1)
        size_BC: FloatArray = np.where(np.isnan(known_IC), 0, known_IC)[batch.item_B].astype(np.float32)
        size_BC = np.where(size_BC > 0, size_BC, own_BC)
        return np.where(size_BC > 0, size_BC, np.float32(1))

    @property
    def n_parameters(self) -> int:
        """Weights and biases of both maps: ``2 G (L + 1) H``."""
        return sum(array.size for array in self.weights.values())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """The scaler, the sizes of several items and the weights."""
        sizes = {name: size_C.tolist() for name, size_C in self.sizes.items()}
        return {"scaler": self.scaler.to_dict(), "sizes": sizes}, dict(self.weights)

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The scaler and the weights."""
        self.scaler = Scaler.from_dict(state["scaler"])
        self.sizes = {name: np.array(size) for name, size in state.get("sizes", {}).items()}
        self._adopt(arrays)

    def _adopt(self, weights: dict[str, FloatArray]) -> None:
        self.weights = weights
        parts = {name: array.astype(np.float64) for name, array in weights.items()}
        average_LL = moving_average_matrix(self.context, self.config.kernel_size)
        seasonal_GHL, trend_GHL = parts["seasonal.weight"], parts["trend.weight"]
        weight_GHL = seasonal_GHL + (trend_GHL - seasonal_GHL) @ average_LL
        self.folded = self.fold(weight_GHL, parts["seasonal.bias"] + parts["trend.bias"])

    def fold(self, weight_GHL: Float64Array, bias_GH: Float64Array) -> FoldedLinear:
        """Fold the scaler into weights for scaled values; G is the number of channels, or 1 for weights they share."""
        count_C = self.fitted_spec().count_mask
        shift_C1, scale_C1 = self.scaler.shift_C[:, None], self.scaler.scale_C[:, None]
        bias_CH = scale_C1 * bias_GH + shift_C1 * (1 - weight_GHL.sum(axis=2))
        return FoldedLinear(
            weight_CHL=np.broadcast_to(weight_GHL, (len(count_C), *weight_GHL.shape[1:])),
            bias_C1H=bias_CH[:, None],
            floor_C11=np.where(count_C, 0.0, -np.inf)[:, None, None],
            transform=TRANSFORMS[self.scaler.transform],
            size_C11=scale_C1[:, None] if self.config.normalisation == "meanabs" else None,
        )


class ExactProblem:
    """A series as the solver sees it, on a scale of its own so that sums of products lose no digits.

    Args:
        model: What to solve for: its sizes and configuration, and its scaler, which is fitted to the training rows.
        panel: The series.
        train: The training rows.
    """

    def __init__(self, model: DLinear, panel: Panel, train: Span) -> None:
        self.model, self.panel, self.train = model, panel, train
        self.context, self.horizon, self.shared = model.context, model.horizon, not model.config.individual
        self.level_L = anchor(model.config.normalisation, self.context)
        self.sized_by = self.context if model.config.normalisation == "meanabs" else None
        self.work_CR = np.ascontiguousarray(model.scaler.scale(panel.values).T)
        train_CR = model.scaler.scale(panel.take(train).values).T
        # Neither least squares nor its ridge notices a shift or a scale, unless windows are divided by their size.
        kind: ScalerName = "none" if self.sized_by else "standard"
        own = Scaler.fit(train_CR.reshape(1 if self.shared else len(train_CR), -1).T, kind)
        self.centre_G1, self.spread_G1 = own.shift_C[:, None], own.scale_C[:, None]
        self.work_CR -= self.centre_G1
        self.work_CR /= self.spread_G1

    def solve(self, validation: Span | None) -> tuple[Float64Array, Float64Array, FitReport]:
        """Solve for the training windows: weights [G, H, L] and biases [G, H] on the scale of the scaler, and a report.

        Unless the ridge is given, validation rows choose it and shape no weight. Without them the last fifth of the
        training rows chooses it, and the solution is then that of all training rows. One ridge serves all channels: one
        choice from all of them is steadier than one for each.

        Raises:
            DataError: A channel has no complete training window.
        """
        moments_G = self._moments(self.train, self.model.config.stride)
        windows_G = [moments.n for moments in moments_G]
        if 0 in windows_G:
            name = None if self.shared else self.panel.channels[windows_G.index(0)].name
            raise no_window(self.train, self.context, self.horizon, name)
        ridge, notes = self.model.config.ridge, []
        errors: dict[float, float] = {}
        if ridge is None:
            errors = self._validation_errors(moments_G, validation)
            ridge = min(errors, key=errors.__getitem__, default=DEFAULT_RIDGE)
            if not errors:
                notes.append(f"Too few rows to choose the ridge: it is {ridge:g}.")
        n_windows = max(windows_G)
        if n_windows < self.context:
            notes.append(
                f"There are fewer training windows ({n_windows}) than rows in a context ({self.context}): "
                "a shorter context or more data would give steadier weights."
            )
        report = FitReport(
            model=self.model.name,
            n_windows=n_windows // len(self.panel.channels) if self.shared else n_windows,
            chosen={"solver": "exact", "ridge": ridge},
            candidates=tuple({"ridge": tried, "validation_error": error} for tried, error in errors.items()),
            notes=tuple(notes),
        )
        return *self._scaled([solve(moments, self.context, [ridge]) for moments in moments_G]), report

    def _moments(self, span: Span, stride: int = 1) -> list[Moments]:
        """The moments of the complete windows of a span, for each group of channels."""
        width = self.context + self.horizon
        starts_C = complete_starts(self.panel, span, self.context, self.horizon, stride)
        pairs = zip(self.work_CR, starts_C, strict=True)
        channels = [moments_of(x_R, starts, width, sized_by=self.sized_by) for x_R, starts in pairs]
        groups = [sum(channels, no_moments(width))] if self.shared else channels
        # The level is that of the context, and taken off the targets too.
        return [group.relative_to(np.append(self.level_L, np.zeros(self.horizon))) for group in groups]

    def _validation_errors(self, moments_G: list[Moments], validation: Span | None) -> dict[float, float]:
        """The mean error of every ridge on rows that shape no weight; none if there are too few of them."""
        judge = validation
        if judge is None:
            head, judge = self.train.cut_tail(_TAIL)
            moments_G = self._moments(head, self.model.config.stride)
        if min(moments.n for moments in moments_G) == 0:
            return {}
        maps_G = [solve(moments, self.context, RIDGES) for moments in moments_G]
        if self.model.scaler.transform == "identity" and not self.sized_by:
            pairs = zip(self._moments(judge), maps_G, strict=True)
            errors = [squared_errors(moments, *maps) for moments, maps in pairs if moments.n]
        else:
            errors = self._errors_in_original_units(maps_G, judge)
        return dict(zip(RIDGES, np.mean(errors, axis=0).tolist(), strict=True)) if errors else {}

    def _errors_in_original_units(self, maps_G: Sequence[_Maps], judge: Span) -> list[Float64Array]:
        """Mean squared error of every ridge over the variance of the training rows, for each channel that has one.

        Moments cannot give it where the transform or the normalisation is not linear.
        """
        panel, context, horizon = self.panel, self.context, self.horizon
        folded = self.model.fold(*self._scaled(maps_G))
        origins = window_origins(panel, judge, context=context, horizon=horizon)
        made = window_forecasts(
            lambda batch: folded.predict(batch.context_BLC), panel, origins, context, horizon
        )
        n_C, total_PC = np.zeros(len(panel.channels)), np.zeros((len(RIDGES), len(panel.channels)))
        for _, actual_B1HC, made_BPHC in made:
            square_BPC = np.square(made_BPHC - actual_B1HC).sum(axis=2)
            n_C += (~np.isnan(square_BPC[:, 0])).sum(axis=0)
            total_PC += np.nansum(square_BPC, axis=0)
        known_C = [x_R[~np.isnan(x_R)] for x_R in panel.take(self.train).values.T]
        variance_C = [x_R.var(dtype=np.float64) if x_R.size else 0.0 for x_R in known_C]
        size_C = horizon * n_C * variance_C
        return list((total_PC[:, size_C > 0] / size_C[size_C > 0]).T)

    def _scaled(self, maps_G: Sequence[_Maps]) -> tuple[Float64Array, Float64Array]:
        """Weights [G, N, L] and biases [G, N] for scaled values of plain windows; N is P x H."""
        weight_GNL = np.array([weight_PHL.reshape(-1, self.context) for weight_PHL, _ in maps_G])
        bias_GN = np.array([bias_PH.reshape(-1) for _, bias_PH in maps_G])
        weight_GNL = without_anchor(weight_GNL, self.level_L)
        return weight_GNL, self.spread_G1 * bias_GN + self.centre_G1 * (1 - weight_GNL.sum(axis=2))


def moving_average_matrix(context: int, kernel_size: int) -> Float64Array:
    """The matrix [L, L] that takes a context to its centred moving average.

    Beyond its ends the context is continued with its first and last value. ``kernel_size`` is odd.
    """
    matrix, rows_L1 = np.zeros((context, context)), np.arange(context)[:, None]
    columns_LK = rows_L1 + np.arange(kernel_size) - kernel_size // 2
    np.add.at(matrix, (rows_L1, columns_LK.clip(0, context - 1)), 1 / kernel_size)
    return matrix
