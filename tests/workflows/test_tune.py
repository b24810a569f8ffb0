"""The search: repeatable, resumable after kill -9, blind to the test rows and pruned by validation; its result trains."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the search needs optuna: make test")
if find_spec("torch") is None:
    pytest.skip("training by gradient needs torch: make test", allow_module_level=True)

import optuna

from presurge.cli import main
from presurge.errors import ConfigError, DataError, MissingDependencyError
from presurge.models.registry import model_class, model_names
from presurge.series.dataset import Dataset
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.workflows.config import check_model, resolve_config
from presurge.workflows.tune import (
    SCALE,
    TuneResult,
    Watcher,
    fit_once,
    opened,
    tune,
    validation_error,
    without_test,
)
from presurge.workflows.tune_space import Knob, applied, space_of

Run = Callable[..., tuple[int, str, str]]

RIDGES = {"ridge": Knob(low=1e-4, high=1.0, log=True), "transform": Knob(choices=("identity", "sqrt"))}
DYING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {folder!r})
import test_tune as cases
from presurge.models.linear.dlinear import DLinear

fits, fit = 0, DLinear.fit

def fit_or_die(*arguments, **options):
    global fits
    fits += 1
    if fits == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(*arguments, **options)

DLinear.fit = fit_or_die
cases.search(Path({out!r}), trials=8)
"""
"""A process that kills itself in the middle of its fourth trial."""


def dataset(*, test: float = 1.0) -> Dataset:
    """Hours of a count with a daily rhythm and a gauge around zero; the test rows are multiplied."""
    rng = np.random.default_rng(3)
    rate = 30 + 20 * np.sin(2 * np.pi * np.arange(500) / 24)
    values = np.stack([rng.poisson(rate), rng.normal(np.sin(np.arange(500) / 9), 0.3)], 1).astype(np.float32)
    values[400:] *= test
    panel = Panel(
        values=values, channels=(Channel("requests", kind="count"), Channel("drift", kind="gauge")),
        step=3_600_000_000, start=np.zeros(1, np.int64),
    )  # fmt: skip
    parts = [Span(np.array([a]), np.array([b])) for a, b in ((0, 300), (300, 400), (400, 500))]
    return Dataset(
        panel=panel, train=parts[0], validation=parts[1], test=parts[2], validation_given=True, source={}
    )


def search(out: Path, *, trials: int = 6, seed: int = 0, data: Dataset | None = None) -> TuneResult:
    settings = resolve_config({"model": "dlinear", "context": 24, "horizon": 2, "seed": seed})
    return tune(data or dataset(), settings, RIDGES, out, trials=trials)


def outcomes(result: TuneResult) -> list[tuple[object, ...]]:
    """What a search tried and found, in order."""
    return [(one.state, one.drawn, one.error) for one in sorted(result.trials, key=lambda one: one.number)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    """A search of 8 trials in one go."""
    return search(tmp_path_factory.mktemp("whole"), trials=8)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in a folder that holds load.csv: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "load.csv")

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


LOAD = ("load.csv", "--time", "t", "--value", "requests,drift", "--context", "24", "--horizon", "2")


def table(path: Path) -> None:
    rows = dataset().panel.values.tolist()
    path.write_text(
        "t,requests,drift\n" + "".join(f"{3600 * i},{a:.0f},{b:.4f}\n" for i, (a, b) in enumerate(rows))
    )


def test_the_same_seed_makes_the_same_trials(whole: TuneResult, tmp_path: Path) -> None:
    assert outcomes(search(tmp_path / "same", trials=8)) == outcomes(whole)
    other = outcomes(search(tmp_path / "other", trials=4, seed=1))
    assert [drawn for _, drawn, _ in other] != [drawn for _, drawn, _ in outcomes(whole)[:4]]


def test_a_search_continues_where_it_stopped(whole: TuneResult, tmp_path: Path) -> None:
    assert outcomes(search(tmp_path, trials=3)) == outcomes(whole)[:3]
    assert outcomes(search(tmp_path, trials=8)) == outcomes(whole)
    assert outcomes(search(tmp_path, trials=5)) == outcomes(whole), "nothing is left to do"


