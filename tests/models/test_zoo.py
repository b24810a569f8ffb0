"""The networks: their arithmetic against NumPy, what their settings do, what they are told of time and items."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from presurge.errors import HistoryError
from presurge.models import registry
from presurge.models.forecaster import Forecaster
from presurge.models.naive import LastValue
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.series.frequency import DAY, HOUR, WEEK
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, targets_of, window_origins
from presurge.training.config import TrainerConfig, TrainingConfig
from presurge.workflows.config import resolve_config

torch = pytest.importorskip("torch")
MakePanel = Callable[..., Panel]
NETWORKS = pytest.mark.parametrize("name", ["lstm", "gru", "transformer", "mlp"])
SMALL: dict[str, dict[str, object]] = {
    "lstm": {"hidden_size": 8},
    "gru": {"hidden_size": 8},
    "transformer": {"d_model": 8, "nhead": 2, "num_layers": 1, "dim_feedforward": 16, "dropout": 0},
    "mlp": {"hidden_size": 8, "dropout": 0},
}


def fitted(
    name: str,
    panel: Panel,
    train: Span | None = None,
    *,
    context: int = 12,
    horizon: int = 3,
    epochs: int = 1,
    rate: float = 1e-2,
    **settings: object,
) -> Forecaster:
    kind = registry.model_class(name)
    model = kind(
        context=context,
        horizon=horizon,
        config=kind.config_class.model_validate({**SMALL[name], **settings}),
        training=TrainingConfig(epochs=epochs, learning_rate=rate, device="cpu", batch_size=32),
    )
    model.fit(panel, train or panel.full_span())
    return model


def forecasts(model: Forecaster, panel: Panel, origins: np.ndarray) -> np.ndarray:
    return model.predict(batch_of(panel, origins, model.context)).point_BHC


def mean_error(model: Forecaster, panel: Panel) -> float:
    origins = window_origins(panel, panel.full_span(), context=model.context, horizon=model.horizon)
    actual = targets_of(panel, origins, model.horizon)
    return float(np.abs(forecasts(model, panel, origins) - actual).mean())


@pytest.fixture
def daily(make_panel: MakePanel) -> Panel:
    """One item, hourly for ten days: a level of the hour that no row before it tells, and a wave."""
    rows = np.arange(240)
    level = np.random.default_rng(1).permutation(24) * 10.0
    return make_panel(np.stack([level[rows % 24], 50 + 30 * np.sin(2 * np.pi * rows / 8)], 1))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_state(x_LD: np.ndarray, w: dict[str, np.ndarray], layer: int) -> np.ndarray:
    """All states of one layer, from the equations of Hochreiter and Schmidhuber as torch orders their gates (i, f, g, o)."""
    h = c = np.zeros(w[f"weight_hh_l{layer}"].shape[1])
    states = []
    for x in x_LD:
        gates = w[f"weight_ih_l{layer}"] @ x + w[f"bias_ih_l{layer}"] + w[f"weight_hh_l{layer}"] @ h
        i, f, g, o = np.split(gates + w[f"bias_hh_l{layer}"], 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def gru_state(x_LD: np.ndarray, w: dict[str, np.ndarray], layer: int) -> np.ndarray:
    """All states of one layer, from the equations of Cho et al. as torch orders their gates (r, z, n)."""
    h = np.zeros(w[f"weight_hh_l{layer}"].shape[1])
    states = []
    for x in x_LD:
        r, z, n = np.split(w[f"weight_ih_l{layer}"] @ x + w[f"bias_ih_l{layer}"], 3)
        r_h, z_h, n_h = np.split(w[f"weight_hh_l{layer}"] @ h + w[f"bias_hh_l{layer}"], 3)
        z = sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + sigmoid(r + r_h) * n_h) + z * h
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize(("name", "state_of"), [("lstm", lstm_state), ("gru", gru_state)])
def test_recurrent_forecasts_equal_the_equations(
    name: str, state_of: Callable[..., np.ndarray], daily: Panel
) -> None:
    model = fitted(name, daily, normalisation="revin")
    origin = 100
    weights = {key: array.astype(np.float64) for key, array in model.state()[1].items()}
    cell = {key.removeprefix("body.cell."): array for key, array in weights.items()}
    values = daily.values.astype(np.float64)
    scaled_LC = ((values - values.mean(0)) / values.std(0))[origin - 11 : origin + 1]
    mean_C, spread_C = scaled_LC.mean(0), np.sqrt(scaled_LC.var(0) + 1e-5)
    states = state_of(state_of((scaled_LC - mean_C) / spread_C, cell, 0), cell, 1)
    flat = weights["body.head.rows.weight"] @ states[-1] + weights["body.head.rows.bias"]
    expected_HC = (flat.reshape(3, 2) * spread_C + mean_C) * values.std(0) + values.mean(0)
    np.testing.assert_allclose(forecasts(model, daily, np.array([origin]))[0], expected_HC, rtol=1e-4)


def test_the_perceptron_without_hidden_numbers_is_least_squares(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(0)
    values = np.convolve(rng.normal(size=2003), [1, 0.6, 0.3, 0.1], mode="valid").astype(np.float32)
    panel = make_panel(values)
    linear = {"hidden_size": 0, "loss": "mse", "normalisation": "none"}
    model = fitted("mlp", panel, context=4, horizon=1, epochs=15, rate=3e-3, **linear)  # type: ignore[arg-type]
    windows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float64), 5)
    with_one = np.c_[windows[:, :4], np.ones(len(windows))]
    solution = np.linalg.lstsq(with_one, windows[:, 4], rcond=None)[0]
    origins = np.arange(3, len(values) - 1)
    ours = forecasts(model, panel, origins)[:, 0, 0]
    assert np.abs(ours - with_one @ solution).mean() < 0.03 * values.std()


@NETWORKS
def test_it_learns(name: str, make_panel: MakePanel) -> None:
    rows = np.arange(600)
    panel = make_panel(50 + 30 * np.sin(2 * np.pi * rows / 16) + np.random.default_rng(0).normal(size=600))
    model = fitted(name, panel, epochs=8, rate=5e-3)
    naive = LastValue(context=12, horizon=3)
    naive.fit(panel, panel.full_span())
    assert mean_error(model, panel) < 0.3 * mean_error(naive, panel)


@NETWORKS
@pytest.mark.parametrize("normalisation", ["none", "last", "mean", "meanabs", "revin"])
def test_what_normalisation_takes_off_is_put_back(name: str, normalisation: str, daily: Panel) -> None:
    """A shift of all rows moves the forecasts alike, and so does a stretch, if the normalisation is one for it."""
    model = fitted(name, daily, normalisation=normalisation, level_inputs=False)
    origins = np.array([50, 120])
    before = forecasts(model, daily, origins)
    shifted = forecasts(model, daily.replace(values=daily.values + 1000), origins)
    alike = np.allclose(shifted, before + 1000, rtol=1e-3)
    assert alike == (normalisation not in ("none", "meanabs"))
    stretched = forecasts(model, daily.replace(values=3 * daily.values), origins)
    assert np.allclose(stretched, 3 * before, rtol=1e-2) == (normalisation in ("meanabs", "revin"))


@NETWORKS
def test_a_network_can_be_told_the_level_that_was_taken_off(name: str, make_panel: MakePanel) -> None:
    """A wave of 40 rows turns at its ends: every rising window of 4 rows looks the same without its level."""
    rows = np.arange(800)
    panel = make_panel(np.abs(rows % 40 - 20.0))
    wide = {} if name == "transformer" else {"hidden_size": 32}
    told, untold = (
        fitted(name, panel, context=4, epochs=10, loss="mse", level_inputs=on, **wide)  # type: ignore[arg-type]
        for on in (True, False)
    )
    assert mean_error(told, panel) < 0.6 * mean_error(untold, panel)


def test_the_perceptron_can_be_told_the_channel(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((800, 2))
    for row in range(1, 800):
        values[row] = values[row - 1] * (0.9, -0.9) + rng.normal(size=2)
    panel = make_panel(values)
    brief = {"context": 1, "horizon": 1, "epochs": 10, "hidden_size": 16, "normalisation": "none"}
    told, untold = (fitted("mlp", panel, channel_embedding=n, **brief) for n in (4, 0))  # type: ignore[arg-type]
    assert mean_error(told, panel) < 0.7 * mean_error(untold, panel)


@NETWORKS
@pytest.mark.parametrize("loss", ["mse", "mae", "huber", "quantile"])
def test_every_loss_trains_every_network(name: str, loss: str, daily: Panel) -> None:
    model = fitted(name, daily, loss=loss, affine=True, normalisation="revin")
    forecast = model.forecast(daily)
    assert np.isfinite(forecast.mean).all()
    assert len(forecast.levels) == forecast.quantiles.shape[2] == (11 if loss == "quantile" else 0)


def test_only_revin_learns_a_gain_and_a_shift_per_channel(daily: Panel) -> None:
    plain, affine, other = (
        fitted("mlp", daily, affine=affine, normalisation=normalisation)
        for affine, normalisation in ((False, "revin"), (True, "revin"), (True, "last"))
    )
    assert affine.n_parameters == plain.n_parameters + 2 * len(daily.channels)
    assert other.n_parameters == plain.n_parameters


@NETWORKS
def test_quantiles_never_cross_and_cover(name: str, make_panel: MakePanel) -> None:
    values = np.random.default_rng(0).gamma(2, 10, 1500)
    panel = make_panel(values, kinds="c")
    model = fitted(name, panel, context=8, horizon=2, epochs=4, loss="quantile")
    batch = batch_of(panel, np.arange(7, 1498), 8)
    point_BHC, quantiles_BHQC, levels = model.predict(batch)
    assert levels == QUANTILE_LEVELS
    assert quantiles_BHQC is not None
    assert (np.diff(quantiles_BHQC, axis=2) >= 0).all()
    assert (quantiles_BHQC >= 0).all()
    np.testing.assert_array_equal(point_BHC, quantiles_BHQC[:, :, QUANTILE_LEVELS.index(0.5)])
    actual = targets_of(panel, np.arange(7, 1498), 2)
    below = (actual[:, :, None] <= quantiles_BHQC).mean(axis=(0, 1, 3))
    np.testing.assert_allclose(below, QUANTILE_LEVELS, atol=0.12)


@NETWORKS
def test_only_a_window_with_a_missing_value_is_not_forecast(name: str, daily: Panel) -> None:
    model = fitted(name, daily)
    values = daily.values.copy()
    values[100, 1] = np.nan
    origins = np.array([99, 100, 105, 111, 112])
    point_BHC = forecasts(model, daily.replace(values=values), origins)
    assert np.isnan(point_BHC).all(axis=(1, 2)).tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(point_BHC[[0, 4]], forecasts(model, daily, origins[[0, 4]]), rtol=1e-5)


@NETWORKS
def test_an_absurd_history_gets_a_finite_forecast(name: str, daily: Panel) -> None:
    model = fitted(name, daily)
    values = daily.values.copy()
    values[100] = 1e25
    assert np.isfinite(forecasts(model, daily.replace(values=values), np.array([100, 105]))).all()


@NETWORKS
def test_a_calendar_tells_what_the_context_does_not(name: str, daily: Panel) -> None:
    brief = {"context": 1, "epochs": 10, "normalisation": "none", "loss": "mse"}
    rng = np.random.default_rng(0)
    hidden = np.where(np.arange(240)[:, None] % 24 < 12, 20.0, 80.0) + rng.normal(0, 20, (240, 1))
    panel = daily.select(["c0"]).replace(values=hidden.astype(np.float32))
    without, told = (fitted(name, panel, **brief, calendar=on) for on in (False, True))  # type: ignore[arg-type]
    assert mean_error(told, panel) < mean_error(without, panel)
    assert told.n_parameters > without.n_parameters


@NETWORKS
def test_calendar_terms_are_those_of_the_time_of_each_row(name: str, daily: Panel) -> None:
    model = fitted(name, daily, calendar=True)
    a_day_later = replace(daily, start=daily.start + 24 * daily.step)
    half_a_day_later = replace(daily, start=daily.start + 12 * daily.step)
    same, day, half = (forecasts(model, p, np.array([60])) for p in (daily, a_day_later, half_a_day_later))
    np.testing.assert_array_equal(same, day)
    assert not np.allclose(same, half, rtol=1e-4)


def test_a_network_is_told_the_three_slowest_waves_of_day_and_week(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(1).normal(size=(24 * 15, 1)))
    model = fitted("mlp", panel, calendar=True, epochs=1)
    assert model.calendar.harmonics == (  # type: ignore[attr-defined]
        *((DAY, waves) for waves in (1, 2, 3)),
        *((WEEK, waves) for waves in (1, 2, 3)),
    )


@NETWORKS
def test_items_are_known_by_name(name: str, make_panel: MakePanel) -> None:
    """Two items whose rows look alike and go on differently: only the item tells."""
    noise = np.random.default_rng(0).normal(size=(400, 1))
    values = noise + np.repeat([[10.0], [-10.0]], 200, axis=0) * (np.arange(400)[:, None] % 2)
    panel = make_panel(values, lengths=(200, 200))
    options = {"context": 1, "horizon": 1, "epochs": 5, "normalisation": "none", "loss": "mse"}
    told = fitted(name, panel, **options)  # type: ignore[arg-type]
    untold = fitted(name, panel, **options, item_embedding=0)  # type: ignore[arg-type]
    assert told.n_parameters > untold.n_parameters
    swapped = replace(
        panel, values=np.concatenate([panel.values[200:], panel.values[:200]]), items=panel.items[::-1]
    )
    both = told.forecast(panel).mean
    # The network's outputs are of size 1 in float32, whatever its forecasts are after scaling back.
    rounding = 8 * np.finfo(np.float32).eps * panel.values.std()
    np.testing.assert_allclose(told.forecast(swapped).mean[::-1], both, rtol=0, atol=rounding)
    one = panel.take(Span(np.array([0, 200]), np.array([0, 400])))
    alone = replace(
        one, values=one.values, items=one.items[1:], indptr=np.array([0, 200]), start=one.start[1:]
    )
    np.testing.assert_allclose(told.forecast(alone).mean[0], both[1], rtol=0, atol=rounding)
    stranger = told.forecast(replace(alone, items=("new",))).mean
    assert np.isfinite(stranger).all()
    assert not np.allclose(stranger[0], both[1], rtol=1e-4)


def test_counts_are_learned_on_the_scale_of_their_roots(make_panel: MakePanel) -> None:
    values = np.random.default_rng(0).poisson(20, (200, 2))
    for kinds, transform in (("cc", "sqrt"), ("cg", "identity")):
        model = fitted("mlp", make_panel(values, kinds=kinds))
        assert model.state()[0]["scaler"]["transform"] == transform
    model = fitted("mlp", make_panel(values, kinds="cc"), transform="log1p")
    assert model.state()[0]["scaler"]["transform"] == "log1p"


@pytest.mark.parametrize("patch_length", [0, 5, 12, 40])
def test_the_transformer_honours_its_settings(patch_length: int, daily: Panel) -> None:
    settings = {
        "d_model": 6,
        "nhead": 3,
        "num_layers": 2,
        "dim_feedforward": 10,
        "patch_length": patch_length,
    }
    model = fitted("transformer", daily, **settings)
    width = min(max(1, patch_length), 12)
    tokens = -(-12 // width)
    embedding = width * 2 * 6 + 6 + tokens * 6
    attention, feed_forward = 4 * (6 * 6 + 6), 6 * 10 + 10 + 10 * 6 + 6
    layers = 2 * (attention + feed_forward + 4 * 6) + 2 * 6
    assert model.n_parameters == embedding + layers + (2 * 6 + 1) * 3 * 2


def test_dropout_is_honoured(daily: Panel) -> None:
    weights = [fitted("transformer", daily, dropout=share).state()[1] for share in (0, 0.5)]
    assert any(not np.array_equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_heads_must_share_evenly() -> None:
    with pytest.raises(ValidationError, match="nhead"):
        registry.model_class("transformer").config_class.model_validate({"d_model": 10, "nhead": 4})


def test_training_settings_by_precedence(tmp_path: Path) -> None:
    defaults = registry.model_class("mlp").training_defaults
    plain = resolve_config({"model": "mlp"})
    assert {key: getattr(plain, key) for key in defaults} == defaults
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"model": "mlp", "epochs": 7, "weight_decay": 0.5}))
    resolved = resolve_config({"epochs": 4}, file)
    assert (resolved.epochs, resolved.weight_decay) == (4, 0.5)
    assert resolved.schedule == defaults["schedule"]
    assert resolve_config({"model": "dlinear"}).epochs == TrainerConfig().epochs
    own = registry.model_class("mlp")(context=4, horizon=1).training
    assert (own.epochs, own.batch_size) == (defaults["epochs"], defaults["batch_size"])


def test_auto_may_choose_a_network(make_panel: MakePanel) -> None:
    """The logistic map, which no linear map can follow."""
    values = [0.3]
    for _ in range(1200):
        values.append(3.99 * values[-1] * (1 - values[-1]))
    panel = make_panel(values)
    auto = registry.model_class("auto")
    settings = {"challengers": ["gru"], "folds": 1, "epochs": 12}
    model = auto(context=5, horizon=1, config=auto.config_class.model_validate(settings))
    assert not model.refits
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"]["model"] == "gru"
    assert auto(context=5, horizon=1).refits


def test_without_torch_the_models_are_listed_and_the_message_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from presurge.cli import main\n"
        "assert main(['models']) == 0\n"
        "sys.exit(main(['train', 'x.csv', '--model', 'gru']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "the model gru needs the package torch" in done.stderr
    assert "presurge[train]" in done.stderr
    assert "transformer" in done.stdout


def test_gradient_checkpointing_changes_memory_not_weights(load: Panel) -> None:
    pytest.importorskip("torch")
    from presurge.models.networks.transformer import Transformer, TransformerConfig

    train, validation = load.full_span().cut(["0.8", "0.2"])
    arrays = []
    for recompute in (False, True):
        settings = TransformerConfig(d_model=8, nhead=2, dropout=0.1, gradient_checkpointing=recompute)
        model = Transformer(context=16, horizon=2, config=settings, training=TrainingConfig(epochs=1))
        model.fit(load, train, validation)
        arrays.append(model.state()[1])
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])


def driven(make_panel: MakePanel, rows: int = 600) -> Panel:
    """A target that follows its driver of the same row and its sensor of the row before."""
    rng = np.random.default_rng(3)
    driver, sensor = rng.integers(0, 2, rows), rng.normal(size=rows)
    return make_panel(
        np.stack([50 + 20 * driver + 10 * np.roll(sensor, 1) + rng.normal(size=rows), sensor, driver], 1)
    )


@NETWORKS
def test_covariates_are_learned(name: str, make_panel: MakePanel) -> None:
    """The sensor tells one row ahead, the driver all; what is left is noise of size 0.8."""
    panel = driven(make_panel)
    wide = {} if name == "transformer" else {"hidden_size": 32}
    options = {
        "context": 4,
        "horizon": 2,
        "epochs": 10,
        "normalisation": "none",
        "transform": "identity",
        **wide,
    }
    roles = {"none": {}, "known": {"known": ["c2"]}, "both": {"known": ["c2"], "observed": ["c1"]}}
    errors = {}
    for told, given in roles.items():
        kept = panel.with_roles(**given).select(["c0", *(name for names in given.values() for name in names)])
        model = fitted(name, kept, loss="mse", **options)  # type: ignore[arg-type]
        origins = window_origins(kept, kept.full_span(), context=4, horizon=2)
        point_BHC = model.predict(batch_of(kept, origins, 4, 2)).point_BHC
        errors[told] = np.abs(point_BHC - targets_of(kept, origins, 2)).mean(axis=(0, 2))
    assert (errors["known"] < 0.85 * errors["none"]).all()
    assert errors["both"][0] < 0.5 * errors["known"][0]


@NETWORKS
def test_the_validation_loss_is_the_error_of_the_forecasts(name: str, make_panel: MakePanel) -> None:
    """With several targets, covariates and features: training and forecasting read the same inputs."""
    values = np.random.default_rng(0).normal(size=(400, 5)) * [1, 5, 2, 3, 4] + 10
    panel = make_panel(values, lengths=(250, 150)).with_roles(known=["c0"], observed=["c4", "c2"])
    panel = panel.replace(features=np.array([[1.0, 2.0], [3.0, 5.0]]), feature_names=("size", "age"))
    train, validation = panel.full_span().cut_tail(0.3)
    kind = registry.model_class(name)
    config = kind.config_class.model_validate({**SMALL[name], "loss": "mse", "calendar": True})
    model = kind(context=12, horizon=3, config=config, training=TrainingConfig(epochs=1))
    (row,) = model.fit(panel, train, validation).history
    origins = window_origins(panel, validation, context=12, horizon=3)
    error = model.predict(batch_of(panel, origins, 12, 3)).point_BHC - targets_of(panel, origins, 3)
    scale_C = np.array(model.state()[0]["scaler"]["scale"])
    assert row["validation_loss"] == pytest.approx(np.square(error / scale_C).mean(), rel=1e-4)


@NETWORKS
def test_known_rows_change_the_forecast_and_unknown_ones_do_not(name: str, make_panel: MakePanel) -> None:
    panel = driven(make_panel, 200).with_roles(known=["c2"], observed=["c1"])
    model, origins = fitted(name, panel), np.array([60, 100])
    batch = batch_of(panel, origins, 12, 3)
    expected = model.predict(batch).point_BHC
    assert batch.future_BHK is not None
    turned = replace(batch, future_BHK=1 - batch.future_BHK)
    assert not np.allclose(model.predict(turned).point_BHC, expected, rtol=1e-4)
    holed = batch.future_BHK.copy()
    holed[0, 1] = np.nan
    point_BHC = model.predict(replace(batch, future_BHK=holed)).point_BHC
    assert np.isnan(point_BHC[0]).all()
    np.testing.assert_allclose(point_BHC[1], expected[1], rtol=1e-5)
    with pytest.raises(HistoryError, match="known channels"):
        model.predict(replace(batch, future_BHK=None))


@NETWORKS
def test_static_features_tell_items_apart(name: str, make_panel: MakePanel) -> None:
    """Six items alternate by what their feature says; the feature of an item that is new tells what it will do."""
    size = np.linspace(-10, 10, 6)
    noise = np.random.default_rng(0).normal(size=(1200, 1))
    values = noise + np.repeat(size, 200)[:, None] * (np.arange(1200)[:, None] % 2)
    panel = make_panel(values, lengths=(200,) * 6)
    panel = panel.replace(features=size[:, None], feature_names=("size",))
    options = {"context": 1, "horizon": 1, "epochs": 5, "normalisation": "none", "item_embedding": 0}
    told, untold = (
        fitted(name, kept, loss="mse", **options)  # type: ignore[arg-type]
        for kept in (panel, panel.select_features(()))
    )
    origins = window_origins(panel, panel.full_span(), context=1, horizon=1)[::2]
    actual = targets_of(panel, origins, 1)
    errors = [np.abs(forecasts(model, panel, origins) - actual).mean() for model in (told, untold)]
    assert errors[0] < 0.8 * errors[1]
    with pytest.raises(HistoryError, match="no static feature 'size'"):
        told.forecast(panel.select_features(()))


def test_a_calendar_reads_the_stamps_of_bars(make_panel: MakePanel) -> None:
    """Sessions of six hours a day: the clock of a bar is its stamp, not a count of steps."""
    hours = (np.arange(240)[:, None] * 24 + np.arange(9, 15)).reshape(-1)
    rng = np.random.default_rng(0)
    panel = make_panel((hours % 24) * 10 + rng.normal(size=len(hours))).replace(stamps=hours * HOUR)
    model = fitted("mlp", panel, context=6, horizon=1, epochs=10, calendar=True, hidden_size=32)
    last = model.forecast(panel.take(Span(np.array([0]), np.array([600]))))
    assert last.times().tolist() == [[int(hours[599] + 1) * HOUR]]
    batch = batch_of(panel, np.array([700]), 6, 1)
    later = replace(batch, time_BW=batch.time_BW + 6 * HOUR)
    assert not np.allclose(model.predict(later).point_BHC, model.predict(batch).point_BHC, rtol=1e-3)
