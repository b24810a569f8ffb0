"""How the pictures look: two layouts (desktop and phone), colours that colour-blind readers can tell apart, axes, SVG.

Figures are drawn with one point for one CSS pixel. In SVG each colour becomes a CSS variable and each text stays text, so
that a picture inside a page follows the page's light or dark scheme and font.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from presurge.evaluation.metrics import Float64Array
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND
from presurge.series.panel import Clock

INK, MUTED, GRID, PAPER = "#20242b", "#6b7280", "#e3e6ea", "#ffffff"
FORECAST = "#0072b2"
# Okabe and Ito's palette, after the blue that belongs to the model itself.
OTHERS = ("#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c6d31")
MARKERS = ("s", "^", "D", "v", "P", "X")
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "paper",
    FORECAST: "forecast",
    **{colour: f"other{index}" for index, colour in enumerate(OTHERS)},
}
"""Colour -> name of the CSS variable that replaces it in SVG."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The space that a picture has: width and text in points, and how many points of a line it can show."""

    name: str
    width: float
    text: float
    columns: int
    points: int
    zoom: int


WIDE = Layout(name="wide", width=1000, text=12, columns=3, points=500, zoom=150)
NARROW = Layout(name="narrow", width=350, text=11, columns=1, points=180, zoom=60)


_FOR_CHINESE = (
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
)


def _fonts() -> list[str]:
    """Matplotlib's own font, then an installed one that holds Chinese, for channels that are named so."""
    installed = set(get_font_names())
    return ["DejaVu Sans", *(name for name in _FOR_CHINESE if name in installed)]


@contextmanager
def styled(layout: Layout) -> Iterator[None]:
    """Matplotlib's settings for a layout, while the body runs."""
    settings: dict[Any, Any] = {
        "figure.facecolor": PAPER,
        "savefig.facecolor": PAPER,
        "axes.facecolor": "none",
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.titlesize": layout.text,
        "axes.labelsize": layout.text - 1,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 1,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelsize": layout.text - 1,
        "ytick.labelsize": layout.text - 1,
        "ytick.left": False,
        "font.size": layout.text,
        "font.family": _fonts(),
        "text.color": INK,
        "text.parse_math": False,  # a channel may be named cost_$
        "legend.frameon": False,
        "legend.fontsize": layout.text - 1,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.6,
        "lines.solid_capstyle": "round",
        "svg.fonttype": "none",
        "svg.hashsalt": "presurge",
        "path.simplify": True,
    }
    with mpl.rc_context(settings):
        yield


def new_figure(layout: Layout, height: float) -> Figure:
    """An empty figure of the layout's width; ``height`` in points."""
    padding = ConstrainedLayoutEngine(w_pad=6 / 72, h_pad=5 / 72, wspace=0.02, hspace=0.03)
    return Figure(figsize=(layout.width / 72, height / 72), dpi=72, layout=padding)


def legend_above(figure: Figure, axes: Axes, layout: Layout) -> None:
    """One legend for the figure, over it, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 6 if layout is WIDE else 2)
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.4
    )


def number_axis(axes: Axes, *, horizontal: bool = False) -> None:
    """Write numbers with thousands separators, millions and more in short."""
    axis = axes.xaxis if horizontal else axes.yaxis
    axis.set_major_locator(MaxNLocator(nbins=4 if horizontal else 5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value).replace("-", "−")))


def percent_axis(axes: Axes) -> None:
    """Write shares as percent."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def short_number(value: float) -> str:
    """1,234 and 12,340, but 1.2 M and 3 G."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:,.4g} {unit}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:,.3g}"


def time_values(times_us: npt.NDArray[np.int64], clock: Clock, span_us: int) -> tuple[Float64Array, str]:
    """Times as numbers for an axis, and the label of that axis: dates for UTC, else a unit that fits the span."""
    if clock == "utc":
        return times_us / DAY, "time (UTC)"
    for unit, name, least in (
        (DAY, "days", 3 * DAY),
        (HOUR, "hours", 3 * HOUR),
        (MINUTE, "minutes", 3 * MINUTE),
    ):
        if span_us >= least:
            return times_us / unit, f"{name} on the trace’s clock"
    return times_us / SECOND, "seconds on the trace’s clock"


def time_axis(axes: Axes, label: str, clock: Clock, layout: Layout) -> None:
    """Name the time axis; real dates where the clock is UTC."""
    axes.set_xlabel(label)
    if clock == "utc":
        # Matplotlib finds no unit for some spans, and warns, if it may take neither 2 ticks nor more than 5.
        least, most = (3, 9) if layout is WIDE else (2, 5)
        locator = AutoDateLocator(minticks=least, maxticks=most)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=9 if layout is WIDE else 5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.margins(x=0.01)


def to_svg(figure: Figure, name: str, title: str) -> str:
    """The figure as an ``<svg>`` element to stand inside a page; ``name`` keeps its ids apart from other pictures'."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font: [^;\"]*?\d(?:px)?) [^;\"]*", r"\1 var(--font)", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    view = re.search(r'viewBox="[^"]*"', text)
    opening = f'<svg {view[0] if view else ""} role="img" aria-label="{escape(title)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()


def to_png(figure: Figure) -> bytes:
    """The figure as PNG at twice its size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
