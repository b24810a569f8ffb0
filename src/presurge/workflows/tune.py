"""Search the settings of a model by their error on the validation rows; the test rows take no part."""

import hashlib
import json
import math
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from presurge import files
from presurge.config import validated
from presurge.errors import DataError, MissingDependencyError, PresurgeError, StorageError
from presurge.evaluation.fit import check_rows
from presurge.models.registry import model_class
from presurge.progress import Progress, silent
from presurge.series.dataset import Dataset
from presurge.workflows.config import TrainConfig, check_model, resolve_config
from presurge.workflows.tune_objective import baseline_errors, fit_once, validation_error, without_test
from presurge.workflows.tune_space import Space, applied, default_space, read_space, usual_values

if TYPE_CHECKING:
    import optuna

BEST = "best_config.json"
TABLE = "trials.json"
_SCALE_OF_THE_LOSS = ("loss", "transform", "scaler")
_NO_MATTER = {
    "allow_fallback", "checkpoint_seconds", "checkpoint_steps", "device", "log_steps", "loggers", "preset", "threads",
    "use_wandb", "wandb_entity", "wandb_project", "wandb_run_name",
}  # fmt: skip
"""Settings that may change between two parts of a search."""
_PATIENCE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One set of settings and what came of it.

    Attributes:
        number: In the order of the search, from 0.
        state: ``measured``; ``pruned``, given up as worse than others; or ``impossible``.
        error: Mean over channels and horizon steps on the validation rows (``validation_error``); None if not measured.
        cpu_seconds: Of the fit and the forecasts.
        epochs: Epochs of a training by gradient, 0 of a closed form.
        drawn: The settings that were searched.
        reason: Why it was impossible.
    """

    number: int
    state: str
    error: float | None
    cpu_seconds: float
    epochs: int
    drawn: dict[str, Any]
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneResult:
    """What a search found.

    Attributes:
        trials: The measured ones first, best first, then the others.
        baselines: Baseline -> its error on the same rows.
        importances: Setting -> share in what tells good trials from others; empty after few trials.
        settings: The best settings.
        best_config: The file that holds them.
    """

    trials: list[Trial]
    baselines: dict[str, float]
    importances: dict[str, float]
    settings: TrainConfig
    best_config: Path

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "best": asdict(self.trials[0]),
            "best_config": str(self.best_config),
            "settings": brief(self.settings),
            "trials": [asdict(trial) for trial in self.trials],
            "baselines": self.baselines,
            "importances": self.importances,
        }


def config_keys(path: Path | None) -> set[str]:
    """The names that a configuration file gives, one that ``resolve_config`` could read."""
    return set() if path is None else set(json.loads(path.read_text(encoding="utf-8")))


def space_of(settings: TrainConfig, path: Path | None = None, *, fixed: Collection[str] = ()) -> Space:
    """What is searched: what a file names, or the space declared for the model without the names that are fixed.

    Raises:
        ConfigError: A name or a value is no setting, or there is nothing to search.
        MissingDependencyError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise MissingDependencyError("optuna", purpose="hyper-parameter search", extra="tune")
    check_model(settings)
    return default_space(settings, fixed) if path is None else read_space(path, settings)


def tune(
    dataset: Dataset,
    settings: TrainConfig,
    space: Space,
    directory: Path,
    *,
    trials: int,
    timeout: float | None = None,
    progress: Progress = silent,
) -> TuneResult:
    """Try settings until there are enough trials, going on with what the directory holds.

    Args:
        dataset: The series and its parts.
        settings: What all trials share.
        space: What they differ in (``space_of``).
        directory: Gets the journal, ``best_config.json`` and ``trials.json``.
        trials: How many trials there shall be in all.
        timeout: Seconds after which no further trial begins.
        progress: Told the share done and the best error so far.

    Raises:
        ConfigError: The directory holds a search for something else.
        DataError: The rows hold no window, or no trial was possible.
        StorageError: The file system refuses.
        KeyboardInterrupt: Ctrl-C; the trials so far are kept.
    """
    from presurge.workflows import tune_study as search

    if all(knob.name != "context" for knob in space):
        check_rows(dataset, settings.context, settings.horizon)
    known = without_test(dataset)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    usual = usual_values(space, settings)
    with search.opened(directory, _identity(known, settings, space)) as study:
        found = _records(search.finished(study))
        while len(found) < trials and time.monotonic() < deadline:
            progress("Searching", len(found) / trials, _standing(found, trials))
            trial = search.ask(study, space, settings.model_settings, seed=settings.seed, first=usual)
            if trial is None:
                break
            _try(study, trial, known, settings)
            found = _records(search.finished(study))
            _refuse_if_hopeless(found)
            _write_best(directory, settings, found)
        progress("Searching", 1.0, _standing(found, trials))
        best = _best(found)
        if best is None:
            raise _nothing_measured(found)
        result = TuneResult(
            trials=sorted(found, key=lambda one: (one.error is None, one.error or 0.0, one.number)),
            baselines=baseline_errors(known, settings),
            importances=search.importances(study),
            settings=applied(settings, best.drawn),
            best_config=directory / BEST,
        )
    files.write_json(directory / BEST, brief(result.settings))  # a killed search may have left an older one
    files.write_json(directory / TABLE, result.to_dict())
    return result


