"""A training run: what is scored and what is stored, which model is meant, and what Ctrl-C leaves."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from presurge.errors import ConfigError
from presurge.models import registry
from presurge.models.auto import Auto
from presurge.series.dataset import Dataset
from presurge.series.frequency import HOUR
from presurge.series.panel import Channel, Panel
from presurge.series.spans import Span
from presurge.training.interruption import TrainingInterrupted
from presurge.workflows.config import check_model, resolve_config
from presurge.workflows.evaluate import evaluate, final_fit, fit
from presurge.workflows.train import train, with_note

WINDOWS = {"context": 12, "horizon": 2}
N = 400


def data(panel: Panel) -> Dataset:
    """A data set in the parts of a prepared directory: 60 % training, 10 % validation, 20 % unused, 10 % test."""
    train, validation, _, test = panel.full_span().cut(["0.6", "0.1", "0.2", "0.1"])
    return Dataset(
        panel=panel,
        train=train,
        validation=validation,
        test=test,
        validation_given=True,
        source={"sha256": "1"},
    )


@pytest.fixture
def panel() -> Panel:
    rng = np.random.default_rng(2)
    load = rng.poisson(40 + 20 * np.sin(np.arange(N) / 24 * 2 * np.pi))
    return Panel(
        values=load.astype(np.float32)[:, None],
        channels=(Channel("c0", kind="count"),),
        step=HOUR,
        start=np.array([0]),
    )


@pytest.mark.parametrize("final", [None, False])
def test_the_stored_model_knows_all_rows_and_the_scores_come_from_a_fit_that_did_not(
    panel: Panel, tmp_path: Path, final: bool | None
) -> None:
    given: dict[str, Any] = {"model": "auto", **WINDOWS, "final_fit": final}
    whole = data(panel)
    result = train(whole, resolve_config(given), tmp_path / "run", plots=False)
    stored, config = registry.load(tmp_path / "run")
    assert config["training"]["rows"]["fitted"] == (N if final is None else 240)
    known = panel.full_span() if final is None else whole.train
    by_hand = Auto(**WINDOWS)
    by_hand.fit(panel, known, None if final is None else whole.validation)
    np.testing.assert_allclose(
        stored.forecast(panel).mean, by_hand_forecast(by_hand, stored, panel), rtol=1e-5
    )

    measured = json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["auto"]["c0"]
    assert stored.error["c0"]["mae"] == pytest.approx(measured["mae"])
    assert measured == result.evaluation.metrics()["auto"]["c0"]
    notes = " ".join(config["training"]["notes"])
    assert ("all 400 rows" in notes) == (final is None)
    assert "240" in notes
    assert stored.calibration is not None
    last = known.last if final is None else whole.validation.last
    assert list(stored.calibration.until.values()) == panel.times_of(last - 1).tolist()


def by_hand_forecast(by_hand: Auto, stored: Any, panel: Panel) -> np.ndarray:
    by_hand.calibration = stored.calibration
    return by_hand.forecast(panel).mean


def test_the_final_fit_moves_no_score(panel: Panel, tmp_path: Path) -> None:
    scores = []
    for final in (True, False):
        out = tmp_path / str(final)
        train(data(panel), resolve_config({**WINDOWS, "final_fit": final}), out, plots=False)
        scores.append(json.loads((out / "metrics.json").read_text())["metrics"])
    assert scores[0] == scores[1]


def test_a_final_fit_that_chooses_another_model_says_so(panel: Panel) -> None:
    config = resolve_config({"model": "auto", **WINDOWS})
    scored = fit(data(panel), config)
    own = scored.report.chosen["c0"]["model"]
    for model, said in ((own, False), ("drift" if own != "drift" else "linear", True)):
        final = replace(scored, report=replace(scored.report, chosen={"c0": {"model": model}}))
        note = with_note(scored, data(panel), final).report.notes[-1]
        assert (f"chose another model for c0 ({model})" in note) == said


def test_the_errors_behind_the_intervals_are_of_rows_that_the_weights_had_not_seen(panel: Panel) -> None:
    """A model that knows the last rows by heart must not get narrow intervals from them."""
    values = panel.values.copy()
    values[-60:] = np.random.default_rng(0).poisson(400, (60, 1))  # unlike anything before
    odd = data(panel.replace(values=values))
    config = resolve_config({"model": "linear", **WINDOWS, "model_settings": {"ridge": 0.0}})
    calm, wild = (final_fit(one, config).model.calibration for one in (data(panel), odd))
    assert calm is not None
    assert wild is not None
    assert np.abs(wild.residuals_KHQC).max() > 5 * np.abs(calm.residuals_KHQC).max()


def test_an_outage_at_the_end_leaves_the_scored_model(
    panel: Panel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = panel.values.copy()
    values[-72:] = np.nan  # more than the last seventh, which would calibrate
    values[-85:-75] = np.nan
    whole = data(panel.replace(values=values))
    early = Span(np.array([300]), np.array([330]))
    train(replace(whole, test=early), resolve_config({"model": "auto", **WINDOWS}), tmp_path, plots=False)
    assert "no fit to all rows is possible" in caplog.text
    stored, record = registry.load(tmp_path)
    assert record["training"]["rows"]["fitted"] == 240
    assert stored.error["c0"]


def test_only_a_model_that_is_solved_has_a_final_fit() -> None:
    with pytest.raises(ConfigError, match="learns by gradient") as refused:
        check_model(resolve_config({"model": "gru", "final_fit": True}))
    assert refused.value.setting == "final_fit"
    check_model(resolve_config({"model": "dlinear", "final_fit": True}))


@pytest.mark.parametrize(
    ("given", "written", "model"),
    [
        ({}, None, "auto"),
        ({"context": 60}, {"epochs": 3}, "auto"),
        ({"preset": "minute-3"}, None, "dlinear"),
        ({"preset": "long-20"}, None, "dlinear"),
        ({"preset": "long-20", "model": "linear"}, None, "linear"),
        ({}, {"preset": "long-20"}, "dlinear"),
        ({}, {"sequence_length": 120, "prediction_horizon": 3, "individual": True}, "dlinear"),
        ({"model": "auto"}, {"sequence_length": 120}, "auto"),
        ({}, {"sequence_length": 120, "model": "mlp"}, "mlp"),
        ({"solver": "sgd"}, None, "dlinear"),
        ({"model_settings": {"kernel_size": 7}}, None, "dlinear"),
    ],
)
def test_auto_is_meant_unless_something_of_the_training_guide_is_named(
    tmp_path: Path, given: dict[str, Any], written: dict[str, Any] | None, model: str
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(written or {}))
    assert resolve_config(given, file if written else None).model == model


def csv(path: Path, panel: Panel) -> Path:
    frame = panel.to_frame().rename({"c0": "requests"})
    frame.write_csv(path)
    return path


def test_scores_of_rows_that_the_model_has_learned_from_are_warned_of(
    panel: Panel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from presurge.workflows.dataset import TableConfig, load_dataset

    table = TableConfig(time="timestamp", values=("requests",), step="1h")
    file = csv(tmp_path / "load.csv", panel)
    for final in (True, False):
        out = tmp_path / f"run{final}"
        train(load_dataset(file, table), resolve_config({**WINDOWS, "final_fit": final}), out, plots=False)
        caplog.clear()
        notes = evaluate(out, file)[0].to_dict()["notes"]
        assert any("so these scores are too good" in note for note in notes) == final
        warned = [record for record in caplog.records if record.levelname == "WARNING"]
        assert [record.getMessage()[:42] for record in warned] == [
            "auto was fitted to 80 of the 80 test rows,"
        ] * final
    later = panel.replace(start=panel.start + N * panel.step)
    caplog.clear()
    evaluate(tmp_path / "runTrue", csv(tmp_path / "later.csv", later))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_ctrl_c_leaves_the_best_model_and_the_way_to_go_on(panel: Panel, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    config = resolve_config({"model": "mlp", **WINDOWS, "epochs": 6, "batch_size": 32})

    def press(phase: str, share: float, detail: str = "") -> None:
        if phase == "Training" and detail.startswith("epoch 3"):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        train(data(panel), config, tmp_path / "cut", progress=press, plots=False)
    assert signal.getsignal(signal.SIGINT) is before
    best, record = registry.load(tmp_path / "cut")
    assert np.isfinite(best.forecast(panel).quantiles).all()
    assert best.error == {}
    assert "interrupted" in record["training"]["notes"][-1]

    resumed = train(data(panel), config, tmp_path / "cut", resume=True, plots=False)
    through = train(data(panel), config, tmp_path / "whole", plots=False)
    assert resumed.evaluation.metrics() == through.evaluation.metrics()
    assert registry.load(tmp_path / "cut")[0].error
    lines = [(tmp_path / name / "logs/metrics.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    steps = [[json.loads(line).get("step") for line in one] for one in lines]
    assert steps[0] == steps[1]
