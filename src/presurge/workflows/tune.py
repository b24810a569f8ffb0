"""Search the settings of a model by their error on the validation rows; the test rows take no part.

Optuna proposes and keeps the journal, from which an interrupted search continues.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from presurge import files
from presurge.errors import ConfigError, DataError, MissingDependencyError, PresurgeError, StorageError
from presurge.evaluation.backtest import evaluate
from presurge.evaluation.fit import check_rows
from presurge.models import plugins
from presurge.models.forecaster import Forecaster
from presurge.models.registry import BASELINES
from presurge.progress import Progress, silent
from presurge.series.dataset import Dataset
from presurge.series.spans import Span
from presurge.training.loggers import MetricLogger
from presurge.workflows.config import TrainConfig
from presurge.workflows.tune_space import Space, applied, brief, usual_values

BEST = "best_config.json"
SCALE = "scale of the loss"
_OUTCOME = "outcome"
_IDENTITY = "identity"
"""Names of what the journal keeps of a trial, and of the search, beside Optuna's own values."""
_SCALE_OF_THE_LOSS = ("loss", "transform", "scaler")
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_PATIENCE = 5
"""Number of trials after which a search gives up if none of them was possible."""
_ATTEMPTS = 20
"""Draws that find nothing new before the space counts as exhausted."""
_PEERS = 3
"""Epochs of a trial, and trials to compare it with, before it may be pruned."""
_ENOUGH_TO_COMPARE = 20
"""Number of measured trials that importances need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One set of settings and its outcome.

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
        importances: Setting -> share in what distinguishes good trials from others; empty after few trials.
        settings: The best settings.
        best_config: The file that contains them.
    """

    trials: list[Trial]
    baselines: dict[str, float]
    importances: dict[str, float]
    settings: TrainConfig
    best_config: Path

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        written = {"best_config": str(self.best_config), "settings": brief(self.settings)}
        return {"best": asdict(self.trials[0]), **asdict(self), **written}


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
    """Try settings until there are enough trials, continuing the search in the directory if there is one.

    Args:
        dataset: The series and its parts.
        settings: What all trials share.
        space: What they differ in (``space_of``).
        directory: Receives the journal, ``best_config.json`` and ``trials.json``.
        trials: Total number of trials.
        timeout: Seconds after which no further trial starts.
        progress: Called with the share done and the best error so far.

    Raises:
        ConfigError: The directory holds a search for something else.
        DataError: The rows contain no window, or no trial was possible.
        StorageError: The file system refused.
        KeyboardInterrupt: Ctrl-C; the finished trials are kept.
    """
    if "context" not in space:
        check_rows(dataset, settings.context, settings.horizon)
    known = without_test(dataset)
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with opened(directory, _identity(known, settings, space)) as study:
        while True:
            found = _trials(study)
            best = found[0] if found and found[0].error is not None else None
            standing = f"{len(found)} of {trials}"
            if best is not None:
                files.write_json(directory / BEST, brief(applied(settings, best.drawn)))
                standing += f", best {best.error:.4g}"
            progress("Searching", min(len(found) / trials, 1.0), standing)
            hopeless = len(found) >= _PATIENCE and all(one.reason for one in found)
            over = len(found) >= trials or time.monotonic() >= deadline or hopeless
            trial = None if over else _ask(study, space, settings)
            if trial is None:
                break
            _try(trial, known, settings)
        if best is None:
            last = next((one.reason for one in reversed(found) if one.reason), None)
            if last is None:
                raise DataError("no trial was finished in time", hint="Give it more time: `timeout=1h`")
            raise DataError(f"none of {len(found)} trials was possible; the last one: {last}")
        result = TuneResult(
            trials=found,
            baselines=_baseline_errors(known, settings),
            importances=_importances(study),
            settings=applied(settings, best.drawn),
            best_config=directory / BEST,
        )
    files.write_json(directory / "trials.json", result.to_dict())
    return result


def _try(trial: optuna.Trial, dataset: Dataset, settings: TrainConfig) -> None:
    """Measure one trial and tell the study; if something interrupts it from outside, the next search repeats it."""
    began, reason, error = time.process_time(), None, None
    try:
        tried = applied(settings, trial.params)
        own = tried.own().model_dump()
        watcher = Watcher(trial, [own.get(name) for name in _SCALE_OF_THE_LOSS])
        error = validation_error(fit_once(dataset, tried, watcher), dataset)
    except optuna.TrialPruned:
        pass
    except (MissingDependencyError, StorageError):
        raise
    except PresurgeError as refusal:
        reason = str(refusal)
    trial.set_user_attr(_OUTCOME, {"cpu_seconds": time.process_time() - began, "reason": reason})
    trial.study.tell(trial, error, state=TrialState.PRUNED if error is None else TrialState.COMPLETE)


