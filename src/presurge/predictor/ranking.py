"""Which model is best: by rolling error, over the same steps, among the models measured on the same rows.

Shapes: R rows, H horizon, 2 for request and response tokens.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from presurge.predictor.frames import Frame, tokens_of
from presurge.predictor.interface import BasePredictor


def fingerprint(data: Frame, validation_split: float) -> str:
    """Identify the validation rows: a checksum of the tokens of the last rows."""
    tokens_R2 = tokens_of(data)
    return hashlib.sha256(
        tokens_R2[first_validation(len(tokens_R2), validation_split) :].tobytes()
    ).hexdigest()


def first_validation(rows: int, validation_split: float) -> int:
    """The first validation row."""
    return rows - int(rows * validation_split)


def step_errors(wape_H2: npt.NDArray[np.floating]) -> tuple[float, ...]:
    """The mean of both WAPEs at each step, or the one that is defined; () if neither is.

    A WAPE is undefined where all values are zero, as in the tokens of failed requests.
    """
    known = np.isfinite(wape_H2).all(axis=0)
    return tuple(wape_H2[:, known].mean(axis=1).tolist()) if known.any() else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Models and naive models by rolling error, the best first.

    Attributes:
        steps: The errors are means over this many steps ahead, which all of the ranked models forecast.
        errors: Model -> rolling error.
        baselines: Naive model -> rolling error on the same rows, as measured beside the models.
        unranked: Any other model -> why it is not ranked.
    """

    steps: int
    errors: dict[str, float]
    baselines: dict[str, float]
    unranked: dict[str, str]

    @property
    def best(self) -> str | None:
        """The best model; None if no error was measured."""
        return next(iter(self.errors), None)

    @property
    def beats_baselines(self) -> bool:
        """Whether the best model is better than every naive one."""
        return min(self.errors.values(), default=math.inf) < min(self.baselines.values(), default=math.inf)

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.best is None:
            text = "no error of a model was measured"
        else:
            text = f"{self.best} has a rolling error of {self.errors[self.best]:.1%}"
            if self.baselines:
                baseline, least = next(iter(self.baselines.items()))
                text += f", {'below' if self.beats_baselines else 'not below'} the {least:.1%} of {baseline}"
            else:
                text += "; no naive model was measured on its rows"
        return "; ".join([text, *(f"{name} is not ranked: {why}" for name, why in self.unranked.items())])


def rank(models: Mapping[str, BasePredictor], steps: int | None = None, *, rows: str = "") -> Ranking:
    """Rank models by name.

    Args:
        models: In the order in which they were added.
        steps: Rank by the first steps ahead only.
        rows: Fingerprint of the rows to rank on, if a model was measured on them; otherwise the rows of most models
            count, and among equally frequent ones the latest.
    """
    measured = {name: model for name, model in models.items() if model.rolling_errors}
    prints = [model.measured_on for model in measured.values() if model.measured_on]
    here = rows if rows in prints else max(reversed(prints), key=prints.count, default="")
    ranked = {name: model for name, model in measured.items() if model.measured_on == here}
    if not here:  # no model knows its rows: one alone is the best, several cannot be compared
        ranked = measured if len(measured) == 1 else {}
    reach = min((len(model.rolling_errors) for model in ranked.values()), default=0)
    reach = reach if steps is None else min(reach, steps)
    naive = max(
        (model.baseline_errors for model in ranked.values()),
        key=lambda errors: min(map(len, errors.values()), default=0),
        default={},
    )
    return Ranking(
        steps=reach,
        errors=_best_first({name: model.rolling_error(reach) for name, model in ranked.items()}),
        baselines=_best_first({name: fmean(error_H[:reach]) for name, error_H in naive.items()}),
        unranked={name: _why(model) for name, model in models.items() if name not in ranked},
    )


def _why(model: BasePredictor) -> str:
    if not model.rolling_errors:
        return "its error was not measured"
    return "measured on other rows" if model.measured_on else "the rows it was measured on are unknown"


def _best_first(errors: dict[str, float]) -> dict[str, float]:
    return dict(sorted(errors.items(), key=lambda pair: pair[1]))
