"""The losses that choose between models, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_pinball_loss

from presurge.models.linear.select import quantile_loss
from presurge.series.forecast import QUANTILE_LEVELS


def wql_by_hand(actual_BH: np.ndarray, point_BH: np.ndarray, *, counts: bool) -> float:
    """The mean over levels of twice the pinball loss, with the quantiles of the errors of each step."""
    scale, back = (np.sqrt, lambda x: np.maximum(x, 0) ** 2) if counts else (np.asarray, np.asarray)
    total = 0.0
    for level in QUANTILE_LEVELS:
        for h in range(actual_BH.shape[1]):
            actual, point = actual_BH[:, h], point_BH[:, h]
            bound = back(scale(point) + np.quantile(scale(actual) - scale(point), level))
            total += 2 * len(actual) * mean_pinball_loss(actual, bound, alpha=level)
    return total / len(QUANTILE_LEVELS)


@pytest.mark.parametrize("counts", [False, True])
def test_the_quantile_loss_is_that_of_scikit_learn(counts: bool) -> None:
    rng = np.random.default_rng(1)
    actual_BH = rng.poisson(20, (40, 3)).astype(np.float64)
    point_BH = rng.gamma(20, 1, (40, 3))
    loss_B = quantile_loss(actual_BH, point_BH, counts=counts)
    assert loss_B.shape == (40,)
    assert loss_B.sum() == pytest.approx(wql_by_hand(actual_BH, point_BH, counts=counts))


@given(offset=st.floats(-50, 50), size=st.floats(0.1, 10), seed=st.integers(0, 50))
def test_a_constant_offset_costs_a_gauge_nothing_and_its_unit_does_not_matter(
    offset: float, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    actual_BH = rng.normal(10, 5, (30, 2))
    point_BH = actual_BH + rng.normal(size=(30, 2))
    loss_B = quantile_loss(actual_BH, point_BH, counts=False)
    np.testing.assert_allclose(quantile_loss(actual_BH, point_BH + offset, counts=False), loss_B, atol=1e-9)
    scaled_B = quantile_loss(size * actual_BH, size * point_BH, counts=False)
    np.testing.assert_allclose(scaled_B, size * loss_B, rtol=1e-9, atol=1e-9)


def test_a_forecast_of_zero_gains_nothing_where_half_of_the_load_is_zero() -> None:
    """Its absolute error is the least, but not that of its distribution."""
    rng = np.random.default_rng(2)
    level = np.repeat([5.0, 60.0], 200)
    actual_BH = np.where(rng.random(400) < 0.55, 0, rng.poisson(level))[:, None].astype(np.float64)
    honest_BH = 0.45 * level[:, None]
    assert np.abs(actual_BH).sum() < np.abs(actual_BH - honest_BH).sum()
    zero_B = quantile_loss(actual_BH, np.zeros_like(actual_BH), counts=True)
    assert quantile_loss(actual_BH, honest_BH, counts=True).sum() < zero_B.sum()
