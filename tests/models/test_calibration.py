"""Split-conformal quantiles: their ranks, their coverage, their limits."""

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from presurge.models.conformal import (
    Calibration,
    at_levels,
    conformal_quantiles,
    student_quantiles,
    supported,
)
from presurge.series.forecast import QUANTILE_LEVELS


def test_the_ranks_of_the_finite_sample_guarantee() -> None:
    """Of 59 residuals the level 0.9 takes the 54th smallest, ceil(60 * 0.9), and 0.1 the sixth."""
    residual = np.random.default_rng(0).permutation(np.arange(1.0, 60.0)).astype(np.float32)
    measured = Calibration.measure(
        residual[:, None, None], np.zeros((59, 1, 1), np.float32), np.array([False]), (0.1, 0.5, 0.9)
    )
    assert measured.residuals_KHQC[0, 0, :, 0].tolist() == [6, 30, 54]


@given(n=st.integers(1, 60), level=st.sampled_from([0.025, 0.1, 0.25, 0.6, 0.75, 0.9, 0.975]))
def test_ranks_are_those_of_the_next_residual_among_all(n: int, level: float) -> None:
    """The least residual that a share ``level`` of n + 1 lies at or below, and the mirror image of that for low levels."""
    residual = np.random.default_rng(n).permutation(np.arange(1.0, n + 1)).astype(np.float32)
    quantile_HQC = conformal_quantiles(residual[:, None, None, None], (level,))
    high = max(level, 1 - level)
    enough = [rank for rank in range(1, n + 1) if rank / (n + 1) >= high - 1e-12]
    rank = min(enough, default=n)
    assert quantile_HQC[0, 0, 0] == (rank if level > 0.5 else n + 1 - rank)


@pytest.mark.parametrize("count", [True, False])
def test_intervals_cover_what_they_say(count: bool) -> None:
    rng = np.random.default_rng(1)
    rate = rng.gamma(5, 8, (6000, 3, 1)).astype(np.float32)
    actual = rng.poisson(rate).astype(np.float32)
    measured = Calibration.measure(actual[:3000], rate[:3000], np.array([count]))
    quantiles = measured.quantiles(rate[3000:, :, None], measured.residuals_KHQC)
    for low, high, share in ((1, 9, 0.95), (3, 7, 0.8), (4, 6, 0.5)):
        inside = (actual[3000:] >= quantiles[:, :, low]) & (actual[3000:] <= quantiles[:, :, high])
        assert inside.mean() == pytest.approx(share, abs=0.04)


def test_counts_are_never_below_zero_and_levels_never_cross() -> None:
    rng = np.random.default_rng(2)
    actual = rng.negative_binomial(0.3, 0.05, (400, 2, 2)).astype(np.float32)
    mean = np.full_like(actual, 5)
    measured = Calibration.measure(actual, mean, np.array([True, False]))
    quantiles = measured.quantiles(
        np.linspace(0, 9, 40, dtype=np.float32).reshape(10, 2, 1, 2), measured.residuals_KHQC
    )
    assert quantiles.shape == (10, 2, len(QUANTILE_LEVELS), 2)
    assert (quantiles[..., 0] >= 0).all()
    assert (np.diff(quantiles, axis=2) >= 0).all()


@pytest.mark.parametrize("n", [7, 40, 399])
def test_the_share_below_an_upper_quantile_is_at_least_its_level_on_average(n: int) -> None:
    """What the ranks guarantee for residuals of which each is as likely to be the next one."""
    rng = np.random.default_rng(n)
    drawn = rng.standard_cauchy((300, n + 1)).astype(np.float32)
    quantile_HQC = conformal_quantiles(drawn[:, :n].T[:, None, None, :], QUANTILE_LEVELS)
    following = drawn[:, n]
    for index, level in ((6, 0.75), (7, 0.9)):
        if (n + 1) * level <= n:
            below = (following <= quantile_HQC[0, index]).mean()
            assert below > level - 3 * np.sqrt(level * (1 - level) / 300)


