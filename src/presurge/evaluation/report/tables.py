"""Numbers as people read them, and the tables of scores that the terminal and the report share."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.metrics import ITEM_METRICS
from presurge.evaluation.verdicts import percent
from presurge.series.panel import Channel
from presurge.series.timestamps import stamp_words

HEADINGS = {
    "wql": "WQL",
    "wape": "WAPE",
    "rmse": "RMSE",
    "relative_bias": "bias",
    "mase": "MASE",
    "mae": "MAE",
    "r2": "R²",
    "coverage_80": "in 80 %",
    "width_80": "width 80 %",
}
"""Metric -> heading of the columns of the accuracy table, in order."""
_NARROW = ("wql", "wape", "rmse", "relative_bias", "mase", "coverage_80")
"""The columns that fit on a terminal."""
WIDTH = 80
"""Columns of a terminal or a text, if nothing else is known."""
_FEW_ITEMS = 12
"""Items that a terminal shows."""
_SHORTEST_NAME = 10
_ROUNDING = 1e-9


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
    """One value of a metric: ratios with three decimals, bias and coverage in percent, the rest in four digits."""
    if math.isnan(value):
        return number(value)
    if metric in ("wql", "wape", "mase", "r2"):
        return f"{value:,.3f}"
    if metric == "relative_bias":
        return percent(value)
    return f"{100 * value:.1f} %" if metric.startswith("coverage_") else number(value)


def accuracy(evaluation: Evaluation, metrics: Sequence[str] = tuple(HEADINGS)) -> list[tuple[Channel, Lines]]:
    """The accuracy table: for each channel its models with their cells, the smallest error first.

    The error is the WQL, or the WAPE (else the MAE) where a model has no quantiles.
    """
    table = []
    for channel, scores in zip(evaluation.channels, evaluation.averages().values(), strict=True):
        first = leading(scores.values())
        best = {m: best_models(m, {model: values[m] for model, values in scores.items()}) for m in metrics}
        lines = [
            (model, [Cell(cell(m, scores[model][m]), model in best[m]) for m in metrics])
            for model in sorted(scores, key=lambda model: _last_if_unknown(scores[model][first]))
        ]
        table.append((channel, lines))
    return table


def best_models(metric: str, values: Mapping[str, float]) -> set[str]:
    """The models that no other beats: least error, highest R², bias nearest to 0, coverage nearest to its nominal.

    None for widths, since a narrow interval is only better if it covers as much.
    """
    nominal = int(metric.removeprefix("coverage_")) / 100 if metric.startswith("coverage_") else 0.0
    if metric.startswith("width_"):
        return set()
    known = {
        model: -value if metric == "r2" else abs(value - nominal)
        for model, value in values.items()
        if not math.isnan(value)
    }
    least = min(known.values(), default=0.0)
    return {model for model, value in known.items() if value <= least + _ROUNDING * abs(least)}


def leading(scores: Iterable[Mapping[str, float]]) -> str:
    """The first of WQL, WAPE and MAE that all of some scores have; those of no window at all do not count."""
    found = [one for one in scores if not math.isnan(one["mae"])]
    return next((m for m in ("wql", "wape") if not any(math.isnan(one[m]) for one in found)), "mae")


def item_table(evaluation: Evaluation, model: str) -> list[tuple[Channel, Lines]]:
    """The scores of a model by item, for each channel, the worst first.

    The last cell is its error as a share of that of the baseline that is best on the item.
    """
    scores, table = evaluation.items.get(model, {}), []
    for c, channel in enumerate(evaluation.channels if scores else ()):
        values = [
            {m: float(scores[m][i, c]) for m in ITEM_METRICS} for i in range(len(evaluation.item_names))
        ]
        metric = leading(values)
        naive = [evaluation.items[name][metric][:, c] for name in evaluation.baselines if name != model]
        best = np.fmin.reduce(naive) if naive else np.full(len(values), np.nan)
        order = sorted(range(len(values)), key=lambda i: _last_if_unknown(-values[i][metric]))
        lines = []
        for i in order:
            share = values[i][metric] / best[i] if best[i] > 0 else math.nan
            cells = [*(cell(m, values[i][m]) for m in _NARROW), cell("coverage_80", share)]
            lines.append((evaluation.item_names[i], [Cell(text) for text in cells]))
        table.append((channel, lines))
    return table


ITEM_HEADINGS = (*(HEADINGS[metric] for metric in _NARROW), "of naive")
"""Headings of the columns of ``item_table``."""


def text_evaluation(evaluation: Evaluation, width: int = WIDTH) -> str:
    """What a terminal shows: the accuracy table, the worst items, the verdicts and the notes."""
    sentences = [
        line for one in (*evaluation.verdicts(), *evaluation.notes) for line in wrapped(one, width=width)
    ]
    return "\n".join([text_table(evaluation, width), *text_items(evaluation, width), "", *sentences])


def text_table(evaluation: Evaluation, width: int = WIDTH) -> str:
    """The accuracy table with names that fit a width; a star marks the best of each column."""
    blocks = []
    for channel, models in accuracy(evaluation, _NARROW):
        lines = [[channel.name, *(f"{HEADINGS[metric]} " for metric in _NARROW)]]
        lines += [[f"  {name}", *(c.text + " *"[c.best] for c in cells)] for name, cells in models]
        blocks += [*_aligned(lines, width), ""]
    return "\n".join([*blocks, scored_on(evaluation)])


def text_items(evaluation: Evaluation, width: int = WIDTH) -> list[str]:
    """Lines with the worst items of each model that is not a baseline; none for a single item."""
    blocks: list[str] = []
    for model in [name for name in evaluation.items if name not in evaluation.baselines]:
        for channel, items in item_table(evaluation, model):
            few = f"The {_FEW_ITEMS} worst of {len(items):,} items"
            which = few if len(items) > _FEW_ITEMS else "Items, the worst first"
            lines = [["", *ITEM_HEADINGS]]
            lines += [[f"  {name}", *(one.text for one in cells)] for name, cells in items[:_FEW_ITEMS]]
            title = wrapped(f"{which}: {model} on {channel.name}", width=width)
            blocks += ["", *title, *_aligned(lines, width)]
    return blocks


def scored_on(evaluation: Evaluation) -> str:
    """How many windows were scored, from when to when."""
    first, last = (stamp_words(time, evaluation.clock) for time in (evaluation.first_us, evaluation.last_us))
    windows = f"{evaluation.n_windows:,} window{'' if evaluation.n_windows == 1 else 's'}"
    steps = f"{evaluation.horizon} step{'' if evaluation.horizon == 1 else 's'}"
    return f"{windows} of {steps}, {first} to {last}."


def wrapped(text: str, label: str = "", *, width: int = WIDTH) -> list[str]:
    """A text after a label in lines of at most ``width`` characters, as far as its words allow."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _aligned(lines: list[list[str]], width: int) -> list[str]:
    """The lines of a table, whose names are shortened to what its numbers leave of a width."""
    _, *widths = (max(map(len, column)) for column in zip(*lines, strict=True))
    room = max(_SHORTEST_NAME, width - sum(widths) - len(widths))
    names = [head if len(head) <= room else f"{head[: room - 1]}…" for head, *_ in lines]
    first = max(map(len, names))
    return [
        " ".join([name.ljust(first), *map(str.rjust, cells, widths)]).rstrip()
        for name, (_, *cells) in zip(names, lines, strict=True)
    ]


def _last_if_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value
