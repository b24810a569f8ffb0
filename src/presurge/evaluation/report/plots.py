"""All pictures of a training run, drawn for a wide page, for a phone and as PNG."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from matplotlib.figure import Figure

from presurge.evaluation.report import plots_figures as figures
from presurge.evaluation.report.plots_style import NARROW, WIDE, Layout, finish, styled, to_png, to_svg
from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.walk import error_by_hour, rolling_forecast
from presurge.progress import Progress
from presurge.series.frequency import HOUR, format_step


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
        with warnings.catch_warnings():
            # A channel may be named in a script that Matplotlib's font lacks; the page has the reader's fonts.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            with styled(WIDE):
                figure = finish(draw(WIDE), WIDE)
                wide, png = to_svg(figure, f"{name}-wide", title), to_png(figure)
            with styled(NARROW):
                narrow = to_svg(finish(draw(NARROW), NARROW), f"{name}-narrow", title)
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
    size, channels, most = figures.rows_a_point(blocks, WIDE), len(blocks.channels), figures.MAX_CHANNELS
    notes = [
        f"Item {panel.items[item]}." if len(panel.items) > 1 else "",
        f"Each point is the mean of {size} rows ({format_step(size * panel.step)})." if size > 1 else "",
        f"The first {most} of {channels} channels." if channels > most else "",
    ]
    draw = partial(figures.forecast_figure, blocks)
    yield "forecast", "Forecast against actual", draw, " ".join(filter(None, notes))
    title = f"Around the largest burst of {blocks.channels[0].name}"
    yield "burst", title, partial(figures.burst_figure, blocks), ""
    draw = partial(figures.horizon_figure, evaluation, model.name)
    yield "horizon", "Error by horizon step", draw, ""
    if panel.step <= HOUR:
        hourly = error_by_hour(model, panel, data.test, stride=evaluation.stride)
        yield "hours", "Error by hour of the day", partial(figures.hour_figure, hourly, evaluation), ""
    one_step = rolling_forecast(model, panel, data.test, item=item, lead=1)
    yield "residuals", "Errors one step ahead", partial(figures.residual_figure, one_step), ""
    if model.calibration is not None:
        draw = partial(figures.coverage_figure, evaluation, model.name)
        yield "coverage", "Coverage of the intervals", draw, ""
    if history:
        best = figures.best_epoch(history, summary.fitted.report.chosen.get("epoch"))
        yield "learning_curve", "Learning curve", partial(figures.learning_figure, history, best), ""
