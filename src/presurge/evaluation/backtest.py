"""Rolling-origin evaluation: every model forecasts from the same origins, all are scored alike, and a model has to earn its place."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.metrics import Float64Array, ItemSums, Scores, ScoreSums, naive_scale
from presurge.evaluation.verdicts import Averages, Duel, Losses, duels
from presurge.evaluation.walk import Piece, walk
from presurge.models.forecaster import Forecaster
from presurge.models.naive import DayAgo, WeekAgo
from presurge.models.registry import BASELINES
from presurge.progress import Progress
from presurge.series.dataset import Dataset
from presurge.series.frequency import SECOND, format_step
from presurge.series.panel import Channel, Clock, IntArray, Panel
from presurge.series.spans import Span
from presurge.series.timestamps import format_stamp
from presurge.series.windows import whole, window_origins


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """CPU seconds of one model: of its fit (None where it was loaded) and of all its forecasts."""

    predict_seconds: float
    fit_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The scores of models over one span.

    Attributes:
        scores: Model -> metric -> float64 [H, C], NaN where undefined.
        channels: The C channels.
        step: Frequency in microseconds.
        clock: Whether times are dates or relative to the start of a trace.
        horizon: H.
        contexts: Model -> rows of history that it reads.
        costs: Model -> CPU seconds.
        baselines: Which of the models are baselines.
        n_windows: Windows on which every model was scored.
        n_skipped: Windows left out because a row of a context was missing.
        stride: Rows between two origins.
        first_us: Time of the first target row, microseconds since the Unix epoch.
        last_us: Time of the last target row.
        duels: Each model that is not a baseline against the baseline that speaks most against it, channel by channel.
        items: Model -> metric -> float64 [I, C], NaN where undefined; empty for a single item.
        item_names: The I items.
        notes: Sentences about what was compared.
    """

    scores: dict[str, Scores]
    channels: tuple[Channel, ...]
    step: int
    clock: Clock
    horizon: int
    contexts: dict[str, int]
    costs: dict[str, Cost]
    baselines: tuple[str, ...]
    n_windows: int
    n_skipped: int
    stride: int
    first_us: int
    last_us: int
    duels: tuple[Duel, ...] = ()
    items: dict[str, Scores] = field(default_factory=dict)
    item_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models in the order given."""
        return tuple(self.scores)

    def averages(self) -> Averages:
        """Channel -> model -> metric -> average over the horizon; NaN where undefined."""
        return {
            channel.name: {
                model: {metric: float(values.mean(axis=0)[c]) for metric, values in scores.items()}
                for model, scores in self.scores.items()
            }
            for c, channel in enumerate(self.channels)
        }

    def metrics(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Model -> channel -> metric -> average over the horizon; None where undefined."""
        return {
            model: self._named({metric: values.mean(axis=0) for metric, values in scores.items()})
            for model, scores in self.scores.items()
        }

    def item_metrics(self) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """Model -> item -> channel -> metric -> value over all steps; None where undefined."""
        return {
            model: {
                item: self._named({metric: values[i] for metric, values in scores.items()})
                for i, item in enumerate(self.item_names)
            }
            for model, scores in self.items.items()
        }

    def _named(self, scores: Mapping[str, Float64Array]) -> dict[str, dict[str, Any]]:
        """Channel -> metric -> what an array holds of the channel, its last axis; None for NaN."""
        return {
            channel.name: {
                metric: np.where(np.isnan(values), None, values)[..., c].tolist()  # type: ignore[call-overload]
                for metric, values in scores.items()
            }
            for c, channel in enumerate(self.channels)
        }

    def verdicts(self) -> tuple[str, ...]:
        """The duels as plain sentences."""
        return tuple(duel.sentence() for duel in self.duels)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: averages under ``metrics``, single steps under ``by_horizon``; undefined values are null."""
        return {
            "metrics": self.metrics(),
            "by_horizon": {model: self._named(scores) for model, scores in self.scores.items()},
            "windows": self.n_windows,
            "skipped": self.n_skipped,
            "stride": self.stride,
            "horizon": self.horizon,
            "step_seconds": self.step // SECOND,
            "span": [format_stamp(self.first_us, self.clock), format_stamp(self.last_us, self.clock)],
            "baselines": list(self.baselines),
            "context": self.contexts,
            "cpu_seconds": {
                name: {"fit": cost.fit_seconds, "predict": cost.predict_seconds}
                for name, cost in self.costs.items()
            },
            **({"items": self.item_metrics()} if self.items else {}),
            "verdicts": list(self.verdicts()),
            "duels": [duel.to_dict() for duel in self.duels],
            "notes": list(self.notes),
        }


def evaluate(
    models: Sequence[Forecaster],
    panel: Panel,
    span: Span,
    *,
    train: Span,
    stride: int = 1,
    fit_seconds: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score fitted models over a span: forecast from every ``stride``-th row and compare with what came.

    All models forecast from the same origins. An origin counts if the longest context of the models that do not tolerate
    gaps fits before it and is complete; those where a row is missing are reported as skipped. The baselines tolerate gaps,
    also before the first row of an item, so a long season costs no windows. Missing targets are left out.

    Args:
        models: Fitted models with one horizon, the same channels and different names.
        panel: Holds the models' channels; contexts may reach back before the span.
        span: The rows to score.
        train: The rows that give the unit of MASE.
        stride: Rows between two origins.
        fit_seconds: Model -> CPU seconds of its fit, reported beside those of its forecasts.
        progress: Called with the share of the forecasts that are done.

    Raises:
        ConfigError: Two models share a name, or their horizons differ.
        DataError: The panel misses a channel.
        HistoryError: The panel has another step than a model, or no window can be scored.
    """
    scoring = Scoring(panel, train=train, stride=stride)
    scoring.add(models, span, progress=progress)
    return scoring.evaluation(fit_seconds or {})


