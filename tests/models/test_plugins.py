"""Models that others wrote: every fault is reported plainly and as theirs."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from presurge.cli import main
from presurge.errors import ConfigError, ModelError
from presurge.models import plugins, registry
from presurge.models.forecaster import FitReport, Forecaster, Prediction, SeriesSpec
from presurge.series.panel import Panel
from presurge.series.windows import WindowBatch, batch_of

MakePanel = Callable[..., Panel]
Run = Callable[..., tuple[int, str, str]]


class Level(Forecaster):
    """Repeats the mean of the training rows."""

    name = "level"
    summary = "the mean of the training rows"
    level_C: np.ndarray

    def fit(self, panel: Panel, train: Any, validation: Any = None, *, progress: Any = None) -> FitReport:
        self.spec = SeriesSpec.of(panel)
        self.level_C = np.nanmean(panel.take(train).values, axis=0)
        return FitReport(model=self.name, n_windows=1, n_parameters=len(self.level_C), cpu_seconds=0.0)

    def predict(self, batch: WindowBatch) -> Prediction:
        shape = (len(batch.origin_B), self.horizon, len(self.level_C))
        return Prediction(np.broadcast_to(self.level_C, shape))

    @property
    def n_parameters(self) -> int:
        return len(self.level_C)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return {}, {"level": self.level_C}

    def restore(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.level_C = arrays["level"]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def variant(**members: Any) -> type[Forecaster]:
    return type("Variant", (Level,), {"name": "variant", "__module__": __name__, **members})


def fitted(kind: type[Forecaster], panel: Panel) -> Forecaster:
    model = plugins.make(registry.register(kind), context=4, horizon=2)
    plugins.fit(model, panel, panel.full_span())
    return model


def raising(*_: Any, **__: Any) -> Any:
    return 1 / 0


def test_forecasts_become_float32_and_counts_stay_positive(make_panel: MakePanel) -> None:
    panel = make_panel(np.arange(20.0), kinds="c")
    below = variant(predict=lambda self, batch: Prediction(np.full((len(batch.origin_B), 2, 1), -3.0)))
    point_BHC, *_ = plugins.predict(fitted(below, panel), batch_of(panel, np.array([5, 9]), 4))
    assert point_BHC.dtype == np.float32
    np.testing.assert_array_equal(point_BHC, 0)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"fit": raising}, r"ZeroDivisionError: division by zero \(test_plugins.py, line \d+\)"),
        ({"fit": lambda self, *_, **__: None}, "fit returned NoneType, not a FitReport"),
        ({"fit": lambda self, *_, **__: FitReport(model="x", n_windows=1, n_parameters=1, cpu_seconds=0)}, "self.spec"),
        ({"__init__": raising}, "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_faults_of_fitting(members: dict[str, Any], says: str, make_panel: MakePanel) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        fitted(variant(**members), make_panel(np.arange(20.0)))
    assert "variant" in caught.value.what
    assert caught.value.where == "test_plugins.py"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (raising, "ZeroDivisionError"),
        (lambda batch: np.zeros((len(batch.origin_B), 2, 1)), "predict returned ndarray, not a Prediction"),
        (lambda batch: Prediction(np.zeros((1, 2, 1))), r"\(1, 2, 1\), not \[B, H, C\] = \(3, 2, 1\)"),
        (lambda batch: Prediction(np.full((3, 2, 1), np.nan)), "3 of 3 forecasts"),
        (lambda batch: Prediction(np.zeros((3, 2, 1)), np.zeros((3, 2, 1))), r"\(3, 2, 1\), not \[B, H, Q, C\] = \(3, 2, 11, 1\)"),
        (lambda batch: Prediction(np.full((3, 2, 1), "much")), "TypeError|UFuncTypeError|_UFuncNoLoopError"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_faults_of_forecasting(
    answer: Callable[[WindowBatch], Any], says: str, make_panel: MakePanel
) -> None:
    panel = make_panel(np.arange(20.0))
    model = fitted(variant(predict=lambda self, batch: answer(batch)), panel)
    with pytest.raises(ModelError, match=says):
        plugins.predict(model, batch_of(panel, np.array([5, 9, 11]), 4))


def test_a_class_stays_as_its_author_wrote_it() -> None:
    kind = variant()
    before = dict(vars(kind))
    registry.register(kind)
    assert {name: value for name, value in vars(kind).items() if name != "provider"} == before


def test_the_place_of_a_fault_is_in_their_own_file(make_panel: MakePanel) -> None:
    """The innermost frame of the plugin's file, not that of the library that it called."""
    members = {"predict": lambda self, batch: np.linalg.inv(np.zeros((2, 2)))}
    panel = make_panel(np.arange(20.0))
    with pytest.raises(ModelError, match=r"LinAlgError: Singular matrix \(test_plugins.py, line \d+\)"):
        plugins.predict(fitted(variant(**members), panel), batch_of(panel, np.array([5]), 4))


