"""Rolling-origin evaluation: every model forecasts from the same origins, and all are scored alike."""

from collections.abc import Mapping, Sequence

from presurge.errors import ConfigError, HistoryError
from presurge.evaluation.metrics import ScoreSums, naive_scale
from presurge.evaluation.result import Cost, Evaluation
from presurge.evaluation.walk import walk
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES
from presurge.progress import Progress
from presurge.series.frequency import format_step
from presurge.series.panel import IntArray, Panel
from presurge.series.spans import Span
from presurge.series.windows import whole, window_origins

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
    """Score fitted models over a span: forecast from every ``stride``-th row and compare with what came.

    All models forecast from the same origins. An origin counts if the longest context fits before it and the longest
    context of the models that do not tolerate gaps is complete; the others are reported as skipped. (The baselines
    tolerate gaps, so a long season costs no windows.) Missing targets are left out.

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
    panel, horizon = _matching(models, panel)
    every, origins = _common_origins(models, panel, span, horizon, stride)
    scale_C = naive_scale(panel, train)
    sums = {
        m.name: ScoreSums(horizon, m.calibration.levels if m.calibration else (), scale_C) for m in models
    }
    seconds = dict.fromkeys(sums, 0.0)
    done = 0
    for piece in walk(models, panel, origins):
        sums[piece.model].add(piece.actual(), piece.mean_BHC, piece.quantiles_BHQC)
        seconds[piece.model] += piece.cpu_seconds
        done += len(piece.origins_B)
        if progress is not None:
            progress("Scoring", done / (len(models) * len(origins)))
    fits, times = fit_seconds or {}, panel.times()
    return Evaluation(
        scores={name: total.scores() for name, total in sums.items()},
        channels=models[0].fitted_spec().targets,
        step=panel.step,
        clock=panel.clock,
        horizon=horizon,
        contexts={model.name: model.context for model in models},
        costs={name: Cost(predict_seconds=s, fit_seconds=fits.get(name)) for name, s in seconds.items()},
        baselines=tuple(name for name in sums if name in BASELINES),
        n_windows=len(origins),
        n_skipped=len(every) - len(origins),
        stride=stride,
        first_us=int(times[origins + 1].min()),
        last_us=int(times[origins + horizon].max()),
    )


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


def _common_origins(
    models: Sequence[Forecaster], panel: Panel, span: Span, horizon: int, stride: int
) -> tuple[IntArray, IntArray]:
    """All origins that the longest context allows, and those of them that every model can forecast from.

    Raises:
        HistoryError: No model can forecast from any of them.
    """
    longest = max(models, key=lambda model: model.context)
    every = window_origins(panel, span, context=longest.context, horizon=horizon, stride=stride)
    strict = [model.context for model in models if not model.tolerates_gaps]
    context = max(strict) if strict else min(model.context for model in models)
    origins = every[whole(panel, every, context=context, horizon=horizon)]
    if len(origins):
        return every, origins
    needs = f"{longest.name} reads {longest.context} rows before each origin"
    if len(every):
        raise HistoryError(
            f"all {len(every):,} windows of the {len(span):,} rows to score have a missing value in their context: "
            f"{needs}",
            hint="Repair the data, or choose a shorter `context` or `season`.",
        )
    raise HistoryError(
        f"no window fits into the {len(span):,} rows to score: {needs} and is compared with {horizon} rows after it",
        hint="Give more rows to score, or choose a shorter `context`, `season` or `horizon`.",
    )