def test_the_test_rows_take_no_part(whole: TuneResult, tmp_path: Path) -> None:
    result = search(tmp_path, trials=8, data=dataset(test=np.nan))
    assert outcomes(result) == outcomes(whole)
    assert result.baselines == whole.baselines


def test_kill_9_costs_only_the_running_trial(whole: TuneResult, tmp_path: Path) -> None:
    code = DYING.format(folder=str(Path(__file__).parent), out=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "best_config.json").exists()
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code": 5, "torn')
    (tmp_path / "journal.log.lock").symlink_to("held by the killed process")

    assert outcomes(search(tmp_path, trials=8)) == outcomes(whole)
    storage = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    study = optuna.load_study(study_name="presurge", storage=optuna.storages.JournalStorage(storage))
    states = [trial.state.name for trial in study.trials]
    assert states[3:5] == ["FAIL", "COMPLETE"], "the interrupted trial is marked and repeated"


def test_the_error_matches_numpy(tmp_path: Path) -> None:
    """Against plain NumPy: the WAPE of the count, the MAE over the standard deviation of the gauge."""
    data = without_test(dataset())
    settings = resolve_config({"model": "last-value", "context": 24, "horizon": 2})
    values = dataset().panel.values.astype(np.float64)
    errors = []
    for step in (1, 2):
        origins = np.arange(299, 398)
        absolute = np.abs(values[origins + step] - values[origins])
        errors.append(absolute[:, 0].sum() / values[origins + step, 0].sum())
        errors.append(absolute[:, 1].mean() / values[:300, 1].std())
    assert validation_error(fit_once(data, settings), data) == pytest.approx(np.mean(errors), rel=1e-6)


def test_no_settings_are_tried_twice_and_a_small_space_ends(tmp_path: Path) -> None:
    settings = resolve_config({"model": "dlinear", "context": 24, "horizon": 2})
    space = {"individual": Knob(choices=(True, False)), "normalisation": Knob(choices=("none", "last"))}
    result = tune(dataset(), settings, space, tmp_path, trials=30)
    assert len(result.trials) == 4
    assert result.trials[0].error == min(one.error or 0.0 for one in result.trials)
    first = next(one for one in result.trials if one.number == 0)
    assert first.drawn == {"individual": True, "normalisation": "none"}, "the usual settings are tried first"


def test_incompatible_settings_are_impossible(tmp_path: Path) -> None:
    settings = resolve_config({"model": "dlinear", "context": 24, "horizon": 2, "epochs": 1})
    space = {"solver": Knob(choices=("exact", "sgd")), "loss": Knob(choices=("mse", "mae"))}
    result = tune(dataset(), settings, space, tmp_path, trials=10)
    impossible = [one for one in result.trials if one.state == "impossible"]
    assert [one.drawn for one in impossible] == [{"solver": "exact", "loss": "mae"}]
    assert "the exact solver minimises the squared error" in str(impossible[0].reason)
    assert {one.epochs for one in result.trials if one.drawn["solver"] == "sgd"} == {1}


def study_with_peers(scale: list[str]) -> optuna.Study:
    """A study that knows three complete trials whose loss was 0.3 in every epoch."""
    study = optuna.create_study()
    for _ in range(3):
        peer = optuna.trial.create_trial(
            value=0.3, intermediate_values=dict.fromkeys(range(5), 0.3), user_attrs={SCALE: scale}
        )
        study.add_trial(peer)
    return study


def test_a_training_that_falls_behind_is_pruned_between_epochs() -> None:
    settings = resolve_config(
        {"context": 24, "horizon": 2, "epochs": 8, "learning_rate": 1e-6, "model_settings": {"solver": "sgd"}}
    )
    before = signal.getsignal(signal.SIGINT)
    watcher = Watcher(study_with_peers(["mse"]).ask(), ["mse"])
    with pytest.raises(optuna.TrialPruned):
        fit_once(without_test(dataset()), settings, watcher)
    assert watcher.epochs == 3
    assert signal.getsignal(signal.SIGINT) is before

    watcher = Watcher(study_with_peers(["mae"]).ask(), ["mse"])
    fit_once(without_test(dataset()), settings, watcher)
    assert watcher.epochs == 8, "losses of different kinds are not compared"


