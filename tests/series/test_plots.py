"""The pictures of a panel and of a forecast show the right numbers."""

import sys

import matplotlib.style
import numpy as np
import pytest

from presurge.errors import MissingDependencyError
from presurge.series.forecast import Forecast
from presurge.series.frequency import MINUTE
from presurge.series.panel import Channel, Panel
from presurge.series.plots import MAX_ITEMS

BEGIN = 1_700_000_000_000_000


def panel_of(*lengths: int, clock: str = "utc") -> Panel:
    """Items of some lengths with the channels 0, 1, 2 ... and its hundredfold."""
    rows = np.arange(sum(lengths), dtype=np.float32)
    return Panel(
        values=np.stack([rows, 100 * rows], axis=1),
        channels=(Channel("requests", kind="count"), Channel("cost_$")),
        step=MINUTE,
        start=np.full(len(lengths), BEGIN if clock == "utc" else 0),
        items=tuple(f"item {i}" for i in range(len(lengths))),
        indptr=np.concatenate(([0], np.cumsum(lengths))),
        clock=clock,  # type: ignore[arg-type]
    )


def forecast_after(panel: Panel, horizon: int = 3) -> Forecast:
    """A forecast of 7 with the interval from 5 to 9 for everything."""
    shape = (len(panel.items), horizon, len(panel.channels))
    return Forecast(
        mean=np.full(shape, 7, np.float32),
        median=np.full(shape, 7, np.float32),
        quantiles=np.stack([np.full(shape, v, np.float32) for v in (5, 7, 9)], axis=2),
        levels=(0.1, 0.5, 0.9),
        origin=panel.times_of(panel.indptr[1:] - 1),
        step=panel.step,
        channels=panel.channels,
        items=panel.items,
        clock=panel.clock,
        model="auto",
        error={},
    )


def test_a_panel_is_drawn_by_channel_and_item() -> None:
    panel = panel_of(30, 0, 40)
    requests, cost = panel.plot().axes
    assert [axes.get_title(loc="left") for axes in (requests, cost)] == ["requests", "cost_$"]
    drawn_lines = {line.get_label(): np.asarray(line.get_ydata()) for line in cost.lines}
    assert list(drawn_lines) == ["item 0", "item 2"]
    np.testing.assert_array_equal(drawn_lines["item 2"], panel.values[30:, 1])
    assert requests.lines[0].get_xdata()[0] == requests.lines[1].get_xdata()[0]  # both begin at one time


def test_a_long_panel_is_drawn_in_means_and_many_items_in_part() -> None:
    long = panel_of(1000).plot().axes[0]
    assert long.get_title(loc="left") == "requests, mean of 2 rows (2m)"
    np.testing.assert_array_equal(long.lines[0].get_ydata()[:3], [0.5, 2.5, 4.5])
    assert len(panel_of(*[3] * 20).plot().axes[0].lines) == MAX_ITEMS


@pytest.mark.parametrize("clock", ["utc", "relative"])
def test_a_notebook_shows_the_picture(clock: str) -> None:
    assert panel_of(30, clock=clock).plot()._repr_png_().startswith(b"\x89PNG")


def test_a_forecast_continues_the_last_rows_of_its_history() -> None:
    panel = panel_of(100, 20)
    figure = forecast_after(panel).plot(panel)
    assert len(figure.axes) == 4
    past, ahead = figure.axes[0].lines
    np.testing.assert_array_equal(past.get_ydata(), np.arange(52, 100))
    np.testing.assert_array_equal(ahead.get_ydata(), [99, 7, 7, 7])
    steps = np.diff(np.concatenate((past.get_xdata(), ahead.get_xdata()[1:])))
    np.testing.assert_allclose(steps, MINUTE / 86_400_000_000, atol=1e-9)
    (band,) = figure.axes[0].collections
    corners = band.get_paths()[0].vertices[:, 1]
    assert {5, 9, 99} == set(corners)


@pytest.mark.parametrize("horizon", [1, 30])
def test_a_forecast_is_drawn_without_a_history(horizon: int) -> None:
    figure = forecast_after(panel_of(5), horizon).plot()
    _, ahead = figure.axes[0].lines
    assert len(ahead.get_ydata()) == horizon + 1
    assert figure.axes[0].get_ylim()[0] == 0
    (band,) = figure.axes[0].collections
    assert np.ptp(band.get_paths()[0].vertices[:, 0]) > 0  # an interval of a single row can be seen too


def test_the_ticks_of_a_relative_clock_span_all_items() -> None:
    panel = panel_of(600, 60, clock="relative")
    ticks = forecast_after(panel).plot(panel).axes[-1].get_xticklabels()
    assert [ticks[0].get_text(), ticks[-1].get_text()] == ["day 1, 02:00", "day 1, 10:00"]


def test_a_picture_looks_the_same_whatever_the_settings_of_the_user() -> None:
    usual = panel_of(30).plot()._repr_png_()
    with matplotlib.style.context("ggplot"):
        assert panel_of(30).plot()._repr_png_() == usual


def test_a_value_that_is_missing_at_the_origin_is_no_anchor() -> None:
    panel = panel_of(30)
    values = panel.values.copy()
    values[-2:, 0] = np.nan
    past, ahead = forecast_after(panel).plot(panel.replace(values=values)).axes[0].lines
    assert past.get_ydata()[-1] == ahead.get_ydata()[0] == 27


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "presurge.series.plots")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith(("matplotlib.", "presurge.series.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingDependencyError, match=r"presurge\[plots\]"):
        panel_of(3).plot()
