"""Which model is best: by rolling error, over the same steps, among those that were measured on the same rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from presurge.predictor.interface import BasePredictor


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Models and naive models by rolling error, the best first.

    Attributes:
        steps: The errors are means over so many steps ahead, which all of the ranked models forecast.
        errors: Model -> rolling error.
        baselines: Naive model -> rolling error on the same rows, as measured beside the models.
        unranked: Other model -> why it is not among them.
    """

    steps: int
    errors: dict[str, float]
    baselines: dict[str, float]
    unranked: dict[str, str]

    @property
    def best(self) -> str | None:
        """The best model; None where no error was measured."""
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
        rows: Fingerprint of the rows to rank on, where a model was measured on them; else those of most models count, and
            of two as frequent the later.
    """
    measured = {name: model for name, model in models.items() if model.rolling_errors}
    prints = [model.measured_on for model in measured.values() if model.measured_on]
    here = rows if rows in prints else max(reversed(prints), key=prints.count, default="")
    ranked = {name: model for name, model in measured.items() if model.measured_on == here}
    if not here:  # no model knows its rows: one alone is the best, several cannot be compared
        ranked = measured if len(measured) == 1 else {}
    reach = min((len(model.rolling_errors) for model in ranked.values()), default=0)
    reach = reach if steps is None else min(reach, steps)
    naive = max((model.baseline_errors for model in ranked.values()), key=_reach, default={})
    return Ranking(
        steps=reach,
        errors=_sorted({name: model.rolling_error(reach) for name, model in ranked.items()}),
        baselines=_sorted({name: fmean(error_H[:reach]) for name, error_H in naive.items()}),
        unranked={name: _why(model) for name, model in models.items() if name not in ranked},
    )


def _why(model: BasePredictor) -> str:
    if not model.rolling_errors:
        return "its error was not measured"
    return "measured on other rows" if model.measured_on else "which rows it was measured on is not known"


def _reach(errors: Mapping[str, tuple[float, ...]]) -> int:
    return min(map(len, errors.values()), default=0)


def _sorted(errors: dict[str, float]) -> dict[str, float]:
    return dict(sorted(errors.items(), key=lambda pair: pair[1]))
