"""The pictures: written as PNG with something on them, drawn from the right numbers."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from statsmodels.tsa.stattools import acf

from presurge.evaluation.backtest import evaluate
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.evaluation.report.plots import (
    autocorrelation,
    burst_figure,
    coverage_figure,
    forecast_figure,
    horizon_figure,
    largest_burst,
    reduce_rows,
    residual_figure,
    rows_a_point,
)
from presurge.evaluation.walk import RollingForecast, rolling_forecast
from presurge.models.naive import LastValue
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND
from presurge.series.plots_style import (
    NARROW,
    WIDE,
    Layout,
    new_figure,
    panels,
    short_number,
    step_axis,
    styled,
    time_axis,
    to_png,
)
from presurge.series.spans import Span

NAMES = ("burst", "coverage", "forecast", "horizon", "hours", "residuals")


@pytest.fixture(scope="module")
def blocks(run: RunSummary) -> RollingForecast:
    return rolling_forecast(run.model, run.dataset.panel, run.dataset.test)


@pytest.fixture(autouse=True)
def drawn_wide() -> Iterator[None]:
    with styled(WIDE):
        yield


def ink(path: Path) -> float:
    """Share of the pixels that are not the background."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return float((np.abs(pixels - pixels[0, 0]).max(axis=2) > 0.05).mean())


def test_every_picture_is_a_png_with_something_on_it(run: RunSummary) -> None:
    files = sorted((run.directory / "plots").iterdir())
    assert [file.stem for file in files] == list(NAMES)
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        height, width = matplotlib.image.imread(file).shape[:2]
        assert width == 2000
        assert height > 400
        assert 0.02 < ink(file) < 0.7, file.name


def test_the_forecast_is_drawn_over_the_actual_values(run: RunSummary, blocks: RollingForecast) -> None:
    axes = forecast_figure(blocks).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    np.testing.assert_array_equal(lines["actual"], blocks.actual_NC[:, 0])
    np.testing.assert_array_equal(lines["forecast"], blocks.mean_NC[:, 0])
    _, labels = axes.get_legend_handles_labels()
    assert {"actual", "forecast", "95 % interval", "80 % interval", "50 % interval"} == set(labels)
    drawn = [band.get_datalim(axes.transData).height for band in axes.collections]
    assert len(drawn) == 3
    assert drawn == sorted(drawn, reverse=True)
    assert axes.get_ylim()[0] == 0


def test_the_burst_is_in_the_zoom(run: RunSummary, blocks: RollingForecast) -> None:
    highest = largest_burst(blocks)
    assert blocks.actual_NC[highest, 0] == blocks.actual_NC[:, 0].max()
    axes = burst_figure(blocks).axes[0]
    shown = next(np.asarray(line.get_ydata()) for line in axes.lines if line.get_label() == "actual")
    assert len(shown) == WIDE.zoom
    assert shown.max() == blocks.actual_NC[highest, 0]


def test_every_model_has_its_line_in_the_errors_by_step(run: RunSummary) -> None:
    axes = horizon_figure(run.evaluation, "linear").axes[0]
    for line in axes.lines:
        expected = run.evaluation.scores[str(line.get_label())]["wql"][:, 0]
        np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)
    assert {str(line.get_label()) for line in axes.lines} == {"linear", "last-value"}


def test_a_low_coverage_is_still_in_the_picture(run: RunSummary) -> None:
    scores = run.evaluation.scores["linear"]
    before = {name: scores[name].copy() for name in ("coverage_50", "coverage_80")}
    try:
        scores["coverage_80"][:] = 0.12
        scores["coverage_50"][:] = np.nan
        figure = coverage_figure(run.evaluation, "linear")
        for axes in figure.axes:
            assert axes.get_ylim()[0] < 0.12
    finally:
        scores.update(before)


