"""The automatic choice: who wins a channel and why, and that nothing of the choice leaks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from presurge.errors import ConfigError
from presurge.evaluation.fit import fit_model
from presurge.models import registry
from presurge.models.auto import Auto, AutoConfig, clearly_better
from presurge.models.linear.linear import Linear
from presurge.models.linear.select import rolling_folds, thinned
from presurge.models.naive import RecentMean
from presurge.series.dataset import Dataset
from presurge.series.frequency import MINUTE
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import batch_of, window_origins

MakePanel = Callable[..., Panel]


def means(model: Linear | Auto | RecentMean, panel: Panel) -> np.ndarray:
    origins = window_origins(panel, panel.full_span(), context=200, horizon=model.horizon)
    return model.predict(batch_of(panel, origins, model.context)).point_BHC


def regimes(rows: int, seed: int) -> np.ndarray:
    """A level that jumps to and fro with heavy noise, scattered over many orders: hard for any linear map."""
    rng = np.random.default_rng(seed)
    return np.abs(rng.standard_cauchy(rows)) * 10.0 ** rng.integers(0, 6, rows)


def test_expanding_folds_and_one_of_validation_rows() -> None:
    train = Span(np.array([0, 100]), np.array([100, 160]))
    validation = Span(np.array([100, 160]), np.array([100, 170]))
    folds = rolling_folds(train, validation, 3)
    assert [fold.learn.last.tolist() for fold in folds] == [[55, 133], [70, 142], [85, 151], [100, 160]]
    assert [fold.judge.first.tolist() for fold in folds] == [[55, 133], [70, 142], [85, 151], [100, 160]]
    assert [fold.judge.last.tolist() for fold in folds] == [[70, 142], [85, 151], [100, 160], [100, 170]]
    assert len(rolling_folds(train, None, 5)) == 5


@pytest.mark.parametrize("n", [0, 1, 4999, 5000, 5001, 12_345])
def test_judging_windows_are_evenly_spaced_and_few(n: int) -> None:
    picked = thinned(np.arange(n))
    assert len(picked) <= 5000
    assert len(picked) > min(n, 2500) - 1
    assert len(set(np.diff(picked))) <= 1


@pytest.mark.parametrize(
    ("loss", "squared", "won"),
    [
        ([0.8, 0.8, 0.8], [1, 1, 1], True),
        ([0.8, 0.8, 0.8], [1, 1, 1.01], False),  # its mean is worse
        ([0.9, 0.9, 0.9], [0.5, 0.5, 0.5], False),  # not by the margin
        ([0.5, 0.5, 1.01], [0.5, 0.5, 0.5], False),  # not in every fold
        ([1.2, 1.2, 1.2], [1, 1, 1], False),
    ],
)
def test_a_challenger_has_to_be_clearly_and_steadily_better(
    loss: list[float], squared: list[float], won: bool
) -> None:
    rival_FKC = np.stack([loss, squared], axis=1)[:, :, None]
    assert clearly_better(rival_FKC, np.ones((3, 2, 1)), 0.15).tolist() == [won]


def test_a_shrunken_forecast_does_not_win(make_panel: MakePanel) -> None:
    """Rare bursts at random: zero has the least absolute error of all, and says nothing."""
    rng = np.random.default_rng(8)
    y = np.where(rng.random(2000) < 0.2, rng.gamma(1, 100, 2000), 0).round()
    panel = make_panel(y, kinds="c")
    model = Auto(context=20, horizon=2, config=AutoConfig(challengers=("zero", "recent-median"), margin=0))
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"]["model"] == "linear"
    assert {row["model"] for row in report.candidates} == {"linear", "zero", "recent-median"}


def test_a_challenger_without_room_is_left_out(make_panel: MakePanel) -> None:
    """Neither steps of 11 minutes, which do not divide a day, nor 300 rows of a minute: no row of the table, no failure."""
    for step in (11, 1):
        panel = make_panel(np.random.default_rng(9).poisson(9, 300), kinds="c", step=step * MINUTE)
        names = {row["model"] for row in Auto(context=8, horizon=2).fit(panel, panel.full_span()).candidates}
        assert {"day-ago", "week-ago"}.isdisjoint(names)
        assert {"zero", "recent-median", "ses", "damped-trend", "linear"} <= names


def test_the_linear_model_wins_where_it_can(load: Panel) -> None:
    auto, linear = Auto(context=30, horizon=4), Linear(context=30, horizon=4)
    report, alone = auto.fit(load, load.full_span()), linear.fit(load, load.full_span())
    np.testing.assert_array_equal(means(auto, load), means(linear, load))
    for name, chosen in report.chosen.items():
        assert chosen["model"] == "linear"
        assert chosen["solver"] == "exact"
        assert "no challenger" in chosen["why"]
        assert chosen["ridge"] == alone.chosen[name]["ridge"]
    judged = {(row["model"], row["channel"]) for row in report.candidates}
    assert judged == {(m, c) for m in ("linear", *AutoConfig().challengers) for c in ("c0", "c1", "c2")}


def seasonal_beyond_the_context(rows: int) -> np.ndarray:
    """A pattern of 53 rows that no calendar knows and that a context of 8 rows cannot see."""
    pattern = np.random.default_rng(1).gamma(1, 50, 53)
    return np.resize(pattern, rows) + np.random.default_rng(2).normal(size=rows)


def test_a_baseline_takes_the_channel_that_it_forecasts_clearly_better(
    make_panel: MakePanel, tmp_path: Path
) -> None:
    walk = np.random.default_rng(3).normal(size=1500).cumsum()
    panel = make_panel(np.stack([walk, seasonal_beyond_the_context(1500)], 1), step=MINUTE)
    train, _ = panel.full_span().cut_tail("0.2")
    model = Auto(context=8, horizon=4)
    report = model.fit(panel, train)
    assert report.chosen["c0"]["model"] == "linear"
    assert report.chosen["c1"]["model"] == "seasonal-naive"
    assert "every fold" in report.chosen["c1"]["why"]
    assert model.context == 53
    linear, seasonal = (
        Linear(context=8, horizon=4),
        registry.model_class("seasonal-naive")(context=8, horizon=4),
    )
    linear.fit(panel, train)
    seasonal.fit(panel, train)
    mean = means(model, panel)
    np.testing.assert_array_equal(mean[:, :, 0], means(linear, panel)[:, :, 0])
    np.testing.assert_array_equal(mean[:, :, 1], means(seasonal, panel)[:, :, 1])

    model.save(tmp_path / "model")
    again, config = registry.load(tmp_path / "model")
    np.testing.assert_array_equal(means(again, panel), mean)
    assert [member["model"] for member in config["state"]["members"]] == ["linear", "seasonal-naive"]
    assert again.n_parameters == model.n_parameters == report.n_parameters


def test_a_margin_that_no_baseline_can_reach_leaves_the_linear_model(make_panel: MakePanel) -> None:
    panel = make_panel(seasonal_beyond_the_context(1500), step=MINUTE)
    model = Auto(context=8, horizon=4, config=AutoConfig(margin=0.9999))
    assert model.fit(panel, panel.full_span()).chosen["c0"]["model"] == "linear"


def test_any_model_may_challenge(make_panel: MakePanel) -> None:
    panel = make_panel(regimes(900, 4), kinds="g")
    model = Auto(context=10, horizon=2, config=AutoConfig(challengers=("dlinear", "recent-mean"), margin=0))
    report = model.fit(panel, panel.full_span())
    assert {row["model"] for row in report.candidates} == {"linear", "dlinear", "recent-mean"}
    for name in ("auto", "linear"):
        with pytest.raises(ValidationError):
            AutoConfig(challengers=(name,))
    with pytest.raises(ConfigError, match="prophet"):
        Auto(context=10, horizon=2, config=AutoConfig(challengers=("prophet",))).fit(panel, panel.full_span())
    alone = Auto(context=10, horizon=2, config=AutoConfig(challengers=()))
    assert {row["model"] for row in alone.fit(panel, panel.full_span()).candidates} == {"linear"}


def test_too_few_rows_to_judge(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(5).poisson(9, 9), kinds="c")
    model = Auto(context=6, horizon=2)
    report = model.fit(panel, panel.full_span())
    assert report.chosen["c0"]["model"] == "linear"
    assert report.chosen["c0"]["why"] == "too few rows to judge"
    assert "Too few rows" in report.notes[0]
    assert np.isfinite(model.forecast(panel).mean).all()


def test_later_rows_leave_the_choice_and_the_state_bit_identical(make_panel: MakePanel) -> None:
    y = np.random.default_rng(6).poisson(30, 1000).astype(np.float32)
    later = y.copy()
    later[700:] = 1e6
    results = []
    for values in (y, later):
        panel = make_panel(values, kinds="c")
        model = Auto(context=12, horizon=3)
        report = model.fit(panel, panel.full_span().cut_tail("0.3")[0])
        results.append((report.chosen, report.candidates, *model.state()))
    assert results[0][:3] == results[1][:3]
    for name, array in results[0][3].items():
        np.testing.assert_array_equal(array, results[1][3][name])


def test_after_the_calibration_it_is_fitted_to_all_training_rows(make_panel: MakePanel) -> None:
    panel = make_panel(np.random.default_rng(7).gamma(2, 20, 1000))
    whole, test = panel.full_span().cut_tail("0.3")
    train, validation = whole.cut_tail("0.2")
    expected = Auto(context=12, horizon=3)
    expected.fit(panel, whole)
    for given in (False, True):
        data = Dataset(
            panel=panel, train=train, validation=validation, test=test, validation_given=given, source={}
        )
        model = fit_model("auto", data, context=12, horizon=3).model
        assert np.array_equal(means(model, panel), means(expected, panel)) == (not given)
        assert model.calibration is not None


def test_real_traffic(shared: Path, make_panel: MakePanel) -> None:
    hours = pd.read_csv(shared / "data/llm/burstgpt_hourly.csv.gz")[["conversation", "api"]].to_numpy()
    panel = make_panel(hours, kinds="cc")
    train, test = panel.full_span().cut_tail("0.3")
    model = Auto(context=168, horizon=3)
    report = model.fit(panel, train)
    origins = window_origins(panel, test, context=model.context, horizon=3)
    mean = model.predict(batch_of(panel, origins, model.context)).point_BHC[:, :, 0]
    actual = np.lib.stride_tricks.sliding_window_view(hours[:, 0], 3)[origins + 1]
    wape = (np.abs(mean - actual).sum(axis=0) / actual.sum(axis=0)).mean()
    assert report.chosen["c0"]["model"] == "linear"
    assert wape < 0.9 * 0.232