class Scoring:
    """An evaluation in the making: each call of ``add`` scores models over some rows, and all count as one.

    So models that are fitted anew from time to time are scored as they would have been used.

    Args:
        panel: Holds the models' channels.
        train: The rows that give the unit of MASE.
        stride: Rows between two origins.
        keep: Takes every piece of the forecasts, for example to write it to a file.
    """

    def __init__(
        self, panel: Panel, *, train: Span, stride: int = 1, keep: Callable[[Piece], None] | None = None
    ) -> None:
        self._panel, self._train, self._stride, self._keep = panel, train, stride, keep
        self._models: Sequence[Forecaster] = ()
        self._sums: dict[str, ScoreSums] = {}
        self._items: dict[str, ItemSums] = {}
        self._losses = Losses()
        self._seconds: dict[str, float] = {}
        self._origins: list[IntArray] = []
        self._n_skipped = 0
        self._refused: HistoryError | None = None

    def add(self, models: Sequence[Forecaster], span: Span, *, progress: Progress | None = None) -> None:
        """Score fitted models over a span; the models of all calls have the same names.

        ``progress`` is called with the share of the forecasts that are done.

        Raises:
            ConfigError, DataError, HistoryError: As ``evaluate``.
        """
        panel, horizon = _matching(models, self._panel)
        context = _binding(models).context
        every = window_origins(panel, span, context=context, horizon=horizon, stride=self._stride)
        origins = every[whole(panel, every, context=context, horizon=horizon)]
        self._n_skipped += len(every) - len(origins)
        if not len(origins):
            self._refused = self._refused or _no_window(models, span, horizon, len(every))
            return
        if not self._items:
            self._scale_C, scale_IC = naive_scale(panel, self._train)
            self._items = {model.name: ItemSums(scale_IC) for model in models}
        self._models, done = models, 0
        self._origins.append(origins)
        self._losses.begin(panel.times_of(origins))
        for piece in walk(models, panel, origins):
            forecasts = piece.mean_BHC, piece.median_BHC, piece.quantiles_BHQC
            if piece.model not in self._sums:
                self._sums[piece.model] = ScoreSums(horizon, piece.levels, self._scale_C)
            totals = self._sums[piece.model].add(piece.actual(), *forecasts)
            self._items[piece.model].add(panel.items_of(piece.origins_B), totals)
            self._losses.add(piece.model, panel.times_of(piece.origins_B), totals)
            self._seconds[piece.model] = self._seconds.get(piece.model, 0.0) + piece.cpu_seconds
            done += len(piece.origins_B)
            if self._keep is not None:
                self._keep(piece)
            if progress is not None:
                progress("Scoring", done / (len(models) * len(origins)))

    def evaluation(self, fit_seconds: Mapping[str, float]) -> Evaluation:
        """The scores of all calls; ``fit_seconds``: model -> CPU seconds of its fits.

        Raises:
            HistoryError: No window could be scored.
        """
        if self._refused and not self._origins:
            raise self._refused
        panel, models, origins = self._panel, self._models, np.concatenate(self._origins)
        several = len(panel.items) > 1
        found = Evaluation(
            scores={name: self._sums[name].scores() for name in self._items},
            channels=models[0].fitted_spec().targets,
            step=panel.step,
            clock=panel.clock,
            horizon=models[0].horizon,
            contexts={model.name: model.context for model in models},
            costs={
                name: Cost(predict_seconds=spent, fit_seconds=fit_seconds.get(name))
                for name, spent in self._seconds.items()
            },
            baselines=tuple(name for name in self._items if name in BASELINES),
            n_windows=len(origins),
            n_skipped=self._n_skipped,
            stride=self._stride,
            first_us=int(panel.times_of(origins + 1).min()),
            last_us=int(panel.times_of(origins + models[0].horizon).max()),
            items={name: sums.scores() for name, sums in self._items.items()} if several else {},
            item_names=panel.items if several else (),
            notes=self._notes(len(origins)),
        )
        overlap = math.ceil(found.horizon / found.stride)
        return replace(found, duels=duels(found.averages(), found.baselines, self._losses, overlap=overlap))

    def _notes(self, n_windows: int) -> tuple[str, ...]:
        """Sentences on what was not scored."""
        counts_IC = next(iter(self._items.values())).sums_IC["count"]
        bare = [item for item, count_C in zip(self._panel.items, counts_IC, strict=True) if not count_C.any()]
        skipped, notes = self._n_skipped, []
        if skipped:
            were = "was left out: a row of its" if skipped == 1 else "were left out: a row of their"
            notes.append(f"{skipped:,} of {n_windows + skipped:,} windows {were} context is missing.")
        if any(bare):
            notes.append(f"No window of these items was scored: {', '.join(bare)}.")
        return tuple(notes)


