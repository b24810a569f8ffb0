"""Metrics against scikit-learn and plain NumPy in float64: for each horizon step, whatever the chunks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, mean_squared_error, r2_score

from presurge.evaluation.metrics import (
    ITEM_METRICS,
    METRICS,
    ItemSums,
    Scores,
    ScoreSums,
    interval_bounds,
    naive_scale,
)
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.panel import FloatArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import CHUNK

MakePanel = Callable[..., Panel]
SCALE = np.array([2.0, 5.0])


def forecasts(windows: int = 400, missing: float = 0.1) -> tuple[FloatArray, ...]:
    """Actual values with holes, means, medians and quantiles: 3 steps, 2 channels."""
    rng = np.random.default_rng(0)
    actual = rng.gamma(2, 50, (windows, 3, 2)).astype(np.float32) - np.float32(20)
    mean = (actual + rng.normal(3, 20, actual.shape)).astype(np.float32)
    quantiles = mean[:, :, None] + np.quantile(rng.normal(0, 20, 999), QUANTILE_LEVELS)[:, None]
    median = (mean - rng.gamma(2, 5, mean.shape)).astype(np.float32)
    actual[rng.random(actual.shape) < missing] = np.nan
    return actual, mean, median, quantiles.astype(np.float32)


def scored(
    actual: FloatArray,
    mean: FloatArray,
    median: FloatArray | None = None,
    quantiles: FloatArray | None = None,
    *,
    size: int = 10_000,
) -> Scores:
    median = mean if median is None else median
    sums = ScoreSums(actual.shape[1], () if quantiles is None else QUANTILE_LEVELS, SCALE[: actual.shape[2]])
    for begin in range(0, len(actual), size):
        part = slice(begin, begin + size)
        sums.add(actual[part], mean[part], median[part], None if quantiles is None else quantiles[part])
    return sums.scores()


def reference(actual: Any, mean: Any, median: Any, quantiles: Any, scale: float) -> dict[str, float]:
    """One step of one channel, from the definitions."""
    seen = ~np.isnan(actual)
    y, f, m, q = (part[seen].astype(np.float64) for part in (actual, mean, median, quantiles))
    pinball = np.mean([mean_pinball_loss(y, q[:, k], alpha=level) for k, level in enumerate(QUANTILE_LEVELS)])
    values = {
        "wql": 2 * pinball * len(y) / np.abs(y).sum(),
        "wape": np.abs(y - m).sum() / np.abs(y).sum(),
        "mae": mean_absolute_error(y, m),
        "mse": mean_squared_error(y, f),
        "rmse": np.sqrt(mean_squared_error(y, f)),
        "mase": mean_absolute_error(y, m) / scale,
        "r2": r2_score(y, f),
        "bias": (f - y).mean(),
        "relative_bias": (f.sum() - y.sum()) / np.abs(y).sum(),
        "pinball": pinball,
    }
    for percent, low, high in ((50, 4, 6), (80, 3, 7), (95, 1, 9)):
        values[f"coverage_{percent}"] = ((q[:, low] <= y) & (y <= q[:, high])).mean()
        values[f"width_{percent}"] = (q[:, high] - q[:, low]).mean()
    return values


def test_every_metric_of_every_step_and_channel() -> None:
    actual, mean, median, quantiles = forecasts()
    found = scored(actual, mean, median, quantiles, size=37)
    assert set(found) == set(METRICS)
    for h in range(3):
        for c in range(2):
            expected = reference(
                actual[:, h, c], mean[:, h, c], median[:, h, c], quantiles[:, h, :, c], SCALE[c]
            )
            assert {name: found[name][h, c] for name in METRICS} == pytest.approx(expected, rel=1e-9)


@given(size=st.integers(1, 60))
def test_the_chunks_do_not_matter(size: int) -> None:
    made = forecasts(60)
    whole, pieces = scored(*made), scored(*made, size=size)
    for name in METRICS:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-10)


def test_the_memory_does_not_depend_on_the_number_of_windows() -> None:
    made = forecasts()
    sums = ScoreSums(3, QUANTILE_LEVELS, SCALE)

    def held() -> int:
        arrays = [value for value in vars(sums).values() if isinstance(value, np.ndarray)]
        arrays += [a for value in vars(sums).values() if isinstance(value, dict) for a in value.values()]
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    before = held()
    for _ in range(5):
        sums.add(*made)
    assert held() == before


def test_the_scores_of_items_are_those_of_their_windows_and_steps_together() -> None:
    actual, *made = forecasts(90)
    item_B = np.arange(90) % 7 % 2
    scale_IC = np.array([[2.0, 5.0], [4.0, 1.0]])
    sums, items = ScoreSums(3, QUANTILE_LEVELS, SCALE), ItemSums(scale_IC)
    for part in (slice(0, 50), slice(50, 90)):
        items.add(item_B[part], sums.add(actual[part], *(one[part] for one in made)))
    found = items.scores()
    assert set(found) == set(ITEM_METRICS)
    for i in (0, 1):
        pooled = [one[item_B == i].reshape(-1, *one.shape[2:]) for one in (actual, *made)]
        for c in (0, 1):
            expected = reference(*(one[..., c] for one in pooled), scale_IC[i, c])
            assert {m: found[m][i, c] for m in ITEM_METRICS} == pytest.approx(
                {m: expected[m] for m in ITEM_METRICS}
            )


def test_an_item_without_a_window_has_no_scores() -> None:
    items = ItemSums(np.ones((2, 2)))
    items.add(np.zeros(5, np.int64), ScoreSums(3, (), SCALE).add(*forecasts(5)[:3]))
    found = items.scores()
    assert np.isfinite(found["wape"][0]).all()
    assert np.isnan(found["wql"]).all()
    assert all(np.isnan(found[metric][1]).all() for metric in ITEM_METRICS)


def test_what_is_undefined_is_nan() -> None:
    zero = np.zeros((20, 3, 2), np.float32)
    found = scored(zero, zero + 1)
    assert np.isnan(found["wape"]).all()
    assert np.isnan(found["r2"]).all()
    assert (found["mae"] == 1).all()
    assert np.isnan(found["pinball"]).all()
    assert np.isnan(found["coverage_80"]).all()
    unknown = scored(np.full_like(zero, np.nan), zero)
    assert all(np.isnan(unknown[name]).all() for name in METRICS)


def test_r2_of_values_that_hardly_vary_beside_their_size() -> None:
    rng = np.random.default_rng(1)
    actual = (1e6 + rng.normal(size=(5000, 1, 1))).astype(np.float32)
    mean = np.full_like(actual, 1e6)
    assert scored(actual, mean, size=100)["r2"][0, 0] == pytest.approx(
        r2_score(actual[:, 0, 0].astype(np.float64), mean[:, 0, 0].astype(np.float64)), abs=1e-9
    )
    assert np.isnan(scored(mean, actual, size=100)["r2"]).all()


def test_a_bound_that_rounding_moved_off_an_integer_covers_it_and_a_narrow_miss_does_not() -> None:
    levels = (0.1, 0.5, 0.9)
    sums = ScoreSums(1, levels, SCALE)
    actual = np.array([[[7.0, 1e6]]], np.float32)
    upper = np.array([np.nextafter(np.float32(7), np.float32(0)), 1e6 - 5], np.float32)
    quantiles = np.stack([upper - 3, upper - 1, upper])[None, None]
    sums.add(actual, actual, actual, quantiles)
    assert sums.scores()["coverage_80"].tolist() == [[1.0, 0.0]]


def test_the_unit_of_mase_is_the_mean_absolute_difference_of_the_training_rows(make_panel: MakePanel) -> None:
    values = np.random.default_rng(2).normal(size=(300, 2)).cumsum(axis=0).astype(np.float32)
    values[[10, 11, 150], 0] = np.nan
    panel = make_panel(values, lengths=(200, 100))
    train = Span(np.array([5, 200]), np.array([180, 260]))
    steps = [np.abs(np.diff(values[a:b].astype(np.float64), axis=0)) for a, b in ((5, 180), (200, 260))]
    expected = np.nanmean(np.concatenate(steps), axis=0)
    together, each = naive_scale(panel, train)
    np.testing.assert_allclose(together, expected, rtol=1e-12)
    np.testing.assert_allclose(each, [np.nanmean(step, axis=0) for step in steps], rtol=1e-12)
    for scale in naive_scale(panel, Span(np.array([0, 200]), np.array([1, 200]))):
        assert np.isnan(scale).all()


def test_the_unit_of_mase_is_the_same_in_pieces(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(3).normal(size=(3 * CHUNK, 1)))
    expected = np.abs(np.diff(panel.values.astype(np.float64), axis=0)).mean(axis=0)
    np.testing.assert_allclose(naive_scale(panel, panel.full_span())[0], expected, rtol=1e-12)


def test_where_the_quantiles_of_an_interval_are() -> None:
    assert interval_bounds(80, QUANTILE_LEVELS) == (3, 7)
    assert interval_bounds(80, (0.1, 0.5, 0.9)) == (0, 2)
    assert interval_bounds(95, (0.1, 0.5, 0.9)) is None
