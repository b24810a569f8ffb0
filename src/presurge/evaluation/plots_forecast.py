"""Pictures of forecasts against what came: over a whole span, and around its largest burst.

Shapes: N rows, C channels, Q quantiles.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from presurge.evaluation.metrics import INTERVALS, interval_bounds
from presurge.evaluation.plots_style import (
    FORECAST,
    INK,
    WIDE,
    Layout,
    legend_above,
    new_figure,
    number_axis,
    styled,
    time_axis,
    time_values,
)
from presurge.evaluation.walk import RollingForecast
from presurge.series.panel import Channel, Clock, FloatArray

_SHADES = {95: 0.14, 80: 0.18, 50: 0.26}
"""Opacity of each interval, drawn over the wider ones."""


def forecast_figure(
    rolling: RollingForecast, channels: Sequence[Channel], clock: Clock, layout: Layout = WIDE
) -> Figure:
    """Forecast against actual over all rows, a panel a channel.

    Where the rows outnumber what the layout can show, each point is the mean of several rows, and a grey envelope runs
    from the least to the largest actual value of these rows.
    """
    return _figure(rolling, channels, clock, layout, rows_a_point(rolling, layout))


def burst_figure(
    rolling: RollingForecast, channels: Sequence[Channel], clock: Clock, layout: Layout = WIDE
) -> Figure:
    """Forecast against actual around the largest burst of the first channel, row by row."""
    return _figure(_around(rolling, largest_burst(rolling), layout.zoom), channels, clock, layout, 1)


def rows_a_point(rolling: RollingForecast, layout: Layout) -> int:
    """How many rows one point of the overview stands for."""
    return -(-len(rolling.times_us) // layout.points)


def largest_burst(rolling: RollingForecast) -> int:
    """The row at which the first channel is highest (the first row, where nothing was observed)."""
    first = rolling.actual_NC[:, 0]
    return int(np.nanargmax(first)) if (~np.isnan(first)).any() else 0


def reduce_rows(values: FloatArray, size: int, how: str) -> FloatArray:
    """Reduce every ``size`` rows of [N, ...] to one: their ``mean``, ``min`` or ``max``, NaN left out."""
    if size == 1:
        return values
    n = -(-len(values) // size)
    padded = np.full((n * size, *values.shape[1:]), np.nan, np.float32)
    padded[: len(values)] = values
    groups = padded.reshape(n, size, *values.shape[1:])
    known = ~np.isnan(groups)
    if how == "mean":
        total = np.where(known, groups, 0).sum(axis=1, dtype=np.float64)
        count = known.sum(axis=1)
        result: FloatArray = np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)
        return result
    worst, pick = (np.inf, np.min) if how == "min" else (-np.inf, np.max)
    extreme = pick(np.where(known, groups, np.float32(worst)), axis=1)
    return np.where(known.any(axis=1), extreme, np.float32(np.nan))


def _around(rolling: RollingForecast, row: int, width: int) -> RollingForecast:
    """``width`` rows with ``row`` a little behind their middle, so that the way up is seen."""
    begin = max(0, min(row - int(0.55 * width), len(rolling.times_us) - width))
    part = slice(begin, begin + width)
    return RollingForecast(
        times_us=rolling.times_us[part],
        actual_NC=rolling.actual_NC[part],
        mean_NC=rolling.mean_NC[part],
        quantiles_NQC=rolling.quantiles_NQC[part],
        levels=rolling.levels,
        lead=rolling.lead,
    )


def _figure(
    rolling: RollingForecast, channels: Sequence[Channel], clock: Clock, layout: Layout, size: int
) -> Figure:
    times_us = rolling.times_us[::size]
    span = int(rolling.times_us[-1] - rolling.times_us[0])
    x, label = time_values(times_us, clock, span)
    with styled(layout):
        figure = new_figure(layout, len(channels) * (190 if layout is WIDE else 165) + 50)
        grid = figure.subplots(len(channels), 1, sharex=True, squeeze=False)[:, 0]
        for c, (channel, axes) in enumerate(zip(channels, grid, strict=True)):
            _draw_bands(axes, x, rolling, c, size)
            if size > 1:
                low, high = (reduce_rows(rolling.actual_NC[:, c], size, how) for how in ("min", "max"))
                axes.fill_between(
                    x, low, high, color=INK, alpha=0.16, linewidth=0, label="actual, least to largest"
                )
            actual = reduce_rows(rolling.actual_NC[:, c], size, "mean")
            mean = reduce_rows(rolling.mean_NC[:, c], size, "mean")
            axes.plot(x, actual, color=INK, linewidth=1.1, label="actual")
            axes.plot(x, mean, color=FORECAST, linewidth=1.6, label="forecast")
            axes.set_title(channel_title(channel))
            number_axis(axes)
            if channel.kind == "count":
                axes.set_ylim(bottom=0)
        time_axis(grid[-1], label, clock, layout)
        legend_above(figure, grid[0], layout)
    return figure


def _draw_bands(
    axes: Axes, x: np.ndarray[tuple[int], np.dtype[np.float64]], rolling: RollingForecast, c: int, size: int
) -> None:
    seen_through = 1.0
    for percent in reversed(INTERVALS):
        bounds = interval_bounds(percent, rolling.levels)
        if bounds is None:
            continue
        low, high = (reduce_rows(rolling.quantiles_NQC[:, k, c], size, "mean") for k in bounds)
        axes.fill_between(x, low, high, color=FORECAST, alpha=_SHADES[percent], linewidth=0)
        # The legend shows what the eye sees, which is this shade on top of the wider intervals'.
        seen_through *= 1 - _SHADES[percent]
        axes.fill([], [], color=FORECAST, alpha=1 - seen_through, linewidth=0, label=f"{percent} % interval")


def channel_title(channel: Channel) -> str:
    """Name of a channel and its unit."""
    return f"{channel.name} ({channel.unit})" if channel.unit else channel.name
