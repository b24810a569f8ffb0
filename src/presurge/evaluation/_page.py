"""The HTML of a report: one self-contained page, without scripts. Every text that is not ours goes through ``escape``."""

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from math import isnan
from typing import TYPE_CHECKING

from presurge.evaluation.result import TABLE_METRICS, Evaluation, TableRow
from presurge.evaluation.summary import RunSummary
from presurge.evaluation.tables import HEADINGS, cell, quantity, ranked
from presurge.evaluation.verdicts import Duel
from presurge.models.conformal import BLOCK

if TYPE_CHECKING:
    from presurge.evaluation.plots import Picture

_BEST, _OWN = ' class="best"', ' class="own"'
_OPEN_CHANNELS = 6
"""Accuracy tables of further channels are folded."""
_METRIC_NOTES = (
    ("WAPE", "sum of absolute errors over the sum of actual values; 0 is perfect"),
    ("MASE", "mean absolute error over that of forecasting the row before, on the training rows"),
    ("R²", "share of the variance that is explained; 0 is no better than the mean, below 0 is worse"),
    ("bias", "mean of forecast − actual"),
    ("pinball", "mean loss of the quantiles"),
    ("in 80 %", "share of actual values inside the 80 % interval"),
    ("width 80 %", "mean width of that interval"),
)


def page(summary: RunSummary, pictures: "Sequence[Picture]", notes: Iterable[str]) -> str:
    """The whole page."""
    drawn = {picture.name: _figure(picture) for picture in pictures}
    evaluation = summary.evaluation
    main = "\n".join(
        [
            _header(summary),
            _verdicts(evaluation, summary.model.name),
            *(_section(drawn[name]) for name in ("forecast", "burst") if name in drawn),
            _section(_accuracy(evaluation, summary.model.name)),
            *(
                _section(drawn[name])
                for name in ("horizon", "hours", "residuals", "coverage", "learning_curve")
                if name in drawn
            ),
            _section(_training(summary)),
            _section(_usage(summary)),
            _section(_notes(notes)),
        ]
    )
    style = files("presurge.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(summary.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{main}\n</main>\n</body>\n</html>\n"
    )


def _header(summary: RunSummary) -> str:
    badge = '<span class="badge">synthetic data</span>' if summary.synthetic else ""
    test = summary.parts()[-1]
    return (
        f'<header><p class="over">Presurge report {badge}</p><h1>{escape(summary.title)}</h1>'
        f'<p class="lead">Model <b>{escape(summary.model.name)}</b>, scored on {test.rows:,} rows that it never saw, '
        f"{escape(test.first)} to {escape(test.last)}.</p></header>"
    )


def _verdicts(evaluation: Evaluation, model: str) -> str:
    duels = [duel for duel in evaluation.duels() if duel.model == model]
    if not duels:
        return _section("<h2>Verdict</h2><p>The model is itself one of the baselines.</p>")
    coverage = {row.channel: row.values["coverage_80"] for row in evaluation.table() if row.model == model}
    tiles = "".join(_tile(duel, coverage[duel.channel]) for duel in duels[:_OPEN_CHANNELS])
    lines = "".join(
        f'<li class="{"good" if duel.won else "bad"}">{escape(duel.sentence())}</li>' for duel in duels
    )
    return _section(f'<h2>Verdict</h2><div class="tiles">{tiles}</div><ul class="verdicts">{lines}</ul>')


def _tile(duel: Duel, coverage: float) -> str:
    gain = f"{abs(100 * duel.gain):.1f} %"
    words = (
        f"{gain} less error than"
        if duel.won
        else f"{gain} more error than"
        if duel.gain
        else "no better than"
    )
    held = f"<p>80 % interval holds {cell('coverage_80', coverage)}</p>" if not isnan(coverage) else ""
    return (
        f'<div class="tile {"good" if duel.won else "bad"}"><h3>{escape(duel.channel)}</h3>'
        f'<p class="big">{cell(duel.metric, duel.value)}<small> {duel.metric.upper()}</small></p>'
        f"<p>{words} {escape(duel.baseline)} ({cell(duel.metric, duel.baseline_value)})</p>{held}</div>"
    )


