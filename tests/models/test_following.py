"""Means and rates that are chosen on the calibration windows: unbiased on bursts, quiet where nothing has to be followed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from presurge import store
from presurge.errors import ConfigError, ModelError
from presurge.evaluation.backtest import evaluate
from presurge.evaluation.fit import calibrate, fit_model
from presurge.evaluation.walk import usable_origins
from presurge.models import registry
from presurge.models.conformal import Calibration
from presurge.models.following import Windows, with_chosen_rates
from presurge.models.linear.linear import Linear
from presurge.models.naive import RecentMean
from presurge.models.tracking import IntervalTracker
from presurge.series.dataset import Dataset
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel
from presurge.series.windows import targets_of

MakePanel = Callable[..., Panel]


def dataset(panel: Panel) -> Dataset:
    whole, test = panel.full_span().cut_tail("0.4")
    train, validation = whole.cut_tail("0.2")
    return Dataset(
        panel=panel, train=train, validation=validation, test=test, validation_given=False, source={}
    )


def bursts(rows: int = 4000, growth: float = 0.0) -> np.ndarray:
    """Counts whose mean lies far above their median."""
    rng = np.random.default_rng(1)
    return rng.poisson(rng.gamma(0.2, 50, rows) * np.exp(growth * np.arange(rows) / rows))


@pytest.mark.parametrize("growth", [0.0, 2.0])
def test_the_mean_of_bursts_has_no_bias_and_their_median_is_the_median(
    growth: float, make_panel: MakePanel
) -> None:
    data = dataset(make_panel(bursts(growth=growth), kinds="c"))
    model = fit_model("linear", data, context=12, horizon=3, settings={"transform": "sqrt"}).model
    scores = evaluate([model], data.panel, data.test, train=data.train).averages()["c0"]["linear"]
    assert abs(scores["relative_bias"]) < 0.04
    assert 0.77 <= scores["coverage_80"] <= 0.83
    bare = Linear(context=12, horizon=3, config=model.config)
    bare.fit(data.panel, data.fit_span)
    point = evaluate([bare], data.panel, data.test, train=data.train).averages()["c0"]["linear"]
    assert point["relative_bias"] < -0.3
    assert scores["rmse"] < point["rmse"]
    origins = usable_origins(model, data.panel, data.test)
    made = IntervalTracker(model, data.panel).predict(origins)
    below = (targets_of(data.panel, origins, 3) <= made.median_BHC).mean()
    assert below == pytest.approx(0.5, abs=0.04)


def test_without_bias_the_mean_is_the_point_and_the_quantiles_between_the_tails_are_slow(
    make_panel: MakePanel,
) -> None:
    panel = make_panel(np.random.default_rng(2).normal(50, 5, 3000))
    data = dataset(panel)
    model = RecentMean(context=30, horizon=2)
    model.fit(panel, data.train)
    found = calibrate(model, panel, data.validation)
    assert not found.bias_KHC[..., 0].any()
    assert not found.weight_C.any()
    slow, fast = found.rates_HQC[0, 5, 0], found.rates_HQC[0, [0, 3, 7, 10], 0]
    assert slow == np.float32(0.003)
    assert (fast >= np.float32(0.03)).all()
    np.testing.assert_array_equal(found.rates_HQC[..., 0], found.rates_HQC[..., 1])  # the peak


def test_a_wandering_level_is_followed_faster_than_a_steady_one() -> None:
    rng = np.random.default_rng(3)
    wander = rng.normal(0, 0.3, (1200, 1, 1)).cumsum(axis=0)
    rates = []
    for drift in (0.0, 1.0):
        actual = (100 + drift * wander + rng.normal(0, 1, (1200, 1, 1))).astype(np.float32)
        centre = np.full((1200, 1, 1, 1), 100, np.float32)
        parts = [Windows("", np.arange(600), actual[k : k + 600], centre[:600]) for k in (0, 600)]
        start = Calibration.measure(actual, centre, np.array([False]))
        chosen = with_chosen_rates(start, [[part] for part in parts])
        rates.append((float(chosen.rates_HQC[0, 5, 0]), float(chosen.weight_C[0])))
    assert rates[1][0] > rates[0][0]
    assert rates[1][1] > rates[0][1]


def test_peaks_are_joint_over_the_steps(make_panel: MakePanel) -> None:
    """Of independent rows the quantile 0.9 of the largest of four lies far above those of the rows."""
    data = dataset(make_panel(np.random.default_rng(4).gamma(4, 10, 5000)))
    model = fit_model("recent-mean", data, context=20, horizon=4).model
    origins = usable_origins(model, data.panel, data.test)
    made = IntervalTracker(model, data.panel, peaks=True).predict(origins)
    assert made.peak is not None
    largest = targets_of(data.panel, origins, 4).max(axis=1)
    for q, level in ((3, 0.1), (5, 0.5), (7, 0.9), (9, 0.975)):
        below = (largest <= made.peak.quantiles_BHQC[:, -1, q]).mean()
        assert below == pytest.approx(level, abs=0.035)
    assert (largest <= made.quantiles_BHQC[:, :, 7].max(axis=1)).mean() < 0.75
    assert made.peak.mean_BHC[:, -1].mean() == pytest.approx(largest.mean(), rel=0.03)
    for own, top in zip(made[:3], made.peak[:3], strict=True):
        assert (np.diff(top, axis=1) >= 0).all()  # type: ignore[arg-type]
        assert (top >= own).all()  # type: ignore[operator]


def test_items_of_different_size_have_intervals_of_their_own() -> None:
    rng = np.random.default_rng(5)
    sizes, lengths = (1.0, 200.0, 1.0), (1500, 1500, 90)
    values = np.concatenate([10 + size * rng.normal(0, 1, n) for size, n in zip(sizes, lengths, strict=True)])
    panel = Panel(
        values=values[:, None].astype(np.float32),
        channels=(Channel("x"),),
        step=HOUR,
        start=np.zeros(3, np.int64),
        items=("small", "large", "short"),
        indptr=np.cumsum([0, *lengths]),
    )
    data = dataset(panel)
    fitted = fit_model("recent-mean", data, context=10, horizon=2)
    assert any("1 of 3 items have fewer than 100 calibration windows" in note for note in fitted.report.notes)
    origins = usable_origins(fitted.model, panel, data.test)
    made = IntervalTracker(fitted.model, panel).predict(origins)
    actual, item = targets_of(panel, origins, 2), panel.items_of(origins)
    inside = (actual >= made.quantiles_BHQC[:, :, 3]) & (actual <= made.quantiles_BHQC[:, :, 7])
    for k in (0, 1):
        assert 0.75 <= inside[item == k].mean() <= 0.85


@pytest.fixture
def trained(make_panel: MakePanel) -> tuple[Linear, Panel]:
    panel = make_panel(np.random.default_rng(6).normal(50, 5, 600), kinds="c")
    model = fit_model("linear", dataset(panel), context=12, horizon=3).model
    assert isinstance(model, Linear)
    return model, panel


def test_any_level_can_be_asked_for(trained: tuple[Linear, Panel]) -> None:
    model, panel = trained
    usual, made = model.forecast(panel), model.forecast(panel, levels=(0.9, 0.5, 0.6, 0.9999))
    assert usual.levels == QUANTILE_LEVELS
    assert made.levels == (0.5, 0.6, 0.9, 0.9999)
    np.testing.assert_array_equal(made.quantiles[:, :, [0, 2]], usual.quantiles[:, :, [5, 7]])
    assert made.peak is not None
    assert usual.peak is not None
    np.testing.assert_array_equal(made.peak.quantiles_IQC[:, [0, 2]], usual.peak.quantiles_IQC[:, [5, 7]])
    np.testing.assert_array_equal(made.mean, usual.mean)
    assert not any("extrapolated" in flag for flag in usual.flags)
    assert "extrapolated quantiles: 0.9999 (calibrated on 196 windows from 0.01 to 0.99)" in made.flags
    beyond = model.forecast(
        panel, levels=(0.006, 0.01, 0.99, 0.992)
    ).flags  # 196 windows alone would reach 0.9949
    assert [flag.split(" (")[0] for flag in beyond] == ["extrapolated quantiles: 0.006, 0.992"]
    for levels in ((), (0.5, 1.0), (-0.1,)):
        with pytest.raises(ConfigError, match="between 0 and 1") as caught:
            model.forecast(panel, levels=levels)
        assert caught.value.setting == "levels"
    model.calibration = None
    with pytest.raises(ConfigError, match="no calibrated quantiles"):
        model.forecast(panel, levels=(0.5,))


def test_no_extrapolated_peak_is_lower_than_a_row(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(7)
    values = np.where(rng.random(2000) < 0.03, rng.integers(2000, 9000, 2000), 1)
    model = fit_model(
        "recent-mean", dataset(panel := make_panel(values, kinds="c")), context=10, horizon=3
    ).model
    made = model.forecast(panel, levels=(0.001, 0.5, 0.999, 0.9999))
    assert made.peak is not None
    assert (made.peak.quantiles_IQC >= made.quantiles.max(axis=1)).all()


def test_a_mean_outside_the_interval_is_flagged(make_panel: MakePanel) -> None:
    values = np.where(np.random.default_rng(7).random(3000) < 0.02, 5000, 1)
    panel = make_panel(values, kinds="c")
    forecast = fit_model("recent-median", dataset(panel), context=10, horizon=2).model.forecast(panel)
    assert any("outside the 80 % interval in 2 of 2 rows" in flag for flag in forecast.flags)


def test_the_time_of_the_training_and_the_calibration_are_stored(
    trained: tuple[Linear, Panel], tmp_path: Path
) -> None:
    model, panel = trained
    model.save(tmp_path / "m")
    again, config = registry.load(tmp_path / "m")
    ours, theirs = model.forecast(panel), again.forecast(panel)
    assert config["trained"] == theirs.trained == ours.trained != ""
    assert json.dumps(ours.to_dict()) == json.dumps(theirs.to_dict())


def test_a_model_that_learned_other_levels_has_to_be_trained_again(
    trained: tuple[Linear, Panel], tmp_path: Path
) -> None:
    config, arrays = trained[0].document()
    config["settings"]["loss"] = "quantile"
    config["calibration"]["levels"] = [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975]
    store.save_model(tmp_path / "m", config, arrays)
    with pytest.raises(ModelError, match=r"learned the quantiles 0.025, .* forecasts 0.01") as caught:
        registry.load(tmp_path / "m")
    assert caught.value.hint == "Train it again."