def _trials(study: optuna.Study) -> list[Trial]:
    """The trials that were measured, best first, then those pruned or impossible; not those interrupted from outside."""
    found = []
    for number, trial in enumerate(study.get_trials(deepcopy=False, states=_FINISHED)):
        outcome, measured = trial.user_attrs[_OUTCOME], trial.state is TrialState.COMPLETE
        one = Trial(
            number=number,
            state="measured" if measured else "impossible" if outcome["reason"] else "pruned",
            error=trial.value if measured else None,
            cpu_seconds=outcome["cpu_seconds"],
            epochs=0 if trial.last_step is None else trial.last_step + 1,
            drawn=trial.params,
            reason=outcome["reason"],
        )
        found.append(one)
    return sorted(found, key=lambda one: (one.error is None, one.error or 0.0, one.number))


class _PrunedError(optuna.TrialPruned, PresurgeError):
    """Optuna's signal, as an error of Presurge: raised inside a plugin's training, it is no fault of the plugin."""


class Watcher(MetricLogger):
    """A metric logger that reports every epoch to a trial, and stops the training of a trial that falls behind.

    From the third epoch on, a trial is pruned whose best loss so far is above the median of at least three complete trials at
    the same epoch; only those whose loss is on the same scale count.

    Args:
        trial: What to report to.
        scale: What the losses of two trials must share to be comparable: loss, transform and scaler.
    """

    name = "tune"

    def __init__(self, trial: optuna.Trial, scale: list[Any]) -> None:
        trial.set_user_attr(SCALE, scale)
        complete = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._peers = [one.intermediate_values for one in complete if one.user_attrs.get(SCALE) == scale]
        self._trial, self.epochs, self._best = trial, 0, math.inf

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the values of a step; those of an epoch include a validation loss.

        Raises:
            TrialPruned: The trial is given up.
        """
        if "validation_loss" not in values:
            return
        epoch = int(values["epoch"])
        self.epochs, self._best = epoch + 1, min(self._best, values["validation_loss"])
        self._trial.report(self._best, epoch)
        there = [losses[epoch] for losses in self._peers if epoch in losses]
        if self.epochs >= _PEERS and len(there) >= _PEERS and self._best > np.median(there):
            raise _PrunedError("the trial is worse than others")


def _identity(dataset: Dataset, settings: TrainConfig, space: Space) -> dict[str, Any]:
    """What must stay the same for a search to continue."""
    panel = dataset.panel
    digest = hashlib.sha256(panel.take(Span(panel.indptr[:-1], dataset.validation.last)).values.data)
    for span in (dataset.train, dataset.validation):
        digest.update(span.first.tobytes() + span.last.tobytes())
    windows = {"model", "context", "horizon", "model_settings", "epochs", "max_steps", "max_seconds"}
    roles = {c.name: "" if c.role == "target" else f" ({c.role})" for c in panel.channels}
    return {
        **settings.identity(),
        **settings.model_dump(mode="json", include=windows),
        "channels": [name + role for name, role in roles.items()],
        "data": digest.hexdigest()[:16],
        "space": {name: knob.to_json() for name, knob in space.items()},
    }


@contextmanager
def opened(directory: Path, identity: dict[str, Any]) -> Iterator[optuna.Study]:
    """Start or continue the search in a directory, while no other process may search there.

    Trials that were running when an earlier process ended are marked as failed, so that they are repeated.

    Args:
        directory: Holds the journal.
        identity: What every trial of a search shares, JSON values by the names that the user knows.

    Raises:
        ConfigError: The directory holds a search for something else or no journal, or another process is searching
            there.
        StorageError: The file system refused.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path, hint = directory / "journal.log", "Wait for it, or choose another `out`."
    with (
        files.locked(directory / "search.lock", busy="another process is searching here", hint=hint),
        files.writing(path),
    ):
        # A killed process may leave half a line and the lock of the journal behind.
        path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        study = _load(path)
        _check_identity(study, json.loads(json.dumps(identity)), directory)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        yield study


