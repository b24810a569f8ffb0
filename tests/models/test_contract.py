"""What every registered model promises, whatever it is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from presurge.errors import HistoryError, MissingDependencyError, ModelError
from presurge.evaluation.fit import calibrate
from presurge.models import registry
from presurge.models.conformal import Calibration
from presurge.models.forecaster import FitReport, Forecaster
from presurge.series.frequency import HOUR, MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, window_origins
from presurge.training.config import TrainingConfig

CONTEXT, HORIZON = 30, 4
BRIEF = TrainingConfig(epochs=2, device="cpu", batch_size=128)
SMALL = {
    "lstm": {"hidden_size": 8},
    "gru": {"hidden_size": 8},
    "transformer": {"d_model": 8, "nhead": 2, "num_layers": 1, "dim_feedforward": 16},
    "mlp": {"hidden_size": 4, "calendar": True},
}
"""Sizes at which a network is trained in a moment; what is promised does not depend on them."""
MakePanel = Callable[..., Panel]


@pytest.fixture(params=registry.model_names())
def kind(request: pytest.FixtureRequest) -> type[Forecaster]:
    try:
        return registry.model_class(request.param)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def parts(panel: Panel) -> tuple[Span, Span, Span]:
    train, validation, test = panel.full_span().cut([0.6, 0.2, 0.2])
    return train, validation, test


def new(kind: type[Forecaster]) -> Forecaster:
    settings = kind.config_class.model_validate(SMALL.get(kind.name, {}))
    return kind(context=CONTEXT, horizon=HORIZON, config=settings, training=BRIEF)


def fit(kind: type[Forecaster], panel: Panel) -> tuple[Forecaster, FitReport]:
    model = new(kind)
    train, validation, _ = parts(panel)
    return model, model.fit(panel, train, validation)


@pytest.fixture(scope="module")
def fits() -> dict[str, tuple[Forecaster, FitReport]]:
    """The fits that tests share, by kind."""
    return {}


@pytest.fixture
def fitted(
    kind: type[Forecaster], load: Panel, fits: dict[str, tuple[Forecaster, FitReport]]
) -> tuple[Forecaster, FitReport]:
    """A model of the load, for tests that leave it as it is."""
    if kind.name not in fits:
        fits[kind.name] = fit(kind, load)
    return fits[kind.name]


@pytest.fixture
def model(fitted: tuple[Forecaster, FitReport]) -> Forecaster:
    return fitted[0]


def means(model: Forecaster, panel: Panel) -> np.ndarray:
    _, _, test = parts(panel)
    origins = window_origins(panel, test, context=model.context, horizon=HORIZON, stride=7)
    return model.predict(batch_of(panel, origins, model.context)).point_BHC


def test_names_and_words(kind: type[Forecaster]) -> None:
    assert registry.model_class(kind.name) is kind
    assert registry.summary(kind.name) == kind.summary
    assert kind.summary
    assert not kind.summary.endswith(".")


def test_before_the_fit_there_is_no_forecast(kind: type[Forecaster], load: Panel, tmp_path: Path) -> None:
    model = kind(context=CONTEXT, horizon=HORIZON)
    with pytest.raises(ModelError, match="not trained"):
        model.forecast(load)
    with pytest.raises(ModelError):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_fit_reports(kind: type[Forecaster], fitted: tuple[Forecaster, FitReport]) -> None:
    model, report = fitted
    assert report.model == kind.name
    assert report.n_parameters == model.n_parameters >= 0
    assert report.n_windows >= 0
    assert report.cpu_seconds >= 0
    assert model.context >= CONTEXT


def test_a_forecast_follows_the_last_row_of_every_item(model: Forecaster, load: Panel) -> None:
    forecast = model.forecast(load)
    assert forecast.mean.shape == (2, HORIZON, 3)
    assert forecast.mean.dtype == np.float32
    assert np.isfinite(forecast.mean).all()
    assert (forecast.mean[:, :, load.count_mask] >= 0).all()
    assert forecast.origin.tolist() == [599 * HOUR, 399 * HOUR]
    assert forecast.items == load.items
    shorter = model.forecast(load, HORIZON - 1)
    np.testing.assert_array_equal(shorter.mean, forecast.mean[:, :-1])


def test_counts_stay_above_zero_when_they_fall(model: Forecaster, load: Panel) -> None:
    falling = np.linspace(3000, 1, len(load), dtype=np.float32)[:, None] * np.ones(3, np.float32)
    point_BHC = means(model, load.replace(values=falling))
    assert (point_BHC[:, :, load.count_mask] >= 0).all()


def test_saved_and_loaded_bit_by_bit(kind: type[Forecaster], load: Panel, tmp_path: Path) -> None:
    model, _ = fit(kind, load)
    actual = np.random.default_rng(0).gamma(2, 10, (50, HORIZON, 3)).astype(np.float32)
    model.calibration = Calibration.measure(actual, actual[::-1].copy(), load.count_mask)
    model.error = {"c0": {"wape": 0.25}}
    model.save(tmp_path / "model", training={"seed": 1})
    again, config = registry.load(tmp_path / "model")
    before, after = model.forecast(load), again.forecast(load)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.quantiles, after.quantiles)
    np.testing.assert_array_equal(means(model, load), means(again, load))
    assert (after.levels, after.error, after.model) == (before.levels, model.error, kind.name)
    assert (again.context, again.horizon, again.config) == (model.context, HORIZON, model.config)
    assert again.spec == model.spec
    assert again.n_parameters == model.n_parameters
    assert config["training"] == {"seed": 1}
    again.save(tmp_path / "second", training={"seed": 1})
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_document_without_its_arrays_is_refused(model: Forecaster) -> None:
    document, arrays = model.document()
    if arrays:
        with pytest.raises(ModelError, match="does not describe a"):
            registry.from_document(document, {}, where="here")


def test_the_same_twice(kind: type[Forecaster], fitted: tuple[Forecaster, FitReport], load: Panel) -> None:
    one, other = fitted, fit(kind, load)
    np.testing.assert_array_equal(means(one[0], load), means(other[0], load))
    assert one[1].chosen == other[1].chosen


def test_the_order_of_channels_does_not_matter(
    kind: type[Forecaster], model: Forecaster, load: Panel
) -> None:
    turned = load.select(load.channel_names[::-1])
    np.testing.assert_array_equal(model.forecast(turned).mean, model.forecast(load).mean)
    if model.refits:  # a network draws its first weights in the order of the channels
        again = means(fit(kind, turned)[0], turned)[:, :, ::-1]
        np.testing.assert_allclose(again, means(model, load), rtol=1e-4, atol=1e-3)


def test_the_order_of_items_does_not_matter(
    kind: type[Forecaster], model: Forecaster, load: Panel, make_panel: MakePanel
) -> None:
    swapped = make_panel(
        np.concatenate([load.values[600:], load.values[:600]]), kinds="ccg", lengths=(400, 600)
    )
    swapped = replace(swapped, items=load.items[::-1])
    expected = model.forecast(load).mean
    np.testing.assert_allclose(model.forecast(swapped).mean[::-1], expected, rtol=1e-5)
    if model.refits:  # a network sees its windows in an order that depends on their rows
        again = fit(kind, swapped)[0].forecast(swapped).mean[::-1]
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-3)


def test_rows_of_the_test_part_are_never_seen(kind: type[Forecaster], model: Forecaster, load: Panel) -> None:
    changed = load.values.copy()
    _, _, test = parts(load)
    for a, b in zip(test.first, test.last, strict=True):
        changed[a:b] = np.nan
    expected = means(model, load)
    np.testing.assert_array_equal(means(fit(kind, load.replace(values=changed))[0], load), expected)


def test_a_gap_in_the_context_is_refused_and_does_no_harm_elsewhere(model: Forecaster, load: Panel) -> None:
    values = load.values.copy()
    values[-3, 0] = np.nan
    holed = load.replace(values=values)
    with pytest.raises(HistoryError, match="missing value"):
        model.forecast(holed)
    origins = np.array([300, len(load) - 1])
    point_BHC = model.predict(batch_of(holed, origins, model.context)).point_BHC
    np.testing.assert_allclose(
        point_BHC[0], model.predict(batch_of(load, origins, model.context)).point_BHC[0], rtol=1e-5
    )


def test_it_fits_through_gaps(kind: type[Forecaster], load: Panel) -> None:
    values = load.values.copy()
    values[50:55, 2] = np.nan
    values[420, 0] = np.nan
    model, _ = fit(kind, load.replace(values=values))
    assert np.isfinite(means(model, load)).all()


def test_histories_that_do_not_fit(model: Forecaster, load: Panel, make_panel: MakePanel) -> None:
    wrong = {
        "rows, and the model reads": load.take(Span(load.indptr[:-1], load.indptr[:-1] + 5)),
        "no channel 'c1'": load.select(["c0", "c2"]),
        "step": make_panel(load.values, kinds="ccg", step=MINUTE),
    }
    for message, panel in wrong.items():
        with pytest.raises(HistoryError, match=message):
            model.forecast(panel)
    for horizon in (0, HORIZON + 1):
        with pytest.raises(HistoryError, match="horizon"):
            model.forecast(load, horizon)


def test_unknown_settings_are_refused(kind: type[Forecaster]) -> None:
    with pytest.raises(ValidationError):
        kind.config_class.model_validate({"no_such_setting": 1})


@pytest.fixture
def driven(load: Panel) -> Panel:
    """The load with a known driver and an observed covariate, and one static feature for each item."""
    rng = np.random.default_rng(11)
    driver = rng.integers(0, 2, len(load)).astype(np.float32)
    values = np.column_stack([driver, load.values, 10 * rng.random(len(load))]).astype(np.float32)
    channels = (Channel("driver"), *load.channels, Channel("heat"))
    panel = load.replace(values=values, channels=channels).with_roles(known=["driver"], observed=["heat"])
    return panel.replace(features=np.array([[4.0], [8.0]]), feature_names=("gpus",))


def future_of(panel: Panel, rows: int = HORIZON) -> Panel:
    """Known channels of the rows right after every item."""
    known = [channel.name for channel in panel.channels if channel.role == "known"]
    n = rows * len(panel.items)
    return panel.select(known).replace(
        values=np.tile([[1.0], [0.0]], (n, len(known)))[:n].astype(np.float32),
        stamps=None,
        indptr=np.arange(len(panel.items) + 1) * rows,
        start=panel.times()[panel.indptr[1:] - 1] + panel.step,
    )


def test_a_panel_with_covariates(kind: type[Forecaster], driven: Panel, tmp_path: Path) -> None:
    """Targets alone are forecast; a model that is saved and loaded reads the same covariates."""
    model, _ = fit(kind, driven)
    model.calibration = calibrate(model, driven, parts(driven)[1])
    forecast = model.forecast(driven, future=future_of(driven))
    assert [channel.name for channel in forecast.channels] == ["c0", "c1", "c2"]
    assert forecast.mean.shape == (2, HORIZON, 3)
    assert np.isfinite(forecast.mean).all()
    assert (forecast.mean[:, :, :2] >= 0).all()
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert again.spec == model.spec
    turned = driven.select(driven.channel_names[::-1])
    repeated = again.forecast(turned, future=future_of(turned))
    np.testing.assert_array_equal(repeated.mean, forecast.mean)
    np.testing.assert_array_equal(repeated.quantiles, forecast.quantiles)


def test_targets_and_observed_values_after_the_origin_change_no_forecast(
    kind: type[Forecaster], driven: Panel
) -> None:
    model, _ = fit(kind, driven)
    origins = np.array([300, 899])
    expected = model.predict(batch_of(driven, origins, model.context, HORIZON)).point_BHC
    known = driven.channel_names.index("driver")
    values = driven.values.copy()
    for origin in origins:
        values[origin + 1 : origin + 1 + HORIZON] += 1000
    values[:, known] = driven.values[:, known]
    leaked = model.predict(batch_of(driven.replace(values=values), origins, model.context, HORIZON)).point_BHC
    np.testing.assert_array_equal(leaked, expected)


def test_the_future_must_be_that_of_the_horizon(kind: type[Forecaster], driven: Panel) -> None:
    model, _ = fit(kind, driven)
    if not model.fitted_spec().known:
        np.testing.assert_array_equal(
            model.forecast(driven).mean, model.forecast(driven, future=future_of(driven)).mean
        )
        return
    future = future_of(driven)
    values = future.values.copy()
    values[2, 0] = np.nan
    wrong = {
        "needs the future of 'driver', 4 rows": None,
        "has 3 rows from .* needs 4: every 1h from 1970-01-26": future_of(driven, HORIZON - 1),
        "has no channel 'driver'": replace(future, channels=(Channel("other"),)),
        "no item 'item1'": replace(future, items=("item0", "item2")),
        "has 4 rows from 1970-01-26T01": replace(future, start=future.start + driven.step),
        "the future of 'driver' misses 1 of 4 rows, the first at 1970-01-26T02": future.replace(
            values=values
        ),
    }
    for message, given in wrong.items():
        with pytest.raises(HistoryError, match=message):
            model.forecast(driven, future=given)


def test_bars_of_sessions_are_rows(kind: type[Forecaster], driven: Panel) -> None:
    """A pause between sessions is no gap; the forecast has the stamps of the future where they are given."""
    pauses = np.arange(len(driven)) // 6 * 18 * HOUR
    bars = driven.replace(stamps=driven.times() + pauses)
    model, _ = fit(kind, bars)
    model.calibration = calibrate(model, bars, parts(bars)[1])
    origin = bars.times()[bars.indptr[1:] - 1]
    stamps = origin[:, None] + np.array([20, 21, 22, 40]) * HOUR
    future = future_of(bars).replace(stamps=stamps.reshape(-1))
    forecast = model.forecast(bars, future=future)
    nominal = origin[:, None] + np.arange(1, HORIZON + 1) * HOUR
    np.testing.assert_array_equal(forecast.origin, origin)
    np.testing.assert_array_equal(forecast.times(), stamps if model.fitted_spec().known else nominal)
    assert np.isfinite(forecast.mean).all()
    if model.fitted_spec().known:
        short = future_of(bars, HORIZON - 1)
        with pytest.raises(HistoryError, match="3 rows"):
            model.forecast(bars, future=short.replace(stamps=stamps[:, 1:].reshape(-1)))
