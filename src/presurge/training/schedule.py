"""Learning rates as functions of the step, so that resuming needs no state of its own."""

import math

from presurge.training.config import TrainerConfig

ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def multiplier(settings: TrainerConfig, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """Factor of the peak learning rate at a step (from 0) of ``total_steps``; ``plateau`` is the loop's own affair.

    ``one-cycle`` follows Smith and Topin, "Super-Convergence", 2018, with cosine flanks and the proportions that
    torch's ``OneCycleLR`` has by default.
    """
    match settings.schedule:
        case "one-cycle":
            return _one_cycle(step, total_steps)
        case "step":
            return float(0.5 ** (step // steps_per_epoch))
        case _:
            warmup = settings.warmup_steps
            if step < warmup:
                return (step + 1) / warmup
            if settings.schedule == "cosine":
                return _cosine(1.0, 0.0, (step - warmup) / max(1, total_steps - warmup))
            return 1.0


def _one_cycle(step: int, total_steps: int) -> float:
    peak = ONE_CYCLE_RISE * total_steps - 1
    if step <= peak:
        return _cosine(ONE_CYCLE_START, 1.0, step / peak)
    return _cosine(1.0, ONE_CYCLE_END, (step - peak) / (total_steps - 1 - peak))


def _cosine(begin: float, end: float, share: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * share)) / 2
