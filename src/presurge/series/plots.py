"""The pictures of a panel and of a forecast.

Shapes: R rows, I items, H horizon, C channels, Q quantiles.
"""

from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from presurge.series import plots_style as style
from presurge.series.frequency import DAY, format_step
from presurge.series.panel import FloatArray, IntArray, Panel
from presurge.series.plots_style import FORECAST, INK, WIDE, Layout

if TYPE_CHECKING:
    from presurge.series.forecast import Forecast

MAX_PANELS = 6
MAX_ITEMS = 7
"""More lines could not be told apart."""
_LEAST_HISTORY = 48
_FEW_ROWS = 24


def drawn(draw: Callable[[], Figure]) -> Figure:
    """A picture for a notebook or a file, in the wide style of the report."""
    with style.styled(WIDE):
        return style.finish(draw(), WIDE)


def panel_figure(panel: Panel, layout: Layout = WIDE) -> Figure:
    """The first channels over time, a panel each; the first items, a line each.

    Where there are more rows than the layout can show, each point is the mean of several rows, in an envelope from the
    least to the largest of them.
    """
    channels = panel.channels[:MAX_PANELS]
    figure, grid = style.panels(layout, len(channels), 190, stacked=True)
    x_R = style.time_axis(grid[-1], panel.times(), panel.clock, layout)
    lengths, one = np.diff(panel.indptr), len(panel.items) == 1
    shown = np.flatnonzero(lengths)[:MAX_ITEMS].tolist()
    size = -(-int(lengths.max(initial=1)) // layout.points)
    note = f", mean of {size} rows ({format_step(size * panel.step)})" if size > 1 else ""
    for c, (channel, axes) in enumerate(zip(channels, grid, strict=True)):
        for index, item in enumerate(shown):
            rows = panel.rows_of(item)
            color = INK if one else style.series_look(index, len(panel))[0]
            style.draw_rows(axes, x_R[rows][::size], panel.values[rows, c], size, color, 0.16)
            if not one:
                axes.lines[-1].set_label(panel.items[item])
        style.channel_axes(axes, channel, style.channel_title(channel) + note)
    return figure


def forecast_figure(forecast: "Forecast", history: Panel | None = None, layout: Layout = WIDE) -> Figure:
    """Mean and intervals of the first items and channels, a panel each, behind the last rows of a history."""
    channels = range(len(forecast.channels))
    pairs = list(product(range(len(forecast.items)), channels))[:MAX_PANELS]
    figure, grid = style.panels(layout, len(pairs), 200 if len(pairs) > 1 else 260, stacked=True)
    pasts = [_past(history, forecast, i, c) for i, c in pairs]
    shown = [forecast.times()[i] for i, _ in pairs] + [past_us for past_us, _ in pasts]
    style.time_axis(grid[-1], np.concatenate(shown), forecast.clock, layout)
    few: dict[str, Any] = {"marker": "o", "ms": 4, "markevery": slice(1, None)}
    marks = few if forecast.mean.shape[1] <= _FEW_ROWS else {}
    for (i, c), (past_us, past_R), axes in zip(pairs, pasts, grid, strict=True):
        ahead_us = forecast.times()[i]
        values_HK = np.column_stack((forecast.mean[i, :, c], forecast.quantiles[i, :, :, c]))
        # An interval of one row needs a second point to be seen: what was last known, or half a step of its own.
        start_us, start_K = ahead_us[0] - forecast.step // 2, values_HK[0]
        if len(past_R):
            start_us, start_K = past_us[-1], np.full_like(start_K, past_R[-1])
        x, values_HK = np.append(start_us, ahead_us) / DAY, np.vstack((start_K, values_HK))
        axes.plot(past_us / DAY, past_R, color=INK, lw=1.1, label="actual" if len(past_R) else "")
        style.draw_intervals(axes, x, values_HK[:, 1:], forecast.levels)
        axes.plot(x, values_HK[:, 0], color=FORECAST, label="forecast (mean)", **marks)
        item = f"{forecast.items[i]}: " if len(forecast.items) > 1 else ""
        channel = forecast.channels[c]
        style.channel_axes(axes, channel, item + style.channel_title(channel))
    return figure


def _past(history: Panel | None, forecast: "Forecast", i: int, c: int) -> tuple[IntArray, FloatArray]:
    """Times and values of the last known rows of an item, up to the origin; the last one is known."""
    name = forecast.channels[c].name
    if history is None or forecast.items[i] not in history.items or name not in history.channel_names:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    rows = history.rows_of(history.items.index(forecast.items[i]))
    values_R = history.values[rows, history.channel_names.index(name)]
    times_us = history.times_of(np.arange(rows.start, rows.stop))
    known = np.flatnonzero(~np.isnan(values_R) & (times_us <= forecast.origin[i]))
    end = int(known[-1]) + 1 if len(known) else 0
    begin = max(0, end - max(_LEAST_HISTORY, 4 * forecast.mean.shape[1]))
    return times_us[begin:end], values_R[begin:end]
