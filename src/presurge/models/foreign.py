"""Models that others wrote: what their classes must have, and faults of their code said as theirs.

Shapes: B windows, H horizon, C channels, Q quantiles.
"""

import inspect
import json
import re
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from presurge.config import Config
from presurge.errors import ConfigError, ModelError, PresurgeError
from presurge.models.forecaster import FitReport, Forecaster, Prediction
from presurge.series.windows import WindowBatch
from presurge.training.config import TrainingConfig

_NAME = re.compile(r"[^\s,:/]+")
_GUARDED = ("__init__", "fit", "predict", "state", "restore")


def adopt(kind: type[Forecaster], provider: str) -> None:
    """Make a class of others fit to be used: check it, remember who brought it, and watch over its methods.

    Raises:
        ConfigError: It lacks something, or has what cannot be.
    """
    _check(kind, provider)
    if "provider" not in vars(kind):
        for name in _GUARDED:
            setattr(kind, name, _guarded(getattr(kind, name), _CHECKS.get(name)))
    kind.provider = provider


def _check(kind: type[Forecaster], provider: str) -> None:
    def refuse(what: str, hint: str) -> ConfigError:
        return ConfigError(f"the model class {kind.__qualname__} {what}", where=provider, hint=hint)

    name, summary = getattr(kind, "name", None), getattr(kind, "summary", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refuse(
            f"has no usable name: {name!r}", 'Write name = "my-model", without spaces, commas or colons.'
        )
    if not isinstance(summary, str) or not summary:
        raise refuse("has no summary", 'Write summary = "what it is, in one line".')
    own: object = kind.config_class
    if not (isinstance(own, type) and issubclass(own, Config)):
        raise refuse("has no usable config_class", "It must inherit from presurge.config.Config.")
    if inspect.isabstract(kind):
        raise refuse(f"does not define {', '.join(sorted(kind.__abstractmethods__))}", "Define it.")
    try:
        TrainingConfig(**kind.training_defaults)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise refuse(
            f"has impossible training_defaults: {key}: {first['msg']}", "Use settings of the training loop."
        ) from error


def _guarded(method: Callable[..., Any], check: Callable[..., Any] | None) -> Callable[..., Any]:
    """The method, with its faults said as the model's, and what it gives checked."""

    @wraps(method)
    def run(self: Forecaster, *args: Any, **named: Any) -> Any:
        try:
            result = method(self, *args, **named)
            return result if check is None else check(self, result, *args)
        except PresurgeError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}, line {last.lineno}"
            raise _fault(self, f"{type(error).__name__}: {error} ({place})") from error

    return run


def _fault(model: Forecaster, what: str) -> ModelError:
    return ModelError(
        f"the model {model.name} failed: {what}", where=model.provider, hint="See more of it with `debug`."
    )


def _checked_report(model: Forecaster, report: Any, *_: Any) -> FitReport:
    if not isinstance(report, FitReport):
        raise _fault(model, f"fit gave no FitReport but {type(report).__name__}")
    if model.spec is None:
        raise _fault(model, "fit did not set self.spec = SeriesSpec.of(panel)")
    return report


def _checked_state(model: Forecaster, stored: Any, *_: Any) -> tuple[dict[str, Any], Any]:
    try:
        values, arrays = stored
        json.dumps(values)
        plain = all(isinstance(array, np.ndarray) for array in arrays.values())
    except (TypeError, ValueError, AttributeError) as error:
        raise _fault(model, f"state must give JSON values and NumPy arrays: {error}") from error
    if not plain:
        raise _fault(model, "state must give NumPy arrays")
    return values, arrays


def _checked_prediction(model: Forecaster, prediction: Any, batch: WindowBatch) -> Prediction:
    """The forecasts as float32, counts never negative; a window with all its context has numbers for a forecast."""
    shape = (len(batch.origin_B), model.horizon, len(model.fitted_spec().targets))
    if not isinstance(prediction, Prediction):
        raise _fault(model, f"predict gave no Prediction but {type(prediction).__name__}")
    mean, quantiles, levels = prediction
    if np.shape(mean) != shape:
        raise _fault(model, f"predict gave forecasts of the shape {np.shape(mean)}, not [B, H, C] = {shape}")
    if quantiles is not None and (
        np.ndim(quantiles) != 4 or (*quantiles.shape[:2], quantiles.shape[3]) != shape
    ):
        raise _fault(model, f"predict gave quantiles of the shape {np.shape(quantiles)}, not [B, H, Q, C]")
    floor_C = np.where(model.fitted_spec().count_mask, 0.0, -np.inf)
    mean_BHC = np.maximum(mean, floor_C).astype(np.float32, copy=False)
    whole_B = np.isfinite(batch.context_BLC).all(axis=(1, 2))
    if batch.future_BHK is not None:
        whole_B &= np.isfinite(batch.future_BHK).all(axis=(1, 2))
    lost = int((~np.isfinite(mean_BHC[whole_B])).any(axis=(1, 2)).sum())
    if lost:
        raise _fault(
            model,
            f"{lost} of {whole_B.sum()} forecasts hold what is no number, though their context is whole",
        )
    if quantiles is None:
        return Prediction(mean_BHC)
    return Prediction(mean_BHC, np.maximum(quantiles, floor_C).astype(np.float32, copy=False), levels)


_CHECKS: dict[str, Callable[..., Any]] = {
    "fit": _checked_report,
    "predict": _checked_prediction,
    "state": _checked_state,
}