def _try(
    study: "optuna.Study",
    trial: "optuna.Trial",
    dataset: Dataset,
    settings: TrainConfig,
) -> None:
    """Measure one trial and tell the study; whatever cuts it off from outside leaves it to be repeated."""
    import optuna

    from presurge.workflows.tune_study import OUTCOME, SCALE, Watcher

    watcher = Watcher(trial)
    began = time.process_time()

    def tell(state: optuna.trial.TrialState, error: float | None = None, reason: str | None = None) -> None:
        spent = {"cpu_seconds": time.process_time() - began, "epochs": watcher.epochs, "reason": reason}
        trial.set_user_attr(OUTCOME, spent)
        study.tell(trial, error, state=state)

    try:
        tried = applied(settings, trial.params)
        own = validated(model_class(tried.model).config_class, tried.model_settings).model_dump(mode="json")
        trial.set_user_attr(SCALE, [own.get(name) for name in _SCALE_OF_THE_LOSS])
        error = validation_error(fit_once(dataset, tried, watcher), dataset)
    except optuna.TrialPruned:
        tell(optuna.trial.TrialState.PRUNED)
    except (MissingDependencyError, StorageError):
        raise
    except PresurgeError as refusal:
        tell(optuna.trial.TrialState.PRUNED, reason=str(refusal))
    else:
        tell(optuna.trial.TrialState.COMPLETE, error)


def _identity(dataset: Dataset, settings: TrainConfig, space: Space) -> dict[str, Any]:
    """What must be the same where a search goes on."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.panel.values).data)
    for span in (dataset.train, dataset.validation):
        digest.update(span.first.tobytes() + span.last.tobytes())
    return {
        **settings.model_dump(mode="json", exclude=_NO_MATTER),
        "channels": list(dataset.panel.channel_names),
        "data": digest.hexdigest()[:16],
        "space": {knob.name: knob.to_json() for knob in space},
    }


def _records(trials: "list[optuna.trial.FrozenTrial]") -> list[Trial]:
    from presurge.workflows.tune_study import OUTCOME

    records = []
    for number, trial in enumerate(trials):
        outcome = trial.user_attrs[OUTCOME]
        measured = trial.state.name == "COMPLETE"
        records.append(
            Trial(
                number=number,
                state="measured" if measured else "impossible" if outcome["reason"] else "pruned",
                error=trial.value if measured else None,
                drawn=trial.params,
                **outcome,
            )
        )
    return records


def _best(found: list[Trial]) -> Trial | None:
    measured = [(one.error, one.number, one) for one in found if one.error is not None]
    return min(measured)[2] if measured else None


def _standing(found: list[Trial], wanted: int) -> str:
    best = _best(found)
    text = f"{len(found)} of {wanted}"
    return text if best is None else f"{text}, best {best.error:.4g}"


def _refuse_if_hopeless(found: list[Trial]) -> None:
    if len(found) >= _PATIENCE and all(one.state == "impossible" for one in found):
        raise _nothing_measured(found)


def _nothing_measured(found: list[Trial]) -> PresurgeError:
    reasons = [one.reason for one in found if one.reason]
    if not reasons:
        return DataError("no trial was finished in time", hint="Give it more time: `timeout=1h`")
    return DataError(f"none of {len(found)} trials was possible; the last one: {reasons[-1]}")


def _write_best(directory: Path, settings: TrainConfig, found: list[Trial]) -> None:
    best = _best(found)
    if best is not None and best.number == found[-1].number:
        files.write_json(directory / BEST, brief(applied(settings, best.drawn)))


def brief(settings: TrainConfig) -> dict[str, Any]:
    """The settings without what is usual for the model, as ``presurge train`` reads them."""
    usual = resolve_config({"model": settings.model}).model_dump(mode="json")
    return {
        name: value
        for name, value in settings.model_dump(mode="json").items()
        if name in ("model", "context", "horizon") or value != usual[name]
    }