def without_room(dataset: Dataset, *, context: int, horizon: int) -> dict[str, str]:
    """The baselines that a data set has no room for beside models of a context: name -> a note that says why.

    The value of a day or a week ago is left out where the step does not divide that time, where rows follow sessions
    instead of a clock, and where too few rows lie before the validation or the test rows: no baseline costs a scored
    window.
    """
    panel, notes = dataset.panel, {}
    for kind in (DayAgo, WeekAgo):
        lag, name = kind.lag, kind.name
        sizes = (context, max(context, lag // panel.step))
        (_, calibrates), (wanted, scored) = (
            [len(window_origins(panel, part, context=size, horizon=horizon)) for size in sizes]
            for part in (dataset.validation, dataset.test)
        )
        if panel.stamps is not None:
            why = "the rows follow sessions, not a clock"
        elif lag % panel.step or lag == panel.step:
            why = f"{format_step(lag)} is not a whole number of rows of {format_step(panel.step)}, or a single one"
        elif scored < wanted or not calibrates:
            part = "scored" if scored < wanted else "for validation"
            why = f"less than {format_step(lag)} lies before the rows that are {part}"
        else:
            continue
        notes[name] = f"{name} is not compared: {why}."
    return notes


def _matching(models: Sequence[Forecaster], panel: Panel) -> tuple[Panel, int]:
    """The panel with the models' channels, and the horizon that they share."""
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigError(f"the same model is listed twice: {', '.join(names)}", setting="models")
    horizons = {model.horizon for model in models}
    if len(horizons) != 1:
        raise ConfigError(
            f"models with different horizons cannot be compared: {', '.join(map(str, sorted(horizons)))} rows",
            hint="Train them with the same `horizon`.",
        )
    for model in models:
        step = model.fitted_spec().step
        if step != panel.step:
            raise HistoryError(
                f"the data have a step of {format_step(panel.step)}, but {model.name} has a step of {format_step(step)}",
                hint=f"Bring the data to {format_step(step)} first: prepare it with another `step`.",
            )
    widest = max(models, key=lambda model: len(model.fitted_spec().channels))
    return widest.fitted_spec().view(panel), horizons.pop()


def _binding(models: Sequence[Forecaster]) -> Forecaster:
    """The model whose context must be complete: the longest of those that tolerate no gap, or the shortest of the others."""
    strict = [model for model in models if not model.tolerates_gaps]
    choose = max if strict else min
    return choose(strict or models, key=lambda model: model.context)


def _no_window(models: Sequence[Forecaster], span: Span, horizon: int, n_windows: int) -> HistoryError:
    """The error of rows from which not all models can forecast."""
    model = _binding(models)
    needs = f"{model.name} reads {model.context} rows before each origin"
    if n_windows:
        return HistoryError(
            f"all {n_windows:,} windows of the {len(span):,} rows to score have a missing value in their context: "
            f"{needs}",
            hint="Repair the data, or choose a shorter `context`.",
        )
    return HistoryError(
        f"no window fits into the {len(span):,} rows to score: {needs} and is compared with {horizon} rows after it",
        hint="Give more rows to score, or choose a shorter `context` or `horizon`.",
    )