@pytest.mark.parametrize(("unknown", "drawn"), [(("wql",), "wape"), (("wql", "wape"), "mae")])
def test_where_the_wql_is_undefined_the_wape_is_drawn_and_else_the_mae(
    run: RunSummary, unknown: tuple[str, ...], drawn: str
) -> None:
    scores = {name: dict(metrics) for name, metrics in run.evaluation.scores.items()}
    for metrics in scores.values():
        for metric in unknown:
            metrics[metric] = metrics[metric].copy()
            metrics[metric][:, 0] = np.nan
    first, second = horizon_figure(replace(run.evaluation, scores=scores), "linear").axes
    titles = [axes.get_title(loc="left") for axes in (first, second)]
    assert titles == [f"requests: {drawn.upper()}", "cpu: WQL"]
    for line in first.lines:
        expected = run.evaluation.scores[str(line.get_label())][drawn][:, 0]
        np.testing.assert_array_equal(np.asarray(line.get_ydata()), expected)


def test_of_many_models_the_best_are_drawn_beside_the_one(run: RunSummary) -> None:
    scores = dict(run.evaluation.scores)
    for place in range(6):
        scores[f"rival{place}"] = {**scores["last-value"], "wql": scores["last-value"]["wql"] * (1 + place)}
    figure = horizon_figure(replace(run.evaluation, scores=scores), "linear")
    labels = [str(line.get_label()) for line in figure.axes[0].lines]
    assert labels == ["last-value", "rival0", "rival1", "rival2", "linear"]


def test_a_short_test_has_no_picture_twice_and_no_lag_without_pairs(
    make_run: Callable[..., RunSummary], tmp_path: Path
) -> None:
    summary = make_run(tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "burst.png").write_bytes(b"of an earlier report")
    test = summary.dataset.test
    few = replace(summary.dataset, test=Span(test.first, test.first + 22))
    last = LastValue(context=24, horizon=3)
    last.fit(few.panel, few.train)
    scored = evaluate([summary.model, last], few.panel, few.test, train=few.fit_span)
    short = replace(summary, dataset=few, evaluation=scored)
    write_report(tmp_path, short)
    names = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert names == {"forecast", "horizon", "residuals", "coverage"}
    figure = residual_figure(rolling_forecast(summary.model, few.panel, few.test, lead=1))
    memory = [axes for axes in figure.axes if axes.get_title(loc="left") == "autocorrelation"]
    assert memory[0].collections[0].get_paths()[-1].vertices[0, 0] == 22 // 4
    assert short.length.startswith("The test is short: 22 rows (22 hours) hold 20 windows, worth about ")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert short.length in page
    assert short.length in " ".join(report_text(short).split())
    assert '<li class="open">' in page
    assert '<li class="good">' not in page


def test_rows_are_reduced_without_the_missing() -> None:
    values = np.array([1, 3, np.nan, 5, np.nan, np.nan, 7], np.float32)
    np.testing.assert_array_equal(reduce_rows(values, 2, "mean"), [2, 5, np.nan, 7])
    np.testing.assert_array_equal(reduce_rows(values, 2, "min"), [1, 5, np.nan, 7])
    np.testing.assert_array_equal(reduce_rows(values, 2, "max"), [3, 5, np.nan, 7])
    assert reduce_rows(values, 1, "mean") is values


def test_long_spans_are_drawn_as_means_of_rows(run: RunSummary, blocks: RollingForecast) -> None:
    long = RollingForecast(
        times_us=np.arange(1300) * MINUTE,
        actual_NC=np.arange(1300, dtype=np.float32)[:, None],
        mean_NC=np.arange(1300, dtype=np.float32)[:, None],
        quantiles_NQC=np.zeros((1300, 0, 1), np.float32),
        levels=(),
        channels=run.dataset.panel.channels[:1],
        clock="relative",
    )
    assert rows_a_point(blocks, WIDE) == 1
    assert rows_a_point(long, WIDE) == 3
    axes = forecast_figure(long).axes[0]
    shown = next(np.asarray(line.get_ydata()) for line in axes.lines if line.get_label() == "actual")
    np.testing.assert_allclose(shown[:2], [1, 4])


