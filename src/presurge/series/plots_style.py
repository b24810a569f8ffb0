"""How the pictures look: two layouts (desktop and phone), colours for colour-blind readers too, axes, SVG.

Figures are drawn with one point per CSS pixel. In SVG each colour becomes a CSS variable and each text stays text, so that
a picture inside a page follows the page's light or dark scheme and font.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.ticker import FuncFormatter, MaxNLocator

from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND
from presurge.series.panel import Channel, Clock, FloatArray
from presurge.series.timestamps import stamp_words

Float64Array = npt.NDArray[np.float64]

INK, MUTED, GRID = "#20242b", "#6b7280", "#e3e6ea"
FORECAST = "#0072b2"
# Okabe and Ito's palette, after the blue that belongs to the model itself.
OTHERS = ("#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31")
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FORECAST: "forecast"}
VARIABLES |= {colour: f"other{index}" for index, colour in enumerate(OTHERS)}
"""Colour -> name of the CSS variable that replaces it in SVG."""
_FEW_POINTS = 24
"""Lines with no more points than these have a mark at each."""
_SHADES = {95: 0.14, 80: 0.18, 50: 0.26}
"""Percent -> opacity of the interval, drawn over the wider ones."""
_UNITS = ((DAY, "days"), (HOUR, "hours"), (MINUTE, "minutes"), (SECOND, "seconds"))
_TICKS = [count * unit for unit in (SECOND, MINUTE) for count in (1, 2, 5, 10, 15, 30)]
_TICKS += [*(count * HOUR for count in (1, 2, 3, 6, 12)), *(count * DAY for count in (1, 2, 4, 7))]
"""Distances of the ticks of a relative clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The space of a picture: width and labels in points, panels side by side, and how many points a line can show."""

    name: str
    width: float
    label: float
    columns: int
    points: int
    zoom: int


WIDE = Layout(name="wide", width=1000, label=11, columns=3, points=500, zoom=150)
NARROW = Layout(name="narrow", width=350, label=10, columns=1, points=180, zoom=60)


@contextmanager
def styled(layout: Layout) -> Iterator[None]:
    """Matplotlib's settings for a layout, whatever those of the user, while the body draws and writes a figure."""
    muted = ("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[Any, Any] = {"text.color": INK, "grid.color": GRID, **dict.fromkeys(muted, MUTED)}
    settings |= {"font.size": layout.label, "axes.titlesize": layout.label + 1}
    shared, installed = Path(__file__).with_name("pictures.mplstyle"), set(get_font_names())
    with warnings.catch_warnings(), matplotlib.style.context(["default", shared, settings]):
        # A channel may be named in a script that Matplotlib's font lacks; a page has the reader's fonts.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        mpl.rcParams["font.family"] = [name for name in mpl.rcParams["font.family"] if name in installed]
        yield


class Drawing(Figure):
    """A figure that a notebook shows without pyplot, whatever its settings; ``savefig`` writes it to a file."""

    def _repr_png_(self) -> bytes:
        return to_png(self)


def new_figure(layout: Layout, height: float) -> Figure:
    """An empty figure of the layout's width; ``height`` in points."""
    return Drawing(figsize=(layout.width / 72, height / 72), dpi=72, layout="constrained")


def panels(layout: Layout, count: int, height: float, *, stacked: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels of a height in points, and room for the legend.

    The panels stand side by side, as many as the layout has columns, or are stacked over one shared horizontal axis.
    """
    columns = 1 if stacked else min(count, layout.columns)
    rows = -(-count // columns)
    figure = new_figure(layout, rows * height + 60)
    grid = list(figure.subplots(rows, columns, sharex=stacked, squeeze=False).reshape(-1))
    for empty in grid[count:]:
        empty.remove()
    return figure, grid[:count]


def finish(figure: Figure, layout: Layout) -> Figure:
    """Add the legend of the first panel and lay the figure out for good, so that every file drawn from it saves that work."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        columns = min(len(labels), 6 if layout is WIDE else 2)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine(None)
    return figure


def series_look(index: int, points: int) -> tuple[str, str]:
    """Colour and marker of one of several lines; the first has the colour of the forecast. Long lines have no markers."""
    marker = "os^DvPX"[index % 7] if points <= _FEW_POINTS else ""
    return (FORECAST, *OTHERS)[index % 7], marker


def draw_series(axes: Axes, index: int, x: npt.NDArray[Any], values: npt.ArrayLike, label: str) -> None:
    """Draw one of several lines: the first stands out."""
    color, marker = series_look(index, len(x))
    width, line = (1.2, "--") if index else (2.4, "-")
    axes.plot(x, values, color=color, marker=marker, ms=5, lw=width, ls=line, label=label)


def channel_title(channel: Channel) -> str:
    """Name of a channel and its unit."""
    return f"{channel.name} ({channel.unit})" if channel.unit else channel.name


def channel_axes(axes: Axes, channel: Channel, title: str) -> None:
    """The title and the vertical axis of values of a channel: a count's begins at zero."""
    axes.set_title(title)
    number_axis(axes)
    if channel.kind == "count":
        axes.set_ylim(bottom=0)


def number_axis(axes: Axes, *, horizontal: bool = False) -> None:
    """Write numbers with thousands separators, millions and more in short."""
    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=4 if horizontal else 5, steps=(1, 2, 2.5, 5, 10)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float) -> str:
    """1,234 and 12,340, but 1.2 M and 3 G; a true minus sign."""
    units = ((1e12, " T"), (1e9, " G"), (1e6, " M"))
    size, unit = next((one for one in units if abs(value) >= one[0]), (1, ""))
    whole = not unit and (abs(value) >= 100 or value == round(value))
    return f"{value / size:{',.0f' if whole else ',.4g'}}{unit}".replace("-", "−")


def step_axis(axes: Axes, step: int, horizon: int) -> Float64Array:
    """Name the axis of horizon steps, in the largest unit that divides the step; where each step lies on it."""
    size, name = next(unit for unit in _UNITS if step % unit[0] == 0)
    axes.set_xlabel(f"{name} ahead")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=horizon <= 6, min_n_ticks=1))
    return np.arange(1, horizon + 1, dtype=np.float64) * (step / size)


