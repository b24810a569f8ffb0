"""Numbers as people read them: cells of the accuracy table, and the table as plain text."""

import math
from collections.abc import Sequence

from presurge.evaluation.result import Evaluation, TableRow

HEADINGS = {
    "wape": "WAPE",
    "mae": "MAE",
    "rmse": "RMSE",
    "mse": "MSE",
    "mase": "MASE",
    "r2": "R²",
    "bias": "bias",
    "pinball": "pinball",
    "coverage_50": "in 50 %",
    "coverage_80": "in 80 %",
    "coverage_95": "in 95 %",
    "width_50": "width 50 %",
    "width_80": "width 80 %",
    "width_95": "width 95 %",
}
_DECIMALS = ("wape", "mase", "r2")


def cell(metric: str, value: float) -> str:
    """One value: ratios with three decimals, coverage in percent, the rest with four digits; a dash where undefined."""
    if math.isnan(value):
        return "–"
    if metric in _DECIMALS:
        return f"{value:,.3f}"
    if metric.startswith("coverage_"):
        return f"{100 * value:.1f} %"
    return quantity(value)


def quantity(value: float) -> str:
    """A number in original units: four digits, thousands separated, never fewer digits than its whole part."""
    if value == 0 or 1e-4 <= abs(value) < 1000:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.3e}"


def ranked(rows: Sequence[TableRow]) -> list[TableRow]:
    """Rows of one channel, the smallest WAPE (MAE where it is undefined) first."""
    return sorted(rows, key=lambda row: (_last_if_nan(row.values["wape"]), _last_if_nan(row.values["mae"])))


def text_table(
    evaluation: Evaluation, metrics: Sequence[str] = ("wape", "mae", "rmse", "mase", "r2", "coverage_80")
) -> str:
    """The accuracy table in at most 80 columns; a star marks the best of each column."""
    rows = evaluation.table()
    blocks = []
    for channel in evaluation.channels:
        lines = [[channel.name, *(HEADINGS[metric] for metric in metrics)]]
        for row in ranked([row for row in rows if row.channel == channel.name]):
            cells = [cell(m, row.values[m]) + ("*" if m in row.best else " ") for m in metrics]
            lines.append([f"  {row.model}", *cells])
        lines[0][1:] = [f"{heading} " for heading in lines[0][1:]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        blocks.append("\n".join(_aligned(line, widths) for line in lines))
    return "\n\n".join(blocks)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        text.rjust(width) if i else text.ljust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    )
    return " ".join([first, *others]).rstrip()


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value
