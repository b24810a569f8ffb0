"""What learns: a module, its optimizer and learning rates, and how its gradients are weighed and added up."""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from presurge.errors import ConfigError
from presurge.training.config import TrainerConfig
from presurge.training.devices import autocast
from presurge.training.distributed import GradientSync, Ranks
from presurge.training.task import LOSS, WEIGHT, Batch, ParameterGroup, Task


class Learner:
    """The module of a task on its device, one of several copies under torchrun, and what changes its weights.

    Args:
        task: Its module is moved to the device; under torchrun it gets the weights of the first process.
        config: Optimizer, precision and clipping.
        ranks: This process among the others.
        device: Where to learn.

    Raises:
        ConfigError: The parameter groups do not fit the module, or nothing in it is trained.
    """

    def __init__(self, task: Task, config: TrainerConfig, ranks: Ranks, device: torch.device) -> None:
        self.config, self.ranks, self.device = config, ranks, device
        self.module = task.module.to(device)
        if config.compile:
            self.module.compile()
        self._groups = check_groups(task)
        self._optimizer = build_optimizer(self._groups, config, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self._sync = GradientSync(self.module, ranks, device, config.gradient_sync)
        # Whether every batch is a step of its own, which no weight changes.
        self._whole = config.accumulate == 1 and ranks.world == 1
        self._weight: float | torch.Tensor = 0.0
        frozen = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        self._frozen = {name: (p._version, _digest(p)) for name, p in frozen.items()}

    def close(self) -> None:
        """Let go of the other processes."""
        self._sync.close()

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of the last step, under ``learning_rate``; those of further groups with their names."""
        names = ["learning_rate", *(f"learning_rate_{group.name}" for group in self._groups[1:])]
        return {name: one["lr"] for name, one in zip(names, self._optimizer.param_groups, strict=True)}

    def learn(self, batch: Batch | None, *, last: bool) -> dict[str, Any]:
        """Add the gradient of a batch, the last one of its step or not; return the parts of its loss."""
        with nullcontext() if last else self._sync.postponed():
            if batch is None:
                return self._sync.without_batch()
            with autocast(self.config, self.device):
                parts: dict[str, Any] = self._sync.call(batch)
            loss, weight = parts[LOSS], parts.get(WEIGHT, 1.0)
            if not self._whole:
                weight = weight.detach() if isinstance(weight, torch.Tensor) else weight
                self._weight = self._weight + weight
                loss = loss * weight
            self._scaler.scale(loss).backward()
        return parts

    def step(
        self, factor: float, *, flags: Sequence[bool], log: bool
    ) -> tuple[torch.Tensor | None, Sequence[bool]]:
        """Change the weights by the gradient of all batches since the last step, over all processes.

        Args:
            factor: Factor of the learning rates.
            flags: What this process tells the others, in the same message.
            log: Whether the step is logged. Only then is the norm of a gradient measured that is not clipped, and do flags of
                several processes on GPUs arrive: reading them waits for the device.

        Returns:
            The norm of the gradient before clipping, if it was measured; and for each flag whether a process set it.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        if not self._whole:
            told = self._sync.add_up(self._weight, flags)
            self._weight = 0.0
            if self.ranks.world > 1:
                read = log or self.device.type == "cpu"
                flags = (told > 0).tolist() if read else [False] * len(flags)
        norm = None
        if log or self.config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            norm = nn.utils.get_total_norm([p.grad for p in self.module.parameters() if p.grad is not None])
            if self.config.clip_norm is not None:
                nn.utils.clip_grads_with_norm_(self.module.parameters(), self.config.clip_norm, norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return norm, flags

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Any]:
        """The parts of the loss of a batch, without learning from it."""
        with autocast(self.config, self.device):
            parts: dict[str, Any] = self.module(batch)
        return parts

    def identity(self) -> dict[str, Any]:
        """What of the parameter groups a checkpoint must share."""
        if len(self._groups) == 1:
            return {}
        values = [
            [g.name, g.learning_rate, g.weight_decay, g.betas and list(g.betas), g.eps] for g in self._groups
        ]
        return {"parameter groups": values}

    def finite(self) -> bool:
        """Whether every trained weight is a finite number."""
        learned = [p.detach() for p in self.module.parameters() if p.requires_grad and p.numel()]
        return bool(torch.stack(torch._foreach_norm(learned, math.inf)).isfinite().all())

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights and buffers by name, without parameters that were frozen from the beginning and never changed."""
        left_out = self._left_out()
        return {name: value for name, value in self.module.state_dict().items() if name not in left_out}

    def _left_out(self) -> dict[str, str]:
        """Names and digests of the frozen parameters that nothing changed."""
        now = dict(self.module.named_parameters())
        return {name: d for name, (version, d) in self._frozen.items() if now[name]._version == version}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Take weights and buffers back; only frozen parameters may be missing.

        Raises:
            RuntimeError: Names or shapes do not fit the module.
        """
        wrong = self.module.load_state_dict(weights, strict=False)
        if names := {*wrong.unexpected_keys, *wrong.missing_keys} - self._frozen.keys():
            named = ", ".join(sorted(names))
            raise RuntimeError(f"the weights of a checkpoint do not fit the module: {named}")

    def state(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {
            "module": self.weights(),
            "frozen": self._left_out(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            ConfigError: The frozen parameters are not those that the run began with.
        """
        for name, digest in state["frozen"].items():
            if name not in self._frozen or self._frozen[name][1] != digest:
                what = f"the frozen weights {name} are not those that the run to resume began with"
                raise ConfigError(what, hint="Load the same frozen weights, or start anew without `resume`.")
        self.load_weights(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


def check_groups(task: Task) -> list[ParameterGroup]:
    """The parameter groups of a task, or one of all trained parameters.

    Raises:
        ConfigError: A trained parameter is in no group or in several, or nothing is trained.
    """
    names = {parameter: name for name, parameter in task.module.named_parameters() if parameter.requires_grad}
    if not names:
        raise ConfigError("the module has no parameter that needs a gradient", hint="Unfreeze some of it.")
    groups = list(task.parameter_groups()) or [ParameterGroup(name="all", parameters=list(names))]
    times = Counter(parameter for group in groups for parameter in group.parameters)
    for parameter, name in names.items():
        if times[parameter] != 1:
            what = f"the parameter {name} is in {times[parameter]} parameter groups"
            raise ConfigError(what, hint="Put it into one.")
    return groups


def build_optimizer(
    groups: Sequence[ParameterGroup], config: TrainerConfig, device: torch.device
) -> torch.optim.Optimizer:
    """The optimizer of the configuration over the groups; Adam is fused if the device supports it."""
    adam = () if config.optimizer == "sgd" else ("betas", "eps")
    filled = []
    for group in groups:
        own = {name: getattr(group, name) for name in ("learning_rate", "weight_decay", *adam)}
        own = {name: getattr(config, name) if value is None else value for name, value in own.items()}
        learned = [parameter for parameter in group.parameters if parameter.requires_grad]
        rate = own.pop("learning_rate")
        filled.append({"params": learned, "lr": rate, "initial_lr": rate, **own})
    if config.optimizer == "sgd":
        return torch.optim.SGD(filled, momentum=config.momentum)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(filled, fused=device.type in ("cpu", "cuda"))


def multiplier(config: TrainerConfig, step: int, *, total: int | None, epoch: int) -> float:
    """Factor of the peak learning rate at a step, a function of its arguments alone, so that resuming needs no state.

    ``one-cycle`` follows Smith and Topin, "Super-Convergence", 2018, with cosine flanks like torch's ``OneCycleLR``. The
    decay of ``plateau`` comes on top: it depends on the monitored values.

    Args:
        config: The schedule and its constants.
        step: Number of the step, from 0.
        total: Steps of the whole run; only ``cosine`` and ``one-cycle`` need it.
        epoch: Number of the epoch, from 0.
    """
    if config.needs_total and total is None:
        what = f"the schedule {config.schedule} depends on the number of steps, which this task does not know"
        raise ConfigError(what, setting="schedule", hint="Give `max_steps`, or another `schedule`.")
    if config.schedule == "one-cycle":
        return _one_cycle(config, step, total or 0)
    if config.schedule == "step":
        return max(config.min_factor, config.decay_factor ** (epoch // config.decay_epochs))
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        left = max(1, (total or 0) - config.warmup_steps)
        return _cosine(1.0, config.min_factor, (step - config.warmup_steps) / left)
    return 1.0


def _digest(parameter: nn.Parameter) -> str:
    values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(values.numpy().data).hexdigest()[:16]


def _one_cycle(config: TrainerConfig, step: int, total: int) -> float:
    first = 1 / config.div_factor
    peak = config.pct_start * total - 1
    if step < peak:
        return _cosine(first, 1.0, step / peak)
    return _cosine(1.0, first / config.final_div_factor, (step - peak) / (total - 1 - peak))


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