def test_the_median_is_the_median_or_nothing_where_chance_explains_it() -> None:
    noise = np.random.default_rng(3).normal(size=(80, 2, 1)).astype(np.float32)
    for residual, known in ((noise + 2, True), (noise, False)):
        measured = Calibration.measure(residual, np.zeros_like(residual), np.array([False]))
        median_HC = np.median(residual, axis=0)
        assert (
            np.square(median_HC).sum() > 2 * np.pi / 2 * (noise.var(axis=0, ddof=1)[:, 0] @ [1 / 80, 2 / 80])
        ) == known
        np.testing.assert_allclose(measured.residuals_KHQC[0, :, 5], median_HC * known, rtol=1e-6)


@pytest.mark.parametrize("rows", [5, 9, 49, 50])
@pytest.mark.parametrize("low", [0, 9])
def test_few_errors_are_those_of_a_distribution_around_the_point(rows: int, low: int) -> None:
    """49 windows give the quantiles of Student's t, around the mean of errors that are clearly off; 50 give ranks."""
    noise = np.random.default_rng(5).normal(size=(rows, 1, 1)).astype(np.float32)
    noise -= noise.mean()
    made = np.zeros((rows, 1, 1), np.float32)
    measured = Calibration.measure(noise + low, made, np.array([False])).residuals_KHQC[0, 0, :, 0]
    if rows < 50:
        size = np.sqrt(np.square(noise).mean())
        expected = size * scipy.stats.t.ppf(QUANTILE_LEVELS, max(rows, 4))
        np.testing.assert_allclose(measured - low, expected, rtol=0.04, atol=1e-6)
    else:
        np.testing.assert_array_equal(measured[[0, -1]], [(noise + low).min(), (noise + low).max()])


def test_few_normal_errors_give_each_level_its_share() -> None:
    drawn = np.random.default_rng(6).normal(size=(7, 20_000)).astype(np.float32)
    quantile_QC = student_quantiles(drawn[:6, None], QUANTILE_LEVELS)[0]
    shares = (drawn[6] <= quantile_QC).mean(axis=1)
    np.testing.assert_allclose(shares, QUANTILE_LEVELS, atol=0.02)


def test_residuals_of_counts_are_between_square_roots() -> None:
    mean = np.full((99, 1, 1), 100, np.float32)
    actual = np.full((99, 1, 1), 121, np.float32)
    measured = Calibration.measure(actual, mean, np.array([True]))
    assert (measured.residuals_KHQC == 1).all()
    assert (measured.quantiles(np.full((1, 1, 1, 1), 9, np.float32), measured.residuals_KHQC) == 16).all()


def test_it_comes_back_from_json() -> None:
    values = np.random.default_rng(4).normal(9, 1, (400, 2, 2)).astype(np.float32)
    items = ["a"] * 150 + ["b"] * 50 + ["c"] * 200
    measured = Calibration.measure(
        values, values[::-1] + 1, np.array([True, False]), until={"a": 7}, item_B=items
    )
    told = json.loads(json.dumps(measured.to_dict()))
    again = Calibration.from_dict(told, measured.arrays(), measured.count_C)
    assert again.to_dict() == measured.to_dict()
    assert (again.until, again.items, again.n_windows) == ({"a": 7}, {"a": 150, "c": 200}, 400)
    for name, array in measured.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)
    np.testing.assert_array_equal(again.count_C, measured.count_C)


def test_a_calibration_of_the_first_version_is_still_read() -> None:
    residuals = np.zeros((3, 7, 2), np.float32)
    old = {
        "levels": [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975],
        "n_windows": 9,
        "rate": 0.03,
        "until_us": {"a": 7},
    }
    read = Calibration.from_dict(old, {"residuals": residuals}, np.array([True, False]))
    assert (read.rates_HQC == np.float32(0.03)).all()
    assert read.rates_HQC.shape == residuals.shape
    assert read.bias_KHC.shape == (1, 3, 2)
    assert not read.bias_KHC.any()
    assert read.groups_of(["a", "b"]).tolist() == [0, 0]


