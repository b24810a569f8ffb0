"""All pictures of a training run, drawn for a wide page, for a phone and as PNG."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from matplotlib.figure import Figure

from presurge.evaluation.report import plots_figures as figures
from presurge.evaluation.report.plots_style import NARROW, WIDE, Layout, to_png, to_svg
from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.walk import RollingForecast, error_by_hour, rolling_forecast
from presurge.progress import Progress
from presurge.series.frequency import HOUR, format_step

_Drawing = tuple[str, str, str, Callable[[Layout], Figure]]
"""Name, title, caption and drawing function of a picture."""


class Picture(NamedTuple):
    """One picture: two ``<svg>`` elements for wide and narrow pages, and a PNG."""

    name: str
    title: str
    caption: str
    wide: str
    narrow: str
    png: bytes


def pictures(summary: RunSummary, progress: Progress | None = None) -> list[Picture]:
    """Draw every picture of a run."""
    drawings = list(_drawings(summary))
    found: list[Picture] = []
    for name, title, caption, draw in drawings:
        with warnings.catch_warnings():
            # A channel may be named in a script that Matplotlib's font lacks; the page has the reader's fonts.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure = draw(WIDE)
            wide, narrow = (
                to_svg(figure, f"{name}-wide", title),
                to_svg(draw(NARROW), f"{name}-narrow", title),
            )
            found.append(Picture(name, title, caption, wide, narrow, to_png(figure)))
        if progress is not None:
            progress("Drawing the report", len(found) / len(drawings))
    return found


def _drawings(summary: RunSummary) -> Iterator[_Drawing]:
    model, data, evaluation, report = (
        summary.model,
        summary.dataset,
        summary.evaluation,
        summary.fitted.report,
    )
    panel = data.panel
    item = int((data.test.last - data.test.first).argmax())
    blocks, one_step = (rolling_forecast(model, panel, data.test, item=item, lead=lead) for lead in (None, 1))
    caption = _forecast_caption(summary, blocks, item)
    yield "forecast", "Forecast against actual", caption, partial(figures.forecast_figure, blocks)
    yield (
        "burst",
        f"Around the largest burst of {blocks.channels[0].name}",
        "Row by row: the highest value of the test rows, and what was forecast on the way to it. If nothing announces a "
        "burst, every model sees it late; the intervals show how much room to leave.",
        partial(figures.burst_figure, blocks),
    )
    yield (
        "horizon",
        "Error by horizon step",
        "How the error grows with the distance, beside the baselines. Lower is better.",
        partial(figures.horizon_figure, evaluation, model.name),
    )
    if panel.step <= HOUR:
        hourly = error_by_hour(model, panel, data.test, stride=evaluation.stride)
        yield (
            "hours",
            "Error by hour of the day",
            "When the model errs, beside how much load there is at that time.",
            partial(figures.hour_figure, hourly, evaluation),
        )
    yield (
        "residuals",
        "Errors one step ahead",
        "Over time (the mean, in an envelope from least to largest), their distribution (the outer bars hold the 1 % that "
        "lies beyond them), and their autocorrelation: bars outside the grey band are structure that the model does not use.",
        partial(figures.residual_figure, one_step),
    )
    if model.calibration is not None:
        yield (
            "coverage",
            "Coverage of the intervals",
            "How often the actual value fell into the interval (marks). On the dotted line the interval holds what it "
            "promises; above it, it is wider than needed; below it, too narrow. The grey band is 75 to 85 %.",
            partial(figures.coverage_figure, evaluation, model.name),
        )
    if report.history:
        best = figures.best_epoch(report.history, report.chosen.get("epoch"))
        yield (
            "learning_curve",
            "Learning curve",
            "The loss by epoch, on the model’s own scale: for training the mean over the epoch while the weights moved, "
            "for validation the loss at its end. The model has the weights of the marked epoch. If validation rises while "
            "training falls, the model overfits.",
            partial(figures.learning_figure, report.history, best),
        )


def _forecast_caption(summary: RunSummary, blocks: RollingForecast, item: int) -> str:
    panel, size = summary.dataset.panel, figures.rows_a_point(blocks, WIDE)
    text = (
        f"The test rows in blocks of {summary.model.horizon}, each block forecast from the row before it, with the "
        "intervals that hold 50, 80 and 95 %."
    )
    if len(panel.items) > 1:
        text = f"Item {panel.items[item]}. {text}"
    if size > 1:
        text += f" Each point is the mean of {size} rows ({format_step(size * panel.step)})."
    if len(blocks.channels) > figures.MAX_CHANNELS:
        text += f" The first {figures.MAX_CHANNELS} of {len(blocks.channels)} channels."
    return text