def test_the_search_prunes(tmp_path: Path) -> None:
    base = {"context": 24, "horizon": 2, "epochs": 6, "model_settings": {"solver": "sgd"}}
    space = {"learning_rate": Knob(low=1e-6, high=1e-1, log=True)}
    result = tune(dataset(), resolve_config(base), space, tmp_path, trials=12)
    pruned = [one for one in result.trials if one.state == "pruned"]
    assert pruned
    assert all(3 <= one.epochs < 6 and one.error is None for one in pruned)
    assert result.trials[0].error == min(one.error for one in result.trials if one.error is not None)


def test_train_accepts_the_best_settings(run: Run) -> None:
    tuned = (
        "tune",
        *LOAD,
        "--out",
        "search",
        "--trials",
        "5",
        "--epochs",
        "2",
        "--batch-size",
        "64",
        "--json",
    )
    code, out, err = run(*tuned)
    assert code == 0, err
    result = json.loads(out)
    best = json.loads(Path("search/best_config.json").read_text())
    assert best == result["settings"]
    assert (best["epochs"], best["batch_size"]) == (2, 64), "settings fixed by an option are not searched"
    assert not any("batch_size" in one["drawn"] for one in result["trials"])

    train = (
        "train",
        *LOAD[:5],
        "--config",
        "search/best_config.json",
        "--out",
        "run",
        "--no-plots",
        "--quiet",
    )
    code, _, err = run(*train)
    assert code == 0, err
    resolved = json.loads(Path("run/training_config.json").read_text())
    assert {name: resolved[name] for name in best} == best
    assert resolved["model_settings"] == result["best"]["drawn"]


def test_the_table_names_the_best_trials_and_a_baseline(run: Run) -> None:
    code, out, err = run("tune", *LOAD, "--out", "search", "--model", "linear", "--trials", "4")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["trial", "error", "CPU-s", "epochs", "settings"]
    errors = [float(line.split()[1]) for line in lines[2:6]]
    assert errors == sorted(errors)
    assert "baseline" in lines[6]
    assert "4 trials measured" in lines[7]
    assert "--config search/best_config.json" in err


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"kernel": [5]}, "dlinear has no setting 'kernel'"),
        ({"device": ["cpu"]}, "dlinear has no setting 'device'"),
        ({"kernel_size": [5, 24]}, "its size must be odd (got 24)"),
        ({"learning_rate": {"low": 0, "high": 1}}, "learning_rate: input should be greater than 0"),
        ({"learning_rate": {"low": 0.0, "high": 1, "log": True}}, "a range with log starts above zero"),
        ({"learning_rate": {"low": 1, "high": 0.1}}, "learning_rate: low must be below high"),
        ({"learning_rate": {"min": 1, "high": 2}}, "unknown key 'min'"),
        ({"learning_rate": 0.1}, "learning_rate: must be a list of values or a range"),
        ([], "must hold keys and values"),
    ],
)
def test_an_invalid_space_is_refused_before_anything_runs(run: Run, space: Any, says: str) -> None:
    Path("space.json").write_text(json.dumps(space))
    code, _, err = run("tune", *LOAD, "--out", "search", "--space", "space.json")
    assert code == 2
    assert says in err
    assert not Path("search").exists()


def test_a_space_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    document = {
        "solver": ["exact", "sgd"],
        "kernel_size": {"low": 5, "high": 25, "step": 4},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "context": [24, 48],
    }
    path.write_text(json.dumps(document))
    space = space_of(resolve_config({"model_settings": {"kernel_size": 7}}), path)
    assert {name: knob.to_json() for name, knob in space.items()} == document
    with_sgd = {"solver": ("sgd",)}
    conditions = {name: knob.only_with for name, knob in space.items()}
    assert conditions == {"solver": {}, "context": {}, "kernel_size": with_sgd, "learning_rate": with_sgd}


def test_a_fixed_setting_decides_which_others_are_searched() -> None:
    exact = space_of(resolve_config({"model_settings": {"solver": "exact"}}))
    assert {"ridge", "transform"} <= exact.keys()
    assert not {"solver", "loss", "learning_rate"} & exact.keys()
    sgd = space_of(resolve_config({"model_settings": {"solver": "sgd"}}), fixed={"batch_size"})
    assert {"loss", "learning_rate"} <= sgd.keys()
    assert not {"solver", "ridge", "batch_size"} & sgd.keys()
    assert not any(knob.only_with for knob in (*exact.values(), *sgd.values()))


