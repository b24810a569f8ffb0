"""The search itself, on Optuna: what to try next, when to give a trial up, and a journal that survives anything."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from presurge.errors import ConfigError
from presurge.files import locked, storage_error
from presurge.workflows.tune_space import Space, in_order

JOURNAL = "journal.log"
OUTCOME = "outcome"
SCALE = "scale of the loss"
"""Names of what is kept with a trial beside its values."""
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_IDENTITY = "identity"
_LOCK = "search.lock"
_ATTEMPTS = 20
"""Draws that find nothing new before the space counts as exhausted."""
_ENOUGH_TO_COMPARE = 20


class MedianOfPeers(optuna.pruners.BasePruner):
    """Gives a trial up whose best epoch so far is worse than that of the median trial by then.

    Trials are compared only where their losses are: of one loss, transform and scaler.

    Args:
        warmup: Epochs that every trial is given.
        peers: Complete trials that it takes.
    """

    def __init__(self, *, warmup: int = 3, peers: int = 3) -> None:
        self.warmup, self.peers = warmup, peers

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to give it up now."""
        epoch = trial.last_step
        if epoch is None or epoch + 1 < self.warmup:
            return False
        by_then = [
            min(loss for number, loss in other.intermediate_values.items() if number <= epoch)
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if other.intermediate_values and other.user_attrs[SCALE] == trial.user_attrs[SCALE]
        ]
        return len(by_then) >= self.peers and min(trial.intermediate_values.values()) > median(by_then)


class Watcher:
    """A metric logger that reports every epoch to the trial, and stops the training of one that is given up."""

    name = "tune"

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial
        self.epochs = 0

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the values of a step; those of an epoch hold a validation loss.

        Raises:
            TrialPruned: The trial is given up.
        """
        if "validation_loss" not in values:
            return
        self.epochs = int(values["epoch"]) + 1
        self.trial.report(values["validation_loss"], self.epochs - 1)
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def mark(self) -> int:
        """Nothing to come back to."""
        return 0

    def rewind(self, mark: int) -> None:
        """Nothing to forget: a trial is never resumed."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> None:
        """Nothing to close."""


@contextmanager
def opened(directory: Path, identity: dict[str, Any]) -> Iterator[optuna.Study]:
    """The search in a directory, begun or gone on with; nobody else may search there meanwhile.

    Trials that were running when an earlier process ended are marked as failed; ``ask`` then repeats them.

    Args:
        directory: Holds the journal.
        identity: What every trial of a search shares, JSON values by the names that the user knows.

    Raises:
        ConfigError: The directory holds a search for something else, or somebody is searching there now.
        StorageError: The file system refuses.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / JOURNAL
    with locked(
        directory / _LOCK,
        busy="another process is searching here",
        hint="Wait for it, or choose another `out`.",
    ):
        try:
            _repair(path)
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name="presurge",
                direction="minimize",
                pruner=MedianOfPeers(),
                load_if_exists=True,
            )
            _check_identity(study, identity, directory)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        except OSError as error:
            raise storage_error(error, path) from error


def _repair(path: Path) -> None:
    """Cut off a last line that a process was killed in the middle of, and drop the lock that it held."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            os.truncate(path, whole)


def _check_identity(study: optuna.Study, identity: dict[str, Any], directory: Path) -> None:
    plain = json.loads(json.dumps(identity))
    stored = study.user_attrs.get(_IDENTITY)
    if stored is None:
        study.set_user_attr(_IDENTITY, plain)
        return
    changed = [name for name in {**stored, **plain} if stored.get(name) != plain.get(name)]
    if changed:
        name = changed[0]
        raise ConfigError(
            f"holds a search with another {name}: {stored.get(name)!r}, and now it is {plain.get(name)!r}",
            where=str(directory),
            hint="Choose another `out`, or ask for the same search to continue it.",
        )


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that were measured, given up or impossible; not those that were cut off from outside."""
    return study.get_trials(deepcopy=False, states=_FINISHED)


def ask(
    study: optuna.Study, space: Space, fixed: dict[str, Any], *, seed: int, first: dict[str, Any]
) -> optuna.Trial | None:
    """The next trial, with a value for every knob that means something beside the others; None if all was tried.

    What it draws depends on the seed and the finished trials only, so a search that was cut off and gone on with tries
    what it would have tried. What was tried is not tried again.

    Args:
        study: The search.
        space: What is drawn.
        fixed: Settings of the model that are not.
        seed: Of the search.
        first: The values of the very first trial.
    """
    tried = [trial.params for trial in finished(study)]
    if not tried and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(first)
    for attempt in range(_ATTEMPTS):
        own = int(np.random.SeedSequence([seed, len(tried), attempt]).generate_state(1)[0])
        study.sampler = (
            optuna.samplers.TPESampler(seed=own, multivariate=False, constant_liar=False)
            if attempt < _ATTEMPTS // 2
            else optuna.samplers.RandomSampler(seed=own)
        )
        trial = study.ask()
        _draw(trial, space, fixed)
        if trial.params not in tried:
            return trial
        study.tell(trial, state=TrialState.FAIL)
    return None


def _draw(trial: optuna.Trial, space: Space, fixed: dict[str, Any]) -> None:
    for knob in in_order(space):
        if not knob.applies(fixed | trial.params):
            continue
        if knob.choices:
            trial.suggest_categorical(knob.name, knob.choices)
        elif knob.whole:
            step = 1 if knob.step is None else int(knob.step)
            trial.suggest_int(knob.name, int(knob.low), int(knob.high), step=step, log=knob.log)
        else:
            trial.suggest_float(knob.name, knob.low, knob.high, step=knob.step, log=knob.log)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what tells the best quarter of the trials from the others; nothing from few trials.

    Source: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023.
    """
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _ENOUGH_TO_COMPARE:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)
