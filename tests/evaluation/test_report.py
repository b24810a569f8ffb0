"""The report: one page without a network, safe with any name, readable on a phone, there without matplotlib."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from presurge.evaluation.metrics import ITEM_METRICS
from presurge.evaluation.report import RunSummary, report_text, write_report
from presurge.evaluation.report.html import page
from presurge.evaluation.report.plots import Picture
from presurge.evaluation.report.tables import text_evaluation, text_items, text_table

MakeRun = Callable[..., RunSummary]
HOSTILE = '<img src="http://x.org/a.png" onerror=alert(1)> & "quoted"'
VOID = {"meta", "br", "img", "hr", "path", "use", "rect"}


class Page(HTMLParser):
    """Tags, attributes and headings of a page; every tag has to be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)

    def tags(self) -> set[str]:
        return {tag for tag, _, _ in self.attributes}


@pytest.fixture(scope="module")
def text(run: RunSummary) -> str:
    return (run.directory / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_no_other_file_and_no_network(text: str) -> None:
    found = Page(text)
    assert found.open == []
    assert not found.tags() & {"script", "link", "img", "iframe", "object", "embed"}
    for _, name, value in found.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith("#")
        assert not re.search(r"url\((?!#)", value)
    assert not re.search(r"@import|url\((?!#)|https?:", re.sub(r'"http://www\.w3\.org/[^"]*"', "", text))


def test_ids_are_unique_and_what_is_used_is_there(text: str) -> None:
    found = Page(text)
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for _, name, value in found.attributes if name in ("href", "xlink:href")}
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used
    assert used <= set(ids)


def test_the_sections_are_there(text: str) -> None:
    assert Page(text).headings == [
        "Verdict",
        "Forecast against actual",
        "Around the largest burst of requests",
        "Accuracy",
        "Error by horizon step",
        "Error by hour of the day",
        "Errors one step ahead",
        "Coverage of the intervals",
        "What was trained on what",
        "How to forecast with it",
        "Notes",
    ]


def test_it_is_readable_on_a_phone(text: str) -> None:
    found = Page(text)
    assert ("meta", "content", "width=device-width, initial-scale=1") in found.attributes
    pictures = [value for tag, name, value in found.attributes if (tag, name) == ("svg", "viewbox")]
    widths = sorted({float(view.split()[2]) for view in pictures})
    assert widths == [350, 1000]
    classes = [value for tag, name, value in found.attributes if (tag, name) == ("div", "class")]
    assert classes.count("narrow") == classes.count("wide") == 6
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    assert "@media" in style[1]
    assert "prefers-color-scheme" in style[1]


def test_words_in_the_pictures_stay_words(text: str) -> None:
    """So they follow the font of the page, and a reader can search for them."""
    words = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    assert {"requests (1/h)", "forecast", "80 % interval"} <= set(words)


def test_the_numbers_are_those_of_the_evaluation(run: RunSummary, text: str) -> None:
    words = Page(text).words
    for values in (one for scores in run.evaluation.averages().values() for one in scores.values()):
        assert f"{values['wape']:,.3f}" in words
        assert f"{100 * values['coverage_80']:.1f} %" in words
    for sentence in run.evaluation.verdicts():
        assert sentence in words
    assert "buckets without a row: 3" in words


def test_choices_and_settings_are_words_not_dictionaries(run: RunSummary) -> None:
    chosen = {
        "requests": {
            "model": "linear",
            "ridge": 0.25,
            "calendar": False,
            "holidays": True,
            "why": "the best",
        },
        "period": {"requests": 24, "cpu": 12},
    }
    report = replace(run.fitted.report, chosen=chosen)
    config = {
        "model": "gru",
        "epochs": 5,
        "betas": [0.9, 0.999],
        "model_settings": {"hidden_size": 8},
        "season": None,
        "preset": "minute-3",
        "use_wandb": False,
    }
    solved = replace(run, fitted=replace(run.fitted, report=report), config=config)
    facts = dict(solved.facts())
    assert facts["Chosen by validation"] == (
        "requests: model linear, ridge 0.25, no calendar, holidays (the best); period: requests 24, cpu 12"
    )
    assert facts["Settings"] == "model gru, model_settings.hidden_size 8"
    trained = replace(solved.fitted, report=replace(report, history=({"epoch": 0.0, "train_loss": 1.0},)))
    learned = dict(replace(solved, fitted=trained).facts())
    assert learned["Settings"] == "model gru, epochs 5, betas 0.9 and 0.999, model_settings.hidden_size 8"


def test_the_items_are_in_the_report_the_worst_first(run: RunSummary) -> None:
    names = ("calm", "<b>busy</b>", "unseen")
    scores = {metric: np.full((3, 2), np.nan) for metric in ITEM_METRICS}
    for metric in ITEM_METRICS:
        scores[metric][:2, 0] = (0.1, 0.4)
    halved = {metric: values / 2 for metric, values in scores.items()}
    evaluation = replace(run.evaluation, items={"linear": scores, "last-value": halved}, item_names=names)
    fleet = replace(run, evaluation=evaluation)
    found = Page(page(fleet, [], ()))
    assert found.open == []
    places = [found.words.index(name) for name in ("<b>busy</b>", "calm", "unseen")]
    assert places == sorted(places)
    assert found.words[places[0] + 1 : places[1]][-1] == "200.0 %"
    text = report_text(fleet)
    assert re.search(r"<b>busy</b> +0.400 0.400 0.4000 \+40.0 % 0.400 +40.0 % +200.0 %\n +calm +0.100", text)
    assert max(map(len, text.splitlines())) <= 80
    ones = {metric: np.ones((30, 2)) for metric in ITEM_METRICS}
    few = replace(evaluation, items={"linear": ones, "last-value": ones}, item_names=("x" * 40,) * 30)
    lines = text_items(few)
    assert sum("xx…" in line for line in lines) == 24
    assert "The 12 worst of 30 items: linear on requests" in lines
    assert max(map(len, lines)) <= 80
    assert max(map(len, text_items(few, 120))) > 80


