"""DLinear: two linear maps from context to horizon, one of the season and one of the trend; solved exactly or by gradient.

The trend is a moving average of the context, the season is the rest. With squared error DLinear is ordinary least squares:
with M the moving average, ``Ws (I - M) + Wt M`` reaches every matrix W, and does so with ``Ws = Wt = W``. That is what the
exact solver stores, so that the weights are those of a genuine DLinear; a forecast folds them back into one matrix. Source
of the model: Zeng, Chen, Zhang, Xu, "Are Transformers Effective for Time Series Forecasting?", AAAI 2023.

Shapes: B windows, L context, H horizon, C channels, G groups of channels that share weights (C or 1).
"""

import time
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from presurge.config import Config
from presurge.errors import ConfigError
from presurge.models.forecaster import FitReport, Forecaster, LossName, Prediction, SeriesSpec
from presurge.models.linear.exact import ExactProblem, FoldedLinear, Normalisation
from presurge.progress import Progress, silent
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import Float64Array, Scaler, ScalerName, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays
from presurge.training.config import require_torch


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
        divides = self.config.normalisation == "meanabs"
        scaler = "meanabs" if divides else self.config.scaler
        self.scaler = Scaler.fit(panel.take(train).values, scaler, self.config.transform)
        find = self._solve if self.solver == "exact" else self._learn
        report = find(panel, train, validation, progress or silent)
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

    def _solve(self, panel: Panel, train: Span, validation: Span | None, progress: Progress) -> FitReport:
        weight_GHL, bias_GH, report = ExactProblem(self, panel, train).solve(validation)
        weights, biases = weight_GHL.astype(np.float32), (bias_GH / 2).astype(np.float32)
        maps = [{f"{name}.weight": weights, f"{name}.bias": biases} for name in ("seasonal", "trend")]
        self._adopt(maps[0] | maps[1])
        progress("Solving", 1.0)
        return report

    def _learn(self, panel: Panel, train: Span, validation: Span | None, progress: Progress) -> FitReport:
        require_torch("training by gradient")
        from presurge.models.networks.linear_maps import learn

        arrays, report = learn(self, panel, train, validation, progress)
        self._adopt(arrays)
        return replace(report, chosen={"solver": "sgd", **report.chosen})

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; the forecast of a channel with a missing value in its context is NaN."""
        rows_BRC = self.folded.predict(batch.targets())
        if self.config.loss != "quantile":
            return Prediction(rows_BRC)
        levels = len(QUANTILE_LEVELS)
        shape = (len(rows_BRC), self.horizon, levels, rows_BRC.shape[2])
        quantiles_BHQC = np.sort(rows_BRC.reshape(shape), axis=2)  # sorted, quantiles never cross
        return Prediction(quantiles_BHQC[:, :, QUANTILE_LEVELS.index(0.5)], quantiles_BHQC)

    @property
    def n_parameters(self) -> int:
        """Weights and biases of both maps: ``2 G (L + 1) H``."""
        return sum(array.size for array in self.weights.values())

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """The scaler and the weights."""
        return {"scaler": self.scaler.to_dict()}, dict(self.weights)

    def restore(self, state: dict[str, Any], arrays: Arrays) -> None:
        """The scaler and the weights."""
        self.scaler = Scaler.from_dict(state["scaler"])
        self._adopt(arrays)

    def _adopt(self, weights: dict[str, FloatArray]) -> None:
        self.weights = weights
        parts = {name: array.astype(np.float64) for name, array in weights.items()}
        self.folded = FoldedLinear.build(
            fold(parts["seasonal.weight"], parts["trend.weight"], self.config.kernel_size),
            parts["seasonal.bias"] + parts["trend.bias"],
            self.scaler,
            self.fitted_spec().count_mask,
            self.config.normalisation,
        )


def moving_average_matrix(context: int, kernel_size: int) -> Float64Array:
    """The matrix [L, L] that takes a context to its centred moving average.

    Beyond its ends the context is continued with its first and last value. ``kernel_size`` is odd.
    """
    matrix, rows_L1 = np.zeros((context, context)), np.arange(context)[:, None]
    columns_LK = rows_L1 + np.arange(kernel_size) - kernel_size // 2
    np.add.at(matrix, (rows_L1, columns_LK.clip(0, context - 1)), 1 / kernel_size)
    return matrix


def fold(seasonal_GHL: Float64Array, trend_GHL: Float64Array, kernel_size: int) -> Float64Array:
    """The one linear map [G, H, L] that equals the two on season and trend: ``Ws (I - M) + Wt M``."""
    average_LL = moving_average_matrix(seasonal_GHL.shape[-1], kernel_size)
    result: Float64Array = seasonal_GHL + (trend_GHL - seasonal_GHL) @ average_LL
    return result
