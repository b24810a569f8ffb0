"""Pictures of errors: by horizon step, by hour of the day, one step ahead, and of the intervals.

Shapes: H horizon, C channels, T hours of the day, N rows.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from presurge.evaluation.metrics import INTERVALS, Float64Array, Scores
from presurge.evaluation.plots_forecast import channel_title, reduce_rows
from presurge.evaluation.plots_style import (
    FORECAST,
    INK,
    MARKERS,
    MUTED,
    OTHERS,
    WIDE,
    Layout,
    legend_above,
    new_figure,
    number_axis,
    percent_axis,
    styled,
    time_axis,
    time_values,
)
from presurge.evaluation.result import Evaluation
from presurge.evaluation.walk import HourlyError, RollingForecast
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND
from presurge.series.panel import Channel, Clock

MAX_LAG = 40
_HISTOGRAM_BINS = 41


def horizon_figure(
    evaluation: Evaluation, model: str, columns: Sequence[int], layout: Layout = WIDE
) -> Figure:
    """WAPE (MAE where it is undefined) of every model at each horizon step, a panel a channel."""
    x, label = lead_times(evaluation.step, evaluation.horizon)
    others = [name for name in evaluation.models if name != model]
    with styled(layout):
        figure, panels = _panels(len(columns), layout, 210)
        for c, axes in zip(columns, panels, strict=False):
            wape = not np.isnan(evaluation.scores[model]["wape"][:, c]).any()
            metric = "wape" if wape else "mae"
            for index, name in enumerate(others):
                colour, marker = OTHERS[index % len(OTHERS)], MARKERS[index % len(MARKERS)]
                values = evaluation.scores[name][metric][:, c]
                axes.plot(
                    x, values, color=colour, marker=_marker(marker, x), ms=5, lw=1.2, ls="--", label=name
                )
            values = evaluation.scores[model][metric][:, c]
            axes.plot(x, values, color=FORECAST, marker=_marker("o", x), ms=6, lw=2.4, label=model)
            axes.set_title(f"{evaluation.channels[c].name}: {metric.upper()}")
            axes.set_xlabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=len(x) <= 6, min_n_ticks=1))
            if not wape:
                number_axis(axes)
        legend_above(figure, panels[0], layout)
    return figure


def hour_figure(
    hourly: HourlyError,
    channels: Sequence[Channel],
    columns: Sequence[int],
    clock: Clock,
    layout: Layout = WIDE,
) -> Figure:
    """Mean absolute error beside the mean load, by hour of the day, a panel a channel."""
    hours = np.arange(24)
    with styled(layout):
        figure, panels = _panels(len(columns), layout, 200)
        for c, axes in zip(columns, panels, strict=False):
            load = hourly.load_TC[:, c]
            axes.step(hours, load, where="mid", color=INK, lw=1.2, label="mean load")
            axes.bar(
                hours,
                hourly.mae_TC[:, c],
                width=0.75,
                color=FORECAST,
                alpha=0.85,
                label="mean absolute error",
            )
            axes.set_title(channel_title(channels[c]))
            axes.set_xlabel(
                "hour of the day (UTC)" if clock == "utc" else "hour of the trace’s clock, modulo 24"
            )
            axes.set_xticks(range(0, 24, 4 if layout is WIDE else 3))
            axes.set_xlim(-0.7, 23.7)
            number_axis(axes)
        legend_above(figure, panels[0], layout)
    return figure


def residual_figure(
    one_step: RollingForecast, channels: Sequence[Channel], clock: Clock, layout: Layout = WIDE
) -> Figure:
    """Errors one step ahead (forecast minus actual), for each channel: over time, their distribution, their memory."""
    with styled(layout):
        figure = new_figure(layout, len(channels) * (185 if layout is WIDE else 320) + 10)
        stacked = figure.subfigures(len(channels), 1, squeeze=False)[:, 0]
        for c, (channel, inner) in enumerate(zip(channels, stacked, strict=True)):
            mosaic = (
                [["time", "time", "shape", "memory"]]
                if layout is WIDE
                else [["time", "time"], ["shape", "memory"]]
            )
            axes = inner.subplot_mosaic(mosaic)
            error = one_step.mean_NC[:, c].astype(np.float64) - one_step.actual_NC[:, c]
            _draw_error_over_time(axes["time"], one_step.times_us, error, clock, layout)
            _draw_distribution(axes["shape"], error)
            _draw_autocorrelation(axes["memory"], error)
            axes["time"].set_title(f"{channel.name}: forecast − actual")
    return figure


def coverage_figure(
    evaluation: Evaluation, model: str, columns: Sequence[int], layout: Layout = WIDE
) -> Figure:
    """Measured against nominal coverage of the intervals, for each channel; and at each horizon step."""
    scores = evaluation.scores[model]
    x, label = lead_times(evaluation.step, evaluation.horizon)
    with styled(layout):
        rows, cols = (1, 2) if layout is WIDE else (2, 1)
        figure = new_figure(layout, 270 if layout is WIDE else 470)
        left, right = figure.subplots(rows, cols).reshape(-1)
        for position, percent in enumerate(INTERVALS):
            left.hlines(percent / 100, position - 0.42, position + 0.42, color=MUTED, lw=1.4, ls=":")
        for place, c in enumerate(columns):
            offset = 0.6 * ((place + 0.5) / len(columns) - 0.5)
            measured = [scores[f"coverage_{percent}"][:, c].mean() for percent in INTERVALS]
            colour, marker = (FORECAST, *OTHERS)[place % 7], ("o", *MARKERS)[place % 7]
            at = np.arange(len(INTERVALS)) + offset
            left.plot(at, measured, marker, color=colour, ms=7, label=evaluation.channels[c].name)
            right.plot(x, scores["coverage_80"][:, c], color=colour, marker=_marker(marker, x), ms=5)
        left.set_xticks(range(len(INTERVALS)), [f"{percent} % interval" for percent in INTERVALS])
        left.set_title("measured (marks), nominal (dotted)")
        left.set_ylim(_floor(0.3, scores, columns), 1.03)
        right.axhline(0.8, color=MUTED, lw=1.4, ls=":")
        right.axhspan(0.75, 0.85, color=MUTED, alpha=0.12, lw=0)
        right.set_ylim(_floor(0.5, scores, columns), 1.03)
        right.set_title("80 % interval by horizon step")
        right.set_xlabel(label)
        right.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=len(x) <= 6, min_n_ticks=1))
        for axes in (left, right):
            percent_axis(axes)
        legend_above(figure, left, layout)
    return figure


def _floor(usual: float, scores: Scores, columns: Sequence[int]) -> float:
    """The lower end of an axis of coverages: as usual, or below the least of them."""
    shown = [scores[f"coverage_{percent}"][:, list(columns)] for percent in INTERVALS]
    least = min((values[~np.isnan(values)].min(initial=1) for values in shown), default=1)
    return min(usual, max(0.0, float(least) - 0.05) - 0.02)


def lead_times(step: int, horizon: int) -> tuple[Float64Array, str]:
    """How far ahead each horizon step is, in a unit that suits the whole horizon, and the label of that axis."""
    units = ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes"), (SECOND, "seconds"))
    size, name = next(unit for unit in units if step % unit[0] == 0)
    return np.arange(1, horizon + 1, dtype=np.float64) * (step / size), f"{name} ahead"


def autocorrelation(values: npt.NDArray[np.float64], lags: int) -> Float64Array:
    """Autocorrelation at the lags 1 ... ``lags``; pairs with a missing value are left out."""
    known = ~np.isnan(values)
    centred = np.where(known, values - values[known].mean(), 0) if known.any() else np.zeros_like(values)
    variance = np.square(centred).sum() / max(known.sum(), 1)
    result = np.zeros(lags)
    for lag in range(1, min(lags, len(values) - 1) + 1):
        pairs = (known[lag:] & known[:-lag]).sum()
        if variance > 0 and pairs:
            result[lag - 1] = (centred[lag:] @ centred[:-lag]) / pairs / variance
    return result


def _marker(marker: str, x: Float64Array) -> str:
    return marker if len(x) <= 24 else ""


def _panels(count: int, layout: Layout, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, in as many columns as the layout has."""
    columns = min(count, layout.columns)
    rows = -(-count // columns)
    figure = new_figure(layout, rows * height + 60)
    panels = list(figure.subplots(rows, columns, squeeze=False).reshape(-1))
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def _draw_error_over_time(
    axes: Axes, times_us: npt.NDArray[np.int64], error: Float64Array, clock: Clock, layout: Layout
) -> None:
    size = -(-len(error) // (layout.points // 2))
    x, label = time_values(times_us[::size], clock, int(times_us[-1] - times_us[0]))
    values = error.astype(np.float32)
    if size > 1:
        low, high = (reduce_rows(values, size, how) for how in ("min", "max"))
        axes.fill_between(x, low, high, color=FORECAST, alpha=0.3, linewidth=0)
    axes.plot(x, reduce_rows(values, size, "mean"), color=FORECAST, lw=1.2)
    axes.axhline(0, color=INK, lw=0.8)
    number_axis(axes)
    time_axis(axes, label, clock, layout)


def _draw_distribution(axes: Axes, error: Float64Array) -> None:
    """A histogram from the 0.5 % to the 99.5 % quantile; what lies beyond is counted in the outer bars."""
    known = error[~np.isnan(error)]
    if len(known):
        low, high = np.quantile(known, [0.005, 0.995])
        edge = max(abs(low), abs(high)) or 1.0
        axes.hist(
            np.clip(known, -edge, edge), bins=_HISTOGRAM_BINS, range=(-edge, edge), color=FORECAST, alpha=0.85
        )
        axes.axvline(0, color=INK, lw=0.8)
    axes.set_title("distribution")
    axes.set_xlabel("error")
    number_axis(axes)
    number_axis(axes, horizontal=True)


def _draw_autocorrelation(axes: Axes, error: Float64Array) -> None:
    values = autocorrelation(error, MAX_LAG)
    lags = np.arange(1, MAX_LAG + 1)
    axes.vlines(lags, 0, values, color=FORECAST, lw=2)
    noise = 1.96 / np.sqrt(max(1, int((~np.isnan(error)).sum())))
    axes.axhspan(-noise, noise, color=MUTED, alpha=0.2, lw=0)
    axes.axhline(0, color=INK, lw=0.8)
    least = min(-0.2, float(values.min()) - 0.05)
    axes.set_ylim(least, max(0.5, float(values.max()) + 0.05))
    axes.set_title("autocorrelation")
    axes.set_xlabel("lag in steps")
