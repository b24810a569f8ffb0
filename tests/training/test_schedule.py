"""Learning rates against closed formulas and against torch's own schedulers."""

import math
import warnings

import pytest
import torch
from training_cases import ScriptedTask, settings

from presurge.errors import ConfigError
from presurge.training.optim import multiplier
from presurge.training.trainer import fit


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


@pytest.mark.parametrize(
    ("total", "constants"),
    [
        (10, {}),
        (57, {}),
        (1000, {}),
        (60, {"pct_start": 0.1, "div_factor": 10.0, "final_div_factor": 100.0}),
    ],
)
def test_one_cycle(total: int, constants: dict[str, float]) -> None:
    def build(optimizer: torch.optim.Optimizer) -> object:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=total, **constants)

    found = rates(total, schedule="one-cycle", **constants)
    assert found == pytest.approx(torch_rates(total, build), abs=1e-9)


def test_rates_stay_above_the_least_one() -> None:
    cosine = settings(schedule="cosine", min_factor=0.2)
    assert multiplier(cosine, 50, total=100, epoch=0) == pytest.approx(0.6)
    assert multiplier(cosine, 100, total=100, epoch=0) == pytest.approx(0.2)
    decayed = {"schedule": "step", "decay_factor": 0.1, "decay_epochs": 3, "min_factor": 0.05}
    assert rates(7, per_epoch=1, **decayed) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.05])


def test_a_schedule_that_depends_on_an_unknown_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="max_steps") as caught:
        multiplier(settings(schedule="cosine"), 0, total=None, epoch=0)
    assert caught.value.setting == "schedule"


def test_plateau_decays_after_its_patience_and_not_below_the_least_rate() -> None:
    """By what is measured, so in whole runs."""
    chosen = settings(schedule="plateau", epochs=9, plateau_patience=2, patience=None, learning_rate=0.8)
    losses = [1.0, 2.0, 2.0, 2.0, 2.0, 0.5, 2.0, 2.0, 2.0]
    found = [row["learning_rate"] for row in fit(ScriptedTask(losses), chosen).history]
    assert found == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.2, 0.1]
    least = {"plateau_patience": 1, "decay_factor": 0.3, "min_factor": 0.2}
    chosen = settings(schedule="plateau", epochs=4, patience=None, **least)
    found = [row["learning_rate"] for row in fit(ScriptedTask([1.0, 2.0, 2.0, 2.0]), chosen).history]
    assert found == pytest.approx([0.01, 0.01, 0.003, 0.002])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step", "plateau"])
@pytest.mark.parametrize("total", [1, 2, 3, 4, 5])
def test_the_shortest_runs(schedule: str, total: int) -> None:
    assert all(0 <= rate <= 1 for rate in rates(total, per_epoch=1, schedule=schedule))
