"""The best model: over the steps that all of them forecast, among those measured on the same rows, against naive ones."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from presurge.predictor import EnhancedRequestPredictor, ForecasterPredictor, ModelConfig, ModelManager
from presurge.predictor.frames import fingerprint
from presurge.predictor.manager import rank


def measured(name: str, errors: list[float], rows: str) -> ForecasterPredictor:
    model = ForecasterPredictor(ModelConfig("last-value", name))
    model.rolling_errors, model.measured_on = tuple(errors), rows
    return model


def test_models_are_ranked_over_their_common_steps() -> None:
    """The mean of all its steps would put the longer one last."""
    models = {"long": measured("long", [0.1, 0.3, 0.8], "a"), "short": measured("short", [0.15, 0.3], "a")}
    models["long"].baseline_errors = {"drift": (0.2, 0.4, 0.0)}
    ranking = rank(models)
    assert (ranking["steps"], ranking["best_model"], ranking["beats_baselines"]) == (2, "long", True)
    assert ranking["rolling_errors"] == pytest.approx({"long": 0.2, "short": 0.225})
    assert ranking["baseline_errors"] == pytest.approx({"drift": 0.3})
    reach_less = {"short": models["short"], "long": models["long"]}
    models["short"].baseline_errors = {"drift": (0.2,)}
    assert rank(reach_less)["baseline_errors"] == pytest.approx({"drift": 0.3}), (
        "the naive errors that reach furthest count"
    )
    assert rank(models, 1)["rolling_errors"] == pytest.approx({"long": 0.1, "short": 0.15})


def test_only_models_measured_on_the_same_rows_are_ranked() -> None:
    models = {
        "here": measured("here", [0.5], "a"),
        "there": measured("there", [0.1], "b"),
        "also there": measured("also there", [0.2], "b"),
        "somewhere": measured("somewhere", [0.01], ""),
        "never": measured("never", [], ""),
    }
    assert list(rank(models, rows="a")["rolling_errors"]) == ["here"]
    ranking = rank(models, rows="gone")
    assert list(ranking["rolling_errors"]) == ["there", "also there"]
    assert ranking["unranked"] == {
        "here": "measured on other rows",
        "somewhere": "the rows it was measured on are unknown",
        "never": "its error was not measured",
    }
    assert "here is not ranked: measured on other rows" in ranking["verdict"]
    assert "no naive model was measured" in ranking["verdict"]
    assert rank({"one": models["somewhere"]})["best_model"] == "one"
    assert rank({"one": models["somewhere"], "two": models["somewhere"]})["best_model"] is None
    assert rank({})["verdict"] == "no error of a model was measured"


def test_rows_are_identified_by_their_tokens(requests: pl.DataFrame, requests_pandas: pd.DataFrame) -> None:
    assert fingerprint(requests, 0.2) == fingerprint(requests_pandas, 0.2)
    later = requests.with_columns(pl.col("Request tokens").shift(1, fill_value=7))
    assert fingerprint(requests, 0.2) != fingerprint(later, 0.2)
    assert fingerprint(requests, 0.2) != fingerprint(requests, 0.3)
    earlier = requests.with_columns(
        pl.when(pl.int_range(pl.len()) < 5)
        .then(1)
        .otherwise(pl.col("Request tokens"))
        .alias("Request tokens")
    )
    assert fingerprint(requests, 0.2) == fingerprint(earlier, 0.2)


def test_naive_models_are_measured_up_to_the_longest_horizon(requests: pl.DataFrame) -> None:
    """On a random walk the last value is hard to beat at any distance."""
    steps = np.random.default_rng(1).normal(0, 40, (2, len(requests))).round()
    walk = requests.with_columns(
        pl.Series("Request tokens", 5000 + steps[0].cumsum()),
        pl.Series("Response tokens", 5000 + steps[1].cumsum()),
    )
    manager = ModelManager()
    manager.add_model(ModelConfig("last-value", "far", sequence_length=20, prediction_horizon=8))
    manager.add_model(ModelConfig("recent-mean", "near", sequence_length=30, prediction_horizon=1))
    manager.train_all_models(walk)
    assert {len(errors) for errors in manager.baseline_errors.values()} == {8}
    far = manager.compare_models(walk, 8)["performance_summary"]
    assert far["rolling_errors"]["far"] == pytest.approx(far["baseline_errors"]["last-value"])
    both = manager.compare_models(walk)["performance_summary"]
    assert both["steps"] == 1
    assert both["rolling_errors"]["far"] == pytest.approx(manager.active_models["far"].rolling_errors[0])


def test_a_loaded_model_is_ranked_with_its_stored_errors(requests: pl.DataFrame, tmp_path: Path) -> None:
    config = ModelConfig("linear", sequence_length=20, prediction_horizon=2)
    first = EnhancedRequestPredictor()
    first.add_model("linear", config)
    first.train_models(requests)
    before = first.compare_models(requests)["performance_summary"]
    assert first.save_model("linear", str(tmp_path / "model"))

    service = EnhancedRequestPredictor()
    assert service.load_model("linear", str(tmp_path / "model"))
    after = service.compare_models(requests)["performance_summary"]
    assert after["baseline_errors"] == before["baseline_errors"] != {}
    assert after["verdict"].replace("linear_default", "linear") == before["verdict"]

    service.add_model("drift", ModelConfig(sequence_length=20, prediction_horizon=2))
    service.train_models(requests[:300])
    assert service.load_model("old", str(tmp_path / "model"), ModelConfig("linear"))
    mixed = service.compare_models(requests)["performance_summary"]
    assert set(mixed["rolling_errors"]) == {"linear_default", "drift"}
    assert mixed["unranked"] == {"old": "measured on other rows"}


def test_a_column_of_zeros_does_not_count(requests: pl.DataFrame) -> None:
    zeros = requests.with_columns(pl.lit(0).alias("Response tokens"))
    predictor = EnhancedRequestPredictor()
    for name in ("last-value", "drift"):
        predictor.add_model(name, ModelConfig(sequence_length=20, prediction_horizon=2))
    predictor.train_models(zeros)
    found = predictor.predict_next_request(zeros)
    json.dumps(found, allow_nan=False)
    assert found["summary"]["next_prediction_summary"]["best_model"] == "last-value"
    tokens = requests["Request tokens"].to_numpy().astype(np.float64)[1:]
    first = int(399 * 0.8)
    wape = np.abs(np.diff(tokens)[first - 1 : -1]).sum() / tokens[first:-1].sum()
    model = predictor.model_manager.active_models["last-value"]
    assert model.rolling_errors[0] == pytest.approx(wape, rel=1e-5)


def test_a_constant_series_has_a_loss(requests: pl.DataFrame) -> None:
    constant = requests.select(
        pl.int_range(pl.len()).alias("Timestamp"),
        pl.lit(5).alias("Request tokens"),
        pl.lit(7).alias("Response tokens"),
    )
    result = ForecasterPredictor(ModelConfig("dlinear", prediction_horizon=2)).train(constant)
    assert result.final_loss == pytest.approx(0, abs=1e-6)
    assert not math.isnan(result.best_loss)