def _load(path: Path) -> optuna.Study:
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(
            storage=storage, study_name="presurge", direction="minimize", load_if_exists=True
        )
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        hint = "Choose another `out`, or remove this file to start over."
        raise ConfigError("is damaged, or not the journal of a search", where=str(path), hint=hint) from error


def _check_identity(study: optuna.Study, identity: dict[str, Any], directory: Path) -> None:
    if _IDENTITY not in study.user_attrs:
        study.set_user_attr(_IDENTITY, identity)
        return
    # A search of an older version lacks the settings that were added since: it ran with their defaults.
    stored = TrainConfig().model_dump(mode="json") | study.user_attrs[_IDENTITY]
    for name, now in identity.items():
        if stored.get(name) != now:
            raise ConfigError(
                f"holds a search with another {name}: {stored.get(name)!r}, and now it is {now!r}",
                where=str(directory),
                hint="Choose another `out`, or ask for the same search to continue it.",
            )


def _ask(study: optuna.Study, space: Space, settings: TrainConfig) -> optuna.Trial | None:
    """The next trial, with a value for every setting that means something beside the others; None if all were tried.

    What it draws depends only on the seed and the finished trials, so a search that was interrupted and continued tries
    what it would have tried. No settings are tried twice.
    """
    tried = [trial.params for trial in study.get_trials(deepcopy=False, states=_FINISHED)]
    if not tried and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(usual_values(space, settings))
    for attempt in range(_ATTEMPTS):
        own = int(np.random.SeedSequence([settings.seed, len(tried), attempt]).generate_state(1)[0])
        study.sampler = TPESampler(seed=own) if attempt < _ATTEMPTS // 2 else RandomSampler(seed=own)
        trial = study.ask()
        for name, knob in space.items():
            if knob.applies(trial.params):
                knob.draw(trial, name)
        if trial.params not in tried:
            return trial
        study.tell(trial, state=TrialState.FAIL)
    return None


def _importances(study: optuna.Study) -> dict[str, float]:
    """Share of each setting in what distinguishes the best quarter of the trials; empty after few trials.

    Source: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces", IJCAI 2023.
    """
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _ENOUGH_TO_COMPARE:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def without_test(dataset: Dataset) -> Dataset:
    """The data set with nothing in the rows after the validation rows, so that nothing can look at them."""
    panel, rows = dataset.panel, np.arange(len(dataset.panel))
    seen = rows < dataset.validation.last[panel.items_of(rows)]
    return replace(
        dataset, panel=panel.replace(values=np.where(seen[:, None], panel.values, np.float32("nan")))
    )


def validation_error(model: Forecaster, dataset: Dataset) -> float:
    """What a search minimises, in original units: the mean over channels and horizon steps on the validation rows.

    It is the WAPE of a channel that counts; of a gauge, whose zero may lie anywhere, and of a channel without load, the
    mean absolute error over the standard deviation of the training rows. A channel that never changes is left out.

    Raises:
        DataError: All channels are left out.
        HistoryError: The validation rows hold no window.
    """
    panel, train = dataset.panel.only_targets(), dataset.train
    scores = evaluate([model], dataset.panel, dataset.validation, train=train).scores[model.name]
    spread_C = np.nanstd(panel.take(train).values.astype(np.float64), axis=0)
    scaled_HC = scores["mae"] / np.where(spread_C > 0, spread_C, np.nan)
    wape_HC = np.where(panel.count_mask, scores["wape"], np.nan)
    error_HC = np.where(np.isnan(wape_HC), scaled_HC, wape_HC)
    if np.isnan(error_HC).all():
        raise DataError("no channel changes, so that no settings are better than others")
    return float(np.nanmean(error_HC))


def fit_once(dataset: Dataset, settings: TrainConfig, *watchers: Watcher) -> Forecaster:
    """A model fitted to the training rows, while the watchers follow its epochs."""
    model = settings.new_model(loggers=watchers)
    plugins.fit(model, dataset.panel, dataset.train, dataset.validation)
    return model


def _baseline_errors(dataset: Dataset, settings: TrainConfig) -> dict[str, float]:
    """The errors of the baselines that the rows allow."""
    errors = {}
    for name in BASELINES:
        plain = TrainConfig(model=name, context=settings.context, horizon=settings.horizon)
        try:
            errors[name] = validation_error(fit_once(dataset, plain), dataset)
        except DataError:  # too few rows for its season, for example: the search continues with the others
            continue
    return errors