@pytest.mark.parametrize("width", [72, 80, 140])
def test_long_names_and_large_numbers_fit_the_width(run: RunSummary, width: int) -> None:
    long = "a-model-" + "of-a-long-name-" * 6
    scores = run.evaluation.scores["linear"]
    named = {long: {**scores, "rmse": 1e8 * scores["rmse"]}}
    channels = tuple(replace(one, name=f"{one.name} {'and more ' * 9}") for one in run.evaluation.channels)
    duels = tuple(replace(duel, channel="requests " * 12) for duel in run.evaluation.duels)
    wide = replace(run.evaluation, scores=named | run.evaluation.scores, channels=channels, duels=duels)
    text = text_evaluation(wide, width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split("\n\n")[-1].split()
    assert words == [word for duel in duels for word in duel.sentence().split()]


@pytest.fixture(scope="module")
def odd_run(make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """A written run with names that are markup, and a model that learned over two epochs."""
    summary = make_run(tmp_path_factory.mktemp("odd"), names=(HOSTILE, "cost_$ </svg>"), path=HOSTILE)
    epochs = (
        {"epoch": 0.0, "train_loss": 0.9, "validation_loss": 0.8},
        {"epoch": 1.0, "train_loss": 0.5, "validation_loss": 0.6},
    )
    report = replace(summary.fitted.report, history=epochs)
    summary = replace(summary, fitted=replace(summary.fitted, report=report))
    write_report(summary.directory, summary)
    return summary


def test_names_of_the_user_are_text(odd_run: RunSummary) -> None:
    found = Page((odd_run.directory / "report.html").read_text(encoding="utf-8"))
    assert found.open == []
    assert not found.tags() & {"script", "img"}
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert f"Around the largest burst of {HOSTILE}" in found.headings
    labels = [value for tag, name, value in found.attributes if (tag, name) == ("svg", "aria-label")]
    assert f"Around the largest burst of {HOSTILE}" in labels


def test_a_learning_curve_is_there_only_where_there_is_a_history(
    run: RunSummary, odd_run: RunSummary, text: str
) -> None:
    assert not (run.directory / "plots" / "learning_curve.png").exists()
    assert "Learning curve" not in text
    assert "<h2>Learning curve</h2>" in (odd_run.directory / "report.html").read_text(encoding="utf-8")
    assert (odd_run.directory / "plots" / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_synthetic_source_is_said_to_be_synthetic(make_run: MakeRun, tmp_path: Path) -> None:
    summary = make_run(tmp_path)
    assert not summary.synthetic
    summary.dataset.source["made"] = {"synthetic": True}
    assert summary.synthetic
    assert "synthetic data" in Page(page(summary, [], ())).words
    assert "The data are synthetic" in report_text(summary)


def test_the_plain_text_fits_a_terminal(run: RunSummary) -> None:
    lines = report_text(run).splitlines()
    assert lines[0] == "Forecast of requests, cpu, 3 hours ahead"
    assert max(map(len, lines)) <= 80
    assert any(f"presurge predict {run.directory}" in line for line in lines)
    assert any("linear beats the best baseline" in line for line in lines)
    assert "they follow the errors of the last 501 to 1,000 rows" in " ".join(" ".join(lines).split())


def test_the_reports_show_the_next_command_of_their_door(run: RunSummary) -> None:
    summary = replace(run, next_command="curl -d @history.json localhost/forecast?a=1&b=2")
    assert f"  {summary.next_command}" in report_text(summary).splitlines()
    assert summary.next_command in Page(page(summary, [], ())).words
    assert "--" not in run.usage


def test_the_terminal_and_the_page_show_the_same_numbers(run: RunSummary, text: str) -> None:
    words = Page(text).words
    lines = [line.split() for line in text_table(run.evaluation).splitlines() if line.startswith("  ")]
    assert len(lines) == 4
    for model, *cells in lines:
        assert model in run.evaluation.models
        assert {cell.strip("*") for cell in cells if cell != "%"} <= {
            part for word in words for part in word.split()
        }


def test_a_picture_that_was_not_drawn_has_no_section(run: RunSummary) -> None:
    drawn = [Picture("horizon", "Error by <step>", "", "<svg></svg>", "<svg></svg>", b"")]
    headings = Page(page(run, drawn, ())).headings
    assert headings == [
        "Verdict", "Accuracy", "Error by <step>", "What was trained on what", "How to forecast with it",
    ]  # fmt: skip


def test_without_matplotlib_the_tables_remain(tmp_path: Path) -> None:
    """In a process where matplotlib cannot be imported, as where it is not installed."""
    code = f"""
import sys
sys.modules["matplotlib"] = None
import importlib.util, json
from pathlib import Path
from presurge.evaluation.report import write_report
spec = importlib.util.spec_from_file_location("shared", {str(Path(__file__).with_name("conftest.py"))!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
out = Path({str(tmp_path)!r})
summary = shared.make_run.__wrapped__()(out)
print(json.dumps([str(write_report(out, summary)), (out / "plots").exists()]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    path, plots = json.loads(done.stdout)
    found = Page(Path(path).read_text(encoding="utf-8"))
    assert not plots
    assert "svg" not in found.tags()
    assert {"Verdict", "Accuracy", "What was trained on what", "Notes"} <= set(found.headings)
    assert any("matplotlib is not installed" in words for words in found.words)
