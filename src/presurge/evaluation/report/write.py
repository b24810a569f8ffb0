"""The reports of a training run: ``report.html`` with its pictures, and a plain text for the terminal."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from presurge import files
from presurge.errors import install_command
from presurge.evaluation.report.html import page
from presurge.evaluation.report.summary import RunSummary
from presurge.evaluation.report.tables import WIDTH, text_items, text_table, wrapped
from presurge.progress import Progress

if TYPE_CHECKING:
    from presurge.evaluation.report.plots import Picture

PICTURES = ("forecast", "burst", "horizon", "hours", "residuals", "coverage", "learning_curve")
"""Names of all pictures that a report may have."""
_NO_PICTURES = (
    "The pictures are missing because matplotlib is not installed. "
    f"Install it with: {install_command('plots')}, and train or evaluate again."
)


def write_report(
    directory: Path, summary: RunSummary, *, plots: bool = True, progress: Progress | None = None
) -> Path:
    """Write ``report.html``, one file that needs no other file and no network, and ``plots/*.png`` beside it.

    Without ``plots`` the report has tables only. Without matplotlib too, and a note then names the extra that brings the
    pictures.

    Raises:
        StorageError: The file system refused.
    """
    notes = summary.warnings()
    drawn: list[Picture] = []
    if plots and find_spec("matplotlib") is None:
        notes = (*notes, _NO_PICTURES)
    elif plots:
        from presurge.evaluation.report.plots import pictures

        drawn = pictures(summary, progress)
    stale = {f"{name}.png" for name in PICTURES} - {f"{picture.name}.png" for picture in drawn}
    with files.writing(directory / "plots"):
        for name in stale:  # of an earlier report
            (directory / "plots" / name).unlink(missing_ok=True)
    for picture in drawn:
        with files.atomic_path(directory / "plots" / f"{picture.name}.png") as path:
            path.write_bytes(picture.png)
    report = directory / "report.html"
    files.write_text(report, page(summary, drawn, notes))
    return report


def report_text(summary: RunSummary) -> str:
    """The report as plain text, 80 columns wide."""
    parts = [
        f"  {name:<11}{rows:>12,} rows   {first} to {last}" for name, rows, first, last in summary.parts()
    ]
    facts = [line for label, value in summary.facts() for line in wrapped(value, f"{label + ':':<22}")]
    sections = {
        "": _bullets(summary.evaluation.verdicts()),
        "What was trained on what": [*facts, "", *parts],
        "Accuracy over the test rows, mean over the horizon steps (* best)": [text_table(summary.evaluation)],
        "Items": text_items(summary.evaluation)[1:],
        summary.usage_title: [f"  {summary.usage}"],
        "Notes": _bullets(summary.warnings()),
    }
    lines = [*wrapped(summary.title), "=" * min(WIDTH, len(summary.title)), ""]
    for heading, body in sections.items():
        if body:
            lines += [*([heading, "-" * len(heading)] if heading else []), *body, ""]
    return "\n".join(lines)


def _bullets(sentences: tuple[str, ...]) -> list[str]:
    return [line for sentence in sentences for line in wrapped(sentence, "- ")]
