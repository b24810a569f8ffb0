"""What a training run did, as plain facts: everything that the reports show."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from presurge import __version__
from presurge.evaluation.result import Evaluation
from presurge.models.conformal import BLOCK, Calibration
from presurge.models.forecaster import FitReport, Forecaster
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND, format_step
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.timestamps import format_stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the split: how many rows of all items, and the times of the first and the last of them."""

    name: str
    rows: int
    first: str
    last: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSummary:
    """What was trained on what, and how it did.

    Attributes:
        directory: The run directory.
        model: The fitted model.
        fit_report: What its fit did.
        fit_seconds: CPU seconds of the fit and the calibration.
        settings: The resolved settings, JSON values.
        panel: All rows, exactly the model's channels.
        train: Rows that were fitted.
        validation: Rows that chose settings and calibrated the intervals.
        test: Rows that were scored.
        source: Where the data came from, JSON values; ``synthetic: true`` in it, at any depth, labels the report.
        notes: What was treated on the way in, and what else the reader should know.
        evaluation: The scores of the model and the baselines over the test rows.
    """

    directory: Path
    model: Forecaster
    fit_report: FitReport
    fit_seconds: float
    settings: dict[str, Any]
    panel: Panel
    train: Span
    validation: Span
    test: Span
    source: dict[str, Any]
    notes: tuple[str, ...]
    evaluation: Evaluation

    @property
    def title(self) -> str:
        """The heading of the reports."""
        names = self.panel.channel_names
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"Forecast of {shown}, {_ahead(self.model.horizon * self.panel.step)} ahead"

    @property
    def synthetic(self) -> bool:
        """Whether the data are synthetic."""
        return any(key == "synthetic" and value is True for key, value in _leaves(self.source))

    @property
    def predict_command(self) -> str:
        """The command that forecasts with this model."""
        return f"presurge predict {quote(str(self.directory))} --history HISTORY"

    def parts(self) -> list[Part]:
        """The split, in order."""
        spans = (("training", self.train), ("validation", self.validation), ("test", self.test))
        return [self._part(name, span) for name, span in spans if len(span)]

    def _part(self, name: str, span: Span) -> Part:
        begin = self.panel.start + (span.first - self.panel.indptr[:-1]) * self.panel.step
        end = begin + (span.last - span.first - 1) * self.panel.step
        held = span.last > span.first
        first, last = (format_stamp(int(t), self.panel.clock) for t in (begin[held].min(), end[held].max()))
        unit = " s" if self.panel.clock == "relative" else ""
        return Part(name=name, rows=len(span), first=_stamp(first) + unit, last=_stamp(last) + unit)

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of everything that was decided or measured about the run."""
        panel, model, report = self.panel, self.model, self.fit_report
        step = format_step(panel.step)
        facts = [
            ("Data", self._source_text()),
            ("Series", f"{len(panel):,} rows of {step}, {_count(len(panel.channels), 'channel')}"),
            ("Model", f"{model.name}: {model.summary}"),
            ("Forecast", f"{model.context} rows of history ({_ahead(model.context * panel.step)}) give "
             f"{model.horizon} rows ({_ahead(model.horizon * panel.step)}) ahead"),
            ("Learned values", f"{model.n_parameters:,}, from {report.n_windows:,} windows"),
            ("Fit and calibration", f"{self.fit_seconds:.2f} CPU seconds"),
        ]  # fmt: skip
        if len(panel.items) > 1:
            facts.insert(2, ("Items", f"{len(panel.items):,}"))
        if report.chosen:
            facts.append(("Chosen by validation", _pairs(report.chosen)))
        if model.calibration is not None:
            facts.append(("Intervals", _intervals_text(model.calibration)))
        facts.append(("Scored on", self._scored_text()))
        facts.append(("Settings", _pairs(self.settings)))
        facts.append(("Presurge", __version__))
        return facts

    def warnings(self) -> tuple[str, ...]:
        """What the reader must know before trusting the model."""
        found = (
            ["The data are synthetic: these numbers say nothing about a real service."]
            if self.synthetic
            else []
        )
        calibration = self.model.calibration
        if calibration is None:
            found.append("The model has no intervals: it was never calibrated.")
        elif calibration.n_windows < 200:
            found.append(
                f"The intervals rest on {calibration.n_windows} windows only: the outer quantiles are rough."
            )
        if self.evaluation.n_skipped:
            found.append(
                f"{self.evaluation.n_skipped:,} windows were not scored: a value is missing in a context."
            )
        return (*found, *self.notes)

    def _source_text(self) -> str:
        path, kind = self.source.get("path", "given in memory"), self.source.get("format")
        return f"{path} ({kind})" if kind else str(path)

    def _scored_text(self) -> str:
        found = self.evaluation
        text = f"{found.n_windows:,} windows, one every {_count(found.stride, 'row')}"
        return f"{text}; {found.n_skipped:,} skipped" if found.n_skipped else text


def _intervals_text(calibration: Calibration) -> str:
    text = f"split-conformal, from the errors of {calibration.n_windows:,} windows"
    return (
        f"{text}; then they follow the errors of the last {BLOCK + 1:,} to {2 * BLOCK:,} rows"
        if calibration.rate
        else text
    )


def _leaves(value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner)
        else:
            yield key, inner


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} = {_plain(value)}" for key, value in values.items() if value not in (None, {}, [])
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_pairs(value)})"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _ahead(duration: int) -> str:
    """A duration in the largest unit that leaves at most one decimal place."""
    for size, noun in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
        if duration >= size and duration * 10 % size == 0:
            number = duration / size
            return f"{number:,g} {noun}{'' if number == 1 else 's'}"
    return _count(duration // SECOND, "second")


def _stamp(stamp: str | float) -> str:
    return stamp if isinstance(stamp, str) else f"{stamp:,}"
