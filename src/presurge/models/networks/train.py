"""Train a network on the windows of a panel."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from presurge.errors import DataError
from presurge.models.forecaster import LossName
from presurge.models.networks.task import ForecastLoss, WindowTask
from presurge.progress import Progress, silent
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import whole, window_origins
from presurge.training.config import TrainingConfig
from presurge.training.trainer import TrainingOutcome, fit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkProblem:
    """What a network is to learn.

    Attributes:
        panel: The series.
        train: Rows of the training windows.
        validation: Rows of the windows that stop training and choose the best epoch; None watches the training loss.
        array_RD: float32, the inputs of every row, scaled: the C targets, O observed covariates, inputs known in advance.
        context: L.
        horizon: H.
        loss: What is minimised, on the model's scale.
        levels: Quantile levels of the quantile loss.
        stride: Rows from one training window to the next.
        architecture: JSON values that describe the network, for the checkpoint.
        architecture_defaults: The values among them that a checkpoint of an earlier version may lack.
        observed: O.
    """

    panel: Panel
    train: Span
    validation: Span | None
    array_RD: FloatArray
    context: int
    horizon: int
    loss: LossName
    levels: tuple[float, ...]
    stride: int
    architecture: dict[str, Any]
    architecture_defaults: dict[str, Any] = field(default_factory=dict)
    observed: int = 0

    def train_origins(self) -> IntArray:
        """Origins of the training windows that a network can learn from.

        Raises:
            DataError: There is none.
        """
        origins = self._usable(
            window_origins(
                self.panel, self.train, context=self.context, horizon=self.horizon, stride=self.stride
            )
        )
        if len(origins) == 0:
            raise DataError(
                f"no training window has {self.context} rows of history without a gap and {self.horizon} to forecast",
                hint="Give more rows, or a shorter `context`.",
            )
        return origins

    def validation_origins(self) -> IntArray:
        """Origins of the validation windows that a forecast can be judged on."""
        if self.validation is None:
            return np.zeros(0, np.int64)
        return self._usable(
            window_origins(self.panel, self.validation, context=self.context, horizon=self.horizon)
        )

    def _usable(self, origins: IntArray) -> IntArray:
        """Those whose inputs are complete and whose targets are not all missing."""
        if self.panel.observed.all():
            return origins
        origins = origins[whole(self.panel, origins, context=self.context, horizon=self.horizon)]
        targets_RC = self.panel.observed[:, self.panel.targets]
        seen = np.concatenate([[0], targets_RC.any(axis=1).cumsum()])
        return origins[seen[origins + 1 + self.horizon] > seen[origins + 1]]


N = TypeVar("N", bound=nn.Module)


def train_network(
    build: Callable[[], N],
    problem: NetworkProblem,
    training: TrainingConfig,
    *,
    progress: Progress = silent,
) -> tuple[N, TrainingOutcome, int]:
    """Train a network on scaled windows: (network with its best weights on the cpu, outcome, training windows).

    Args:
        build: Makes the network; called after torch was seeded.
        problem: What to learn.
        training: How to train.
        progress: Told the share done.

    Raises:
        DataError: There is no complete training window.
    """
    panel = problem.panel
    origins = problem.train_origins()
    torch.manual_seed(training.seed)
    network = build()
    module = ForecastLoss(
        network,
        context=problem.context,
        channels=len(panel.targets),
        observed=problem.observed,
        loss=problem.loss,
        levels=problem.levels,
        gaps=not panel.observed[:, panel.targets].all(),
    )
    task = WindowTask(
        module=module,
        panel=panel,
        array_RD=problem.array_RD,
        train=origins,
        validation=problem.validation_origins(),
        context=problem.context,
        horizon=problem.horizon,
        batch_size=training.batch_size,
        architecture=problem.architecture,
        architecture_defaults=problem.architecture_defaults,
    )
    outcome = fit(
        task,
        training,
        directory=training.directory,
        resume=training.resume,
        loggers=training.loggers,
        progress=progress,
    )
    return network.to("cpu"), outcome, len(origins)
