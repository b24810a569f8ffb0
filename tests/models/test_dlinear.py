"""DLinear: exact against lstsq, true to the published network, blind to what it must not see."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from presurge.errors import DataError
from presurge.models import registry
from presurge.models.linear.dlinear import DLinear, DLinearConfig
from presurge.models.linear.solve import DEFAULT_RIDGE
from presurge.series.panel import Panel
from presurge.series.scalers import Scaler
from presurge.series.spans import Span
from presurge.series.windows import batch_of, targets_of, window_origins
from presurge.training.config import TrainingConfig

MakePanel = Callable[..., Panel]
NORMALISATIONS = pytest.mark.parametrize("normalisation", ["none", "last", "mean", "meanabs"])


def fitted(
    panel: Panel, train: Span | None = None, *, context: int = 12, horizon: int = 3, **settings: object
) -> DLinear:
    model = DLinear(context=context, horizon=horizon, config=DLinearConfig.model_validate(settings))
    model.fit(panel, train or panel.full_span())
    return model


def sized(panel: Panel) -> Panel:
    """The panel as DLinear sees it: of several items each divided by its mean absolute value."""
    if len(panel.items) == 1:
        return panel
    parts = [
        panel.values[a:b].astype(np.float64) for a, b in zip(panel.indptr, panel.indptr[1:], strict=False)
    ]
    values = np.concatenate([part / np.nanmean(np.abs(part), axis=0) for part in parts])
    return panel.replace(values=values.astype(np.float32))


def written_out(panel: Panel, channels: Sequence[int], width: int, stride: int = 1) -> np.ndarray:
    """All whole windows of the given channels, one after another, in float64."""
    windows, panel = [], sized(panel)
    for begin, end in zip(panel.indptr, panel.indptr[1:], strict=False):
        for start in range(int(begin), int(end) - width + 1, stride):
            windows += [panel.values[start : start + width, c].astype(np.float64) for c in channels]
    table = np.array(windows)
    return table[~np.isnan(table).any(axis=1)]


def lstsq(windows_BW: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    with_one = np.c_[windows_BW[:, :context], np.ones(len(windows_BW))]
    solution = np.linalg.lstsq(with_one, windows_BW[:, context:], rcond=None)[0]
    return solution[:-1].T, solution[-1]


def in_original_units(model: DLinear) -> tuple[np.ndarray, np.ndarray]:
    return model.folded.weight_CHL, model.folded.bias_C1H[:, 0]


@pytest.fixture
def noisy(make_panel: MakePanel) -> Panel:
    """Two items and three gauges of very different sizes, with holes in one channel."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(900, 3)) + 0.3 * rng.normal(size=(900, 3)).cumsum(axis=0)
    values[200:204, 1] = np.nan
    values[640, 1] = np.nan
    return make_panel(values * [1.0, 2000.0, 0.01] + [0.0, 1e5, 3.0], lengths=(500, 400))


@pytest.mark.parametrize("stride", [1, 10])
@pytest.mark.parametrize("scaler", ["standard", "minmax", "robust", "meanabs", "none"])
def test_exact_through_gaps_items_strides_and_scalers(noisy: Panel, stride: int, scaler: str) -> None:
    model = fitted(noisy, ridge=0.0, stride=stride, scaler=scaler)
    weight_CHL, bias_CH = in_original_units(model)
    for c in range(3):
        weight_HL, bias_H = lstsq(written_out(noisy, [c], 15, stride), 12)
        np.testing.assert_allclose(weight_CHL[c], weight_HL, atol=1e-6)
        size = np.nanmax(np.abs(noisy.values[:, c]))
        np.testing.assert_allclose(bias_CH[c], bias_H, atol=1e-6 * size)


def test_shared_weights_are_those_of_all_channels_together(noisy: Panel) -> None:
    scaled = noisy.replace(values=Scaler.fit(noisy.values, "standard").scale(noisy.values).astype(np.float32))
    model = fitted(scaled, ridge=0.0, individual=False, scaler="none")
    weight_HL, bias_H = lstsq(written_out(scaled, [0, 1, 2], 15), 12)
    np.testing.assert_allclose(in_original_units(model)[0], np.stack([weight_HL] * 3), atol=1e-6)
    np.testing.assert_allclose(in_original_units(model)[1], np.stack([bias_H] * 3), atol=1e-6)


def test_a_hole_in_one_channel_costs_the_others_no_window(noisy: Panel) -> None:
    whole = noisy.replace(values=np.nan_to_num(noisy.values, nan=1e5))
    np.testing.assert_array_equal(
        fitted(noisy).weights["trend.weight"][[0, 2]], fitted(whole).weights["trend.weight"][[0, 2]]
    )


