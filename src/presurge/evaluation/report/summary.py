"""What a training run did, as plain facts: everything that the reports show."""

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from presurge import __version__
from presurge.evaluation.backtest import Evaluation
from presurge.evaluation.fit import Fitted
from presurge.models.conformal import Calibration
from presurge.models.following import BLOCK
from presurge.models.forecaster import Forecaster
from presurge.series.dataset import Dataset
from presurge.series.frequency import DAY, HOUR, MINUTE, SECOND, format_step
from presurge.series.timestamps import stamp_words
from presurge.training.config import TrainingConfig

_FEW_INDEPENDENT = 50
"""Independent test windows below which a report says that the test is short."""
_FEW_WINDOWS = 200
"""Windows below which the outer quantiles are rough."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunSummary:
    """What was trained on what, and how well it forecasts.

    Attributes:
        directory: The run directory.
        fitted: The model, and what its fit and calibration took.
        dataset: Exactly the model's channels. ``synthetic: true`` in its source, at any depth, labels the report.
        config: The resolved configuration, as JSON values.
        evaluation: The scores of the model and the baselines over the test rows.
        next_command: The command that forecasts with this model, or that trains it where nothing is stored.
        stored: Whether the model is stored, so that it can forecast.
    """

    directory: Path
    fitted: Fitted
    dataset: Dataset
    config: dict[str, Any]
    evaluation: Evaluation
    next_command: str = ""
    stored: bool = True

    @property
    def model(self) -> Forecaster:
        """The fitted model."""
        return self.fitted.model

    @property
    def title(self) -> str:
        """The heading of the reports."""
        names = [channel.name for channel in self.evaluation.channels]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        return f"Forecast of {shown}, {self._duration(self.model.horizon)} ahead"

    @property
    def synthetic(self) -> bool:
        """Whether the data are synthetic."""
        return '"synthetic": true' in json.dumps(self.dataset.source)

    @property
    def usage_title(self) -> str:
        """What the command of ``usage`` does."""
        return f"How to {'forecast with' if self.stored else 'train'} it"

    @property
    def usage(self) -> str:
        """The command that forecasts with the model, or trains it."""
        return self.next_command or f"presurge predict {quote(str(self.directory))}"

    def parts(self) -> list[tuple[str, int, str, str]]:
        """The split, in order: name, number of rows of all items, and the times of the first and the last of them."""
        data, panel, found = self.dataset, self.dataset.panel, []
        for name, span in (("training", data.train), ("validation", data.validation), ("test", data.test)):
            held = span.last > span.first
            if held.any():
                times = panel.times_of(span.first[held]).min(), panel.times_of(span.last[held] - 1).max()
                first, last = (stamp_words(int(time), panel.clock) for time in times)
                found.append((name, len(span), first, last))
        return found

    def facts(self) -> list[tuple[str, str]]:
        """Label and value of everything that was decided or measured."""
        panel, model, report, source = self.dataset.panel, self.model, self.fitted.report, self.dataset.source
        path, kind, scored = source.get("path", "given in memory"), source.get("format"), self.evaluation
        skipped = f"; {scored.n_skipped:,} skipped" if scored.n_skipped else ""
        facts = {
            "Data": f"{path} ({kind})" if kind else str(path),
            "Series": f"{len(panel):,} rows of {format_step(panel.step)}, {_count(len(panel.channels), 'channel')}",
            "Items": f"{len(panel.items):,}" if len(panel.items) > 1 else "",
            "Model": f"{model.name}: {model.summary}",
            "Forecast": f"{model.context} rows of history ({self._duration(model.context)}) give "
            f"{model.horizon} rows ({self._duration(model.horizon)}) ahead",
            "Learned values": f"{model.n_parameters:,}, from {report.n_windows:,} windows",
            "Fit and calibration": f"{self.fitted.cpu_seconds:.2f} CPU seconds",
            "Chosen by validation": _chosen(report.chosen),
            "Intervals": _intervals(model.calibration) if model.calibration else "",
            "Scored on": f"{_count(scored.n_windows, 'window')}, one every {_count(scored.stride, 'row').removeprefix('1 ')}{skipped}",
            "Settings": in_words(self._settings()),
            "Presurge": __version__,
        }
        return [(label, value) for label, value in facts.items() if value]

    def _settings(self) -> dict[str, Any]:
        """The resolved settings, without the preset that they replace, what is off, and a training loop that never ran."""
        idle = {"preset", *(() if self.fitted.report.history else TrainingConfig.model_fields)}
        return {key: value for key, value in self.config.items() if key not in idle and value is not False}

    @property
    def length(self) -> str:
        """How short the test is, if it is short."""
        found, own = (
            self.evaluation,
            [duel for duel in self.evaluation.duels if duel.model == self.model.name],
        )
        independent = min((duel.windows for duel in own), default=found.n_windows)
        if independent >= _FEW_INDEPENDENT:
            return ""
        rows = len(self.dataset.test)
        return (
            f"The test is short: {_count(rows, 'row')} ({self._duration(rows)}) hold {_count(found.n_windows, 'window')}, "
            f"worth about {_count(independent, 'independent one')}. Other rows may give quite different scores."
        )

    def warnings(self) -> tuple[str, ...]:
        """What the reader must know before trusting the model."""
        calibration, found = self.model.calibration, []
        if self.synthetic:
            found.append("The data are synthetic: these numbers say nothing about a real service.")
        found += filter(None, [self.length])
        if calibration is None:
            found.append("The model has no intervals: it was never calibrated.")
        elif calibration.n_windows < _FEW_WINDOWS:
            found.append(
                f"The intervals rest on only {calibration.n_windows} windows, so the outer quantiles are rough."
            )
        return (*found, *self.evaluation.notes, *self.dataset.notes, *self.fitted.report.notes)

    def _duration(self, rows: int) -> str:
        """How long some rows take, in the largest unit that needs at most one decimal place."""
        duration = rows * self.dataset.panel.step
        for size, noun in ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute")):
            if duration >= size and duration * 10 % size == 0:
                return _count(duration / size, noun)
        return _count(duration // SECOND, "second")


def _intervals(calibration: Calibration) -> str:
    text = f"split-conformal, from the errors of {calibration.n_windows:,} windows"
    later = f"; after that they follow the errors of the last {BLOCK + 1:,} to {2 * BLOCK:,} rows"
    return text + later if calibration.follows else text


def _chosen(chosen: dict[str, Any]) -> str:
    """What validation chose, in words: for all channels, then channel by channel."""
    plain = {key: value for key, value in chosen.items() if not isinstance(value, dict)}
    parts = [
        in_words(plain),
        *(f"{key}: {in_words(value)}" for key, value in chosen.items() if isinstance(value, dict)),
    ]
    return "; ".join(filter(None, parts))


def in_words(values: dict[str, Any]) -> str:
    """Settings in words, as people read them: ``ridge 100, no calendar (why it was chosen)``."""
    words = [
        _word(key, value) for key, value in values.items() if key != "why" and value not in (None, {}, [])
    ]
    return ", ".join(words) + (f" ({values['why']})" if values.get("why") else "")


def _word(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return key if value else f"no {key}"
    if isinstance(value, dict):
        return ", ".join(_word(f"{key}.{inner}", one) for inner, one in value.items())
    if isinstance(value, list | tuple):
        return f"{key} " + " and ".join(_plain(one) for one in value)
    return f"{key} {_plain(value)}"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _count(amount: float, noun: str) -> str:
    return f"{amount:,g} {noun}{'' if amount == 1 else 's'}"