def _figure(picture: "Picture") -> str:
    return (
        f"<h2>{escape(picture.title)}</h2><figure>"
        f'<div class="wide">{picture.wide}</div><div class="narrow">{picture.narrow}</div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _accuracy(evaluation: Evaluation, model: str) -> str:
    rows = evaluation.table()
    blocks = []
    for c, channel in enumerate(evaluation.channels):
        table = _accuracy_table([row for row in rows if row.channel == channel.name], model)
        heading = escape(channel.name) + (f" <small>{escape(channel.unit)}</small>" if channel.unit else "")
        if c < _OPEN_CHANNELS:
            blocks.append(f"<h3>{heading}</h3>{table}")
        else:
            blocks.append(f"<details><summary>{heading}</summary>{table}</details>")
    legend = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in _METRIC_NOTES)
    return (
        f"<h2>Accuracy</h2><p>Over {evaluation.n_windows:,} windows, each metric taken at every horizon step and averaged "
        f"over the {evaluation.horizon} steps. Best of each column in bold.</p>{''.join(blocks)}"
        f'<details><summary>What the columns mean</summary><dl class="legend">{legend}</dl></details>'
        f"<h3>Cost</h3>{_cost_table(evaluation, model)}"
    )


def _accuracy_table(rows: Sequence[TableRow], model: str) -> str:
    body = []
    for row in ranked(rows):
        cells = [
            f"<td{_BEST if metric in row.best else ''}>{cell(metric, row.values[metric])}</td>"
            for metric in TABLE_METRICS
        ]
        body.append(_row(row.model, cells, own=row.model == model))
    return _table(["model", *(HEADINGS[metric] for metric in TABLE_METRICS)], body)


def _cost_table(evaluation: Evaluation, model: str) -> str:
    body = []
    for name, cost in evaluation.costs.items():
        fit = "–" if cost.fit_seconds is None else f"{cost.fit_seconds:.3f}"
        each = 1e6 * cost.predict_seconds / evaluation.n_windows
        numbers = (str(evaluation.contexts[name]), fit, f"{cost.predict_seconds:.3f}", quantity(each))
        body.append(_row(name, [f"<td>{number}</td>" for number in numbers], own=name == model))
    return _table(["model", "rows of context", "fit, CPU s", "all forecasts, CPU s", "µs a forecast"], body)


def _training(summary: RunSummary) -> str:
    facts = "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in summary.facts())
    body = [
        _row(
            part.name,
            [f"<td>{part.rows:,}</td>", f"<td>{escape(part.first)}</td>", f"<td>{escape(part.last)}</td>"],
        )
        for part in summary.parts()
    ]
    channels = [
        _row(
            channel.name,
            [f"<td>{escape(text)}</td>" for text in (channel.kind, channel.unit or "–")],
        )
        for channel in summary.panel.channels
    ]
    return (
        f'<h2>What was trained on what</h2><dl class="facts">{facts}</dl>'
        f"<h3>Split</h3>{_table(['part', 'rows', 'first', 'last'], body)}"
        f"<h3>Channels</h3>{_table(['channel', 'kind', 'unit'], channels)}"
    )


def _usage(summary: RunSummary) -> str:
    rows = f"{summary.model.context:,} rows"
    return (
        f"<h2>How to forecast with it</h2><pre>{escape(summary.predict_command)}</pre>"
        f"<p>HISTORY is a table or a trace with the same channels, at least its last {rows} of history without a gap. "
        "<code>--json</code> prints the forecast for programs. From a history that is longer by up to "
        f"{2 * BLOCK:,} rows, the intervals follow the errors that the model made on them.</p>"
    )


def _notes(notes: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<h2>Notes</h2><ul class="notes">{lines}</ul>' if lines else ""


def _section(content: str) -> str:
    return f"<section>{content}</section>" if content else ""


def _row(head: str, cells: Iterable[str], *, own: bool = False) -> str:
    return f'<tr{_OWN if own else ""}><th scope="row">{escape(head)}</th>{"".join(cells)}</tr>'


def _table(headings: Sequence[str], body: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )
