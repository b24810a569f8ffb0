"""The reports of a training run: ``report.html`` with its pictures, and a plain text for the terminal."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from presurge import files
from presurge.evaluation._page import page
from presurge.evaluation.summary import Part, RunSummary
from presurge.evaluation.tables import text_table
from presurge.progress import Progress

if TYPE_CHECKING:
    from presurge.evaluation.plots import Picture

__all__ = ["Part", "RunSummary", "report_text", "write_report"]

_WIDTH = 80
_NO_PICTURES = (
    "The pictures are missing because matplotlib is not installed. "
    "Install it with: pip install 'presurge[plots]', and train or evaluate again."
)


def write_report(
    directory: Path, summary: RunSummary, *, plots: bool = True, progress: Progress | None = None
) -> Path:
    """Write ``report.html``, one file that needs no other and no network, and ``plots/*.png`` beside it.

    Without ``plots`` there are tables only. So there are without matplotlib, and a note then names the extra which brings
    the pictures.

    Raises:
        StorageError: The file system refused.
    """
    drawn = _pictures(summary, progress) if plots else []
    for picture in drawn or []:
        with files.atomic_path(directory / "plots" / f"{picture.name}.png") as path:
            path.write_bytes(picture.png)
    notes = summary.warnings() if drawn is not None else (*summary.warnings(), _NO_PICTURES)
    report = directory / "report.html"
    files.write_text(report, page(summary, drawn or [], notes))
    return report


def report_text(summary: RunSummary) -> str:
    """The report as plain text, 80 columns wide."""
    evaluation = summary.evaluation
    parts = [
        f"  {part.name:<11}{part.rows:>12,} rows   {part.first} to {part.last}" for part in summary.parts()
    ]
    facts = [line for label, value in summary.facts() for line in _wrapped(f"{label + ':':<22}", value)]
    sections = [
        ("", [line for sentence in evaluation.verdicts() for line in _wrapped("- ", sentence)]),
        ("What was trained on what", [*facts, "", *parts]),
        ("Accuracy over the test rows, mean over the horizon steps (* best)", [text_table(evaluation)]),
        ("How to forecast with it", [f"  {summary.predict_command}"]),
        ("Notes", [line for note in summary.warnings() for line in _wrapped("- ", note)]),
    ]
    lines = [*textwrap.wrap(summary.title, _WIDTH), "=" * min(_WIDTH, len(summary.title)), ""]
    for heading, body in sections:
        if body:
            lines += [*([heading, "-" * len(heading)] if heading else []), *body, ""]
    return "\n".join(lines)


def _pictures(summary: RunSummary, progress: Progress | None) -> "list[Picture] | None":
    """The pictures, or None where matplotlib is not installed."""
    try:
        from presurge.evaluation.plots import pictures
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        return None
    return pictures(summary, progress)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=label, subsequent_indent=" " * len(label), break_long_words=False
    )
