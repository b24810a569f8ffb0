"""Exponential smoothing: the recursion of statsmodels, the best parameters of the grid, and contexts with gaps."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.tsa.holtwinters import Holt, SimpleExpSmoothing

from presurge.models import registry
from presurge.models.forecaster import SeriesSpec
from presurge.models.linear.channel import FEW_WINDOWS
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.models.smoothing import SIMPLE, DampedTrend, SimpleSmoothing, Smoothing, smoothing_maps
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.windows import batch_of, targets_of, window_origins

MakePanel = Callable[..., Panel]


def by_statsmodels(one: Smoothing, context: np.ndarray, horizon: int) -> np.ndarray:
    """The forecast of statsmodels, from the mean of the context as first level and without a first trend."""
    first = {"initialization_method": "known", "initial_level": context.mean()}
    if one.damping == 0:
        return (
            SimpleExpSmoothing(context, **first)
            .fit(smoothing_level=one.gain, optimized=False)
            .forecast(horizon)
        )
    holt = Holt(context, damped_trend=True, initial_trend=0.0, **first)
    own = {"smoothing_level": one.gain, "smoothing_trend": one.trend_gain, "damping_trend": one.damping}
    return holt.fit(**own, optimized=False).forecast(horizon)


@pytest.mark.parametrize("kind", [SimpleSmoothing, DampedTrend])
@pytest.mark.parametrize("rows", [2, 9, 40])
def test_the_maps_are_the_recursion_of_statsmodels(kind: type[SimpleSmoothing], rows: int) -> None:
    y = np.random.default_rng(rows).gamma(2, 30, rows)
    made_PH = smoothing_maps(kind.grid, rows, 4) @ y
    for one, made_H in zip(kind.grid, made_PH, strict=True):
        np.testing.assert_allclose(made_H, by_statsmodels(one, y, 4), rtol=1e-9)


def test_the_ends_of_the_grid_are_the_mean_and_the_last_value() -> None:
    y = np.array([3.0, 8.0, 1.0, 4.0])
    np.testing.assert_allclose(smoothing_maps((SIMPLE[0], SIMPLE[-1]), 4, 2) @ y, [[4, 4], [4, 4]])
    np.testing.assert_allclose(smoothing_maps(SIMPLE[-1:], 3, 1)[0], [[0, 0, 1]])
    np.testing.assert_allclose(smoothing_maps(SimpleSmoothing.grid, 7, 3).sum(axis=2), 1)
    np.testing.assert_allclose(smoothing_maps(DampedTrend.grid, 7, 3).sum(axis=2), 1)


@pytest.mark.parametrize("kind", [SimpleSmoothing, DampedTrend])
def test_every_channel_gets_the_parameters_with_the_least_squared_error(
    kind: type[SimpleSmoothing], make_panel: MakePanel
) -> None:
    rng = np.random.default_rng(1)
    walk = rng.normal(size=300).cumsum()
    panel = make_panel(np.stack([walk, 50 + rng.normal(size=300), walk.cumsum()], axis=1), kinds="ggg")
    train, _ = panel.full_span().cut_tail("0.2")
    model = kind(context=12, horizon=3)
    model.fit(panel, train)
    origins = window_origins(panel, train, context=12, horizon=3)
    context_BLC = batch_of(panel, origins, 12).context_BLC.astype(np.float64)
    made_PBHC = np.einsum("phl,blc->pbhc", smoothing_maps(kind.grid, 12, 3), context_BLC)
    error_PC = np.square(made_PBHC - targets_of(panel, origins, 3)).mean(axis=(1, 2))
    assert [kind.grid.index(one) for one in model.chosen] == error_PC.argmin(axis=0).tolist()
    assert model.chosen[0].gain > model.chosen[1].gain


@given(holes=st.lists(st.booleans(), min_size=10, max_size=10))
def test_missing_rows_are_skipped(holes: list[bool]) -> None:
    model = DampedTrend(context=10, horizon=3)
    values = np.random.default_rng(2).gamma(2, 30, 10)
    seen = values[~np.array(holes)]
    values[holes] = np.nan
    panel = one_channel(values)
    model.spec, model.chosen = SeriesSpec.of(panel), DampedTrend.grid[20:21]
    made_H = model.predict(batch_of(panel, np.array([9]), 10)).point_BHC[0, :, 0]
    if len(seen) == 0:
        assert np.isnan(made_H).all()
    elif len(seen) == 1:
        np.testing.assert_allclose(made_H, np.repeat(seen, 3), rtol=1e-6)
    else:
        np.testing.assert_allclose(made_H, by_statsmodels(model.chosen[0], seen, 3).clip(0), rtol=1e-5)


def one_channel(values: np.ndarray) -> Panel:
    return Panel(
        values=values[:, None].astype(np.float32),
        channels=(Channel("requests", kind="count"),),
        step=MINUTE,
        start=np.zeros(1, np.int64),
        clock="relative",
    )


def test_without_a_window_that_can_judge_the_gain_is_a_middling_one() -> None:
    values = np.full(30, np.nan)
    values[::29] = 5
    panel = one_channel(values)
    for name in ("ses", "damped-trend"):
        kind = registry.model_class(name)
        model = kind(context=8, horizon=20)
        model.fit(panel, panel.full_span())
        assert 0.2 <= model.chosen[0].gain <= 0.7


def test_with_few_windows_a_firm_ridge_forecasts_the_smoothed_level(make_panel: MakePanel) -> None:
    """The linear model shrinks towards the level that ``ses`` chooses on the same scale; with many, to the last value."""
    level = 100 + np.random.default_rng(3).normal(size=2 * FEW_WINDOWS).cumsum()
    noisy = level + np.random.default_rng(4).normal(size=len(level)) * 3
    for rows in (60, 2 * FEW_WINDOWS):
        panel = make_panel(noisy[:rows], kinds="g")
        config = LinearConfig(transform="identity", calendar="off", ridge=1e12)
        linear, ses = Linear(context=10, horizon=2, config=config), SimpleSmoothing(context=10, horizon=2)
        batch = batch_of(panel, np.arange(20, 50), 10)
        for model in (linear, ses):
            model.fit(panel, panel.full_span())
        assert 0 < ses.chosen[0].gain < 1
        few = rows < FEW_WINDOWS
        level_BHC = ses.predict(batch).point_BHC if few else np.repeat(batch.context_BLC[:, -1:], 2, axis=1)
        offset_BHC = linear.predict(batch).point_BHC - level_BHC
        np.testing.assert_allclose(offset_BHC, offset_BHC[:1].repeat(30, axis=0), atol=1e-3)  # the bias
        assert np.all(np.abs(offset_BHC) < 1e-3) == few


def test_what_few_windows_explain_entirely_is_not_doubted(make_panel: MakePanel) -> None:
    rng, wave = np.random.default_rng(5), np.where(np.arange(60) % 2, 10.0, 20.0)
    config = LinearConfig(transform="identity", calendar="off", ridge=0.0)
    for noise in (0.0, 20.0):
        panel = make_panel(wave + noise * rng.normal(size=60), kinds="g")
        model = Linear(context=2, horizon=1, config=config)
        model.fit(panel, panel.full_span())
        weight_L = model.channels[0].weights["weight"][0]
        assert weight_L.sum() == pytest.approx(1)
        assert (weight_L == pytest.approx([1, 0], abs=1e-6)) == (noise == 0)