@NORMALISATIONS
@pytest.mark.parametrize("individual", [True, False])
def test_a_constant_channel_is_forecast_exactly(
    make_panel: MakePanel, normalisation: str, individual: bool
) -> None:
    values = np.c_[np.random.default_rng(1).normal(size=300), np.full(300, 0.1), np.zeros(300)]
    panel = make_panel(values, kinds="gcc")
    for ridge in (None, 0.0, 30.0):
        model = fitted(panel, ridge=ridge, normalisation=normalisation, individual=individual)
        assert np.isfinite(model.weights["seasonal.weight"]).all()
        if individual:
            np.testing.assert_allclose(model.forecast(panel).mean[0, :, 1:], [[0.1, 0.0]] * 3, atol=1e-6)


@pytest.mark.parametrize(
    ("context", "horizon", "individual", "expected"),
    [(120, 3, True, 2178), (100, 20, True, 12_120), (120, 3, False, 726), (100, 20, False, 4040)],
)
def test_number_of_parameters(
    make_panel: MakePanel, context: int, horizon: int, individual: bool, expected: int
) -> None:
    panel = make_panel(np.random.default_rng(2).normal(size=(400, 3)))
    model = fitted(panel, context=context, horizon=horizon, individual=individual)
    assert model.n_parameters == expected
    assert sum(array.size for array in model.state()[1].values()) == expected


