"""Configuration of a training; what a model is made of is not part of it. Needs no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from presurge.config import Config
from presurge.errors import MissingDependencyError

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
ScheduleName = Literal["constant", "cosine", "one-cycle", "step", "plateau"]


class TrainerConfig(Config):
    """How to train: the same for every task.

    Attributes:
        epochs: Maximum number of passes over the training batches.
        batch_size: Rows of a batch, summed over all processes; tasks read it.
        learning_rate: Peak learning rate.
        optimizer: ``adam``, ``adamw`` (decoupled decay) or ``sgd`` (momentum 0.9).
        weight_decay: Decay of the weights, in the optimizer's own sense.
        schedule: ``constant``; ``cosine`` to zero; ``one-cycle`` up over 30 % of the steps and down to zero; ``step``
            halves it every epoch; ``plateau`` halves it after ``plateau_patience`` epochs without a better value.
        warmup_steps: Linear rise from zero, before ``constant``, ``cosine`` and ``plateau``.
        plateau_patience: Epochs that ``plateau`` waits.
        clip_norm: Largest norm of the gradient of a step; None leaves it as it is.
        accumulate: Batches whose gradients are averaged into one step; the last step of an epoch takes what is left.
        patience: Epochs without a better monitored value after which training stops; None never stops early.
        min_delta: What counts as better: lower than the best by more than this.
        seed: Of weights, shuffling and dropout.
        threads: Processor threads of torch. One is fastest for small models; None leaves torch's choice.
        precision: ``fp32``, or automatic mixed precision in ``bf16`` or ``fp16``.
        device: ``auto`` takes cuda, then mps, then cpu.
        allow_fallback: Take the cpu where the named device does not exist, instead of an error.
        checkpoint_seconds: Least time between two ``last`` checkpoints within an epoch; one is written before the first
            step and one after each epoch.
        checkpoint_steps: Also after so many steps; None leaves it to the clock.
        log_steps: Steps between two lines of the metrics log.
    """

    epochs: int = Field(150, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    schedule: ScheduleName = "constant"
    warmup_steps: int = Field(0, ge=0)
    plateau_patience: int = Field(5, ge=1)
    clip_norm: float | None = Field(None, gt=0)
    accumulate: int = Field(1, ge=1)
    patience: int | None = Field(15, ge=1)
    min_delta: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=0)
    threads: int | None = Field(1, ge=1)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: DeviceName = "auto"
    allow_fallback: bool = False
    checkpoint_seconds: float = Field(60.0, ge=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    log_steps: int = Field(50, ge=1)


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
