"""Split-conformal quantiles: their ranks, their coverage, their limits."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.models.conformal import Calibration
from presurge.series.forecast import QUANTILE_LEVELS


def test_the_ranks_of_the_finite_sample_guarantee() -> None:
    """Of 19 residuals the level 0.9 takes the 18th smallest, ceil(20 * 0.9), and 0.1 the second."""
    residual = np.random.default_rng(0).permutation(np.arange(1.0, 20.0)).astype(np.float32)
    measured = Calibration.measure(
        residual[:, None, None], np.zeros((19, 1, 1), np.float32), np.array([False]), (0.1, 0.5, 0.9)
    )
    assert measured.residuals_HQC[0, :, 0].tolist() == [2, 10, 18]


@given(n=st.integers(1, 60), level=st.sampled_from([0.025, 0.1, 0.25, 0.6, 0.75, 0.9, 0.975]))
def test_ranks_are_those_of_the_next_residual_among_all(n: int, level: float) -> None:
    """The least residual that a share ``level`` of n + 1 lies at or below, and the mirror image of that for low levels."""
    residual = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)).astype(np.float32)
    measured = Calibration.measure(
        residual[:, None, None], np.zeros((n, 1, 1), np.float32), np.array([False]), (level,)
    )
    high = max(level, 1 - level)
    enough = [rank for rank in range(1, n + 1) if rank / (n + 1) >= high - 1e-12]
    rank = min(enough, default=n)
    assert measured.residuals_HQC[0, 0, 0] == (rank if level > 0.5 else n + 1 - rank)


@pytest.mark.parametrize("count", [True, False])
def test_intervals_cover_what_they_say(count: bool) -> None:
    rng = np.random.default_rng(1)
    rate = rng.gamma(5, 8, (6000, 3, 1)).astype(np.float32)
    actual = rng.poisson(rate).astype(np.float32)
    measured = Calibration.measure(actual[:3000], rate[:3000], np.array([count]))
    quantiles = measured.quantiles(rate[3000:])
    for low, high, share in ((1, 9, 0.95), (3, 7, 0.8), (4, 6, 0.5)):
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


@pytest.mark.parametrize("n", [7, 40, 399])
def test_the_share_below_an_upper_quantile_is_at_least_its_level_on_average(n: int) -> None:
    """What the ranks guarantee for residuals of which each is as likely to be the next one."""
    rng = np.random.default_rng(n)
    drawn = rng.standard_cauchy((300, n + 1)).astype(np.float32)
    count = np.array([False] * 300)
    measured = Calibration.measure(drawn[:, :n].T[:, None, :], np.zeros((n, 1, 300), np.float32), count)
    following = drawn[:, n]
    for index, level in ((6, 0.75), (7, 0.9)):
        if (n + 1) * level <= n:
            below = (following <= measured.residuals_HQC[0, index]).mean()
            assert below > level - 3 * np.sqrt(level * (1 - level) / 300)


def test_the_median_is_the_median() -> None:
    residual = np.random.default_rng(3).normal(size=(40, 2, 1)).astype(np.float32)
    measured = Calibration.measure(residual, np.zeros_like(residual), np.array([False]))
    np.testing.assert_allclose(measured.residuals_HQC[:, 5], np.median(residual, axis=0), rtol=1e-6)


def test_residuals_of_counts_are_between_square_roots() -> None:
    mean = np.full((99, 1, 1), 100, np.float32)
    actual = np.full((99, 1, 1), 121, np.float32)
    measured = Calibration.measure(actual, mean, np.array([True]))
    assert (measured.residuals_HQC == 1).all()
    assert (measured.quantiles(np.full((1, 1, 1), 9, np.float32)) == 16).all()


def test_it_comes_back_from_json() -> None:
    measured = Calibration.measure(
        np.ones((9, 1, 1), np.float32), np.zeros((9, 1, 1), np.float32), np.array([True]), until={"a": 7}
    )
    told = json.loads(json.dumps(measured.to_dict()))
    again = Calibration.from_dict(told, measured.residuals_HQC, measured.count_C)
    assert (again.levels, again.n_windows, again.rate, again.until) == (
        measured.levels,
        9,
        measured.rate,
        {"a": 7},
    )


def test_missing_values_are_left_out() -> None:
    actual = np.ones((10, 1, 2), np.float32)
    actual[:5, 0, 0] = np.nan
    actual[:, 0, 1] = np.nan
    measured = Calibration.measure(actual, np.zeros_like(actual), np.array([False, False]))
    assert (measured.residuals_HQC[0, :, 0] == 1).all()
    assert (measured.residuals_HQC[0, :, 1] == 0).all()
