"""The linear model: least squares against windows written out, its choices, and series that go astray."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from presurge.errors import DataError, ModelError
from presurge.models import registry
from presurge.models.auto import Auto
from presurge.models.linear.channel import WEEKDAYS_MARGIN
from presurge.models.linear.linear import Linear, LinearConfig
from presurge.models.linear.scale import Scale
from presurge.series.frequency import HOUR, MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, targets_of, window_origins

MakePanel = Callable[..., Panel]


def cut(panel: Panel, share: float = 0.3) -> tuple[Span, Span]:
    return panel.full_span().cut_tail(str(share))


def forecasts(model: Linear, panel: Panel, span: Span) -> tuple[np.ndarray, np.ndarray]:
    origins = window_origins(panel, span, context=model.context, horizon=model.horizon)
    mean = model.predict(batch_of(panel, origins, model.context)).point_BHC
    return mean, targets_of(panel, origins, model.horizon)


def wape(model: Linear, panel: Panel, span: Span, channel: int = 0) -> float:
    mean, actual = (x[:, :, channel].astype(np.float64) for x in forecasts(model, panel, span))
    return float((np.abs(mean - actual).sum(axis=0) / np.abs(actual).sum(axis=0)).mean())


def arma(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.zeros(rows)
    for t in range(2, rows):
        x[t] = 0.6 * x[t - 1] + 0.3 * x[t - 2] + rng.normal()
    return x


def fixed(transform: str = "identity", calendar: str = "off", ridge: float | None = 0.0) -> LinearConfig:
    """``calendar`` is off, on, weekdays (on, with shapes of their own) or reactions (the same, and these)."""
    kinds = ("off", "on", "weekdays", "reactions")
    uses = {kind: "on" if kinds.index(calendar) >= place else "off" for place, kind in enumerate(kinds)}
    values = {"transform": transform, "calendar": uses["on"], "ridge": ridge}
    values |= {kind: uses[kind] for kind in ("weekdays", "reactions")}
    return LinearConfig.model_validate(values)


@pytest.mark.parametrize("transform", ["identity", "sqrt", "log1p"])
@pytest.mark.parametrize("calendar", ["off", "on", "weekdays", "reactions"])
def test_least_squares_of_windows_written_out(make_panel: MakePanel, transform: str, calendar: str) -> None:
    y = np.random.default_rng(1).gamma(4, 10, 1500).astype(np.float32)
    panel = make_panel(y)
    model = Linear(context=9, horizon=2, config=fixed(transform, calendar))
    model.fit(panel, panel.full_span())
    unit = 0.1 * y.astype(np.float64).mean()
    forward = {"identity": lambda v: v, "sqrt": np.sqrt, "log1p": np.log1p}[transform]
    backward = {"identity": lambda v: v, "sqrt": np.square, "log1p": np.expm1}[transform]
    windows = sliding_window_view(forward(y.astype(np.float64) / unit), 11)
    inputs = [windows[:, :8] - windows[:, 8:9], np.ones((len(windows), 1))]
    if calendar != "off":
        hour = (np.arange(len(windows)) + 8)[:, None] * 2 * np.pi
        # Of the week: daily waves are every seventh, and a wave of two rows is the limit.
        of_the_week = (
            [*range(1, 7), *range(7, 57, 7)]
            if calendar == "on"
            else [k for k in range(1, 84) if k < 57 or k % 7]
        )
        waves = hour / 168 * of_the_week
        inputs += [np.sin(waves), np.cos(waves)]
    if calendar == "reactions":
        past = pd.DataFrame(windows[:, :9].T)
        daily = np.concatenate([f(hour / 24 * range(1, 9)) for f in (np.sin, np.cos)], axis=1)
        for move in (past.diff(), past.diff(4), past - past.mean()):
            inputs.append(move.to_numpy()[-1:].T * daily)
    change = windows[:, 9:] - windows[:, 8:9]
    solution = np.linalg.lstsq(np.concatenate(inputs, axis=1), change, rcond=None)[0]
    expected = unit * backward(np.concatenate(inputs, axis=1) @ solution + windows[:, 8:9])
    mean, _ = forecasts(model, panel, panel.full_span())
    np.testing.assert_allclose(mean[:, :, 0], expected, rtol=2e-5)


def test_a_ridge_counts_in_rows_and_shrinks_towards_the_last_value(make_panel: MakePanel) -> None:
    y = arma(800, 2).astype(np.float32)
    panel = make_panel(y)
    model = Linear(context=6, horizon=2, config=fixed(ridge=50.0))
    model.fit(panel, panel.full_span())
    windows = sliding_window_view(y.astype(np.float64), 8)
    change = windows - windows[:, 5:6]
    centred = change[:, :6] - change[:, :6].mean(axis=0)
    penalty = 50 / len(windows) * np.square(centred).sum() / 6
    reference = Ridge(alpha=penalty).fit(change[:, :6], change[:, 6:])
    expected = reference.predict(change[:, :6]) + windows[:, 5:6]
    mean, _ = forecasts(model, panel, panel.full_span())
    np.testing.assert_allclose(mean[:, :, 0], expected, rtol=1e-4, atol=1e-5)

    stiff = Linear(context=6, horizon=2, config=fixed(ridge=1e12))
    stiff.fit(panel, panel.full_span())
    mean, _ = forecasts(stiff, panel, panel.full_span())
    last = np.repeat(windows[:, 5:6], 2, axis=1)
    np.testing.assert_allclose(mean[:, :, 0], last, atol=0.01)


def test_the_law_of_a_simulated_series_is_recovered(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(3)
    change = np.zeros(20_000)
    for t in range(1, 20_000):
        change[t] = 0.5 * change[t - 1] + rng.normal()
    panel = make_panel(change.cumsum())
    model = Linear(context=10, horizon=2)
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"]["transform"] == "identity"
    weight_HL = model.channels[0].weights["weight"]
    np.testing.assert_allclose(weight_HL[:, -2:], [[-0.5, 1.5], [-0.75, 1.75]], atol=0.06)
    np.testing.assert_allclose(weight_HL[:, :-2], 0, atol=0.06)
    np.testing.assert_allclose(weight_HL.sum(axis=1), 1)


def test_each_channel_chooses_for_itself(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(4)
    rows = np.arange(3000)
    rhythm = np.exp(1.5 * np.sin(2 * np.pi * rows / 24) + np.sin(2 * np.pi * rows / 168))
    bursts = np.exp(0.5 * arma(3000, 5)) * 100
    panel = make_panel(np.stack([rng.poisson(50 * rhythm), bursts, arma(3000, 6) * 50 - 20], 1), kinds="cgg")
    train, _ = cut(panel)
    report = Linear(context=6, horizon=3).fit(panel, train)
    assert report.chosen["c0"]["calendar"]
    assert report.chosen["c1"]["transform"] == "log1p"
    assert report.chosen["c2"]["transform"] == "identity"
    tried = [row for row in report.candidates if row["channel"] == "c0"]
    assert {(row["transform"], row["calendar"]) for row in tried} == {
        (transform, calendar) for transform in ("identity", "sqrt", "log1p") for calendar in (False, True)
    }
    groups: dict[str, list[dict[str, object]]] = {}
    for row in tried:
        terms = {key: value for key, value in row.items() if key not in ("ridge", "error", "wql")}
        groups.setdefault(str(terms), []).append(row)
    judged = [row for row in tried if "wql" in row]
    assert len(judged) == len(groups)
    assert [row["error"] for row in judged] == [min(row["error"] for row in g) for g in groups.values()]
    plain = [row for row in judged if not row.get("reactions")]
    levels = [row["wql"] / (1 - WEEKDAYS_MARGIN if row["weekdays"] else 1) for row in plain]
    assert report.chosen["c0"]["wql"] == plain[int(np.argmin(levels))]["wql"]
    assert {row["transform"] for row in report.candidates if row["channel"] == "c2"} == {"identity"}


def test_ties_go_to_the_larger_ridge(make_panel: MakePanel) -> None:
    panel = make_panel(np.zeros(400), kinds="c")
    report = Linear(context=5, horizon=2).fit(panel, panel.full_span())
    assert report.chosen["c0"]["ridge"] == 30_000


@settings(max_examples=25)
@given(scale=st.sampled_from([2.0**-30, 2.0**-3, 2.0**5, 2.0**40]), seed=st.integers(0, 20))
def test_the_unit_of_a_channel_does_not_matter(scale: float, seed: int) -> None:
    y = np.random.default_rng(seed).gamma(1, 20, (300, 1)).astype(np.float32)
    models = []
    for factor in (1.0, scale):
        panel = Panel(
            values=(y * np.float32(factor)).astype(np.float32),
            channels=(Channel("y"),), step=HOUR, start=np.zeros(1, np.int64),
        )  # fmt: skip
        model = Linear(context=8, horizon=2)
        report = model.fit(panel, panel.full_span())
        models.append((report.chosen, forecasts(model, panel, panel.full_span())[0] / factor))
    assert models[0][0] == models[1][0]
    np.testing.assert_allclose(models[0][1], models[1][1], rtol=1e-6)


def test_later_rows_leave_the_state_bit_identical(make_panel: MakePanel) -> None:
    y = np.random.default_rng(7).poisson(30, (1200, 2)).astype(np.float32)
    later = y.copy()
    later[840:] = later[840:] * 7 + 3
    states = []
    for values in (y, later):
        panel = make_panel(values, kinds="cc")
        model = Linear(context=12, horizon=3)
        report = model.fit(panel, cut(panel)[0])
        states.append((model.state(), report.candidates))
    assert states[0][0][0] == states[1][0][0]
    assert states[0][1] == states[1][1]
    for name, array in states[0][0][1].items():
        np.testing.assert_array_equal(array, states[1][0][1][name])


def test_validation_rows_choose_but_shape_no_weight(make_panel: MakePanel) -> None:
    y = np.random.default_rng(8).gamma(1, 20, 1500).astype(np.float32)
    wild = y.copy()
    wild[1000:1250] = wild[1000:1250][::-1] ** 1.5
    spans = [Span(np.array([a]), np.array([b])) for a, b in ((0, 1000), (1000, 1250))]
    reports, weights = [], []
    for values in (y, wild):
        panel = make_panel(values)
        model = Linear(context=12, horizon=3)
        reports.append(model.fit(panel, *spans))
        fixed_model = Linear(context=12, horizon=3, config=fixed("sqrt", "off", 100.0))
        fixed_model.fit(panel, *spans)
        weights.append(fixed_model.channels[0].weights["weight"])
    assert reports[0].candidates != reports[1].candidates
    assert reports[0].n_windows == 1000 - 14
    np.testing.assert_array_equal(weights[0], weights[1])


def test_items_add_up_in_spreads_of_their_own(make_panel: MakePanel) -> None:
    one, other = arma(500, 9), 1000 + 50 * arma(300, 10)
    settings = fixed(ridge=0.0)
    panel = make_panel(np.concatenate([one, other]), lengths=(500, 300))
    model = Linear(context=4, horizon=1, config=settings)
    report = model.fit(panel, panel.full_span())
    exact = [x.astype(np.float32).astype(np.float64) for x in (one, other)]
    windows = np.concatenate([sliding_window_view((x - x.mean()) / x.std(), 5) for x in exact])
    assert report.n_windows == len(windows)
    np.testing.assert_allclose(model.channels[0].weights["weight"][0], _sum_one(windows), atol=1e-5)


def _sum_one(windows: np.ndarray) -> np.ndarray:
    """Least squares whose weights add up to one: of the differences to the last value."""
    change = windows - windows[:, 3:4]
    with_one = np.c_[change[:, :3], np.ones(len(windows))]
    weight = np.linalg.lstsq(with_one, change[:, 4], rcond=None)[0][:3]
    return np.r_[weight, 1 - weight.sum()]


def test_items_of_any_size_are_forecast_alike(make_panel: MakePanel) -> None:
    """The unit of one item changes no forecast of another, and scales its own."""
    y = np.random.default_rng(20).gamma(3, 10, (2, 600))
    means = []
    for size in (1.0, 1e4):
        panel = make_panel(np.concatenate([y[0], size * y[1]]), lengths=(600, 600))
        model = Linear(context=12, horizon=2)
        model.fit(panel, panel.full_span())
        means.append(forecasts(model, panel, panel.full_span())[0].reshape(2, -1))
    np.testing.assert_allclose(means[0][0], means[1][0], rtol=1e-5)
    np.testing.assert_allclose(means[0][1], means[1][1] / 1e4, rtol=1e-5)


def test_a_new_item_is_scaled_by_its_own_context(make_panel: MakePanel) -> None:
    y = np.random.default_rng(21).gamma(3, 10, (2, 600))
    panel = make_panel(np.concatenate([y[0], 100 * y[1]]), lengths=(600, 600))
    model = Linear(context=12, horizon=2)
    model.fit(panel, panel.full_span())
    new = [make_panel(size * y[0, :300]).replace(items=("new",)) for size in (1.0, 1e3)]
    small, large = (forecasts(model, one, one.full_span())[0] for one in new)
    np.testing.assert_allclose(small, large / 1e3, rtol=1e-5)
    still = make_panel(np.full(12, 70.0)).replace(items=("new",))
    np.testing.assert_allclose(model.forecast(still).mean, 70.0, rtol=1e-6)


def test_one_series_keeps_its_scale_under_any_name(make_panel: MakePanel) -> None:
    y = np.random.default_rng(22).gamma(3, 10, 600)
    panel = make_panel(y)
    model = Linear(context=12, horizon=2)
    model.fit(panel, panel.full_span())
    renamed = panel.replace(items=("other",))
    origins = np.arange(11, 590)
    one, other = (model.predict(batch_of(p, origins, 12)).point_BHC for p in (panel, renamed))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [Linear, Auto])
def test_a_model_in_the_form_of_another_version_asks_for_another_training(
    make_panel: MakePanel, kind: type[Linear | Auto]
) -> None:
    panel = make_panel(hourly(3, own_shapes=False), kinds="c")
    model = kind(context=5, horizon=3)
    model.fit(panel, panel.full_span())
    document, arrays = model.document()
    linear = document["state"]["members"][0] if kind is Auto else document
    (scale,) = linear["state"]["scales"]
    del scale["items"]
    with pytest.raises(ModelError, match="does not describe a linear model") as caught:
        registry.from_document(document, arrays, where="memory")
    assert str(caught.value.where).startswith("memory")
    assert "train it again" in str(caught.value.hint)


def test_gaps_are_left_out(make_panel: MakePanel) -> None:
    y = arma(900, 11)
    holed = y.copy()
    holed[[100, 101, 400, 650]] = np.nan
    model = Linear(context=4, horizon=1, config=fixed())
    report = model.fit(make_panel(holed), make_panel(holed).full_span())
    windows = sliding_window_view(holed.astype(np.float32).astype(np.float64), 5)
    whole = windows[~np.isnan(windows).any(axis=1)]
    assert report.n_windows == len(whole)
    np.testing.assert_allclose(model.channels[0].weights["weight"][0], _sum_one(whole), atol=1e-5)

    panel = make_panel(np.stack([holed, y], 1))
    both = Linear(context=4, horizon=2)
    both.fit(panel, panel.full_span())
    mean = both.predict(batch_of(panel, np.array([102, 300]), 4)).point_BHC
    assert np.isnan(mean[0, :, 0]).all()
    assert np.isfinite(mean[0, :, 1]).all()
    assert np.isfinite(mean[1]).all()


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_a_constant_stays(make_panel: MakePanel, value: float) -> None:
    panel = make_panel(np.full(300, value), kinds="c" if value >= 0 else "g")
    model = Linear(context=5, horizon=3)
    model.fit(panel, panel.full_span())
    np.testing.assert_allclose(forecasts(model, panel, panel.full_span())[0], value, rtol=1e-6)


@pytest.mark.parametrize("rows", [8, 9, 12, 20])
def test_short_series(make_panel: MakePanel, rows: int) -> None:
    panel = make_panel(np.random.default_rng(rows).poisson(9, rows), kinds="c")
    model = Linear(context=6, horizon=2)
    report = model.fit(panel, panel.full_span())
    assert np.isfinite(model.forecast(panel).mean).all()
    assert report.n_windows == rows - 7
    assert bool(report.notes) == (not report.candidates)
    assert bool(report.candidates) == (rows >= 12)


def test_no_complete_window_is_an_error(make_panel: MakePanel) -> None:
    values = np.ones((60, 2))
    values[::4, 1] = np.nan
    panel = make_panel(values)
    with pytest.raises(DataError, match="no complete window"):
        Linear(context=6, horizon=2).fit(panel, panel.full_span())


def test_a_context_of_one_row(make_panel: MakePanel) -> None:
    panel = make_panel(arma(200, 12))
    model = Linear(context=1, horizon=2)
    model.fit(panel, panel.full_span())
    assert np.isfinite(model.forecast(panel).mean).all()


@pytest.mark.parametrize(
    "name", ["level shift", "spike", "growth", "late start", "sparse", "negative later", "huge"]
)
def test_series_that_go_astray_do_not_explode(make_panel: MakePanel, name: str) -> None:
    rng = np.random.default_rng(13)
    t = np.arange(1000)
    y = {
        "level shift": np.r_[rng.poisson(50, 720), rng.poisson(1000, 280)],
        "spike": np.where(t == 800, 1e9, rng.poisson(20, 1000)),
        "growth": np.exp(t / 100),
        "late start": np.r_[np.zeros(650), rng.poisson(5, 350)],
        "sparse": (rng.random(1000) < 0.01) * 100.0,
        "negative later": np.r_[rng.gamma(3, 5, 720), rng.normal(size=280) - 50],
        "huge": rng.random(1000) * 3e38,
    }[name]
    panel = make_panel(y)
    train, test = cut(panel)
    model = Linear(context=24, horizon=3)
    model.fit(panel, train)
    mean, actual = forecasts(model, panel, test)
    assert np.isfinite(mean).all()
    settled = slice(60, None)
    last = np.repeat(panel.values[test.first[0] - 1 : -3], 3, axis=1)
    error = np.abs(mean[settled, :, 0] - actual[settled, :, 0]).astype(np.float64).sum()
    naive = np.abs(last[settled] - actual[settled, :, 0]).astype(np.float64).sum()
    assert error < 2 * naive


@pytest.mark.parametrize("transform", ["identity", "sqrt", "log1p"])
@pytest.mark.parametrize("context", [[3.0, 5.0], [2.0, 40.0], [-1.0, 5.0]])
def test_forecasts_are_clamped_to_what_was_seen_widened_by_half(transform: str, context: list[float]) -> None:
    scale = Scale.fit({"": np.array([1.0, 9.0, 25.0])}, transform)  # type: ignore[arg-type]
    window_BL = scale.forward(np.array([context]))
    seen = scale.forward(np.array([1.0, 25.0, *context]))
    low, high = seen.min(), seen.max()
    reach = (high - low) / 2
    floor = low - reach
    if transform != "identity":  # never transformed below zero in training: not followed there
        floor = max(floor, min(window_BL.min(), 0.0))
    z_BN = np.array([[-1e9, low, (low + high) / 2, high + 0.9 * reach, high + 1.1 * reach, 1e9]])
    held = scale.forward(scale.inverse(z_BN, window_BL))[0]
    expected = [floor, low, (low + high) / 2, high + 0.9 * reach, high + reach, high + reach]
    np.testing.assert_allclose(held, expected, rtol=1e-9, atol=1e-9)


def test_a_series_that_was_never_negative_is_not_forecast_below_zero(make_panel: MakePanel) -> None:
    y = np.r_[np.random.default_rng(14).gamma(0.2, 100, 800), np.linspace(400, 0, 200)]
    panel = make_panel(y)
    model = Linear(context=10, horizon=5, config=fixed("sqrt", ridge=None))
    model.fit(panel, cut(panel)[0])
    assert forecasts(model, panel, panel.full_span())[0].min() >= 0


def test_settings(make_panel: MakePanel) -> None:
    for wrong in ({"transform": "cube"}, {"ridge": -1}, {"folds": 0}, {"calendar": True}, {"kernel": 3}):
        with pytest.raises(ValidationError):
            LinearConfig.model_validate(wrong)
    panel = make_panel(np.random.default_rng(15).poisson(20, 600), kinds="c")
    model = Linear(context=8, horizon=2, config=fixed("log1p", "on", 30.0))
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"] | {"error": None, "wql": None} == {
        "transform": "log1p",
        "calendar": True,
        "ridge": 30.0,
        "error": None,
        "wql": None,
    }
    assert report.n_parameters == 2 * (8 + 1 + 28)
    thinned = Linear(context=8, horizon=2, config=LinearConfig(stride=5))
    assert thinned.fit(panel, panel.full_span()).n_windows == len(range(0, 591, 5))
    short = make_panel(np.arange(40.0), step=MINUTE)
    assert "calendar" in Linear(context=3, horizon=1, config=LinearConfig(calendar="on")).fit(
        short, short.full_span()
    ).notes[-1]  # fmt: skip


def hourly(weeks: int, *, own_shapes: bool) -> np.ndarray:
    """Counts by the hour with a shape of the day, either the same or one for each weekday."""
    rng = np.random.default_rng(18)
    shapes = rng.gamma(2, 60, (7 if own_shapes else 1, 24))
    shapes = np.mean([np.roll(shapes, lag, axis=1) for lag in range(4)], axis=0)
    return rng.poisson(np.tile(shapes.reshape(-1), weeks * (1 if own_shapes else 7)))


def test_weekdays_with_shapes_of_their_own(make_panel: MakePanel, tmp_path: Path) -> None:
    panel = make_panel(hourly(12, own_shapes=True), kinds="c")
    train, test = cut(panel)
    model, plain = (
        Linear(context=12, horizon=3, config=LinearConfig.model_validate({"weekdays": use}))
        for use in ("auto", "off")
    )
    chosen = model.fit(panel, train).chosen["c0"]
    assert chosen["calendar"]
    assert chosen["weekdays"]
    assert "weekdays" not in plain.fit(panel, train).chosen["c0"]
    assert wape(model, panel, test) < 0.5 * wape(plain, panel, test)
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert isinstance(again, Linear)
    np.testing.assert_array_equal(forecasts(again, panel, test)[0], forecasts(model, panel, test)[0])


def test_weekdays_win_by_a_margin_only(make_panel: MakePanel) -> None:
    panel = make_panel(hourly(12, own_shapes=False), kinds="c")
    report = Linear(context=12, horizon=3).fit(panel, panel.full_span())
    assert report.chosen["c0"]["calendar"]
    assert not report.chosen["c0"]["weekdays"]
    judged = [row for row in report.candidates if "wql" in row]
    wql = {use: min(row["wql"] for row in judged if row["weekdays"] is use) for use in (False, True)}
    assert report.chosen["c0"]["wql"] == wql[False] < wql[True] / (1 - WEEKDAYS_MARGIN)


def test_weekdays_take_four_weeks(make_panel: MakePanel) -> None:
    y = hourly(4, own_shapes=True)
    for rows in (len(y), len(y) - 1):
        panel = make_panel(y[:rows], kinds="c")
        chosen = Linear(context=12, horizon=3).fit(panel, panel.full_span()).chosen["c0"]
        assert ("weekdays" in chosen) is (rows == len(y))
    config = LinearConfig.model_validate({"weekdays": "on"})
    short = Linear(context=12, horizon=3, config=config).fit(panel, panel.full_span())
    assert "weekdays" not in short.chosen["c0"]
    assert "four weeks" in short.notes[-1]
    config = LinearConfig.model_validate({"calendar": "off", "weekdays": "on"})
    assert (
        "weekdays"
        not in Linear(context=12, horizon=3, config=config).fit(panel, panel.full_span()).chosen["c0"]
    )


def test_reactions_that_follow_the_time_of_day(make_panel: MakePanel, tmp_path: Path) -> None:
    """Bursts last by day and are over at once by night, beside weekdays with shapes of their own."""
    rng, rows = np.random.default_rng(19), 24 * 7 * 12
    shape = np.tile(rng.gamma(4, 8, 168), 12)
    z = np.zeros(rows)
    for t in range(1, rows):
        z[t] = (0.95 if 7 <= t % 24 < 19 else 0.0) * z[t - 1] + rng.normal()
    panel = make_panel(shape + 5 * z)
    train, test = cut(panel)
    model, plain = (
        Linear(context=12, horizon=3, config=LinearConfig.model_validate({"reactions": use}))
        for use in ("auto", "off")
    )
    assert model.fit(panel, train).chosen["c0"]["reactions"]
    assert "reactions" not in plain.fit(panel, train).chosen["c0"]
    assert wape(model, panel, test) < 0.9 * wape(plain, panel, test)
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert isinstance(again, Linear)
    np.testing.assert_array_equal(forecasts(again, panel, test)[0], forecasts(model, panel, test)[0])


def test_reactions_win_by_a_margin_only(make_panel: MakePanel) -> None:
    panel = make_panel(hourly(12, own_shapes=True), kinds="c")
    report = Linear(context=12, horizon=3).fit(panel, panel.full_span())
    assert any(row.get("reactions") for row in report.candidates)
    assert not report.chosen["c0"].get("reactions")


def test_saved_and_loaded_bit_by_bit_with_calendar(make_panel: MakePanel, tmp_path: Path) -> None:
    rows = np.arange(1000)
    y = np.random.default_rng(16).poisson(50 + 40 * np.sin(2 * np.pi * rows / 24))
    panel = make_panel(np.stack([y, arma(1000, 17)], 1), kinds="cg")
    model = Linear(context=5, horizon=3)
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"]["calendar"]
    model.save(tmp_path / "model")
    again, _ = registry.load(tmp_path / "model")
    assert isinstance(again, Linear)
    span = panel.full_span()
    np.testing.assert_array_equal(forecasts(again, panel, span)[0], forecasts(model, panel, span)[0])


def test_one_window_is_forecast_as_among_many(load: Panel) -> None:
    model = Linear(context=30, horizon=4)
    model.fit(load, load.full_span())
    origins = window_origins(load, load.full_span(), context=30, horizon=4)[::50]
    many = model.predict(batch_of(load, origins, 30)).point_BHC
    for row, origin in zip(many, origins, strict=True):
        one = model.predict(batch_of(load, np.array([origin]), 30)).point_BHC
        np.testing.assert_allclose(one[0], row, rtol=1e-5)


def test_a_scatter_that_lapack_gives_up_on(shared: Path, make_panel: MakePanel) -> None:
    table = pd.read_parquet(shared / "data/workload/cluster_capacity_1min.parquet")
    cpu = table[table["cluster"] == 5].sort_values("timestamp")["cpu"].to_numpy()[:10_000]
    panel = make_panel(cpu, step=MINUTE)
    model = Linear(context=24, horizon=1)
    model.fit(panel, panel.full_span())
    assert wape(model, panel, panel.full_span()) < 1


@pytest.mark.parametrize(
    ("channel", "context", "horizon", "reference"),
    [("conversation", 168, 3, 0.232), ("conversation", 168, 24, 0.237), ("api", 48, 3, 0.893)],
)
def test_real_traffic_is_forecast_better_than_by_least_squares_after_a_root(
    shared: Path, make_panel: MakePanel, channel: str, context: int, horizon: int, reference: float
) -> None:
    hours = pd.read_csv(shared / "data/llm/burstgpt_hourly.csv.gz")[channel].to_numpy()
    panel = make_panel(hours, kinds="c")
    train, test = cut(panel)
    model = Linear(context=context, horizon=horizon)
    model.fit(panel, train)
    assert wape(model, panel, test) < 0.95 * reference
