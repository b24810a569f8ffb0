"""DLinear: two linear maps from context to horizon, one of the season and one of the trend; solved exactly.

With squared error DLinear is ordinary least squares: with M the moving average, ``Ws (I - M) + Wt M`` reaches every matrix
W, and does so with ``Ws = Wt = W``. That is what the exact solver stores, so that the weights are those of a genuine
DLinear; a forecast folds them back into one matrix. Source of the model: Zeng, Chen, Zhang, Xu, "Are Transformers
Effective for Time Series Forecasting?", AAAI 2023.

Shapes: B windows, L context, H horizon, C channels, G groups of channels that share weights (C or 1).
"""

import time
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from presurge.models.decomposition import fold
from presurge.models.exact import Normalisation, fit_exact, pose
from presurge.models.folded import FoldedLinear
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec, Settings
from presurge.progress import Progress
from presurge.series.panel import FloatArray, Panel
from presurge.series.scalers import Scaler, ScalerName, TransformName
from presurge.series.spans import Span
from presurge.series.windows import WindowBatch
from presurge.store import Arrays


class DLinearSettings(Settings):
    """Settings of DLinear.

    Attributes:
        individual: Own weights for each channel, or one set for all.
        kernel_size: Rows of the moving average; odd.
        solver: How the weights are found; ``auto`` is ``exact``.
        transform: Applied before scaling.
        scaler: Applied after the transform.
        normalisation: What is taken off every window and put back on its forecast: nothing, its last value or its mean.
        ridge: Relative penalty of the weights; None chooses it on validation.
        stride: Rows from one training window to the next.
    """

    individual: bool = True
    kernel_size: int = Field(25, ge=1)
    solver: Literal["auto", "exact"] = "auto"
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


class DLinear(Forecaster):
    """Season and trend, each by a linear map of its own; exact least squares."""

    name: ClassVar[str] = "dlinear"
    summary: ClassVar[str] = "linear maps of season and trend, solved exactly"
    settings_class: ClassVar[type[Settings]] = DLinearSettings
    refits: ClassVar[bool] = True
    settings: DLinearSettings
    scaler: Scaler
    weights: dict[str, FloatArray]
    """``seasonal.weight`` and ``trend.weight`` [G, H, L], ``seasonal.bias`` and ``trend.bias`` [G, H]; scaled values."""
    folded: FoldedLinear
    """The same in one matrix a channel, in original units: ``folded.predict_one`` is the fastest forecast."""

    def fit(
        self, panel: Panel, train: Span, validation: Span | None = None, *, progress: Progress | None = None
    ) -> FitReport:
        """Solve for the weights; the scaler and the weights know the training rows only."""
        started = time.process_time()
        settings = self.settings
        self.spec = SeriesSpec.of(panel)
        self.scaler = Scaler.fit(panel.take(train).values, settings.scaler, settings.transform)
        problem = pose(
            panel,
            train,
            self.scaler,
            context=self.context,
            horizon=self.horizon,
            shared=not settings.individual,
            normalisation=settings.normalisation,
        )
        solution = fit_exact(problem, train, validation, ridge=settings.ridge, stride=settings.stride)
        weight_GHL = solution.weight_GHL.astype(np.float32)
        half_GH = (solution.bias_GH / 2).astype(np.float32)
        self._adopt(
            {
                "seasonal.weight": weight_GHL,
                "seasonal.bias": half_GH,
                "trend.weight": weight_GHL,
                "trend.bias": half_GH,
            }
        )
        if progress is not None:
            progress("solved", 1.0)
        return FitReport(
            model=self.name,
            n_windows=solution.n_windows,
            n_parameters=self.n_parameters,
            cpu_seconds=time.process_time() - started,
            chosen={"solver": "exact", "ridge": solution.ridge},
            candidates=solution.candidates,
            notes=solution.notes,
        )

    def predict(self, batch: WindowBatch) -> Prediction:
        """Forecast B windows; a channel with a missing value in its context is forecast as NaN."""
        return Prediction(self.folded.predict(batch.context_BLC))

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
            fold(parts["seasonal.weight"], parts["trend.weight"], self.settings.kernel_size),
            parts["seasonal.bias"] + parts["trend.bias"],
            self.scaler,
            np.array([channel.kind == "count" for channel in self.fitted_spec().channels]),
        )
