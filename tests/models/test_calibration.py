"""Split-conformal quantiles: their ranks, their coverage, their limits."""

import numpy as np
import pytest

from presurge.models.calibration import Calibration
from presurge.series.forecast import QUANTILE_LEVELS


def test_the_ranks_of_the_finite_sample_guarantee() -> None:
    """Of 19 residuals the level 0.9 takes the 18th smallest, ceil(20 * 0.9), and 0.1 the second."""
    residual = np.random.default_rng(0).permutation(np.arange(1.0, 20.0)).astype(np.float32)
    measured = Calibration.measure(
        residual[:, None, None], np.zeros((19, 1, 1), np.float32), np.array([False]), (0.1, 0.5, 0.9)
    )
    assert measured.residuals_HQC[0, :, 0].tolist() == [2, 10, 18]


@pytest.mark.parametrize("count", [True, False])
def test_intervals_cover_what_they_say(count: bool) -> None:
    rng = np.random.default_rng(1)
    rate = rng.gamma(5, 8, (6000, 3, 1)).astype(np.float32)
    actual = rng.poisson(rate).astype(np.float32)
    measured = Calibration.measure(actual[:3000], rate[:3000], np.array([count]))
    quantiles = measured.quantiles(rate[3000:])
    for low, high, share in ((0, 6, 0.95), (1, 5, 0.8), (2, 4, 0.5)):
        inside = (actual[3000:] >= quantiles[:, :, low]) & (actual[3000:] <= quantiles[:, :, high])
        assert inside.mean() == pytest.approx(share, abs=0.04)


def test_counts_are_never_below_zero_and_levels_never_cross() -> None:
    rng = np.random.default_rng(2)
    actual = rng.negative_binomial(0.3, 0.05, (400, 2, 2)).astype(np.float32)
    mean = np.full_like(actual, 5)
    measured = Calibration.measure(actual, mean, np.array([True, False]))
    quantiles = measured.quantiles(np.linspace(0, 9, 40, dtype=np.float32).reshape(10, 2, 2))
    assert quantiles.shape == (10, 2, len(QUANTILE_LEVELS), 2)
    assert (quantiles[..., 0] >= 0).all()
    assert (np.diff(quantiles, axis=2) >= 0).all()


def test_missing_values_are_left_out() -> None:
    actual = np.ones((10, 1, 2), np.float32)
    actual[:5, 0, 0] = np.nan
    actual[:, 0, 1] = np.nan
    measured = Calibration.measure(actual, np.zeros_like(actual), np.array([False, False]))
    assert (measured.residuals_HQC[0, :, 0] == 1).all()
    assert (measured.residuals_HQC[0, :, 1] == 0).all()