def test_an_item_with_enough_windows_has_residuals_of_its_own() -> None:
    rng = np.random.default_rng(5)
    items = np.repeat(["small", "large", "new"], [300, 200, 99])
    error = rng.normal(3, 1, (599, 2, 1)) * np.where(items == "large", 100, 1)[:, None, None]
    actual = error.astype(np.float32)
    measured = Calibration.measure(actual, np.zeros_like(actual), np.array([False]), item_B=list(items))
    assert measured.groups_of(["new", "large", "small", "other"]).tolist() == [0, 1, 2, 0]
    for name, group in (("large", 1), ("small", 2)):
        alone = Calibration.measure(
            actual[items == name], np.zeros_like(actual[items == name]), np.array([False])
        )
        np.testing.assert_array_equal(measured.residuals_KHQC[group], alone.residuals_KHQC[0])
        np.testing.assert_allclose(measured.bias_KHC[group], actual[items == name].mean(axis=0), rtol=1e-5)
    together = Calibration.measure(actual, np.zeros_like(actual), np.array([False]))
    np.testing.assert_array_equal(measured.residuals_KHQC[0], together.residuals_KHQC[0])
    assert (measured.support_of(["small", "large"]), measured.support_of(["new"])) == (200, 599)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_a_mean_error_counts_only_where_it_is_more_than_chance(shift: float) -> None:
    """Of 200 series without bias few are corrected, of those with one nearly all."""
    error = np.random.default_rng(6).normal(shift, 1, (100, 1, 200)).astype(np.float32)
    measured = Calibration.measure(error, np.zeros_like(error), np.zeros(200, np.bool_))
    kept = measured.bias_KHC[0, 0] != 0
    np.testing.assert_allclose(measured.bias_KHC[0, 0, kept], error.mean(axis=0)[0, kept], rtol=1e-4)
    assert kept.mean() > 0.99 if shift else kept.mean() < 0.25


@given(st.lists(st.floats(0.002, 0.998), min_size=1, max_size=6, unique=True))
def test_other_levels_lie_between_the_calibrated_ones(levels: list[float]) -> None:
    """Of a normal distribution every quantile is exact, by the inverse of its distribution function."""
    wanted = tuple(sorted(levels))
    known = scipy.stats.norm.ppf(QUANTILE_LEVELS, 50, 4)[None, None, :, None].astype(np.float32)
    found = at_levels(known, QUANTILE_LEVELS, wanted, np.array([False]))
    np.testing.assert_allclose(found[0, 0, :, 0], scipy.stats.norm.ppf(wanted, 50, 4), rtol=1e-5)


def test_calibrated_levels_stay_as_they_are_and_counts_do_not_become_negative() -> None:
    known = np.sort(np.random.default_rng(7).gamma(0.3, 9, (4, 2, len(QUANTILE_LEVELS), 1)), axis=2).astype(
        np.float32
    )
    wanted = (0.0001, 0.1, 0.5, 0.6, 0.99, 0.999)
    found = at_levels(known, QUANTILE_LEVELS, wanted, np.array([True]))
    for k, q in ((1, 3), (2, 5), (4, 10)):
        np.testing.assert_array_equal(found[:, :, k], known[:, :, q])
    assert (np.diff(found, axis=2) >= 0).all()
    assert (found >= 0).all()


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(9, 0.1, 0.9), (19, 0.05, 0.95), (98, 1 / 99, 98 / 99), (99, 0.01, 0.99), (5_000, 0.01, 0.99)],
)
def test_neither_the_residuals_nor_the_calibrated_levels_reach_farther(
    n: int, low: float, high: float
) -> None:
    """The n-th of n residuals is the conformal quantile n / (n + 1), and beyond the last level none was measured."""
    assert supported(QUANTILE_LEVELS, n) == pytest.approx((low, high), abs=1e-12)


def test_missing_values_are_left_out() -> None:
    actual = np.ones((60, 1, 2), np.float32)
    actual[:5, 0, 0] = np.nan
    actual[:, 0, 1] = np.nan
    measured = Calibration.measure(actual, np.zeros_like(actual), np.array([False, False]))
    assert (measured.residuals_KHQC[0, 0, :, 0] == 1).all()
    assert (measured.residuals_KHQC[0, 0, :, 1] == 0).all()
