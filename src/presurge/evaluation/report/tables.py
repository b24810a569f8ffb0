"""Numbers as people read them, and the accuracy table that the terminal and the report share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from presurge.evaluation.backtest import Evaluation, TableRow
from presurge.series.panel import Channel

HEADINGS = {
    "wape": "WAPE",
    "mae": "MAE",
    "rmse": "RMSE",
    "mase": "MASE",
    "r2": "R²",
    "bias": "bias",
    "pinball": "pinball",
    "coverage_80": "in 80 %",
    "width_80": "width 80 %",
}
"""Metric -> heading of the columns of the accuracy table, in order."""
_NARROW = ("wape", "mae", "rmse", "mase", "r2", "coverage_80")
"""The columns that fit on a terminal."""


class Cell(NamedTuple):
    """One value of the table, and whether it is the best of its column."""

    text: str
    best: bool = False


Lines = list[tuple[str, list[Cell]]]
"""Models with their cells."""


def number(value: float | None) -> str:
    """A number in four digits with thousands separated, its whole part complete; a dash where it is undefined."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    power = math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, 3 - power)}f}" if -4 <= power < 15 else f"{value:.3e}"


def cell(metric: str, value: float) -> str:
    """One value of a metric: ratios with three decimals, coverage in percent, the rest in four digits."""
    if math.isnan(value):
        return number(value)
    if metric in ("wape", "mase", "r2"):
        return f"{value:,.3f}"
    return f"{100 * value:.1f} %" if metric.startswith("coverage_") else number(value)


def accuracy(evaluation: Evaluation, metrics: Sequence[str] = tuple(HEADINGS)) -> list[tuple[Channel, Lines]]:
    """The accuracy table: for each channel its models with their cells, the smallest WAPE (or else MAE) first."""

    def errors(row: TableRow) -> list[float]:
        return [math.inf if math.isnan(row.values[m]) else row.values[m] for m in ("wape", "mae")]

    table: dict[str, Lines] = {channel.name: [] for channel in evaluation.channels}
    for row in sorted(evaluation.table(), key=errors):
        cells = [Cell(cell(m, row.values[m]), m in row.best) for m in metrics]
        table[row.channel].append((row.model, cells))
    return list(zip(evaluation.channels, table.values(), strict=True))


def text_table(evaluation: Evaluation) -> str:
    """The accuracy table in at most 80 columns; a star marks the best of each column."""
    blocks = []
    for channel, models in accuracy(evaluation, _NARROW):
        lines = [[channel.name, *(f"{HEADINGS[metric]} " for metric in _NARROW)]]
        lines += [[f"  {name}", *(c.text + " *"[c.best] for c in cells)] for name, cells in models]
        first, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
        blocks += [
            " ".join([head.ljust(first), *map(str.rjust, cells, widths)]).rstrip() for head, *cells in lines
        ] + [""]
    return "\n".join(blocks[:-1])
