"""The picture of a training by gradient: its losses, epoch by epoch."""

from collections.abc import Sequence
from math import isfinite, log10

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from presurge.evaluation.plots_style import (
    FORECAST,
    INK,
    MUTED,
    OTHERS,
    WIDE,
    Layout,
    legend_above,
    new_figure,
    styled,
)

_FEW = 24
"""Epochs up to which each has a mark."""
_WIDE_RANGE = 8.0
"""The largest loss over the least from which on only a log scale shows both ends."""


def best_epoch(history: Sequence[dict[str, float]], chosen: object = None) -> int:
    """The epoch, from 1, whose weights were kept: the one that the fit chose, else that of the least loss."""
    if isinstance(chosen, int) and 1 <= chosen <= len(history):
        return chosen
    watched = [row.get("validation_loss", row["train_loss"]) for row in history]
    return watched.index(min(watched)) + 1


def learning_figure(history: Sequence[dict[str, float]], best: int, layout: Layout = WIDE) -> Figure:
    """Training and validation loss by epoch.

    Args:
        history: One dictionary an epoch, with ``train_loss`` and perhaps ``validation_loss``.
        best: The epoch, from 1, to be marked.
        layout: The space there is.
    """
    lines = [
        ("training", "train_loss", OTHERS[0], "s", "--", 1.4),
        ("validation", "validation_loss", FORECAST, "o", "-", 2.2),
    ]
    shown = [line for line in lines if all(line[1] in row for row in history)]
    epochs = range(1, len(history) + 1)
    with styled(layout):
        figure = new_figure(layout, 300 if layout is WIDE else 280)
        axes = figure.subplots()
        for label, key, colour, marker, style, width in shown:
            losses = [row[key] for row in history]
            mark = marker if len(losses) <= _FEW else ""
            axes.plot(epochs, losses, color=colour, marker=mark, ms=5, ls=style, lw=width, label=label)
        _mark_best(axes, best, history[best - 1][shown[-1][1]])
        logarithmic = _scale(axes, [row[key] for row in history for _, key, *_ in shown])
        axes.set_title("loss, on the model’s scale" + (" (logarithmic axis)" if logarithmic else ""))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(
            MaxNLocator(nbins=10 if layout is WIDE else 5, integer=True, min_n_ticks=1)
        )
        axes.margins(x=0.02)
        legend_above(figure, axes, layout)
    return figure


def _mark_best(axes: Axes, best: int, loss: float) -> None:
    axes.axvline(best, color=MUTED, lw=1.2, ls=":")
    label = f"best epoch: {best} ({_plain(loss)})"
    axes.plot([best], [loss], "o", ms=11, mfc="none", mec=INK, mew=1.6, ls="", label=label)


def _scale(axes: Axes, losses: Sequence[float]) -> bool:
    """Whether the axis is logarithmic, as it is where the losses are positive and far apart."""
    known = [loss for loss in losses if isfinite(loss)]
    logarithmic = min(known) > 0 and max(known) / min(known) > _WIDE_RANGE
    if logarithmic:
        axes.set_yscale("log")
        decades = log10(max(known) / min(known))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    return logarithmic


def _plain(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
