"""What learns: a module, its optimizer and, under mixed precision, the scaler of its gradients."""

import copy
from typing import Any

import torch
from torch import nn

from presurge.training.config import TrainerConfig
from presurge.training.devices import autocast
from presurge.training.distributed import Ranks, average_gradients, share_weights
from presurge.training.task import LOSS, Batch, move


class Learner:
    """A module on its device, one of several copies under torchrun, that goes down its gradient.

    Args:
        module: Moved to the device; under torchrun it gets the weights of the first process.
        settings: Optimizer, precision and clipping.
        ranks: This process among the others.
        device: Where to learn.
    """

    def __init__(
        self, module: nn.Module, settings: TrainerConfig, ranks: Ranks, device: torch.device
    ) -> None:
        self.settings, self.ranks, self.device = settings, ranks, device
        self.module = module.to(device)
        share_weights(self.module, ranks)
        self._optimizer = build_optimizer(self.module, settings, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def learn(self, batch: Batch, *, group: int) -> dict[str, torch.Tensor]:
        """Add the gradient of a batch, one of ``group`` of the same step; the parts of its loss."""
        with autocast(self.settings, self.device):
            parts: dict[str, torch.Tensor] = self.module(move(batch, self.device))
        loss = parts[LOSS] if group == 1 else parts[LOSS] / group
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return parts

    def step(self, rate: float) -> None:
        """Go down the gradient, averaged over all processes, and forget it."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        average_gradients(self.module, self.ranks)
        if self.settings.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, float]:
        """The parts of the loss of a batch, of the module as it is when it is used."""
        with autocast(self.settings, self.device):
            parts = self.module(move(batch, self.device))
        return {name: float(value) for name, value in parts.items()}

    def train(self) -> None:
        """Let dropout and its like act from here on."""
        self.module.train()

    def eval(self) -> None:
        """Let the module be as it is when it is used."""
        self.module.eval()

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights as they are now."""
        return copy.deepcopy(self.module.state_dict())

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def build_optimizer(
    module: nn.Module, settings: TrainerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of the settings over all trained parameters; Adam is fused where the device has it."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay, fused=device.type in ("cpu", "cuda"))