def network(x_LC: np.ndarray, weights: dict[str, np.ndarray], kernel: int) -> np.ndarray:
    """The published network, row by row: average of the padded series, the rest, two linear maps."""
    length, channels = x_LC.shape
    result = []
    for c in range(channels):
        g = min(c, len(weights["trend.weight"]) - 1)
        padded = [x_LC[0, c]] * (kernel // 2) + list(x_LC[:, c]) + [x_LC[-1, c]] * (kernel // 2)
        trend = np.array([sum(padded[i : i + kernel]) / kernel for i in range(length)])
        seasonal = x_LC[:, c] - trend
        result.append(
            weights["seasonal.weight"][g] @ seasonal
            + weights["seasonal.bias"][g]
            + weights["trend.weight"][g] @ trend
            + weights["trend.bias"][g]
        )
    return np.stack(result, 1)


@pytest.mark.parametrize("individual", [True, False])
@pytest.mark.parametrize("transform", ["identity", "sqrt", "log1p"])
@pytest.mark.parametrize("kernel", [1, 5, 25])
def test_forecasts_are_those_of_the_network(
    load: Panel, individual: bool, transform: str, kernel: int
) -> None:
    model = fitted(load, context=30, individual=individual, transform=transform, kernel_size=kernel)
    rng = np.random.default_rng(3)
    apart = {name: array + rng.normal(0, 0.05, array.shape) for name, array in model.weights.items()}
    model.restore(model.state()[0], {name: array.astype(np.float32) for name, array in apart.items()})
    batch = batch_of(load, np.arange(100, 120), 30)
    point_BHC = model.predict(batch).point_BHC
    for context_LC, mean_HC in zip(batch.context_BLC, point_BHC, strict=True):
        size_C = model.sizes[batch.items[0]]
        scaled = network(model.scaler.scale(context_LC / size_C), model.weights, kernel)
        expected = np.maximum(model.scaler.unscale(scaled) * size_C, [0, 0, -np.inf])
        np.testing.assert_allclose(mean_HC, expected, rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(
            model.folded.predict_one(context_LC / size_C) * size_C, mean_HC, rtol=1e-6, atol=1e-6
        )


@NORMALISATIONS
def test_a_ramp_goes_on(make_panel: MakePanel, normalisation: str) -> None:
    ramp = make_panel(np.arange(400.0))
    for stride in (1, 10):
        model = fitted(ramp, context=120, ridge=0.0, stride=stride, normalisation=normalisation)
        history = make_panel(np.arange(120.0))
        np.testing.assert_allclose(model.forecast(history).mean[0, :, 0], [120, 121, 122], atol=1e-3)


@NORMALISATIONS
def test_a_level_follows_the_window(make_panel: MakePanel, normalisation: str) -> None:
    """With its level taken off, a window twice as high is forecast as much higher; without, only its weights count."""
    panel = make_panel(np.random.default_rng(4).normal(size=500))
    model = fitted(panel, ridge=1500.0, normalisation=normalisation)
    base, raised = np.zeros((12, 1), np.float32), np.full((12, 1), 50, np.float32)
    moved = model.folded.predict_one(raised) - model.folded.predict_one(base)
    if normalisation in ("none", "meanabs"):
        assert (np.abs(moved) < 25).all()
    else:
        np.testing.assert_allclose(moved, 50, rtol=1e-4)


@pytest.mark.parametrize("individual", [True, False])
def test_windows_divided_by_their_mean_absolute_value(make_panel: MakePanel, individual: bool) -> None:
    """Least squares of windows that were divided one by one; a window ten times as high is forecast ten times as high."""
    rng = np.random.default_rng(8)
    level = np.exp(rng.normal(size=(500, 2)).cumsum(axis=0) * 0.1)
    panel = make_panel(level * rng.gamma(5, 0.2, (500, 2)) * [1.0, 1000.0])
    model = fitted(panel, ridge=0.0, normalisation="meanabs", individual=individual)
    tables = [written_out(panel, [c], 15) for c in range(2)]
    divided = [table / np.abs(table[:, :12]).mean(axis=1, keepdims=True) for table in tables]
    if not individual:
        divided = [np.concatenate(divided)] * 2
    origins = np.arange(11, 497)
    point_BHC = model.predict(batch_of(panel, origins, 12)).point_BHC
    for c, (table, windows) in enumerate(zip(tables, divided, strict=True)):
        weight_HL, bias_H = lstsq(windows, 12)
        size_B1 = np.abs(table[:, :12]).mean(axis=1, keepdims=True)
        expected = size_B1 * (table[:, :12] / size_B1 @ weight_HL.T + bias_H)
        np.testing.assert_allclose(point_BHC[:, :, c], expected, rtol=1e-4)
    context_LC = panel.values[:12]
    np.testing.assert_allclose(
        model.folded.predict_one(10 * context_LC), 10 * model.folded.predict_one(context_LC), rtol=1e-5
    )
    assert (model.folded.predict_one(np.zeros((12, 2), np.float32)) >= 0).all()


def test_rows_after_the_training_rows_change_nothing(load: Panel) -> None:
    train, rest = load.full_span().cut_tail(0.3)
    later = load.values.copy()
    for a, b in zip(rest.first, rest.last, strict=True):
        later[a:b] = later[a:b] * 7 + 1000
        later[a] = np.nan
    changed = load.replace(values=later)
    for settings in ({}, {"individual": False, "transform": "sqrt"}, {"scaler": "robust", "stride": 4}):
        one, other = fitted(load, train, **settings), fitted(changed, train, **settings)
        assert one.state()[0] == other.state()[0]
        for name, array in one.weights.items():
            np.testing.assert_array_equal(array, other.weights[name])


def test_validation_rows_choose_the_ridge_and_nothing_else(load: Panel) -> None:
    train, validation = load.full_span().cut_tail(0.3)
    chosen = DLinear(context=12, horizon=3)
    report = chosen.fit(load, train, validation)
    ridge = report.chosen["ridge"]
    assert ridge == min(report.candidates, key=lambda row: row["validation_error"])["ridge"]
    given = fitted(load, train, ridge=ridge)
    np.testing.assert_array_equal(chosen.weights["trend.weight"], given.weights["trend.weight"])
    assert chosen.scaler.to_dict() == given.scaler.to_dict()


@NORMALISATIONS
@pytest.mark.parametrize("individual", [True, False])
@pytest.mark.parametrize("transform", ["identity", "log1p"])
def test_validation_errors_are_measured_on_the_forecasts(
    make_panel: MakePanel, normalisation: str, individual: bool, transform: str
) -> None:
    """The error reported for a ridge is that of the forecasts of a model fitted with it, over the variance."""
    rng = np.random.default_rng(5)
    values = np.exp(rng.normal(size=(500, 2)) * 0.1 + np.sin(np.arange(500) / 9)[:, None]) * [1.0, 1.0]
    panel = make_panel(values)
    train, validation = panel.full_span().cut_tail(0.3)
    if individual is False and normalisation == "meanabs":
        values[:, 1] *= 100  # each channel has a variance of its own
        panel = make_panel(values)
    settings = {
        "normalisation": normalisation,
        "individual": individual,
        "transform": transform,
        "scaler": "none",
    }
    model = DLinear(context=12, horizon=3, config=DLinearConfig.model_validate(settings))
    report = model.fit(panel, train, validation)
    origins = np.arange(349, 497)
    actual = np.stack([panel.values[o + 1 : o + 4] for o in origins])
    variance = panel.values[:350].astype(np.float64).var(axis=0)
    if individual is False and transform == "identity" and normalisation != "meanabs":
        variance = panel.values[:350].astype(np.float64).var()
    for row in report.candidates[::4]:
        fixed = fitted(panel, train, **settings, ridge=row["ridge"])
        squares = np.square(fixed.predict(batch_of(panel, origins, 12)).point_BHC.astype(np.float64) - actual)
        expected = (squares.mean(axis=(0, 1)) / variance).mean()
        assert row["validation_error"] == pytest.approx(expected, rel=1e-4)


def test_without_validation_the_tail_chooses_and_all_rows_shape_the_weights(load: Panel) -> None:
    head, tail = load.full_span().cut_tail(0.2)
    alone = DLinear(context=12, horizon=3)
    report = alone.fit(load, load.full_span())
    by_tail = DLinear(context=12, horizon=3).fit(load, head, tail)
    assert [row["ridge"] for row in report.candidates] == [row["ridge"] for row in by_tail.candidates]
    assert report.chosen == by_tail.chosen
    whole = fitted(load, ridge=report.chosen["ridge"])
    np.testing.assert_array_equal(alone.weights["trend.weight"], whole.weights["trend.weight"])


def test_few_rows_get_a_note_and_too_few_an_error(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(6).normal(size=30))
    report = DLinear(context=24, horizon=3).fit(panel, panel.full_span())
    assert report.n_windows == 4
    assert report.chosen["ridge"] == DEFAULT_RIDGE
    assert any("fewer training windows" in note for note in report.notes)
    with pytest.raises(DataError, match="30 training rows hold no complete window of 28 \\+ 3 rows"):
        DLinear(context=28, horizon=3).fit(panel, panel.full_span())


def test_a_channel_without_windows_is_named(make_panel: MakePanel) -> None:
    values = np.random.default_rng(7).normal(size=(60, 2))
    values[::5, 1] = np.nan
    with pytest.raises(DataError, match="'c1'"):
        fitted(make_panel(values))
    assert fitted(make_panel(values), individual=False).n_parameters == 2 * 13 * 3


def test_a_missing_value_makes_its_channel_unknown(load: Panel) -> None:
    model = fitted(load)
    holed = load.values[-12:].copy()
    holed[3, 1] = np.nan
    for mean_HC in (model.folded.predict_one(holed), model.folded.predict(holed[None])[0]):
        assert np.isnan(mean_HC[:, 1]).all()
        assert np.isfinite(mean_HC[:, [0, 2]]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel_size": 24},
        {"kernel_size": 0},
        {"ridge": -1},
        {"stride": 0},
        {"scaler": "max"},
        {"kernel": 25},
    ],
)
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DLinearConfig.model_validate(wrong)


def test_settings_stay_as_they_are() -> None:
    with pytest.raises(ValidationError):
        DLinearConfig().stride = 2


def test_the_standard_benchmark(shared: Path, make_panel: MakePanel) -> None:
    """ETTh1, 336 -> 96: as good as published (0.375 and 0.399), over all 2,785 test windows."""
    table = pd.read_csv(shared / "data/benchmark/ETTh1.csv.gz", index_col=0).to_numpy()[:14_400]
    panel = make_panel((table - table[:8640].mean(axis=0)) / table[:8640].std(axis=0))
    train, validation, test = panel.full_span().cut([0.6, 0.2, 0.2])
    model = DLinear(context=336, horizon=96)
    model.fit(panel, train, validation)
    origins = window_origins(panel, test, context=336, horizon=96)
    assert len(origins) == 2785
    error = model.predict(batch_of(panel, origins, 336)).point_BHC - targets_of(panel, origins, 96)
    assert np.square(error).mean() <= 0.376
    assert np.abs(error).mean() <= 0.396


@pytest.mark.parametrize("solver", ["exact", "sgd"])
def test_items_of_any_size_are_forecast_alike(make_panel: MakePanel, solver: str, tmp_path: Path) -> None:
    """The size of one item changes no forecast of another, and scales its own, as that of an item that is new."""
    y = np.random.default_rng(23).gamma(3, 10, (2, 400))
    config = DLinearConfig.model_validate({"solver": solver})
    found = []
    for size in (1.0, 1e4):
        panel = make_panel(np.concatenate([y[0], size * y[1]]), lengths=(400, 400))
        model = DLinear(context=12, horizon=2, config=config, training=TrainingConfig(epochs=1))
        model.fit(panel, panel.full_span())
        model.save(tmp_path / f"{size:g}")
        again, _ = registry.load(tmp_path / f"{size:g}")
        strange = make_panel(size * y[0]).replace(items=("new",))
        batches = [batch_of(panel, rows, 12) for rows in (np.arange(11, 398), np.arange(411, 798))]
        batches.append(batch_of(strange, np.arange(11, 398), 12))
        points = [model.predict(batch).point_BHC for batch in batches]
        for batch, point in zip(batches, points, strict=True):
            np.testing.assert_array_equal(again.predict(batch).point_BHC, point)
        found.append([points[0], points[1] / size, points[2] / size])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3)
