"""All pictures of a training run, drawn for a wide page, a phone and as PNG."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from presurge.evaluation.plots_errors import coverage_figure, horizon_figure, hour_figure, residual_figure
from presurge.evaluation.plots_forecast import burst_figure, forecast_figure, rows_a_point
from presurge.evaluation.plots_style import NARROW, WIDE, Layout, to_png, to_svg
from presurge.evaluation.plots_training import best_epoch, learning_figure
from presurge.evaluation.summary import RunSummary
from presurge.evaluation.walk import RollingForecast, error_by_hour, rolling_forecast
from presurge.progress import Progress
from presurge.series.frequency import HOUR, format_step

MAX_CHANNELS = 6
"""More channels than these are in the tables only."""
_Drawing = tuple[str, str, str, Callable[[Layout], Figure]]
"""Name, title, caption and drawing function of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
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
    found = []
    for index, (name, title, caption, draw) in enumerate(drawings):
        found.append(_render(name, title, caption, draw))
        if progress is not None:
            progress("Drawing the report", (index + 1) / len(drawings))
    return found


def _drawings(summary: RunSummary) -> Iterator[_Drawing]:
    model, panel, evaluation = summary.model, summary.panel, summary.evaluation
    columns = range(min(MAX_CHANNELS, len(panel.channels)))
    channels = [panel.channels[c] for c in columns]
    item = int((summary.test.last - summary.test.first).argmax())
    blocks = rolling_forecast(model, panel, summary.test, item=item)
    one_step = rolling_forecast(model, panel, summary.test, item=item, lead=1)
    clock = panel.clock
    yield (
        "forecast",
        "Forecast against actual",
        _forecast_caption(summary, blocks, item),
        partial(forecast_figure, blocks, channels, clock),
    )
    yield (
        "burst",
        f"Around the largest burst of {channels[0].name}",
        "Row by row: the highest value of the test rows and what was forecast on the way to it. A burst that nothing "
        "announces is seen late by every model; the intervals say how much room to leave.",
        partial(burst_figure, blocks, channels, clock),
    )
    yield (
        "horizon",
        "Error by horizon step",
        "How the error grows with the distance, beside the baselines. Lower is better.",
        partial(horizon_figure, evaluation, model.name, columns),
    )
    if panel.step <= HOUR:
        hourly = error_by_hour(model, panel, summary.test, stride=evaluation.stride)
        yield (
            "hours",
            "Error by hour of the day",
            "When the model errs, beside how much load there is at that time.",
            partial(hour_figure, hourly, panel.channels, columns, clock),
        )
    yield (
        "residuals",
        "Errors one step ahead",
        "Over time (mean, with the envelope from least to largest), their distribution (what lies beyond the 99 % in the "
        "middle is in the outer bars), and their autocorrelation: bars outside the grey band are structure that the "
        "model leaves unused.",
        partial(residual_figure, one_step, channels, clock),
    )
    if model.calibration is not None:
        yield (
            "coverage",
            "Coverage of the intervals",
            "How often the actual value fell into the interval (marks). On the dotted line the interval promises what it holds; "
            "above it, it is wider than needed; below it, too narrow. The grey band is 75 to 85 %.",
            partial(coverage_figure, evaluation, model.name, columns),
        )
    yield from _training(summary)


def _training(summary: RunSummary) -> Iterator[_Drawing]:
    """The picture of a training by gradient, where there was one."""
    report = summary.fit_report
    if report.history:
        yield (
            "learning_curve",
            "Learning curve",
            "The loss by epoch, on the model’s own scale: that of training is the mean over the epoch while the weights "
            "moved, that of validation was taken at its end. The weights of the marked epoch are the model’s. Validation "
            "that rises while training falls is overfitting.",
            partial(learning_figure, report.history, best_epoch(report.history, report.chosen.get("epoch"))),
        )


def _forecast_caption(summary: RunSummary, blocks: RollingForecast, item: int) -> str:
    panel = summary.panel
    size = rows_a_point(blocks, WIDE)
    text = (
        f"The test rows in blocks of {summary.model.horizon}, each block forecast from the row before it, with the "
        "intervals that hold 50, 80 and 95 %."
    )
    if len(panel.items) > 1:
        text = f"Item {panel.items[item]}. {text}"
    if size > 1:
        text += f" Each point is the mean of {size} rows ({format_step(size * panel.step)})."
    if len(panel.channels) > MAX_CHANNELS:
        text += f" The first {MAX_CHANNELS} of {len(panel.channels)} channels."
    return text


def _render(name: str, title: str, caption: str, draw: Callable[[Layout], Figure]) -> Picture:
    with warnings.catch_warnings():
        # A channel may be named in a script that Matplotlib's font lacks; the page has the reader's fonts.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        wide, narrow = draw(WIDE), draw(NARROW)
        return Picture(
            name=name,
            title=title,
            caption=caption,
            wide=to_svg(wide, f"{name}-wide", title),
            narrow=to_svg(narrow, f"{name}-narrow", title),
            png=to_png(wide),
        )