@pytest.mark.parametrize(
    "state", [{"n": np.int64(3)}, ({"n": np.int64(3)}, {}), ({}, {"a": [1.0]}), ({"n": {1}}, {})]
)
def test_faults_of_saving(state: Any, make_panel: MakePanel, tmp_path: Path) -> None:
    model = fitted(variant(state=lambda self: state), make_panel(np.arange(20.0)))
    with pytest.raises(ModelError, match="state must give"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"name": "a,b"}, "no usable name"),
        ({"name": ""}, "no usable name"),
        ({"summary": None}, "no summary"),
        ({"config_class": dict}, "config_class"),
        ({"training_defaults": {"lr": 1}}, "lr"),
        ({"training_defaults": {"epochs": 0}}, "epochs"),
        ({"__abstractmethods__": frozenset({"body"})}, "does not define body"),
    ],
)
def test_an_incomplete_class_is_refused(members: dict[str, Any], says: str) -> None:
    kind = variant(**{key: value for key, value in members.items() if key != "__abstractmethods__"})
    if "__abstractmethods__" in members:
        kind.__abstractmethods__ = members["__abstractmethods__"]  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=says) as caught:
        registry.register(kind)
    assert "Variant" in caught.value.what


BODIES = {
    "one-for-all": "past.new_zeros(1, 2, 1)",
    "transposed": "past.new_zeros(len(past), 1, 2)",
    "too-short": "past.new_zeros(len(past), 1, 1)",
    "a-pair": "(past, future)",
    "failing": "past / (1 // 0)",
}


@pytest.mark.parametrize("gives", BODIES)
def test_a_network_of_the_wrong_shape_is_refused(gives: str, make_panel: MakePanel) -> None:
    torch = pytest.importorskip("torch")
    from presurge.models.networks.forecaster import NetworkForecaster
    from presurge.training.config import TrainingConfig

    class Body(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, past: Any, future: Any) -> Any:
            return eval(BODIES[gives], {"past": past * self.weight, "future": future, "len": len})

    class Net(NetworkForecaster):
        name, summary = "net", "a network"
        training_defaults: ClassVar[dict[str, object]] = {"epochs": 1}

        def body(self, shape: Any) -> Any:
            return Body()

    panel = make_panel(np.arange(40.0) % 7)
    model = registry.register(Net)(context=4, horizon=2, training=TrainingConfig(epochs=1))
    with pytest.raises(ModelError, match=r"the body returned|the model net failed"):
        plugins.fit(model, panel, panel.full_span())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    counts = np.random.default_rng(0).poisson(30 + 20 * np.sin(np.arange(600) / 10))
    Path("load.csv").write_text("t,n\n" + "".join(f"{60 * i},{n}\n" for i, n in enumerate(counts)))

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        registry._registered.clear()
        code = main([*arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


DATA = ("load.csv", "--time", "t", "--value", "n", "--context", "10", "--horizon", "2", "--quiet")
LOGISTIC = """
import numpy as np
from beside import GROWTH
from presurge.models.forecaster import Prediction
from presurge.models.naive import LastValue
from presurge.models.registry import register


@register
class Own(LastValue):
    name, summary = "own", "the logistic map"

    def predict(self, batch):
        rows = [batch.context_BLC[:, -1].astype(np.float64)]
        for _ in range(self.horizon):
            rows.append(GROWTH * rows[-1] * (1 - rows[-1]))
        return Prediction(np.stack(rows[1:], 1))
"""


def test_faults_reach_the_user_as_plain_errors(run: Run) -> None:
    Path("beside.py").write_text("GROWTH = None\n")
    Path("own.py").write_text(LOGISTIC)
    code, _, err = run("train", *DATA, "--plugin", "own.py", "--model", "own")
    assert code == 2
    assert "own.py: the model own failed: TypeError" in err
    code, _, err = run("backtest", *DATA, "--plugin", "own.py", "--models", "dlinear,own")
    assert code == 2
    assert "own, own.py: the model own failed" in err
    Path("unfit.py").write_text(
        LOGISTIC.replace("def predict(self, batch):", "def fit(self, *_, **__):\n        GROWTH.x")
    )
    code, _, err = run("train", *DATA, "--plugin", "unfit.py", "--model", "own")
    assert code == 2
    assert "unfit.py: the model own failed: AttributeError" in err
    assert "(unfit.py, line 14)" in err
    Path("quitting.py").write_text("import sys\nsys.exit(0)\n")
    code, _, err = run("models", "--plugin", "quitting.py")
    assert code == 2
    assert "quitting.py" in err


def test_auto_with_your_own_challenger_names_its_file(run: Run) -> None:
    Path("aside.py").write_text("GROWTH = 3.9\n")
    Path("own.py").write_text(LOGISTIC.replace("beside", "aside"))
    own = ("--plugin", "own.py", "--model", "auto", "--set", 'challengers=["own"]', "--no-plots")
    assert run("train", *DATA, *own, "--out", "lost")[0] == 0
    assert run("predict", "lost", "--history", "load.csv")[0] == 0  # linear alone is in it
    values = [0.3]
    for _ in range(599):
        values.append(3.9 * values[-1] * (1 - values[-1]))
    Path("load.csv").write_text("t,n\n" + "".join(f"{60 * i},{n}\n" for i, n in enumerate(values)))
    assert run("train", *DATA, *own, "--out", "won")[0] == 0
    assert run("predict", "won", "--history", "load.csv", "--plugin", "own.py")[0] == 0
    code, _, err = run("predict", "won", "--history", "load.csv")
    assert code == 2
    assert "the choice for n: is a model of the kind 'own'" in err
    assert "own.py: name that file in --plugin" in err


def test_without_torch_a_network_file_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("import torch\n")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path\nfrom presurge.models.registry import load_plugin\n"
        "from presurge.errors import MissingDependencyError\n"
        "try:\n    load_plugin(Path('net.py'))\nexcept MissingDependencyError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "presurge[train]" in done.stdout, done.stderr
