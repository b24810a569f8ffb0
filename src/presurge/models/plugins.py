"""Models that others wrote, called at one boundary: checked when registered and with every call, faults reported as theirs.

Shapes: B windows, H horizon, C channels, Q quantiles.
"""

import inspect
import json
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from presurge.config import Config, validated
from presurge.errors import ConfigError, ModelError, PresurgeError
from presurge.training.config import TrainingConfig

if TYPE_CHECKING:
    from presurge.models.forecaster import FitReport, Forecaster, Prediction
    from presurge.progress import Progress
    from presurge.series.panel import Panel
    from presurge.series.spans import Span
    from presurge.series.windows import WindowBatch
    from presurge.store import Arrays

_NAME = re.compile(r"[^\s,:/]+")


def adopt(kind: "type[Forecaster]", provider: str) -> None:
    """Check a model class that others wrote, and remember who brought it.

    Raises:
        ConfigError: The class lacks something or declares something impossible.
    """

    def refuse(what: str, hint: str) -> ConfigError:
        return ConfigError(f"the model class {kind.__qualname__} {what}", where=provider, hint=hint)

    name, summary, own = (getattr(kind, key, None) for key in ("name", "summary", "config_class"))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        hint = 'Write name = "my-model", without spaces, commas or colons.'
        raise refuse(f"has no usable name: {name!r}", hint)
    if not isinstance(summary, str) or not summary:
        raise refuse("has no summary", 'Write summary = "what it is, in one line".')
    if not (isinstance(own, type) and issubclass(own, Config)):
        raise refuse("has no usable config_class", "It must inherit from presurge.config.Config.")
    if inspect.isabstract(kind):
        raise refuse(f"does not define {', '.join(sorted(kind.__abstractmethods__))}", "Define it.")
    try:
        validated(TrainingConfig, kind.training_defaults, where="training_defaults")
    except ConfigError as error:
        what = f"has impossible {error.where}: {error.what}"
        raise refuse(what, "Use settings of the training loop.") from error
    kind.provider = provider


@contextmanager
def faults_of(kind: "type[Forecaster]") -> Iterator[None]:
    """Report whatever the code of a plugin raises inside as its fault, with the place in its own file.

    Raises:
        ModelError: It raised something other than an error of Presurge.
    """
    try:
        yield
    except PresurgeError:
        raise
    except Exception as error:
        if kind.provider is None:
            raise
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules.get(kind.__module__), "__file__", None)
        last = ([frame for frame in frames if frame.filename == file] or frames)[-1]
        place = f"{Path(last.filename).name}, line {last.lineno}"
        raise _fault(kind, f"{type(error).__name__}: {error} ({place})") from error


def _fault(kind: "type[Forecaster]", what: str) -> ModelError:
    what = f"the model {kind.name} failed: {what}"
    return ModelError(what, where=kind.provider, hint="See more of it with `debug`.")


def make(kind: "type[Forecaster]", **arguments: Any) -> "Forecaster":
    """Instantiate a model class.

    Raises:
        ModelError: The constructor of a plugin failed.
    """
    with faults_of(kind):
        return kind(**arguments)


def fit(
    model: "Forecaster",
    panel: "Panel",
    train: "Span",
    validation: "Span | None" = None,
    *,
    progress: "Progress | None" = None,
) -> "FitReport":
    """Fit a model, as ``Forecaster.fit`` does; of a plugin, check that it gives a report and knows its series.

    Raises:
        ModelError: A plugin failed.
    """
    from presurge.models.forecaster import FitReport

    kind = type(model)
    with faults_of(kind):
        report: object = model.fit(panel, train, validation, progress=progress)
    if not isinstance(report, FitReport):
        raise _fault(kind, f"fit returned {type(report).__name__}, not a FitReport")
    if model.spec is None:
        raise _fault(kind, "fit did not set self.spec = SeriesSpec.of(panel)")
    return report


def predict(model: "Forecaster", batch: "WindowBatch") -> "Prediction":
    """Forecast B windows, as ``Forecaster.predict`` does; of a plugin, check what it gives.

    The forecasts of a plugin become float32 and those of counts are clipped at zero. A window whose context is complete must
    have finite forecasts.

    Raises:
        ModelError: A plugin failed.
    """
    kind = type(model)
    if kind.provider is None:
        return model.predict(batch)
    with faults_of(kind):
        return _checked(model, model.predict(batch), batch)


def _checked(model: "Forecaster", prediction: object, batch: "WindowBatch") -> "Prediction":
    from presurge.models.forecaster import Prediction

    kind, spec = type(model), model.fitted_spec()
    if not isinstance(prediction, Prediction):
        raise _fault(kind, f"predict returned {type(prediction).__name__}, not a Prediction")
    point, quantiles, levels = prediction
    windows, horizon, channels = shape = (len(batch.origin_B), model.horizon, len(spec.targets))
    if np.shape(point) != shape:
        raise _fault(kind, f"predict gave forecasts of the shape {np.shape(point)}, not [B, H, C] = {shape}")
    wanted = (windows, horizon, len(levels), channels)
    if quantiles is not None and np.shape(quantiles) != wanted:
        what = f"predict gave quantiles of the shape {np.shape(quantiles)}, not [B, H, Q, C] = {wanted}"
        raise _fault(kind, what)
    floor_C = np.where(spec.count_mask, np.float32(0), np.float32(-np.inf))
    point_BHC = np.maximum(point, floor_C, dtype=np.float32)
    whole_B = np.isfinite(batch.context_BLC).all(axis=(1, 2))
    if batch.future_BHK is not None:
        whole_B &= np.isfinite(batch.future_BHK).all(axis=(1, 2))
    if lost := int((~np.isfinite(point_BHC[whole_B])).any(axis=(1, 2)).sum()):
        what = f"{lost} of {whole_B.sum()} forecasts are not finite although their context is complete"
        raise _fault(kind, what)
    quantiles_BHQC = None if quantiles is None else np.maximum(quantiles, floor_C, dtype=np.float32)
    return Prediction(point_BHC, quantiles_BHQC, levels)


def state_of(model: "Forecaster") -> "tuple[dict[str, Any], Arrays]":
    """What ``Forecaster.state`` gives, checked before anything is written.

    Raises:
        ModelError: It is not JSON values and NumPy arrays.
    """
    kind = type(model)
    with faults_of(kind):
        stored: Any = model.state()
    try:
        values, arrays = stored
        json.dumps(values)
        if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise TypeError(f"{others[0]} is not an array")
    except (TypeError, ValueError, AttributeError) as error:
        raise _fault(kind, f"state must give JSON values and NumPy arrays: {error}") from error
    return values, arrays