def test_what_depends_on_an_idle_setting_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    robust, sgd = {"scaler": ["robust"]}, {"solver": ["sgd"]}
    declared = {
        "batch_size": {"choices": [32, 64], "only_with": robust},
        "scaler": {"choices": ["standard", "robust"], "only_with": sgd},
        "solver": ["exact", "sgd"],
        "ridge": [1.0, 10.0],
    }
    monkeypatch.setattr(model_class("dlinear"), "search_space", declared)
    assert space_of(resolve_config({"model": "dlinear"})).keys() == declared.keys()
    assert space_of(resolve_config({"model_settings": {"solver": "exact"}})).keys() == {"ridge"}


def test_every_declared_value_is_possible() -> None:
    searched = []
    for model in model_names():
        settings = resolve_config({"model": model})
        try:
            space = space_of(settings)
        except ConfigError:
            continue
        searched.append(model)
        for name, knob in space.items():
            for value in knob.extremes():
                check_model(applied(settings, {name: value}))
    assert {"dlinear", "linear", "auto", "lstm", "gru", "transformer"} <= set(searched)


def test_a_directory_of_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path, trials=1)
    settings = resolve_config({"model": "dlinear", "context": 24, "horizon": 3})
    with pytest.raises(ConfigError, match="holds a search with another horizon: 2, and now it is 3"):
        tune(dataset(), settings, RIDGES, tmp_path, trials=1)
    data = dataset()
    with pytest.raises(ConfigError, match="another data"):
        search(tmp_path, data=replace(data, train=Span(np.array([10]), data.train.last)))


def test_a_setting_that_an_older_version_lacks_has_its_default(tmp_path: Path) -> None:
    with opened(tmp_path, {"horizon": 2}):
        pass
    with opened(tmp_path, {"horizon": 2, "plateau_patience": 5}):
        pass
    changed = opened(tmp_path, {"horizon": 2, "plateau_patience": 6})
    with pytest.raises(ConfigError, match="another plateau_patience: 5, and now it is 6"), changed:
        pass


def test_rows_without_a_window_are_refused_at_once(tmp_path: Path) -> None:
    settings = resolve_config({"model": "dlinear", "context": 400, "horizon": 2})
    with pytest.raises(DataError, match="the 300 training rows hold no window of 400 \\+ 2 rows"):
        tune(dataset(), settings, RIDGES, tmp_path / "search", trials=1)
    assert not (tmp_path / "search").exists()


def test_two_processes_do_not_search_in_one_directory(tmp_path: Path) -> None:
    with opened(tmp_path, {}), pytest.raises(ConfigError, match="another process is searching here"):
        search(tmp_path)


@pytest.mark.parametrize(
    "garbage", ["not JSON\n{}\n", "[]\n", '{"op_code": 99}\n', '{"op_code": 4, "study_id": 7}\n']
)
def test_a_journal_of_garbage_is_a_plain_error(garbage: str, tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text(garbage)
    with pytest.raises(ConfigError, match="not the journal of a search"):
        search(tmp_path)
    assert (tmp_path / "journal.log").read_text() == garbage


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match="needs the package optuna") as refused:
        space_of(resolve_config({"model": "dlinear"}))
    assert "presurge[tune]" in str(refused.value)


def test_ctrl_c_keeps_finished_trials(run: Run, tmp_path: Path) -> None:
    command = (
        "tune",
        *LOAD,
        "--out",
        "search",
        "--set",
        "solver=sgd",
        "--epochs",
        "30",
        "--patience",
        "30",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "presurge", *command, "--trials", "1000"], stderr=subprocess.PIPE, text=True
    )
    limit = time.monotonic() + 60
    while (
        not Path("search/best_config.json").exists() and time.monotonic() < limit and process.poll() is None
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "To go on:\n  presurge tune load.csv" in err
    code, out, err = run(*command, "--trials", "1", "--json")
    assert code == 0, err
    assert json.loads(out)["best"]["error"] > 0
