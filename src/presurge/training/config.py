"""Configuration of a training; what a model is made of is not part of it. Needs no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from presurge.config import Config
from presurge.errors import MissingDependencyError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
ScheduleName = Literal["constant", "cosine", "one-cycle", "step", "plateau"]

_FREE = {
    "max_seconds",
    "threads",
    "compile",
    "device",
    "allow_fallback",
    "gradient_sync",
    "checkpoint_seconds",
    "checkpoint_steps",
    "log_steps",
}


class TrainerConfig(Config):
    """How to train: the same for every task. Where a default is torch's own, the name is torch's too.

    Attributes:
        epochs: Maximum number of passes over the training batches.
        max_steps: Maximum number of optimizer steps; None leaves it to the epochs.
        max_seconds: Train for at most this long in this process, then keep the best weights; the run can be resumed.
        batch_size: Rows of a batch, summed over all processes; tasks read it.
        accumulate: Batches whose gradients are added up for one step; the last step of an epoch takes what is left.
        optimizer: ``adam``, ``adamw`` (decoupled decay) or ``sgd``.
        learning_rate: Peak learning rate.
        weight_decay: Decay of the weights, in the optimizer's own sense.
        betas: Decay of Adam's averages of the gradient and of its square.
        eps: Added to Adam's denominator.
        momentum: Momentum of ``sgd``.
        clip_norm: Largest norm of the gradient of a step; None does not clip.
        schedule: ``constant``; ``cosine``, from the peak down to ``min_factor``; ``one-cycle``, up and down again;
            ``step``, which decays every ``decay_epochs`` epochs; ``plateau``, which decays after ``plateau_patience``
            epochs without a better value.
        warmup_steps: Linear rise from zero before ``constant``, ``cosine`` and ``plateau``.
        min_factor: Share of the peak rate below which ``cosine``, ``step`` and ``plateau`` never fall.
        decay_factor: What ``step`` and ``plateau`` multiply the rate by.
        decay_epochs: Epochs between two decays of ``step``.
        plateau_patience: Epochs that ``plateau`` waits.
        pct_start: Share of the steps in which ``one-cycle`` rises.
        div_factor: ``one-cycle`` begins at the peak rate over this.
        final_div_factor: ``one-cycle`` ends at its first rate over this.
        monitor: Value that picks the best epoch and stops early, such as ``validation_full``; None watches
            ``validation_loss``, or ``train_loss`` without validation.
        monitor_mode: Whether a lower (``min``) or a higher (``max``) value is better.
        patience: Epochs without a better monitored value after which training stops; None never stops early.
        min_delta: A value is only better if it beats the best by more than this.
        seed: Seed of weights, shuffling and dropout.
        threads: Processor threads of torch. One is fastest for small models; None leaves torch's choice.
        precision: ``fp32``; ``tf32``, the same with faster and coarser matrix products on a GPU; or automatic mixed
            precision in ``bf16`` or ``fp16``. Nothing but ``tf32`` ever uses TF32.
        compile: Compile the module with ``torch.compile``; the names of its parameters stay.
        device: ``auto`` takes cuda, then mps, then cpu.
        allow_fallback: Train on the cpu if the named device does not exist, instead of raising an error.
        gradient_sync: How several processes add up gradients: ``flat`` in one message after the backward pass, ``ddp``
            in pieces during it. ``auto`` takes ``ddp`` on GPUs from 5 million parameters.
        checkpoint_seconds: Least time between two ``last`` checkpoints within an epoch; one is written before the first
            step and one after each epoch.
        checkpoint_steps: Also after so many steps; None leaves it to the clock.
        log_steps: Steps between two lines of the metrics log.
    """

    epochs: int = Field(150, ge=1)
    max_steps: int | None = Field(None, ge=1)
    max_seconds: float | None = Field(None, gt=0)
    batch_size: int = Field(128, ge=1)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)
    schedule: ScheduleName = "constant"
    warmup_steps: int = Field(0, ge=0)
    min_factor: float = Field(0.0, ge=0, le=1)
    decay_factor: float = Field(0.5, gt=0, le=1)
    decay_epochs: int = Field(1, ge=1)
    plateau_patience: int = Field(5, ge=1)
    pct_start: float = Field(0.3, ge=0, le=1)
    div_factor: float = Field(25.0, ge=1)
    final_div_factor: float = Field(1e4, ge=1)
    monitor: str | None = None
    monitor_mode: Literal["min", "max"] = "min"
    patience: int | None = Field(15, ge=1)
    min_delta: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=0)
    threads: int | None = Field(1, ge=1)
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: DeviceName = "auto"
    allow_fallback: bool = False
    gradient_sync: Literal["auto", "flat", "ddp"] = "auto"
    checkpoint_seconds: float = Field(60.0, ge=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    log_steps: int = Field(50, ge=1)

    @property
    def needs_total(self) -> bool:
        """Whether the learning rate of a step depends on how many steps there will be."""
        return self.schedule in ("cosine", "one-cycle")

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share to be resumed: not where and how long to train, or how often to write."""
        free = _FREE if self.needs_total else _FREE | {"epochs", "max_steps"}
        return self.model_dump(mode="json", include=TrainerConfig.model_fields.keys() - free)


class TrainingConfig(TrainerConfig):
    """How a forecaster that learns by gradient is trained; models solved in closed form ignore it.

    Attributes:
        directory: Where checkpoints go; None writes none.
        resume: Go on from the last checkpoint in the directory.
        loggers: Metric loggers of ``presurge.training.loggers``.
    """

    directory: Path | None = None
    resume: bool = False
    loggers: tuple[Any, ...] = ()


def require_torch(purpose: str) -> None:
    """Say which extra brings torch if it is not installed.

    Raises:
        MissingDependencyError: It is not.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", purpose=purpose, extra="train")
