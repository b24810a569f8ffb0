"""Forecasting as a task of the training loop: batches of windows gathered by index, and losses of their forecasts.

No window is ever materialised before its batch. Shapes: B windows, L context, H horizon, W = L + H, C channels, D columns
of the array (the C channels, then inputs known in advance), Q quantiles.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from presurge.models.forecaster import LossName
from presurge.series.panel import FloatArray, Panel
from presurge.series.timestamps import format_stamp
from presurge.series.windows import IntArray, gather
from presurge.training.task import LOSS, Epoch

VALIDATION_BATCHES = 4
"""Training batches in one of validation, which keeps nothing for a gradient: about as much memory."""


class ForecastLoss(nn.Module):
    """A network with its loss: what the loop calls with a batch.

    The network maps ``context_BLD`` (and ``known_BHK`` and ``item_B`` where it wants them) to ``[B, H, C]``, or to
    ``[B, H, Q, C]`` under the quantile loss. Targets that are missing (NaN) do not count.

    Args:
        network: The network.
        context: L.
        channels: C.
        loss: ``mse``, ``mae``, ``huber`` (threshold 1 on the model's scale) or ``quantile`` (pinball, averaged).
        levels: The Q levels of the quantile loss.
        gaps: Whether targets may be missing; looking for them costs a little.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        context: int,
        channels: int,
        loss: LossName,
        levels: tuple[float, ...],
        gaps: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.context = context
        self.channels = channels
        self.loss = loss
        self.gaps = gaps
        self.levels_Q1 = nn.Buffer(torch.tensor(levels, dtype=torch.float32)[:, None], persistent=False)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Named losses of a batch of windows [B, W, D] and their items [B]."""
        window_BWD, item_B = batch
        target_BHC = window_BWD[:, self.context :, : self.channels]
        known_BHK = window_BWD[:, self.context :, self.channels :]
        forecast = self.network(window_BWD[:, : self.context], known_BHK, item_B)
        return {LOSS: self.criterion(forecast, target_BHC)}

    def criterion(self, forecast: torch.Tensor, target_BHC: torch.Tensor) -> torch.Tensor:
        """The mean loss over the targets that are known."""
        target = target_BHC[:, :, None, :] if self.loss == "quantile" else target_BHC
        error = target - forecast
        if not self.gaps:
            return self._each(error).mean()
        # Zeroed before the loss, not after it: the gradient of a loss that is NaN would be NaN wherever it is weighted 0.
        known = ~target.isnan().expand_as(error)
        return self._each(torch.where(known, error, 0.0)).sum() / known.sum()

    def _each(self, error: torch.Tensor) -> torch.Tensor:
        match self.loss:
            case "mse":
                return error.square()
            case "mae":
                return error.abs()
            case "huber":
                return nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none")
            case "quantile":
                return torch.maximum(self.levels_Q1 * error, (self.levels_Q1 - 1) * error)


@dataclass(slots=True, kw_only=True, eq=False)
class WindowTask:
    """Batches of windows of one array.

    Attributes:
        module: The network with its loss.
        panel: The series.
        array_RD: float32, its scaled channels and then inputs known in advance, for every row.
        train: Origins of the training windows.
        validation: Origins of the validation windows.
        context: L.
        horizon: H.
        batch_size: Windows of a batch, over all processes.
        architecture: JSON values that describe the network.
    """

    module: ForecastLoss
    panel: Panel
    array_RD: FloatArray
    train: IntArray
    validation: IntArray
    context: int
    horizon: int
    batch_size: int
    architecture: dict[str, Any]
    _order: tuple[tuple[int, int], IntArray] | None = field(default=None, init=False)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.train) // self.batch_size)

    @property
    def identity(self) -> dict[str, Any]:
        """The network, the loss, the batch size and fingerprints of the data and the windows."""
        return {
            **self.architecture,
            "loss": self.module.loss,
            "context": self.context,
            "horizon": self.horizon,
            "batch_size": self.batch_size,
            "fingerprint of the layers": self._layers(),
            "fingerprint of the data": fingerprint(self.array_RD),
            "fingerprint of the training windows": fingerprint(self.train),
            "fingerprint of the validation windows": fingerprint(self.validation),
        }

    def _layers(self) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]

    def train_batches(self, epoch: Epoch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Shuffled batches; of every batch this process takes its share."""
        for index in range(epoch.skip, self.steps_per_epoch):
            yield self._gather(self._share(epoch, index))

    def validation_batches(
        self, rank: int, world: int
    ) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], int]]:
        """Batches in order; their weight is the number of targets that are known."""
        own = self.validation[rank::world]
        size = VALIDATION_BATCHES * self.batch_size
        for begin in range(0, len(own), size):
            batch = self._gather(own[begin : begin + size])
            target_BHC = batch[0][:, self.context :, : self.module.channels]
            yield batch, target_BHC.numel() - int(target_BHC.isnan().sum())

    def describe(self, epoch: Epoch, index: int) -> str:
        """The first windows of a batch, and its largest value and where that stands."""
        origins = np.sort(self._share(epoch, index))
        shown = ", ".join(map(str, origins[:5])) + (", …" if len(origins) > 5 else "")
        first_B = origins - self.context + 1
        window_BWD = np.abs(gather(self.array_RD, origins, before=self.context, after=self.horizon))
        place = int(np.nanargmax(window_BWD))
        b, w, d = np.unravel_index(place, window_BWD.shape)
        row = int(first_B[b] + w)
        item = self._items(np.array([row]))[0]
        time = self.panel.start[item] + (row - self.panel.indptr[item]) * self.panel.step
        name = self.panel.channel_names[d] if d < len(self.panel.channels) else "an input known in advance"
        return (
            f"{len(origins)} windows with origins at the rows {shown}; on the model's scale their largest value is "
            f"{self.array_RD[row, d]:.4g}, of {name} in row {row} ({format_stamp(int(time), self.panel.clock)})"
        )

    def _share(self, epoch: Epoch, index: int) -> IntArray:
        """Origins of this process's share of a batch; the shares are equally large, so that their mean is that of all."""
        key = (epoch.seed, epoch.number)
        if self._order is None or self._order[0] != key:
            self._order = (key, np.random.default_rng(key).permutation(self.train))
        batch = self._order[1][index * self.batch_size : (index + 1) * self.batch_size]
        rounded = -(-len(batch) // epoch.world) * epoch.world
        return np.resize(batch, rounded)[epoch.rank :: epoch.world]

    def _gather(self, origins: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
        window_BWD = gather(self.array_RD, origins, before=self.context, after=self.horizon)
        return torch.from_numpy(window_BWD), torch.from_numpy(self._items(origins))

    def _items(self, rows: IntArray) -> IntArray:
        return np.searchsorted(self.panel.indptr, rows, side="right") - 1


def fingerprint(array: npt.NDArray[Any]) -> str:
    """The first characters of the SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]
