"""Moments and solutions against windows written out and numpy.linalg.lstsq in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from presurge.models.linear.moments import Moments, moments_of, moments_written_out, no_moments
from presurge.models.linear.solve import solve, squared_errors, without_anchor


def close(moments: Moments, windows_BW: np.ndarray) -> None:
    assert moments.n == len(windows_BW)
    scale = 1e-12 * max(1, len(windows_BW))
    np.testing.assert_allclose(moments.total_W, windows_BW.sum(axis=0), atol=10 * scale)
    np.testing.assert_allclose(moments.gram_WW, windows_BW.T @ windows_BW, atol=10 * scale)


@pytest.mark.parametrize("rows", [6, 11, 12, 13, 40, 5000, 9000])
@pytest.mark.parametrize("width", [2, 6])
def test_consecutive_windows(rows: int, width: int) -> None:
    x_R = np.random.default_rng(rows).normal(size=rows)
    close(moments_of(x_R, np.arange(rows - width + 1), width), sliding_window_view(x_R, width))


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.floats(0.01, 1))
def test_any_windows(seed: int, width: int, share: float) -> None:
    """Stretches long and short, single windows, none at all."""
    rng = np.random.default_rng(seed)
    x_R = rng.normal(size=80)
    starts = np.flatnonzero(rng.random(80 - width + 1) < share)
    close(moments_of(x_R, starts, width), sliding_window_view(x_R, width)[starts])


def test_sums_of_moments_are_moments_of_the_whole() -> None:
    x_R = np.random.default_rng(1).normal(size=300)
    parts = [moments_of(x_R, np.arange(a, b), 8) for a, b in ((0, 100), (100, 101), (101, 290))]
    close(sum(parts, no_moments(8)), sliding_window_view(x_R, 8)[:290])


def test_moments_of_windows_less_their_level() -> None:
    x_R = np.random.default_rng(2).normal(size=200)
    anchor_W = np.array([0, 0.25, 0.75, 0, 0])
    windows = sliding_window_view(x_R, 5)
    close(moments_of(x_R, np.arange(196), 5).relative_to(anchor_W), windows - (windows @ anchor_W)[:, None])


def textbook(x_BL: np.ndarray, y_BH: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge with a free bias as least squares of rows added to the data."""
    x_mean, y_mean = x_BL.mean(axis=0), y_BH.mean(axis=0)
    centred = x_BL - x_mean
    penalty = np.sqrt(ridge / len(x_BL) * np.trace(centred.T @ centred) / x_BL.shape[1])
    rows = np.vstack([centred, penalty * np.eye(x_BL.shape[1])])
    targets = np.vstack([y_BH - y_mean, np.zeros((x_BL.shape[1], y_BH.shape[1]))])
    weight_LH = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return weight_LH.T, y_mean - x_mean @ weight_LH


@pytest.mark.parametrize("ridge", [0.0, 0.2, 200.0, 6000.0])
def test_every_ridge_is_exact(ridge: float) -> None:
    x_R = np.random.default_rng(3).normal(size=2000).cumsum() * 0.1 + 3
    windows = sliding_window_view(x_R, 25)
    weight_PHL, bias_PH = solve(moments_of(x_R, np.arange(len(windows)), 25), 20, [2000.0, ridge])
    weight_HL, bias_H = textbook(windows[:, :20], windows[:, 20:], ridge)
    np.testing.assert_allclose(weight_PHL[1], weight_HL, atol=1e-8)
    np.testing.assert_allclose(bias_PH[1], bias_H, atol=1e-8)


def test_errors_from_moments_are_those_of_the_residuals() -> None:
    x_R = np.random.default_rng(4).normal(size=900).cumsum() * 0.2
    windows = sliding_window_view(x_R, 15)
    train, judge = moments_of(x_R, np.arange(500), 15), moments_of(x_R, np.arange(520, 880), 15)
    weight_PHL, bias_PH = solve(train, 12, [0.0, 5.0, 500.0])
    expected = [
        np.square(windows[520:880, :12] @ weight_HL.T + bias_H - windows[520:880, 12:]).mean()
        for weight_HL, bias_H in zip(weight_PHL, bias_PH, strict=True)
    ]
    np.testing.assert_allclose(squared_errors(judge, weight_PHL, bias_PH), expected, rtol=1e-9)


def test_a_level_taken_off_and_put_back() -> None:
    x_R = np.random.default_rng(5).normal(size=400).cumsum()
    windows = sliding_window_view(x_R, 13)
    last_L = np.eye(10)[-1]
    moments = moments_of(x_R, np.arange(388), 13).relative_to(np.append(last_L, np.zeros(3)))
    (relative_HL,), (bias_H,) = solve(moments, 10, [20.0])
    plain_HL = without_anchor(relative_HL, last_L)
    level_B1 = windows[:, 9:10]
    expected = (windows[:, :10] - level_B1) @ relative_HL.T + bias_H + level_B1
    np.testing.assert_allclose(windows[:, :10] @ plain_HL.T + bias_H, expected, atol=1e-10)


def test_without_full_rank_the_solution_of_least_norm() -> None:
    x_R = np.sin(np.arange(500) / 7)
    windows = sliding_window_view(x_R, 23)
    (solved_HL,), (bias_H,) = solve(moments_of(x_R, np.arange(len(windows)), 23), 20, [0.0])
    weight_HL, _ = textbook(windows[:, :20], windows[:, 20:], 0.0)
    np.testing.assert_allclose(solved_HL, weight_HL, atol=1e-6)
    np.testing.assert_allclose(windows[:, :20] @ solved_HL.T + bias_H, windows[:, 20:], atol=1e-8)


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 3), st.floats(0.5, 1))
def test_windows_of_several_series_side_by_side(seed: int, width: int, series: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    x_SR = rng.normal(size=(series, 90))
    starts = np.flatnonzero(rng.random(90 - width + 1) < share)
    windows = [np.concatenate([x_R[start : start + width] for x_R in x_SR]) for start in starts]
    close(moments_of(x_SR, starts, width), np.array(windows).reshape(-1, series * width))


def test_some_columns_in_other_sizes() -> None:
    windows = np.random.default_rng(6).normal(size=(50, 4))
    size = np.array([1.0, 3.0])
    close(moments_written_out(windows).take(np.array([2, 0]), size), windows[:, [2, 0]] * size)
