"""The HTML of a report: one page without scripts or other files. Every text that is not ours goes through ``escape``."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.report.tables import (
    HEADINGS,
    ITEM_HEADINGS,
    Cell,
    accuracy,
    item_table,
    number,
    scored_on,
)
from presurge.models.following import BLOCK

if TYPE_CHECKING:
    from presurge.evaluation.report.plots import Picture

_OPEN_CHANNELS = 6
"""The accuracy tables of further channels are folded."""
_MOODS = {"better": "good", "worse": "bad"}
_BEST, _OWN = ' class="best"', ' class="own"'
_PICTURE = re.compile(r'<section data-picture="(\w+)">.*?</section>\n', re.DOTALL)


def page(summary: RunSummary, pictures: "Sequence[Picture]", notes: Iterable[str]) -> str:
    """The whole page: ``page.html`` without the sections of pictures that were not drawn."""
    evaluation = summary.evaluation
    room = files("presurge.evaluation.report")
    values: dict[str, str] = {}
    for name, title, note, wide, narrow, _ in pictures:
        values |= {f"title_{name}": escape(title), f"note_{name}": escape(note)}
        values[f"svg_{name}"] = f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    split = [(name, [f"{rows:,}", first, last]) for name, rows, first, last in summary.parts()]
    _, (test_rows, test_first, test_last) = split[-1]
    channels = [(one.name, [one.role, one.kind, one.unit or "–"]) for one in summary.dataset.panel.channels]
    template = _PICTURE.sub(
        lambda found: found[0] if f"svg_{found[1]}" in values else "",
        room.joinpath("page.html").read_text(encoding="utf-8"),
    )
    return Template(template).substitute(
        values,
        title=escape(summary.title),
        style=room.joinpath("page.css").read_text(encoding="utf-8"),
        badge='<span class="badge">synthetic data</span>' if summary.synthetic else "",
        model=escape(summary.model.name),
        test_rows=test_rows,
        test_first=escape(test_first),
        test_last=escape(test_last),
        short=f'<p class="lead">{escape(summary.length)}</p>' if summary.length else "",
        verdict=_verdict(summary),
        scored=escape(scored_on(evaluation)),
        horizon=evaluation.horizon,
        accuracy=_accuracy(summary),
        items=_items(summary),
        cost=_cost(summary),
        facts="".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in summary.facts()),
        split=_table(["part", "rows", "first", "last"], split),
        channels=_table(["channel", "role", "kind", "unit"], channels),
        usage_title=summary.usage_title,
        usage=escape(summary.usage),
        context=f"{summary.model.context:,}",
        follows=f"{2 * BLOCK:,}",
        notes=f'<section><h2>Notes</h2><ul class="notes">{lines}</ul></section>' if lines else "",
    )


def _verdict(summary: RunSummary) -> str:
    lines = "".join(
        f'<li class="{_MOODS.get(duel.outcome, "open")}">{escape(duel.sentence())}</li>'
        for duel in summary.evaluation.duels
        if duel.model == summary.model.name
    )
    none = "<p>The model is itself one of the baselines.</p>"
    return f'<ul class="verdicts">{lines}</ul>' if lines else none


def _items(summary: RunSummary) -> str:
    blocks = ""
    for channel, items in item_table(summary.evaluation, summary.model.name):
        blocks += _folded(escape(channel.name), _table(["item", *ITEM_HEADINGS], items))
    words = (
        "The worst items first; all steps count alike. The last column is the error as a share of that of the baseline that is "
        "best on the item: above 100 % a baseline is better."
    )
    return f"<h3>Items</h3><p>{words}</p>{blocks}" if blocks else ""


def _accuracy(summary: RunSummary) -> str:
    blocks = ""
    for c, (channel, models) in enumerate(accuracy(summary.evaluation)):
        table = _table(["model", *HEADINGS.values()], models, own=summary.model.name)
        heading = escape(channel.name) + (f" <small>{escape(channel.unit)}</small>" if channel.unit else "")
        blocks += f"<h3>{heading}</h3>{table}" if c < _OPEN_CHANNELS else _folded(heading, table)
    return blocks


def _folded(heading: str, table: str) -> str:
    return f"<details><summary>{heading}</summary>{table}</details>"


def _cost(summary: RunSummary) -> str:
    evaluation, body = summary.evaluation, []
    for name, cost in evaluation.costs.items():
        fit = number(None) if cost.fit_seconds is None else f"{cost.fit_seconds:.3f}"
        each = 1e6 * cost.predict_seconds / evaluation.n_windows
        context = str(evaluation.contexts[name])
        body.append((name, [context, fit, f"{cost.predict_seconds:.3f}", number(each)]))
    headings = ["model", "rows of context", "fit, CPU s", "all forecasts, CPU s", "µs per forecast"]
    return _table(headings, body, own=summary.model.name)


def _table(
    headings: Sequence[str], rows: Iterable[tuple[str, Sequence[str | Cell]]], *, own: str | None = None
) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = []
    for name, cells in rows:
        columns = ""
        for one in cells:
            text, best = one if isinstance(one, Cell) else Cell(one)
            columns += f"<td{_BEST if best else ''}>{escape(text)}</td>"
        mark = _OWN if name == own else ""
        body.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{columns}</tr>')
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
