"""Training networks on windows: batches of windows gathered by index, losses of their forecasts, and the whole training.

No window is materialised before its batch. On a GPU the series lie on the device, and a batch consists of origins. Shapes:
B windows, L context, H horizon, W = L + H, C targets, D inputs of a row (the targets, observed covariates, then inputs
known in advance), Q quantiles, R rows.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import nn

from presurge.errors import DataError
from presurge.models.forecaster import FitReport
from presurge.progress import Progress, silent
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, IntArray, Panel, columns_of
from presurge.series.spans import Span
from presurge.series.timestamps import format_stamp
from presurge.series.windows import chunks, complete, gather, whole, window_origins
from presurge.training.task import LOSS, WEIGHT, Epoch, Task, move
from presurge.training.trainer import fit

if TYPE_CHECKING:
    from presurge.models.linear.dlinear import DLinear
    from presurge.models.networks.forecaster import NetworkForecaster

Learner: TypeAlias = "DLinear | NetworkForecaster"
RESIDENT_BYTES = 1 << 32
"""Series up to this size are copied to a GPU as a whole."""
VALIDATION_BATCHES = 4
"""Training batches in one validation batch, which needs about as much memory because it stores nothing for a gradient."""

N = TypeVar("N", bound=nn.Module)


class ForecastLoss(nn.Module):
    """A network with its loss: what the loop calls with a batch.

    The network maps ``context_BLD``, ``known_BHK`` and ``item_B`` to ``[B, H, C]``, or to ``[B, H, Q, C]`` under the
    quantile loss. Missing targets (NaN) do not count.

    Args:
        network: The network.
        model: Says the context and the loss: ``mse``, ``mae``, ``huber`` (threshold 1 on the model's scale) or
            ``quantile`` (pinball, averaged).
        panel: The series; only if it has gaps does the loss look for missing targets, which costs a little.
        levels: The Q levels of the quantile loss.
    """

    def __init__(
        self, network: nn.Module, model: Learner, panel: Panel, levels: tuple[float, ...] = QUANTILE_LEVELS
    ) -> None:
        super().__init__()
        self.network, self.context, self.loss = network, model.context, model.config.loss
        self.channels = len(panel.targets)
        self.past_only = self.channels + len(columns_of(panel.channels, "observed"))
        self.gaps = not panel.measured[:, panel.targets].all()
        self.levels_Q1 = nn.Buffer(torch.tensor(levels, dtype=torch.float32)[:, None], persistent=False)

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor | float]:
        """Losses of windows [B, W, D] and their items [B].

        The weight is the number of windows times the share of their targets that are known.
        """
        window_BWD, item_B = batch
        target_BHC = window_BWD[:, self.context :, : self.channels]
        known_BHK = window_BWD[:, self.context :, self.past_only :]
        forecast = self.network(window_BWD[:, : self.context], known_BHK, item_B)
        windows = float(len(window_BWD))
        weight = windows * (~target_BHC.isnan()).float().mean() if self.gaps else windows
        return {LOSS: self.criterion(forecast, target_BHC), WEIGHT: weight}

    def criterion(self, forecast: torch.Tensor, target_BHC: torch.Tensor) -> torch.Tensor:
        """The mean loss over the known targets; 0 if there are none."""
        target = target_BHC[:, :, None, :] if self.loss == "quantile" else target_BHC
        error = target - forecast
        if not self.gaps:
            return self._each(error).mean()
        # Zero the errors before the loss, not after it: the gradient of a NaN is NaN even with a weight of zero.
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


@dataclass(slots=True, eq=False)
class WindowTask(Task):
    """Batches of windows of one array.

    Attributes:
        network: The network.
        model: Its name, context, horizon, configuration and training say what to learn and how.
        panel: The series.
        array_RD: float32, the scaled inputs of every row.
        train: Origins of the training windows.
        validation: Origins of the validation windows.
    """

    network: nn.Module
    model: Learner
    panel: Panel
    array_RD: FloatArray
    train: IntArray
    validation: IntArray
    module: ForecastLoss = field(init=False)
    batches_per_epoch: int = field(init=False)
    _resident_RD: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.module = ForecastLoss(self.network, self.model, self.panel)
        self.batches_per_epoch = -(-len(self.train) // self.model.training.batch_size)

    def identity(self) -> dict[str, Any]:
        """The configuration of the model, and fingerprints of its layers, the data and the windows."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        return {
            "model": self.model.name,
            **self.model.config.model_dump(mode="json"),
            "context": self.model.context,
            "horizon": self.model.horizon,
            "fingerprint of the layers": _fingerprint(repr(shapes).encode()),
            "fingerprint of the data": _fingerprint(self.array_RD.data),
            "fingerprint of the training windows": _fingerprint(self.train.data),
            "fingerprint of the validation windows": _fingerprint(self.validation.data),
        }

    def identity_defaults(self) -> dict[str, Any]:
        """The default configuration of the model."""
        return type(self.model.config)().model_dump(mode="json")

    def train_batches(self, epoch: Epoch) -> Iterator[torch.Tensor | None]:
        """Origins of this process's share of every shuffled batch."""
        order, size = epoch.rng().permutation(self.train), self.model.training.batch_size
        for origins in chunks(order[epoch.skip * size :], size):
            share = epoch.share(origins)
            yield torch.from_numpy(share) if len(share) else None

    def validation_batches(self, rank: int, world: int) -> Iterator[tuple[torch.Tensor, int]]:
        """Origins in order; their weight is the number of known targets."""
        size = VALIDATION_BATCHES * self.model.training.batch_size
        for origins in chunks(self.validation[rank::world], size):
            row_BHD = gather(self.array_RD, origins, before=0, after=self.model.horizon)
            yield torch.from_numpy(origins), int(np.isfinite(row_BHD[..., : self.module.channels]).sum())

    def to_device(self, batch: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows [B, W, D] and items [B] of origins, gathered here for the cpu and otherwise on the device."""
        origins = batch.numpy()
        item_B = torch.from_numpy(self.panel.items_of(origins))
        if device.type == "cpu":
            return torch.from_numpy(self._windows(origins)), item_B
        if self.array_RD.nbytes > RESIDENT_BYTES:
            return move(torch.from_numpy(self._windows(origins)), device), move(item_B, device)
        return self.gathered_on(device, batch), move(item_B, device)

    def gathered_on(self, device: torch.device, origin_B: torch.Tensor) -> torch.Tensor:
        """Windows [B, W, D] from the series on the device, where they are copied once."""
        if self._resident_RD is None or self._resident_RD.device != device:
            self._resident_RD = torch.from_numpy(self.array_RD).to(device)
        offset_W = torch.arange(1 - self.model.context, self.model.horizon + 1, device=device)
        return self._resident_RD[move(origin_B, device)[:, None] + offset_W]

    def describe(self, epoch: Epoch, index: int) -> str:
        """The first windows of a batch, and its largest value and where that is."""
        share = next(iter(self.train_batches(replace(epoch, skip=index))))
        origins = np.zeros(0, np.int64) if share is None else np.sort(share.numpy())
        shown = ", ".join(map(str, origins[:5])) + (", …" if len(origins) > 5 else "")
        window_BWD = np.abs(self._windows(origins))
        b, w, d = np.unravel_index(int(np.nanargmax(window_BWD)), window_BWD.shape)
        row = int(origins[b] - self.model.context + 1 + w)
        time = int(self.panel.times_of(np.array([row]))[0])
        targets = [self.panel.channel_names[c] for c in self.panel.targets]
        name = targets[d] if d < len(targets) else "a covariate"
        return (
            f"{len(origins)} windows with origins at the rows {shown}; on the model's scale their largest value is "
            f"{self.array_RD[row, d]:.4g}, of {name} in row {row} ({format_stamp(time, self.panel.clock)})"
        )

    def _windows(self, origins: IntArray) -> FloatArray:
        """Windows of origins [B, W, D]."""
        return gather(self.array_RD, origins, before=self.model.context, after=self.model.horizon)


def train_network(
    build: Callable[[], N],
    model: Learner,
    panel: Panel,
    array_RD: FloatArray,
    train: Span,
    validation: Span | None,
    progress: Progress | None,
) -> tuple[N, FitReport]:
    """Train a network on the windows of a panel: (network with its best weights on the cpu, report).

    Args:
        build: Makes the network; called after torch was seeded.
        model: Its context, horizon, configuration and training say what to learn and how.
        panel: The series.
        array_RD: float32, the scaled inputs of every row.
        train: Rows of the training windows.
        validation: Rows of the windows that stop training and choose the best epoch; None watches the training loss.
        progress: Told the share done.

    Raises:
        DataError: There is no complete training window.
    """
    origins = _usable(model, panel, train, stride=model.config.stride)
    if len(origins) == 0:
        raise DataError(
            f"no training window has {model.context} rows of history without a gap and {model.horizon} to forecast",
            hint="Give more rows, or a shorter `context`.",
        )
    watched = np.zeros(0, np.int64) if validation is None else _usable(model, panel, validation)
    training = model.training
    torch.manual_seed(training.seed)
    network = build()
    outcome = fit(
        WindowTask(network, model, panel, array_RD, origins, watched),
        training,
        directory=training.directory,
        resume=training.resume,
        loggers=training.loggers,
        progress=progress or silent,
    )
    report = FitReport(
        model=model.name,
        n_windows=len(origins),
        chosen={"epoch": outcome.best_epoch + 1},
        history=tuple(outcome.history),
    )
    return network.to("cpu"), report


def _usable(model: Learner, panel: Panel, span: Span, *, stride: int = 1) -> IntArray:
    """Origins of the windows of a span whose inputs are complete and whose targets are not all missing."""
    context, horizon = model.context, model.horizon
    origins = window_origins(panel, span, context=context, horizon=horizon, stride=stride)
    origins = origins[whole(panel, origins, context=context, horizon=horizon)]
    if panel.carried is not None:  # carried values would count as targets in the array of inputs
        origins = origins[complete(panel, origins, before=0, after=horizon)[:, panel.targets].all(axis=1)]
    seen = np.concatenate([[0], panel.observed[:, panel.targets].any(axis=1).cumsum()])
    return origins[seen[origins + 1 + horizon] > seen[origins + 1]]


def _fingerprint(data: bytes | memoryview) -> str:
    """The first characters of the SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()[:16]
