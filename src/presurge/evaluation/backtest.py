"""Rolling-origin evaluation: every model forecasts from the same origins, and all are scored alike."""

import time
from collections.abc import Mapping, Sequence

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.intervals import chunk_size
from presurge.evaluation.metrics import ScoreSums, naive_scale
from presurge.evaluation.result import Cost, Evaluation
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES
from presurge.models.tracking import IntervalTracker
from presurge.progress import Progress
from presurge.series.frequency import format_step
from presurge.series.panel import Panel
from presurge.series.spans import Span
from presurge.series.windows import IntArray, batch_of, chunks, complete, targets_of, window_origins

__all__ = ["Evaluation", "evaluate"]


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
    """Score fitted models over a span: forecasts from every ``stride``-th row, each compared with what came.

    All models forecast from the same origins: those where the longest context among them lies before the origin, and
    the longest among the models that need every value of it misses none. (The baselines pass over missing values, so a
    long season costs no windows.) The other origins are counted as skipped. Missing targets are left out.

    Args:
        models: Fitted models of one horizon and the same channels, each of another name.
        panel: Holds the models' channels; contexts may reach back before the span.
        span: The rows to score.
        train: The rows that give the unit of MASE.
        stride: Rows between two origins.
        fit_seconds: Model -> CPU seconds of its fit, shown beside those of its forecasts.
        progress: Told the share of the windows done.

    Raises:
        ConfigError: Two models share a name, or their horizons differ.
        DataError: The panel misses a channel.
        HistoryError: The panel has another step than a model, or no window can be scored.
    """
    panel, horizon = _matching(models, panel)
    every, origins = _common_origins(models, panel, span, horizon, stride)
    scale_C = naive_scale(panel, train)
    sums = {
        m.name: ScoreSums(horizon, m.calibration.levels if m.calibration else (), scale_C) for m in models
    }
    seconds = _run(models, panel, origins, sums, progress)
    times = panel.times()
    return Evaluation(
        scores={name: total.scores() for name, total in sums.items()},
        channels=panel.channels,
        step=panel.step,
        clock=panel.clock,
        horizon=horizon,
        contexts={model.name: model.context for model in models},
        costs={
            name: Cost(predict_seconds=spent, fit_seconds=(fit_seconds or {}).get(name))
            for name, spent in seconds.items()
        },
        baselines=tuple(name for name in sums if name in BASELINES),
        n_windows=len(origins),
        n_skipped=len(every) - len(origins),
        stride=stride,
        first_us=int(times[origins + 1].min()),
        last_us=int(times[origins + horizon].max()),
    )


def _common_origins(
    models: Sequence[Forecaster], panel: Panel, span: Span, horizon: int, stride: int
) -> tuple[IntArray, IntArray]:
    """All origins that the longest context allows, and those of them that every model can forecast from."""
    longest = max(models, key=lambda model: model.context)
    every = window_origins(panel, span, context=longest.context, horizon=horizon, stride=stride)
    strict = [model.context for model in models if not model.tolerates_gaps]
    whole = max(strict) if strict else min(model.context for model in models)
    origins = every[complete(panel, every, before=whole, after=0).all(axis=1)]
    if len(origins) == 0:
        raise _nothing_to_score(len(span), len(every), longest, horizon)
    return every, origins


def _matching(models: Sequence[Forecaster], panel: Panel) -> tuple[Panel, int]:
    """The panel with the models' channels, and the horizon that they share."""
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise ConfigError(f"a model is there twice: {', '.join(names)}", setting="models")
    horizons = {model.horizon for model in models}
    if len(horizons) != 1:
        raise ConfigError(
            f"models of different horizons cannot be compared: {', '.join(map(str, sorted(horizons)))} rows",
            hint="Train them with one `horizon`.",
        )
    for model in models:
        step = model.fitted_spec().step
        if step != panel.step:
            raise HistoryError(
                f"the data have a step of {format_step(panel.step)}, {model.name} one of {format_step(step)}",
                hint=f"Bring the data to {format_step(step)} first: prepare it with another `step`.",
            )
    channels = [channel.name for channel in models[0].fitted_spec().channels]
    return panel.select(channels), horizons.pop()


def _nothing_to_score(rows: int, windows: int, longest: Forecaster, horizon: int) -> HistoryError:
    needs = f"{longest.name} reads {longest.context} rows before each origin"
    if windows:
        return HistoryError(
            f"all {windows:,} windows of the {rows:,} rows to score have a missing value in their context: {needs}",
            hint="Repair the data, or choose a shorter context or season.",
        )
    return HistoryError(
        f"no window fits the {rows:,} rows to score: {needs} and is compared with {horizon} rows after it",
        hint="Give more rows to score, or choose a shorter context, season or horizon.",
    )


def _run(
    models: Sequence[Forecaster],
    panel: Panel,
    origins: IntArray,
    sums: dict[str, ScoreSums],
    progress: Progress | None,
) -> dict[str, float]:
    """Walk the origins in chunks and add every model's forecasts to its sums; CPU seconds of each model's part.

    Models of one context share its chunks; each context has chunks of its own, since a season of a week leaves room for
    few windows at once.
    """
    horizon = models[0].horizon
    contexts = sorted({model.context for model in models})
    seconds = dict.fromkeys(sums, 0.0)
    done, windows = 0, len(contexts) * len(origins)
    for context in contexts:
        alike = [model for model in models if model.context == context]
        trackers = {model.name: IntervalTracker(model, panel) for model in alike}
        for part in chunks(origins, chunk_size(context, horizon, len(panel.channels))):
            actual_BHC, batch = targets_of(panel, part, horizon), batch_of(panel, part, context)
            for name, tracker in trackers.items():
                began = time.process_time()
                tracked = tracker.predict(part, batch)
                seconds[name] += time.process_time() - began
                sums[name].add(actual_BHC, tracked.mean_BHC, tracked.quantiles_BHQC)
            done += len(part)
            if progress is not None:
                progress("Scoring", done / windows)
    return seconds
