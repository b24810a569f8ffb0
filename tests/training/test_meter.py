"""Running means, fetched at once or late as on a GPU."""

import math

import pytest
import torch

from presurge.training.meter import Meter


def parts(loss: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss, requires_grad=True), "half": torch.tensor(loss / 2)}


@pytest.mark.parametrize("every", [1, 3, 10])
def test_means(every: int) -> None:
    meter = Meter({"epoch": ({"loss": 5.0, "half": 2.5}, 1.0), "interval": ({}, 0.0)})
    for number in range(1, 7):
        meter.add(parts(float(number)))
        if number % every == 0:
            assert meter.fetch() is None
    assert meter.fetch() is None
    assert meter.epoch.weight == 7
    assert meter.state() == {"epoch": (meter.epoch.sums, 7), "interval": (meter.interval.sums, 6)}
    assert meter.epoch.means() == {"loss": pytest.approx(26 / 7), "half": pytest.approx(13 / 7)}


def test_the_meter_tells_how_long_ago_the_loss_became_non_finite() -> None:
    meter = Meter()
    for loss in (1.0, 2.0, math.inf, 3.0, math.nan, 4.0):
        meter.add(parts(loss))
    assert meter.fetch() == 3
    meter.add(parts(1.0))
    assert meter.fetch() is None
    meter.add({"loss": torch.tensor(1.0), "extra": torch.tensor(math.nan)})
    assert meter.fetch() is None


def test_nothing_yet() -> None:
    assert Meter().epoch.means() == {}
