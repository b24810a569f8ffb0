"""Forecasting as a task of the training loop: batches of windows gathered by index, and losses of their forecasts.

No window is ever materialised before its batch. On a GPU the series lie on the device, and a batch is its origins. Shapes: B windows, L context, H horizon, W = L + H, C channels, D columns
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
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.timestamps import format_stamp
from presurge.series.windows import gather
from presurge.training.task import LOSS, WEIGHT, Epoch, Task, move

RESIDENT_BYTES = 1 << 32
"""Series up to this size are copied to a GPU as a whole."""
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
        observed: Observed covariates, whose columns come after the channels.
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
        observed: int = 0,
        loss: LossName,
        levels: tuple[float, ...],
        gaps: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.context = context
        self.channels = channels
        self.past_only = channels + observed
        self.loss = loss
        self.gaps = gaps
        self.levels_Q1 = nn.Buffer(torch.tensor(levels, dtype=torch.float32)[:, None], persistent=False)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor | float]:
        """Losses of a batch of windows [B, W, D] and their items [B]; its weight is the share of targets that are known, in windows."""
        window_BWD, item_B = batch
        target_BHC = window_BWD[:, self.context :, : self.channels]
        known_BHK = window_BWD[:, self.context :, self.past_only :]
        forecast = self.network(window_BWD[:, : self.context], known_BHK, item_B)
        windows = float(len(window_BWD))
        weight = windows * (~target_BHC.isnan()).float().mean() if self.gaps else windows
        return {LOSS: self.criterion(forecast, target_BHC), WEIGHT: weight}

    def criterion(self, forecast: torch.Tensor, target_BHC: torch.Tensor) -> torch.Tensor:
        """The mean loss over the targets that are known; 0 if none is."""
        target = target_BHC[:, :, None, :] if self.loss == "quantile" else target_BHC
        error = target - forecast
        if not self.gaps:
            return self._each(error).mean()
        # Zeroed before the loss, not after it: the gradient of a loss that is NaN would be NaN wherever it is weighted 0.
        known = ~target.isnan().expand_as(error)
        return self._each(torch.where(known, error, 0.0)).sum() / known.sum().clamp(min=1)

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
class WindowTask(Task):
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
        architecture_defaults: The values among them that a checkpoint of an earlier version may lack.
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
    architecture_defaults: dict[str, Any] = field(default_factory=dict)
    batches_per_epoch: int = field(init=False)
    _order: tuple[tuple[int, int], IntArray] | None = field(default=None, init=False)
    _resident_RD: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.batches_per_epoch = -(-len(self.train) // self.batch_size)

    def identity(self) -> dict[str, Any]:
        """The network, the loss, the batch size and fingerprints of the data and the windows."""
        return {
            **self.architecture,
            "loss": self.module.loss,
            "context": self.context,
            "horizon": self.horizon,
            "fingerprint of the layers": self._layers(),
            "fingerprint of the data": fingerprint(self.array_RD),
            "fingerprint of the training windows": fingerprint(self.train),
            "fingerprint of the validation windows": fingerprint(self.validation),
        }

    def _layers(self) -> str:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        return hashlib.sha256(repr(shapes).encode()).hexdigest()[:16]

    def identity_defaults(self) -> dict[str, Any]:
        """What the settings of a network are unless told otherwise."""
        return self.architecture_defaults

    def batch(self, epoch: Epoch, index: int) -> torch.Tensor | None:
        """Origins of this process's share of a shuffled batch."""
        origins = self._share(epoch, index)
        return torch.from_numpy(origins) if len(origins) else None

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[torch.Tensor, int]]:
        """Origins in order; their weight is the number of targets that are known."""
        own = self.validation[rank::world]
        size = VALIDATION_BATCHES * self.batch_size
        channels = self.module.channels
        for begin in range(0, len(own), size):
            origins = own[begin : begin + size]
            count = len(origins) * self.horizon * channels
            if self.module.gaps:
                rows_BHD = gather(self.array_RD, origins, before=0, after=self.horizon)
                count -= int(np.isnan(rows_BHD[:, :, :channels]).sum())
            yield torch.from_numpy(origins), count

    def to_device(self, batch: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows [B, W, D] and items [B] of origins: gathered here for the cpu, else on the device."""
        origins = batch.numpy()
        item_B = torch.from_numpy(np.searchsorted(self.panel.indptr, origins, side="right") - 1)
        if device.type == "cpu" or self.array_RD.nbytes > RESIDENT_BYTES:
            window_BWD = gather(self.array_RD, origins, before=self.context, after=self.horizon)
            return move((torch.from_numpy(window_BWD), item_B), device)  # type: ignore[no-any-return]
        return self.gathered_on(device, batch), move(item_B, device)

    def gathered_on(self, device: torch.device, origin_B: torch.Tensor) -> torch.Tensor:
        """Windows [B, W, D] of the series that lie on a device, where they are copied once."""
        if self._resident_RD is None or self._resident_RD.device != device:
            self._resident_RD = torch.from_numpy(self.array_RD).to(device)
        offset_W = torch.arange(1 - self.context, self.horizon + 1, device=device)
        return self._resident_RD[move(origin_B, device)[:, None] + offset_W]

    def describe(self, epoch: Epoch, index: int) -> str:
        """The first windows of a batch, and its largest value and where that stands."""
        origins = np.sort(self._share(epoch, index))
        shown = ", ".join(map(str, origins[:5])) + (", …" if len(origins) > 5 else "")
        first_B = origins - self.context + 1
        window_BWD = np.abs(gather(self.array_RD, origins, before=self.context, after=self.horizon))
        place = int(np.nanargmax(window_BWD))
        b, w, d = np.unravel_index(place, window_BWD.shape)
        row = int(first_B[b] + w)
        time = self.panel.times_of(np.array([row]))[0]
        targets = [self.panel.channel_names[c] for c in self.panel.targets]
        name = targets[d] if d < len(targets) else "a covariate"
        return (
            f"{len(origins)} windows with origins at the rows {shown}; on the model's scale their largest value is "
            f"{self.array_RD[row, d]:.4g}, of {name} in row {row} ({format_stamp(int(time), self.panel.clock)})"
        )

    def _share(self, epoch: Epoch, index: int) -> IntArray:
        """Origins of this process's share of a batch."""
        key = (epoch.seed, epoch.number)
        if self._order is None or self._order[0] != key:
            self._order = (key, epoch.rng().permutation(self.train))
        share: IntArray = epoch.share(self._order[1][index * self.batch_size : (index + 1) * self.batch_size])
        return share


def fingerprint(array: npt.NDArray[Any]) -> str:
    """The first characters of the SHA-256 of the bytes of an array."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()[:16]
