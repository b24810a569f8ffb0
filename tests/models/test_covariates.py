"""Covariates of the linear models: known and observed drivers help, useless ones do no harm, and none change nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.linear_model import Ridge

from presurge.errors import HistoryError
from presurge.models import registry
from presurge.models.auto import Auto
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.series.frequency import HOUR
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, targets_of, window_origins

MakePanel = Callable[..., Panel]
CONTEXT, HORIZON = 12, 4


def load_with(make_panel: MakePanel, driver: np.ndarray, effect: np.ndarray, *, kind: str = "c") -> Panel:
    """A load that a driver moves, and the driver: channels c0 and c1."""
    rng = np.random.default_rng(1)
    rows = np.arange(len(driver))
    rate = 60 + 25 * np.sin(2 * np.pi * rows / 24) + effect
    return make_panel(np.stack([rng.poisson(rate), driver], 1), kinds=f"{kind}g")


def error(model: Linear | Auto, panel: Panel, span: Span) -> float:
    origins = window_origins(panel, span, context=model.context, horizon=HORIZON)
    mean = model.predict(batch_of(panel, origins, model.context, HORIZON)).point_BHC.astype(np.float64)
    return float(np.abs(mean - targets_of(panel, origins, HORIZON)).mean())


def fitted(kind: type[Linear] | type[Auto], panel: Panel) -> tuple[Linear | Auto, float]:
    train, test = panel.full_span().cut_tail("0.3")
    model = kind(context=CONTEXT, horizon=HORIZON)
    model.fit(panel, train)
    return model, error(model, panel, test)


@pytest.fixture
def promotion(make_panel: MakePanel) -> Panel:
    """A flag that comes and goes at random and doubles the load while it is up."""
    rng = np.random.default_rng(2)
    flag = np.repeat(rng.random(400) < 0.3, 5).astype(float)
    return load_with(make_panel, flag, 60 * flag).with_roles(known=["c1"])


@pytest.mark.parametrize("kind", [Linear, Auto])
def test_a_known_driver_lowers_the_error(kind: type[Linear] | type[Auto], promotion: Panel) -> None:
    model, told = fitted(kind, promotion)
    _, untold = fitted(kind, promotion.only_targets())
    assert told < 0.6 * untold
    assert model.fitted_spec().channels == promotion.channels
    _, past_alone = fitted(kind, promotion.with_roles(observed=["c1"]))
    assert told < 0.6 * past_alone


def test_an_observed_driver_that_leads_lowers_the_error(make_panel: MakePanel) -> None:
    """What the driver does now reaches the load three rows later."""
    driver = np.random.default_rng(3).normal(size=2000)
    panel = load_with(make_panel, driver, 12 * np.roll(driver, HORIZON)).with_roles(observed=["c1"])
    model, told = fitted(Linear, panel)
    _, untold = fitted(Linear, panel.only_targets())
    assert told < 0.85 * untold
    assert model.forecast(panel).mean.shape == (1, HORIZON, 1)


@pytest.mark.parametrize("role", ["known", "observed"])
@pytest.mark.parametrize("seed", range(4))
def test_an_irrelevant_covariate_does_no_harm(make_panel: MakePanel, role: str, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=2000)
    plain = load_with(make_panel, noise, np.zeros(2000))
    panel = plain.with_roles(known=["c1"]) if role == "known" else plain.with_roles(observed=["c1"])
    _, told = fitted(Linear, panel)
    _, untold = fitted(Linear, panel.only_targets())
    assert told < 1.01 * untold


def test_an_unused_covariate_is_not_asked_for(make_panel: MakePanel) -> None:
    panel = load_with(make_panel, np.random.default_rng(5).normal(size=2000), np.zeros(2000)).with_roles(
        known=["c1"]
    )
    for kind in (Linear, Auto):
        model, _ = fitted(kind, panel)
        alone, _ = fitted(kind, panel.only_targets())
        assert model.fitted_spec() == alone.fitted_spec()
        np.testing.assert_array_equal(model.forecast(panel).mean, alone.forecast(panel.only_targets()).mean)
    off = Linear(context=CONTEXT, horizon=HORIZON, config=LinearConfig(covariates="off"))
    report = off.fit(panel, panel.full_span())
    assert "covariates" not in report.chosen["c0"]


def test_least_squares_of_windows_written_out(make_panel: MakePanel) -> None:
    """Against ridge regression by scikit-learn with the same inputs, each of the size of the differences."""
    rng = np.random.default_rng(6)
    values = rng.normal(size=(900, 3)).cumsum(axis=0) * [1.0, 5.0, 0.1] + [0.0, 40.0, 7.0]
    values[300, 1] = np.nan
    panel = make_panel(values, lengths=(500, 400)).with_roles(known=["c1"], observed=["c2"])
    config = LinearConfig(transform="identity", calendar="off", covariates="on", own="off", ridge=5.0)
    model = Linear(context=6, horizon=2, config=config)
    report = model.fit(panel, panel.full_span())
    standard = (values - np.nanmean(values, axis=0)) / np.nanstd(values, axis=0)
    items = np.split(values[:, 0], [500])  # the target is scaled item by item
    standard[:, 0] = np.concatenate([(one - one.mean()) / one.std() for one in items])
    windows = np.concatenate(
        [sliding_window_view(part, 8, axis=0).transpose(0, 2, 1) for part in (standard[:500], standard[500:])]
    )
    windows = windows[~np.isnan(windows[:, :, 1]).any(axis=1)]
    assert report.n_windows == len(windows)
    change = windows[:, :, 0] - windows[:, 5:6, 0]
    size = np.sqrt(np.square(change[:, :6]).sum() / (6 * len(windows)))
    inputs = np.concatenate([change[:, :6], size * windows[:, :, 1], size * windows[:, :6, 2]], axis=1)
    centred = inputs - inputs.mean(axis=0)
    penalty = 5 / len(windows) * np.square(centred).sum() / inputs.shape[1]
    reference = Ridge(alpha=penalty).fit(inputs, change[:, 6:])
    expected = reference.predict(inputs) + windows[:, 5:6, 0]
    of_first = (np.arange(len(windows)) < 493 - 8)[:, None]  # eight windows miss row 300
    expected = np.where(of_first, *(expected * one.std() + one.mean() for one in items))
    origins = np.concatenate([np.arange(5, 498), np.arange(505, 898)])
    mean = model.predict(batch_of(panel, origins, 6, 2)).point_BHC[:, :, 0]
    np.testing.assert_allclose(mean[~np.isnan(mean[:, 0])], expected, atol=2e-3)
    assert np.isnan(mean).all(axis=1).sum() == len(origins) - len(windows)


@pytest.mark.parametrize("kind", [Linear, Auto])
def test_saved_and_loaded_it_asks_for_the_future(
    kind: type[Linear] | type[Auto], promotion: Panel, tmp_path: Path
) -> None:
    model, _ = fitted(kind, promotion)
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    history = promotion.take(Span(np.array([0]), np.array([1000])))
    future = promotion.take(Span(np.array([1000]), np.array([1000 + HORIZON])))
    np.testing.assert_array_equal(
        again.forecast(history, future=future).mean, model.forecast(history, future=future).mean
    )
    expected = model.predict(batch_of(promotion, np.array([999]), CONTEXT, HORIZON)).point_BHC
    np.testing.assert_array_equal(model.forecast(history, future=future).mean, expected)
    with pytest.raises(HistoryError, match="future"):
        again.forecast(history)


def test_a_baseline_beside_the_linear_model_with_covariates(make_panel: MakePanel, tmp_path: Path) -> None:
    """Auto keeps what each member reads, when they read different channels."""
    rng = np.random.default_rng(7)
    flag = np.repeat(rng.random(400) < 0.3, 5).astype(float)
    pattern = np.resize(rng.gamma(1, 50, 53), 2000) + rng.normal(size=2000)
    panel = make_panel(np.stack([rng.poisson(60 + 60 * flag), pattern, flag], 1), kinds="cgg").with_roles(
        known=["c2"]
    )
    model, _ = fitted(Auto, panel)
    assert isinstance(model, Auto)
    assert [member.model.name for member in model.members] == ["linear", "seasonal-naive"]
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert isinstance(again, Auto)
    assert [len(member.model.fitted_spec().channels) for member in again.members] == [3, 2]
    batch = batch_of(panel, np.arange(100, 200), model.context, HORIZON)
    np.testing.assert_array_equal(again.predict(batch).point_BHC, model.predict(batch).point_BHC)


def test_the_calendar_of_trading_sessions(make_panel: MakePanel) -> None:
    """Bars of which every day has seven: the exact solver sees the time of each, not a regular clock."""
    row = np.arange(1400)
    stamps = (row // 7 * 24 + 9 + row % 7) * HOUR
    load = 50 + 30 * (row % 7 == 0) + np.random.default_rng(8).normal(size=1400)
    panel = replace(make_panel(load), stamps=stamps)
    config = LinearConfig(transform="identity", calendar="on", ridge=0.0)
    model = Linear(context=3, horizon=1, config=config)
    model.fit(panel, panel.full_span())
    origins = np.arange(2, 1399)
    mean = model.predict(batch_of(panel, origins, 3, 1)).point_BHC[:, 0, 0]
    assert np.abs(mean - load[3:]).mean() < 2
