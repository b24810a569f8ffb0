"""How a model that learns by gradient is to be trained; models solved in closed form ignore it."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from presurge.errors import MissingDependencyError
from presurge.training.settings import LoopSettings

LossName = Literal["mse", "mae", "huber", "quantile"]
"""Losses of a forecast: squared error, absolute error, Huber (threshold 1 on the model's scale), pinball."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """Everything about a training that is no property of the model.

    Attributes:
        loop: Settings of the training loop.
        batch_size: Windows of a step, over all processes.
        directory: Where checkpoints go; None writes none.
        resume: Go on from the last checkpoint in the directory.
        loggers: Metric loggers of ``presurge.training.loggers``.
    """

    loop: LoopSettings = field(default_factory=LoopSettings)
    batch_size: int = 128
    directory: Path | None = None
    resume: bool = False
    loggers: tuple[Any, ...] = ()

    @classmethod
    def of(cls, defaults: dict[str, Any]) -> "TrainingPlan":
        """The plan of a model's ``training_defaults``."""
        loop = {key: value for key, value in defaults.items() if key != "batch_size"}
        return cls(loop=LoopSettings(**loop), batch_size=defaults.get("batch_size", 128))


def require_torch(purpose: str) -> None:
    """Say which extra brings torch, where it is not installed.

    Raises:
        MissingDependencyError: It is not.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", purpose=purpose, extra="train")