def time_axis(axes: Axes, times_us: npt.NDArray[np.int64], clock: Clock, layout: Layout) -> Float64Array:
    """Name the time axis: real dates for UTC, else days and hours of the trace; where each time, in days, lies on it."""
    axes.margins(x=0.01)
    if clock == "utc":
        # Matplotlib finds no unit for some spans, and warns, if it may take neither 2 ticks nor more than 5.
        least, most = (3, 9) if layout is WIDE else (2, 5)
        locator = AutoDateLocator(minticks=least, maxticks=most)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set_xlabel("time (UTC)")
        return times_us / DAY
    first, last = int(times_us.min()), int(times_us.max())
    apart = (last - first) / (6 if layout is WIDE else 3.2)
    tick = next((unit for unit in _TICKS if unit >= apart), -(-int(apart) // DAY) * DAY)
    ticks = range(-(-first // tick) * tick, last + 1, tick)
    words = [stamp_words(time, "relative") for time in ticks]
    if tick % DAY == 0:  # all of them at midnight
        words = [day.partition(",")[0] for day in words]
    axes.set_xticks(np.array(ticks) / DAY, words)
    axes.set_xlabel("time on the trace’s clock")
    return times_us / DAY


def reduce_rows(values: FloatArray, size: int, how: str) -> FloatArray:
    """Reduce every ``size`` of N values to one: their ``mean``, ``min`` or ``max``, NaN left out."""
    if size == 1:
        return values
    padded = np.pad(values.astype(np.float64), (0, -len(values) % size), constant_values=np.nan)
    reduced = getattr(np.ma.masked_invalid(padded.reshape(-1, size)), how)(axis=1)
    result: FloatArray = reduced.filled(np.nan).astype(np.float32)
    return result


def draw_rows(
    axes: Axes, x: Float64Array, values: FloatArray, size: int, color: str, shade: float, label: str = ""
) -> None:
    """The mean of every ``size`` rows as a line, in an envelope from their least to their largest value."""
    if size > 1:
        low, high = (reduce_rows(values, size, how) for how in ("min", "max"))
        extent = label and f"{label}, least to largest"
        axes.fill_between(x, low, high, color=color, alpha=shade, linewidth=0, label=extent)
    axes.plot(x, reduce_rows(values, size, "mean"), color=color, linewidth=1.1, label=label)


def draw_intervals(
    axes: Axes, x: Float64Array, quantiles_NQ: FloatArray, levels: tuple[float, ...], size: int = 1
) -> None:
    """The 95, 80 and 50 % intervals that the levels hold, each point the mean of ``size`` rows."""
    seen_through = 1.0
    for percent, shade in _SHADES.items():
        low, high = (np.flatnonzero(np.isclose(levels, 0.5 + sign * percent / 200)) for sign in (-1, 1))
        if not (low.size and high.size):
            continue
        below, above = (reduce_rows(quantiles_NQ[:, int(k[0])], size, "mean") for k in (low, high))
        axes.fill_between(x, below, above, color=FORECAST, alpha=shade, linewidth=0)
        # The legend shows what the eye sees: this shade on top of those of the wider intervals.
        seen_through *= 1 - shade
        axes.fill([], [], color=FORECAST, alpha=1 - seen_through, linewidth=0, label=f"{percent} % interval")


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an ``<svg>`` element to stand inside a page; ``name`` keeps its ids apart from other pictures'."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    unused = r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>"
    text = re.sub(unused, "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font: [^;\"]*?\d(?:px)?) [^;\"]*", r"\1 var(--font)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    label = f'role="img" aria-label="{escape(title)}"'
    opening = r'<svg[^>]*(viewBox="[^"]*")[^>]*>'
    return re.sub(opening, lambda found: f"<svg {found[1]} {label}>", text, count=1).strip()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG at twice its size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