def test_nothing_observed_is_no_error(run: RunSummary) -> None:
    empty = RollingForecast(
        times_us=np.arange(5) * MINUTE,
        actual_NC=np.full((5, 1), np.nan, np.float32),
        mean_NC=np.full((5, 1), np.nan, np.float32),
        quantiles_NQC=np.full((5, 7, 1), np.nan, np.float32),
        levels=(0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975),
        channels=run.dataset.panel.channels[:1],
        clock="utc",
    )
    assert largest_burst(empty) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_png(burst_figure(empty)).startswith(b"\x89PNG")


def test_the_autocorrelation_is_that_of_statsmodels() -> None:
    values = np.random.default_rng(0).normal(size=300).cumsum()
    np.testing.assert_allclose(
        autocorrelation(values, 20), acf(values, nlags=20, adjusted=True)[1:], rtol=1e-9
    )
    values[::7] = np.nan
    np.testing.assert_allclose(
        autocorrelation(values, 20),
        acf(values, nlags=20, missing="conservative", adjusted=True)[1:],
        rtol=1e-6,
    )
    assert not autocorrelation(np.full(50, 3.0), 5).any()
    assert not autocorrelation(np.full(50, np.nan), 5).any()


def test_axes_speak_in_units_that_fit() -> None:
    _, (axes,) = panels(WIDE, 1, 100)
    assert step_axis(axes, 5 * MINUTE, 2).tolist() == [5, 10]
    assert axes.get_xlabel() == "minutes ahead"
    step_axis(axes, DAY, 1)
    assert axes.get_xlabel() == "days ahead"
    assert [short_number(v) for v in (1234, 12.5, 1.2e6, 3e9, 0.25)] == [
        "1,234",
        "12.5",
        "1.2 M",
        "3 G",
        "0.25",
    ]


@pytest.mark.parametrize(
    ("begin", "span", "expected"),
    [
        (7200 * SECOND, 5 * HOUR, ["day 1, 02:00", "day 1, 03:00"]),
        (2 * DAY + 3 * HOUR + MINUTE, 5 * HOUR, ["day 3, 04:00", "day 3, 05:00"]),
        (0, 20 * SECOND, ["day 1, 00:00", "day 1, 00:00:05"]),
        (DAY - HOUR, 9 * DAY, ["day 3", "day 5"]),
        (0, 700 * DAY, ["day 1", "day 118"]),
    ],
)
def test_relative_clocks_read_as_days_and_hours(begin: int, span: int, expected: list[str]) -> None:
    with styled(WIDE):
        figure = new_figure(WIDE, 100)
        axes = figure.subplots()
        times_us = np.array([begin, begin + span])
        axes.plot(time_axis(axes, times_us, "relative", WIDE), [0, 1])
        figure.canvas.draw()
        labels = [tick.get_text() for tick in axes.get_xticklabels()]
    assert labels[:2] == expected
    assert 3 <= len(labels) <= 8


@pytest.mark.parametrize("span", [SECOND * 2**k for k in range(3, 26)])
def test_a_narrow_relative_clock_has_ticks_that_fit(span: int) -> None:
    with styled(NARROW):
        figure = new_figure(NARROW, 100)
        axes = figure.subplots()
        axes.plot(time_axis(axes, np.array([7 * HOUR + 1, 7 * HOUR + 1 + span]), "relative", NARROW), [0, 1])
        assert 1 <= len(axes.get_xticks()) <= 4


@pytest.mark.parametrize("layout", [WIDE, NARROW], ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    "span",
    [5 * SECOND, 59 * MINUTE, 3 * HOUR, 47 * HOUR, 60 * HOUR, 5 * DAY, 61 * DAY, 700 * DAY, 5000 * DAY],
)
def test_spans_of_any_length_have_dates(layout: Layout, span: int) -> None:
    with styled(layout):
        figure = new_figure(layout, 100)
        axes = figure.subplots()
        times_us = np.array([1_700_000_000 * SECOND, 1_700_000_000 * SECOND + span])
        axes.plot(time_axis(axes, times_us, "utc", layout), [0, 1])
        figure.canvas.draw()
        assert any(tick.get_text() for tick in axes.get_xticklabels())
