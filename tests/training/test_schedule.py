"""Learning rates against closed formulas and against torch's own schedulers."""

import math
import warnings

import pytest
import torch
from training_cases import settings

from presurge.training.optim import multiplier


def rates(total: int, per_epoch: int = 10, **changes: object) -> list[float]:
    chosen = settings(**changes)
    return [multiplier(chosen, step, total=total, epoch=step // per_epoch) for step in range(total)]


def torch_rates(total: int, build: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = build(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wants a step of the optimizer first
            scheduler.step()
    return found


def test_constant() -> None:
    assert rates(7, schedule="constant") == [1.0] * 7


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_warm_up_rises_in_a_line(schedule: str) -> None:
    assert rates(20, schedule=schedule, warmup_steps=5)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine() -> None:
    found = rates(50, schedule="cosine", warmup_steps=10)
    assert found[10:] == pytest.approx([(1 + math.cos(math.pi * step / 40)) / 2 for step in range(40)])
    scheduled = torch_rates(30, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30))
    assert rates(30, schedule="cosine") == pytest.approx(scheduled, abs=1e-6)


def test_halved_every_epoch() -> None:
    assert rates(30, per_epoch=10, schedule="step") == [1.0] * 10 + [0.5] * 10 + [0.25] * 10


@pytest.mark.parametrize("total", [10, 57, 1000])
def test_one_cycle(total: int) -> None:
    scheduled = torch_rates(total, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=total))
    assert rates(total, schedule="one-cycle") == pytest.approx(scheduled, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_the_shortest_runs(schedule: str, total: int) -> None:
    assert all(0 <= rate <= 1 for rate in rates(total, per_epoch=1, schedule=schedule))
