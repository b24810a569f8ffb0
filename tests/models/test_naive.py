"""The baselines against pandas and plain formulas, through missing values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from presurge.errors import DataError, HistoryError
from presurge.models.forecaster import Forecaster
from presurge.models.naive import (
    DayAgo,
    Drift,
    LastValue,
    RecentMean,
    RecentMeanConfig,
    RecentMedian,
    SeasonalNaive,
    SeasonalNaiveConfig,
    WeekAgo,
    Zero,
)
from presurge.models.season import detect_season
from presurge.series.frequency import DAY, HOUR, MINUTE
from presurge.series.panel import Panel
from presurge.series.windows import batch_of

MakePanel = Callable[..., Panel]
NAN = np.nan


def predicted(model: Forecaster, panel: Panel) -> np.ndarray:
    model.fit(panel, panel.full_span())
    return model.predict(batch_of(panel, np.array([len(panel) - 1]), len(panel))).point_BHC[0]


def test_last_value_looks_past_missing_rows(make_panel: MakePanel) -> None:
    panel = make_panel([[1, 5], [2, NAN], [NAN, NAN], [NAN, NAN]])
    assert predicted(LastValue(context=4, horizon=2), panel).tolist() == [[2, 5], [2, 5]]


def test_nothing_observed_is_forecast_as_missing(make_panel: MakePanel) -> None:
    panel = make_panel([[NAN, 1], [NAN, 2], [NAN, 3]])
    for model in (LastValue, RecentMean, RecentMedian, Drift, SeasonalNaive):
        mean = predicted(model(context=3, horizon=2), panel)
        assert np.isnan(mean[:, 0]).all()
        assert np.isfinite(mean[:, 1]).all()


@pytest.mark.parametrize("window", [1, 3, 10, 500])
def test_recent_mean_is_the_rolling_mean_of_pandas(make_panel: MakePanel, window: int) -> None:
    rng = np.random.default_rng(window)
    values = np.where(rng.random((60, 2)) < 0.3, NAN, rng.gamma(1, 9, (60, 2))).astype(np.float32)
    values[-1] = 4
    model = RecentMean(context=60, horizon=1, config=RecentMeanConfig(window=window))
    expected = pd.DataFrame(values).rolling(window, min_periods=1).mean().iloc[-1]
    if window > 60:
        expected = pd.DataFrame(values).mean()
    np.testing.assert_allclose(predicted(model, make_panel(values))[0], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", [RecentMean, RecentMedian])
def test_summaries_of_the_last_rows_fall_back_to_the_last_value(
    make_panel: MakePanel, kind: type[RecentMean]
) -> None:
    model = kind(context=5, horizon=1, config=RecentMeanConfig(window=2))
    assert predicted(model, make_panel([1, 2, 7, NAN, NAN])) == 7


@pytest.mark.parametrize("window", [1, 2, 3, 10, 500])
def test_recent_median_is_the_rolling_median_of_pandas(make_panel: MakePanel, window: int) -> None:
    rng = np.random.default_rng(window)
    values = np.where(rng.random((60, 4)) < 0.3, NAN, rng.gamma(1, 9, (60, 4))).astype(np.float32)
    values[-1] = 4
    model = RecentMedian(context=60, horizon=2, config=RecentMeanConfig(window=window))
    expected = pd.DataFrame(values[-window:]).median()
    for row in predicted(model, make_panel(values)):
        np.testing.assert_allclose(row, expected, rtol=1e-6)


def test_zero_is_zero_whatever_came(make_panel: MakePanel) -> None:
    assert predicted(Zero(context=2, horizon=2), make_panel([[3, NAN], [-5, NAN]])).tolist() == [
        [0, 0],
        [0, 0],
    ]


@pytest.mark.parametrize(("kind", "rows"), [(DayAgo, 4), (WeekAgo, 28)])
def test_the_value_of_a_day_or_a_week_ago(make_panel: MakePanel, kind: type[DayAgo], rows: int) -> None:
    values = np.arange(40.0)
    values[40 - rows + 1] = NAN
    model = kind(context=2, horizon=rows + 2)
    mean = predicted(model, make_panel(values, step=6 * HOUR)).ravel()
    first = 40 - rows
    expected = [39 if h % rows == 1 else first + h % rows for h in range(rows + 2)]
    assert (model.context, mean.tolist()) == (rows, expected)


@pytest.mark.parametrize("step", [7 * MINUTE, DAY, 2 * DAY])
def test_a_step_that_does_not_divide_a_day_has_no_day_ago(make_panel: MakePanel, step: int) -> None:
    panel = make_panel(np.arange(40), step=step)
    with pytest.raises(DataError, match="divides 1d"):
        DayAgo(context=2, horizon=1).fit(panel, panel.full_span())


def test_drift_continues_the_line_through_the_ends(make_panel: MakePanel) -> None:
    assert predicted(Drift(context=5, horizon=3), make_panel([3, 9, 1, 2, 11])).ravel().tolist() == [
        13,
        15,
        17,
    ]
    assert predicted(Drift(context=5, horizon=2), make_panel([NAN, 4, NAN, 8, NAN])).ravel().tolist() == [
        12,
        14,
    ]
    assert predicted(Drift(context=3, horizon=2), make_panel([NAN, 4, NAN])).ravel().tolist() == [4, 4]


def test_counts_are_never_negative_and_gauges_may_be(make_panel: MakePanel) -> None:
    falling = np.stack([np.arange(20, 0, -1)] * 2, 1)
    mean = predicted(Drift(context=20, horizon=30), make_panel(falling, kinds="cg"))
    assert mean[:, 0].min() == 0
    assert mean[-1, 1] == pytest.approx(-29)


@pytest.mark.parametrize("horizon", [2, 7, 16])
def test_a_given_season_repeats(make_panel: MakePanel, horizon: int) -> None:
    panel = make_panel(np.arange(40))
    model = SeasonalNaive(context=3, horizon=horizon, config=SeasonalNaiveConfig(period=7))
    mean = predicted(model, panel).ravel()
    assert mean.tolist() == [33 + h % 7 for h in range(horizon)]
    assert model.context == 7


def test_a_row_missing_a_season_ago_is_the_last_value(make_panel: MakePanel) -> None:
    model = SeasonalNaive(context=4, horizon=3, config=SeasonalNaiveConfig(period=3))
    assert predicted(model, make_panel([0, NAN, 5, 6])).ravel().tolist() == [6, 5, 6]


def test_a_history_shorter_than_the_season_is_refused(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(40))
    model = SeasonalNaive(context=3, horizon=2, config=SeasonalNaiveConfig(period=7))
    model.fit(panel, panel.full_span())
    with pytest.raises(HistoryError, match="5 rows, and the model reads 7"):
        model.forecast(make_panel(np.arange(5)))


def test_settings_are_checked() -> None:
    for wrong in ({"window": 0}, {"windows": 3}):
        with pytest.raises(ValidationError):
            RecentMeanConfig.model_validate(wrong)
    with pytest.raises(ValidationError):
        SeasonalNaiveConfig(period=0)


def daily(rows: int, step: int, seed: int, burst: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rate = 20 + 12 * np.sin(2 * np.pi * np.arange(rows) * step / DAY)
    return rng.poisson(rate * rng.gamma(burst, 1 / burst, rows))


@pytest.mark.parametrize(
    ("rows", "step", "burst"), [(1000, HOUR, 5.0), (10_080, MINUTE, 0.5), (3000, 5 * MINUTE, 1.0)]
)
def test_a_day_is_found_in_noisy_counts(make_panel: MakePanel, rows: int, step: int, burst: float) -> None:
    panel = make_panel(daily(rows, step, 3, burst), kinds="c", step=step)
    model = SeasonalNaive(context=10, horizon=1)
    report = model.fit(panel, panel.full_span())
    assert model.periods == (DAY // step,)
    assert model.context == DAY // step
    assert report.chosen == {"period": {"c0": DAY // step}}
    assert "1d" in report.notes[0]


def test_a_week_is_found_where_it_matters(make_panel: MakePanel) -> None:
    rows = np.arange(24 * 7 * 8)
    quiet_weekend = np.where(rows // 24 % 7 < 5, 1.0, 0.2)
    panel = make_panel(daily(len(rows), HOUR, 4, 50.0) * quiet_weekend, kinds="c")
    assert detect_season(panel, panel.full_span()).period == 24 * 7


def test_an_uncommon_period_is_read_off_the_data(make_panel: MakePanel) -> None:
    wave = 5 * np.sin(2 * np.pi * np.arange(2000) / 37) + np.random.default_rng(5).normal(size=2000)
    wave[100:180] = NAN
    panel = make_panel(wave + np.linspace(0, 100, 2000))
    assert detect_season(panel, panel.full_span()).period == 37


@pytest.mark.parametrize("seed", range(5))
def test_a_weak_season_is_found_and_noise_has_none(make_panel: MakePanel, seed: int) -> None:
    """A day worth a fifth of the deviation shows in many rows; in as much noise the contrast stays above one."""
    noise = np.random.default_rng(seed).normal(size=20_000)
    wave = 0.28 * np.sin(2 * np.pi * np.arange(20_000) / 24)
    weak, none = (
        detect_season(panel, panel.full_span()) for panel in (make_panel(noise + wave), make_panel(noise))
    )
    assert weak.period > 1
    assert weak.period % 24 == 0
    assert 0.97 < weak.candidates[0]["contrast"] < 1
    assert none.period == 1
    assert 1 < none.candidates[0]["contrast"] < 1.04


@pytest.mark.parametrize(("noise", "found"), [(1.55, True), (1.65, False)])
def test_a_period_read_off_the_data_has_to_show_more_clearly(
    make_panel: MakePanel, noise: float, found: bool
) -> None:
    rng = np.random.default_rng(2)
    panel = make_panel(np.sin(2 * np.pi * np.arange(5000) / 37) + noise * rng.normal(size=5000))
    season = detect_season(panel, panel.full_span())
    read_off = season.candidates[-1]
    assert read_off["period"] % 37 == 0
    assert (read_off["contrast"] <= 0.88) == found
    assert season.period == (read_off["period"] if found else 1)


def test_the_contrast_of_a_pure_season_is_its_uncertainty_alone(make_panel: MakePanel) -> None:
    panel = make_panel(np.resize(np.arange(24.0) ** 2, 24 * 30))
    season = detect_season(panel, panel.full_span())
    assert season.candidates[0]["contrast"] == pytest.approx(3 / np.sqrt(24 * 29), abs=2e-2)


@pytest.mark.parametrize("kind", ["noise", "walk", "ramp", "constant", "short"])
def test_without_a_season_a_note_says_so_and_the_last_value_repeats(make_panel: MakePanel, kind: str) -> None:
    rng = np.random.default_rng(6)
    series = {
        "noise": rng.gamma(0.3, 10, 3000),
        "walk": rng.normal(size=3000).cumsum(),
        "ramp": np.arange(3000),
        "constant": np.full(3000, 5.0),
        "short": np.arange(3),
    }
    panel = make_panel(series[kind])
    model = SeasonalNaive(context=2, horizon=1)
    report = model.fit(panel, panel.full_span())
    assert model.periods == (1,)
    assert "No season" in report.notes[0]
    assert predicted(model, panel) == panel.values[-1, 0]


def test_every_channel_has_a_season_of_its_own(make_panel: MakePanel) -> None:
    rows = np.arange(24 * 7 * 6)
    quiet_weekend = np.where(rows // 24 % 7 < 5, 1.0, 0.2)
    noise = np.random.default_rng(1).gamma(0.3, 10, len(rows))
    columns = [daily(len(rows), HOUR, 2, 9.0), noise, daily(len(rows), HOUR, 4, 50.0) * quiet_weekend]
    panel = make_panel(np.stack(columns, 1), kinds="ccc")
    model = SeasonalNaive(context=5, horizon=30)
    report = model.fit(panel, panel.full_span())
    assert model.periods == (24, 1, 168)
    told = [[name for name in panel.channel_names if name in note] for note in report.notes]
    assert told == [["c0"], ["c1"], ["c2"]]
    mean = predicted(model, panel)
    after = panel.values[-24:, 0]
    np.testing.assert_array_equal(mean[:, 0], np.concatenate([after, after[:6]]))
    np.testing.assert_array_equal(mean[:, 1], np.full(30, panel.values[-1, 1]))
    np.testing.assert_array_equal(mean[:, 2], panel.values[-168:-138, 2])


def test_the_season_of_least_error_wins_once_it_was_seen_twice(shared: Path, make_panel: MakePanel) -> None:
    hours = pd.read_csv(shared / "data/llm/burstgpt_hourly.csv.gz")["conversation"].to_numpy()
    panel = make_panel(hours[:400], kinds="c")
    season = detect_season(panel, panel.full_span())
    assert season.period == 168
    for candidate in season.candidates:
        period = candidate["period"]
        error = np.abs(hours[period:400] - hours[: 400 - period]).mean()
        assert candidate["error"] == pytest.approx(error)


def test_only_training_rows_decide(make_panel: MakePanel) -> None:
    values = daily(2000, HOUR, 8).astype(np.float64)
    values[1200:] = np.random.default_rng(0).normal(size=800) * 1e6
    panel = make_panel(values)
    head, _ = panel.full_span().cut_tail(0.4)
    assert detect_season(panel, head) == detect_season(
        make_panel(values[:1200]), make_panel(values[:1200]).full_span()
    )


def test_the_day_of_real_traffic(shared: Path, make_panel: MakePanel) -> None:
    hits = pd.read_csv(shared / "data/workload/nasa_http_1min.csv.gz")["requests"].to_numpy()[:20_000]
    panel = make_panel(hits, kinds="c", step=MINUTE)
    assert detect_season(panel, panel.full_span()).period == 1440


def test_single_bursts_do_not_hide_a_season_that_no_calendar_has(make_panel: MakePanel) -> None:
    rng = np.random.default_rng(3)
    values = 10 * np.sin(2 * np.pi * np.arange(1500) / 37) + rng.normal(size=1500)
    values[rng.choice(1500, 12, replace=False)] += 2_000
    panel = make_panel(values)
    assert detect_season(panel, panel.full_span()).period == 37
