"""The pictures of a training run: forecasts against what came, their errors and intervals, and the training.

Each figure is drawn for a wide page, for a phone and as PNG.

Shapes: N rows, H horizon, C channels, Q quantiles, T hours of the day.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite, isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.metrics import INTERVALS, Float64Array
from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.report.tables import leading
from presurge.evaluation.walk import HourlyError, RollingForecast, error_by_hour, rolling_forecast
from presurge.progress import Progress
from presurge.series import plots_style as style
from presurge.series.frequency import DAY, HOUR, format_step
from presurge.series.plots_style import FORECAST, INK, MUTED, NARROW, WIDE, Layout, reduce_rows

MAX_CHANNELS = 6
"""Further channels are in the tables only."""
MAX_RIVALS = 4
"""Models drawn beside the one of the report."""
MAX_LAG = 40
_WIDE_RANGE = 8.0
"""The largest loss over the least, from which on only a log scale shows both ends."""


class Picture(NamedTuple):
    """One picture: what its caption adds to that of the page, ``<svg>`` elements for wide and narrow pages, and a PNG."""

    name: str
    title: str
    note: str
    wide: str
    narrow: str
    png: bytes


def pictures(summary: RunSummary, progress: Progress | None = None) -> list[Picture]:
    """Draw every picture of a run."""
    drawings = list(_drawings(summary))
    found: list[Picture] = []
    for name, title, draw, note in drawings:
        with style.styled(WIDE):
            figure = style.finish(draw(WIDE), WIDE)
            wide, png = style.to_svg(figure, f"{name}-wide", title), style.to_png(figure)
        with style.styled(NARROW):
            narrow = style.to_svg(style.finish(draw(NARROW), NARROW), f"{name}-narrow", title)
        found.append(Picture(name, title, note, wide, narrow, png))
        if progress is not None:
            progress("Drawing the report", len(found) / len(drawings))
    return found


def _drawings(summary: RunSummary) -> Iterator[tuple[str, str, Callable[[Layout], Figure], str]]:
    """Name, title, function and caption of each picture."""
    model, data, evaluation = summary.model, summary.dataset, summary.evaluation
    panel, history = data.panel, summary.fitted.report.history
    item = int((data.test.last - data.test.first).argmax())
    blocks = rolling_forecast(model, panel, data.test, item=item)
    size, channels, most = rows_a_point(blocks, WIDE), len(blocks.channels), MAX_CHANNELS
    notes = [
        f"Item {panel.items[item]}." if len(panel.items) > 1 else "",
        f"Each point is the mean of {size} rows ({format_step(size * panel.step)})." if size > 1 else "",
        f"The first {most} of {channels} channels." if channels > most else "",
    ]
    draw = partial(forecast_figure, blocks)
    yield "forecast", "Forecast against actual", draw, " ".join(filter(None, notes))
    if len(blocks.times_us) > WIDE.zoom:  # else it would show the same rows again
        title = f"Around the largest burst of {blocks.channels[0].name}"
        yield "burst", title, partial(burst_figure, blocks), ""
    if model.horizon > 1:
        beside = (
            f"The best {MAX_RIVALS} of the other models." if len(evaluation.models) > MAX_RIVALS + 1 else ""
        )
        yield "horizon", "Error by horizon step", partial(horizon_figure, evaluation, model.name), beside
    if panel.step <= HOUR and evaluation.last_us - evaluation.first_us >= DAY:
        hourly = error_by_hour(model, panel, data.test, stride=evaluation.stride)
        yield "hours", "Error by hour of the day", partial(hour_figure, hourly, evaluation), ""
    one_step = rolling_forecast(model, panel, data.test, item=item, lead=1)
    yield "residuals", "Errors one step ahead", partial(residual_figure, one_step), ""
    if model.calibration is not None:
        draw = partial(coverage_figure, evaluation, model.name)
        yield "coverage", "Coverage of the intervals", draw, ""
    if history:
        best = best_epoch(history, summary.fitted.report.chosen.get("epoch"))
        yield "learning_curve", "Learning curve", partial(learning_figure, history, best), ""


def forecast_figure(rolling: RollingForecast, layout: Layout = WIDE) -> Figure:
    """Forecast against actual over all rows, a panel per channel.

    Where there are more rows than the layout can show, each point is the mean of several rows, and a grey envelope runs
    from the least to the largest actual value of these rows.
    """
    size, channels = rows_a_point(rolling, layout), rolling.channels[:MAX_CHANNELS]
    height = 190 if layout is WIDE else 165
    figure, grid = style.panels(layout, len(channels), height, stacked=True)
    x = style.time_axis(grid[-1], rolling.times_us, rolling.clock, layout)[::size]
    for c, (channel, axes) in enumerate(zip(channels, grid, strict=True)):
        style.draw_intervals(axes, x, rolling.quantiles_NQC[:, :, c], rolling.levels, size)
        style.draw_rows(axes, x, rolling.actual_NC[:, c], size, INK, 0.16, "actual")
        mean = reduce_rows(rolling.mean_NC[:, c], size, "mean")
        axes.plot(x, mean, color=FORECAST, label="forecast")
        style.channel_axes(axes, channel, style.channel_title(channel))
    return figure


def burst_figure(rolling: RollingForecast, layout: Layout = WIDE) -> Figure:
    """Forecast against actual row by row, with the largest burst of the first channel a little behind the middle."""
    begin = min(largest_burst(rolling) - int(0.55 * layout.zoom), len(rolling.times_us) - layout.zoom)
    rows = slice(max(0, begin), max(0, begin) + layout.zoom)
    names = ("times_us", "actual_NC", "mean_NC", "quantiles_NQC")
    return forecast_figure(replace(rolling, **{name: getattr(rolling, name)[rows] for name in names}), layout)


def rows_a_point(rolling: RollingForecast, layout: Layout) -> int:
    """How many rows one point of the overview stands for."""
    return -(-len(rolling.times_us) // layout.points)


def largest_burst(rolling: RollingForecast) -> int:
    """The row at which the first channel is highest (the first row, if nothing was observed)."""
    first = rolling.actual_NC[:, 0]
    return int(np.nanargmax(first)) if (~np.isnan(first)).any() else 0


def horizon_figure(evaluation: Evaluation, model: str, layout: Layout = WIDE) -> Figure:
    """Error of a model and the best of the others at each horizon step, a panel per channel.

    The error is the WQL, or the WAPE (else the MAE) where the model has no quantiles.
    """
    channels = evaluation.channels[:MAX_CHANNELS]
    figure, grid = style.panels(layout, len(channels), 210)
    looks: dict[str, int] = {model: 0}
    for c, (channel, axes) in enumerate(zip(channels, grid, strict=True)):
        x = style.step_axis(axes, evaluation.step, evaluation.horizon)
        values = evaluation.averages()[channel.name]
        metric = leading([values[model]])
        others = [name for name in values if name != model and not isnan(values[name][metric])]
        best = sorted(others, key=lambda name: values[name][metric])[:MAX_RIVALS]
        for name in [*best, model]:
            look = looks.setdefault(name, len(looks))
            style.draw_series(axes, look, x, evaluation.scores[name][metric][:, c], name)
        axes.set_title(f"{channel.name}: {metric.upper()}")
        if metric == "mae":
            style.number_axis(axes)
    return figure


def hour_figure(hourly: HourlyError, evaluation: Evaluation, layout: Layout = WIDE) -> Figure:
    """Mean absolute error beside the mean load, by hour of the day, a panel per channel."""
    channels, hours, error = evaluation.channels[:MAX_CHANNELS], np.arange(24), "mean absolute error"
    label = "hour of the day (UTC)" if evaluation.clock == "utc" else "hour of the trace’s clock, modulo 24"
    figure, grid = style.panels(layout, len(channels), 200)
    for c, (channel, axes) in enumerate(zip(channels, grid, strict=True)):
        axes.step(hours, hourly.load_TC[:, c], where="mid", color=INK, lw=1.2, label="mean load")
        axes.bar(hours, hourly.mae_TC[:, c], width=0.75, color=FORECAST, alpha=0.85, label=error)
        axes.set_title(style.channel_title(channel))
        axes.set(xlabel=label, xticks=range(0, 24, 4 if layout is WIDE else 3), xlim=(-0.7, 23.7))
        style.number_axis(axes)
    return figure


def residual_figure(one_step: RollingForecast, layout: Layout = WIDE) -> Figure:
    """Errors one step ahead (forecast − actual) of each channel: over time, their distribution, their autocorrelation."""
    wide, channels = layout is WIDE, one_step.channels[:MAX_CHANNELS]
    mosaic = [["time", "time", "shape", "memory"]] if wide else [["time", "time"], ["shape", "memory"]]
    size = -(-len(one_step.times_us) // (layout.points // 2))
    figure = style.new_figure(layout, len(channels) * (185 if wide else 320) + 10)
    stacked = figure.subfigures(len(channels), 1, squeeze=False)[:, 0]
    for c, (channel, inner) in enumerate(zip(channels, stacked, strict=True)):
        axes = inner.subplot_mosaic(mosaic)
        error = one_step.mean_NC[:, c].astype(np.float64) - one_step.actual_NC[:, c]
        over = axes["time"]
        x = style.time_axis(over, one_step.times_us, one_step.clock, layout)
        style.draw_rows(over, x[::size], error.astype(np.float32), size, FORECAST, 0.3)
        over.axhline(0, color=INK, lw=0.8)
        over.set_title(f"{channel.name}: forecast − actual")
        style.number_axis(over)
        _draw_distribution(axes["shape"], error)
        _draw_autocorrelation(axes["memory"], error)
    return figure


def coverage_figure(evaluation: Evaluation, model: str, layout: Layout = WIDE) -> Figure:
    """Measured against nominal coverage of the intervals of each channel; and of the 80 % interval at each horizon step."""
    scores, channels = evaluation.scores[model], evaluation.channels[:MAX_CHANNELS]
    shown_IHC = np.stack([scores[f"coverage_{percent}"] for percent in INTERVALS])[:, :, :MAX_CHANNELS]
    least, at = max(-0.02, float(np.nanmin(shown_IHC, initial=1)) - 0.07), np.arange(len(INTERVALS))
    figure, (left, right) = style.panels(layout, 2, 210)
    x = style.step_axis(right, evaluation.step, evaluation.horizon)
    for position, percent in zip(at, INTERVALS, strict=True):
        left.hlines(percent / 100, position - 0.42, position + 0.42, color=MUTED, lw=1.4, ls=":")
    for c, channel in enumerate(channels):
        color, marker = style.series_look(c, len(x))
        place = at + 0.6 * ((c + 0.5) / len(channels) - 0.5)
        left.plot(place, shown_IHC[:, :, c].mean(axis=1), marker, color=color, ms=7, label=channel.name)
        right.plot(x, shown_IHC[1, :, c], color=color, marker=marker, ms=5)
    left.set_xticks(at, [f"{percent} % interval" for percent in INTERVALS])
    left.set_title("measured (marks), nominal (dotted)")
    right.axhline(0.8, color=MUTED, lw=1.4, ls=":")
    right.axhspan(0.75, 0.85, color=MUTED, alpha=0.12, lw=0)
    right.set_title("80 % interval by horizon step")
    for axes, usual in ((left, 0.3), (right, 0.5)):
        axes.set_ylim(min(usual, least), 1.03)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    return figure


def learning_figure(history: Sequence[dict[str, float]], best: int, layout: Layout = WIDE) -> Figure:
    """Training and validation loss by epoch.

    Args:
        history: One dictionary per epoch, with ``train_loss`` and perhaps ``validation_loss``.
        best: The epoch, from 1, to be marked.
        layout: The space there is.
    """
    curves = {"training": [row["train_loss"] for row in history]}
    if all("validation_loss" in row for row in history):
        curves["validation"] = [row["validation_loss"] for row in history]
    figure, (axes,) = style.panels(layout, 1, 240 if layout is WIDE else 220)
    for label, losses in curves.items():
        index = 0 if label == "validation" else 1
        style.draw_series(axes, index, np.arange(1, len(losses) + 1), losses, label)
    loss = losses[best - 1]
    axes.axvline(best, color=MUTED, lw=1.2, ls=":")
    label = f"best epoch: {best} ({style.short_number(loss)})"
    axes.plot([best], [loss], "o", ms=11, mfc="none", mec=INK, mew=1.6, ls="", label=label)
    logarithmic = _loss_axis(axes, [one for losses in curves.values() for one in losses])
    axes.set_title("loss, on the model’s scale" + (" (logarithmic axis)" if logarithmic else ""))
    axes.set_xlabel("epoch")
    nbins = 10 if layout is WIDE else 5
    axes.xaxis.set_major_locator(MaxNLocator(nbins=nbins, integer=True, min_n_ticks=1))
    axes.margins(x=0.02)
    return figure


def best_epoch(history: Sequence[dict[str, float]], chosen: object = None) -> int:
    """The epoch, from 1, whose weights were kept: the one that the fit chose, or else that of the least loss."""
    if isinstance(chosen, int) and 1 <= chosen <= len(history):
        return chosen
    watched = [row.get("validation_loss", row["train_loss"]) for row in history]
    return watched.index(min(watched)) + 1


def autocorrelation(values: npt.NDArray[np.float64], lags: int) -> Float64Array:
    """Autocorrelation at the lags 1 ... ``lags``, fewer than there are values; pairs with a missing one are left out."""
    known = ~np.isnan(values)
    centred = np.where(known, values - values.sum(where=known) / max(known.sum(), 1), 0)
    products, pairs = (
        np.array([one[lag:] @ one[: len(one) - lag] for lag in range(lags + 1)])
        for one in (centred, known.astype(np.float64))
    )
    found: Float64Array = products / np.maximum(pairs, 1)
    return found[1:] / (found[0] or 1)


def _loss_axis(axes: Axes, losses: Sequence[float]) -> bool:
    """Make the axis logarithmic if the losses are positive and far apart; whether it is."""
    known = [loss for loss in losses if isfinite(loss)]
    least, largest = min(known), max(known)
    if least <= 0 or largest / least <= _WIDE_RANGE:
        style.number_axis(axes)
        return False
    axes.set_yscale("log")
    style.number_axis(axes)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if largest / least < 10**2.5 else (1,)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return True


def _draw_distribution(axes: Axes, error: Float64Array) -> None:
    """A histogram from the 0.5 % to the 99.5 % quantile; what lies beyond is counted in the outer bars."""
    known = error[~np.isnan(error)]
    if len(known):
        edge = float(np.abs(np.quantile(known, [0.005, 0.995])).max()) or 1.0
        inside = np.clip(known, -edge, edge)
        axes.hist(inside, bins=41, range=(-edge, edge), color=FORECAST, alpha=0.85)
        axes.axvline(0, color=INK, lw=0.8)
    axes.set(title="distribution", xlabel="error")
    style.number_axis(axes)
    style.number_axis(axes, horizontal=True)


def _draw_autocorrelation(axes: Axes, error: Float64Array) -> None:
    known = int((~np.isnan(error)).sum())
    lags = min(MAX_LAG, known // 4)  # further on, too few pairs are left (Box and Jenkins)
    values = autocorrelation(error, lags)
    noise = 1.96 / np.sqrt(max(1, known))
    axes.vlines(np.arange(1, lags + 1), 0, values, color=FORECAST, lw=2)
    axes.axhspan(-noise, noise, color=MUTED, alpha=0.2, lw=0)
    axes.axhline(0, color=INK, lw=0.8)
    limits = min(-0.2, values.min(initial=0) - 0.05), max(0.5, values.max(initial=0) + 0.05)
    axes.set(title="autocorrelation", xlabel="lag in steps", ylim=limits)
