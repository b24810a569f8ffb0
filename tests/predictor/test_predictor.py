"""Training, forecasting, comparing and storing with the request predictor."""

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from presurge.errors import ConfigError, DataError, HistoryError, ModelError
from presurge.models.naive import RecentMean
from presurge.predictor import (
    EnhancedRequestPredictor,
    ForecasterPredictor,
    ModelConfig,
    create_enhanced_predictor,
)
from presurge.series.spans import Span

PREDICTION = {"timestamp", "time_error", "request_tokens", "response_tokens", "confidence", "method"}


@pytest.fixture(scope="module")
def trained(requests: pl.DataFrame) -> EnhancedRequestPredictor:
    predictor = create_enhanced_predictor(["dlinear", "linear"])
    predictor.train_models(requests)
    return predictor


def test_the_next_request(trained: EnhancedRequestPredictor, requests: pl.DataFrame) -> None:
    found = trained.predict_next_request(requests)
    assert set(found) == {"predictions", "summary", "model_info"}
    assert set(found["predictions"]) == {"dlinear_default", "linear_default"}
    for name, row in found["predictions"].items():
        assert set(row) == PREDICTION
        assert row["method"] == name.removesuffix("_default")
        assert row["timestamp"] >= requests["Timestamp"][-1]
        assert min(row["request_tokens"], row["response_tokens"]) >= 0
    summary = found["summary"]
    assert summary["historical_data_size"] == 400
    assert summary["last_request"]["request_tokens"] == requests["Request tokens"][-1]
    assert summary["models_used"] == ["dlinear_default", "linear_default"]
    tokens = [row["request_tokens"] for row in found["predictions"].values()]
    following = summary["next_prediction_summary"]
    assert following["avg_request_tokens"] == pytest.approx(np.mean(tokens))
    assert set(following) == {"avg_confidence", "avg_request_tokens", "avg_response_tokens", "best_model"}
    assert set(found["model_info"]["dlinear_default"]) == {
        *("model_name", "model_type", "device", "is_trained", "config", "training_history")
    }
    json.dumps(found, allow_nan=False)


def test_several_requests(trained: EnhancedRequestPredictor, requests: pl.DataFrame) -> None:
    found = trained.predict_multiple_requests(requests)
    assert found["num_requests"] == 5
    assert found["historical_data_size"] == 400
    for rows in found["predictions"].values():
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
        assert all(set(row) == {"step", *PREDICTION} for row in rows)
        stamps = [row["timestamp"] for row in rows]
        assert stamps == sorted(stamps)
    too_far = trained.predict_multiple_requests(requests, num_requests=11)
    assert "a horizon of 11" in too_far["predictions"]["dlinear_default"]["error"]


def test_pandas_gives_the_same(
    trained: EnhancedRequestPredictor, requests: pl.DataFrame, requests_pandas: pd.DataFrame
) -> None:
    ours, theirs = (trained.predict_multiple_requests(frame, 3) for frame in (requests, requests_pandas))
    assert ours == theirs


def test_models_are_ranked_by_measured_error(
    trained: EnhancedRequestPredictor, requests: pl.DataFrame
) -> None:
    compared = trained.compare_models(requests, steps=3)
    assert set(compared) == {"model_count", "predictions", "model_info", "performance_summary"}
    assert compared["model_count"] == 2
    summary = compared["performance_summary"]
    errors = summary["rolling_errors"]
    assert summary["best_model"] == min(errors, key=errors.__getitem__)
    confidences = {name: result.confidence for name, result in compared["predictions"].items()}
    assert confidences == {name: pytest.approx(1 / (1 + error)) for name, error in errors.items()}
    assert max(confidences, key=confidences.__getitem__) == summary["best_model"]
    assert summary["avg_confidence"] == pytest.approx(np.mean(list(confidences.values())))
    assert (summary["min_confidence"], summary["max_confidence"]) == pytest.approx(
        tuple(sorted(confidences.values()))
    )
    assert set(summary["baseline_errors"]) >= {"last-value", "recent-mean", "drift", "seasonal-naive"}
    assert summary["best_model"] in summary["verdict"]
    assert all(result.prediction_time > 0 for result in compared["predictions"].values())
    assert all(len(result.timestamps) == 3 for result in compared["predictions"].values())


def test_the_rolling_error_is_that_of_the_validation_rows(requests: pl.DataFrame) -> None:
    """The mean of the last ten requests, by pandas."""
    model = ForecasterPredictor(ModelConfig("recent-mean", sequence_length=20, prediction_horizon=3))
    result = model.train(requests, validation_split=0.25)
    assert isinstance(model.model, RecentMean)
    tokens = pd.DataFrame(requests[["Request tokens", "Response tokens"]].to_numpy()[1:])
    first = int(399 * 0.75)
    for step in (1, 2, 3):
        forecast = tokens.rolling(10).mean().shift(step)
        last = len(tokens) - (3 - step)
        rows = slice(first + step - 1, last)
        wape = (forecast - tokens).abs()[rows].sum() / tokens[rows].sum()
        assert model.rolling_errors[step - 1] == pytest.approx(wape.mean(), rel=1e-4)
    assert result.metadata["validation"]["input_tokens"]["wape"] > 0
    assert set(result.metadata) == {"windows", "parameters", "chosen", "notes", "validation"}
    assert model.confidence(2) == pytest.approx(1 / (1 + np.mean(model.rolling_errors[:2])))


def test_validation_rows_do_not_shape_the_weights(requests: pl.DataFrame) -> None:
    changed = requests.with_columns(
        pl.when(pl.int_range(pl.len()) >= 330)
        .then(9999)
        .otherwise(pl.col("Request tokens"))
        .alias("Request tokens")
    )
    models = [ForecasterPredictor(ModelConfig("dlinear", custom_params={"ridge": 1.0})) for _ in range(2)]
    for model, frame in zip(models, (requests, changed), strict=True):
        model.train(frame)
    ours, theirs = (model.model.weights for model in models)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_the_result_of_a_closed_form(requests: pl.DataFrame) -> None:
    """A closed form has no epochs; its loss is the squared validation error in units of the training variance."""
    model = ForecasterPredictor(ModelConfig("last-value", prediction_horizon=1))
    result = model.train(requests)
    values = model.prepare_data(requests).panel.values.astype(np.float64)
    first = int(399 * 0.8)
    squared = np.square(values[first:] - values[first - 1 : -1]).mean(axis=0) / values[:first].var(axis=0)
    assert result.final_loss == result.best_loss == pytest.approx(squared.mean(), rel=1e-4)
    assert (result.epochs_trained, result.early_stopped) == (0, False)


def test_the_result_of_training_by_gradient(requests: pl.DataFrame) -> None:
    pytest.importorskip("torch")
    params = {"hidden_size": 8, "num_layers": 1}
    config = ModelConfig("gru", sequence_length=10, prediction_horizon=2, epochs=3, custom_params=params)
    model = ForecasterPredictor(config)
    result = model.train(requests)
    losses = [epoch["validation_loss"] for epoch in model.training_history["epochs"]]
    assert result.epochs_trained == len(losses) == 3
    assert (result.final_loss, result.best_loss) == (losses[-1], min(losses))
    assert not result.early_stopped
    assert model.training_history["final_loss"] == result.final_loss
    mixed = replace(config, learning_rate=0.3, epochs=30, patience=2, custom_params={**params, "amp": True})
    stopped = ForecasterPredictor(mixed).train(requests)
    assert stopped.early_stopped
    assert stopped.epochs_trained < 30
    assert stopped.best_loss < stopped.final_loss


def test_minutes(minutes: pl.DataFrame) -> None:
    predictor = EnhancedRequestPredictor()
    predictor.add_model("dlinear", ModelConfig(sequence_length=20, prediction_horizon=3))
    assert predictor.train_models(minutes)["dlinear"].success
    rows = predictor.predict_multiple_requests(minutes, 3)["predictions"]["dlinear"]
    last = minutes["Timestamp"][-1]
    assert [row["timestamp"] for row in rows] == [last + 60, last + 120, last + 180]
    result = predictor.compare_models(minutes)["predictions"]["dlinear"]
    assert result.metadata["level"] == "minute"
    assert len(result.metadata["requests"]) == 1
    assert result.metadata["quantiles"]["requests"]["0.1"] <= result.metadata["quantiles"]["requests"]["0.9"]


def test_a_model_of_minutes_refuses_requests(minutes: pl.DataFrame, requests: pl.DataFrame) -> None:
    predictor = create_enhanced_predictor(["dlinear"])
    predictor.train_models(minutes)
    error = predictor.predict_next_request(requests)["predictions"]["dlinear_default"]["error"]
    assert "step of 1s" in error


def test_short_and_wrong_frames(trained: EnhancedRequestPredictor, requests: pl.DataFrame) -> None:
    short = trained.predict_next_request(requests.head(9))
    assert (short["min_required"], short["actual"]) == (10, 9)
    assert "9 rows" in short["error"]
    assert trained.predict_multiple_requests(requests.head(9)) == short
    assert trained.compare_models(requests.head(9)) == short
    with pytest.raises(HistoryError):
        trained.train_models(requests.head(9))
    for ask in (trained.predict_next_request, trained.train_models, trained.compare_models):
        with pytest.raises(DataError, match="Request tokens"):
            ask(requests.drop("Response tokens"))
    few = trained.predict_next_request(requests.head(50))["predictions"]["dlinear_default"]
    assert "49 rows, and the model reads 50" in few["error"]
    assert "timestamp" in trained.predict_next_request(requests.head(51))["predictions"]["dlinear_default"]


def test_a_model_that_cannot_be_trained_says_why(requests: pl.DataFrame) -> None:
    predictor = create_enhanced_predictor(["dlinear"])
    untrained = predictor.predict_next_request(requests)
    assert untrained["predictions"] == {"dlinear_default": {"error": "it was not trained yet"}}
    assert untrained["summary"]["next_prediction_summary"]["best_model"] is None
    result = predictor.train_models(requests.head(60))["dlinear_default"]
    assert not result.success
    assert "no window" in str(result.error_message)
    assert math.isnan(result.final_loss)
    after = predictor.predict_next_request(requests)["predictions"]["dlinear_default"]
    assert after == {"error": result.error_message}
    with pytest.raises(ConfigError, match="holds no model"):
        EnhancedRequestPredictor().train_models(requests)
    with pytest.raises(ModelError, match="not trained"):
        ForecasterPredictor(ModelConfig("dlinear")).predict(requests)


def test_available_and_active_models() -> None:
    predictor = EnhancedRequestPredictor()
    assert predictor.add_models(["dlinear", "prophet"]) == {"dlinear": True, "prophet": False}
    assert "'prophet'" in str(predictor.last_error)
    assert predictor.get_active_models() == ["dlinear_default"]
    assert {"lstm", "dlinear", "transformer", "gru"} <= set(predictor.get_available_models())
    assert predictor.get_model_info("dlinear") == predictor.get_model_info("dlinear_default")
    with pytest.raises(ConfigError, match="no model 'other'\n  There are: dlinear, dlinear_default"):
        predictor.get_model_info("other")


@pytest.mark.parametrize("ending", ["", ".pt", ".pth"])
def test_a_stored_model_comes_back(
    ending: str, trained: EnhancedRequestPredictor, requests: pl.DataFrame, tmp_path: Path
) -> None:
    if ending:
        pytest.importorskip("torch")
    predictor = EnhancedRequestPredictor()
    params = {"individual": False, "kernel_size": 5}
    config = ModelConfig(model_name="mine", sequence_length=20, prediction_horizon=4, custom_params=params)
    predictor.add_model("dlinear", config)
    predictor.train_models(requests)
    for name in ("dlinear", "mine"):
        assert predictor.save_model(name, str(tmp_path / f"{name}{ending}"))

    other = EnhancedRequestPredictor()
    assert other.load_model("dlinear", str(tmp_path / f"dlinear{ending}"), ModelConfig(model_name="loaded"))
    info, before = other.get_model_info("loaded"), predictor.get_model_info("mine")
    assert info["config"] == {**before["config"], "model_name": "loaded"}
    assert info["training_history"] == before["training_history"]
    ours, theirs = (each.predict_multiple_requests(requests, 4) for each in (predictor, other))
    assert theirs["predictions"]["loaded"] == ours["predictions"]["mine"]
    assert other.train_models(requests)["loaded"].success


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm was done"),))


def test_a_file_with_other_content_is_refused(
    trained: EnhancedRequestPredictor, requests: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("raw.pt").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"model_state_dict": {}, "config": Harmful()}, "zipped.pth")
    for name in ("raw.pt", "zipped.pth", "missing.pt", "missing"):
        assert not trained.load_model("dlinear", name)
        assert isinstance(trained.last_error, ModelError)
        assert name in str(trained.last_error)
        with pytest.raises(ModelError):
            ForecasterPredictor(ModelConfig("dlinear")).load_model(name)
    assert not Path("harm was done").exists()
    assert "error" not in trained.predict_next_request(requests)["predictions"]["dlinear_default"]


def test_failures_to_save_or_load(trained: EnhancedRequestPredictor, tmp_path: Path) -> None:
    assert not trained.save_model("other", str(tmp_path / "x"))
    assert "no model 'other'" in str(trained.last_error)
    fresh = create_enhanced_predictor(["dlinear"])
    assert not fresh.save_model("dlinear", str(tmp_path / "x"))
    assert "not trained" in str(fresh.last_error)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.txt").write_text("keep me")
    assert not trained.save_model("dlinear", str(tmp_path / "models"))
    assert (tmp_path / "models" / "precious.txt").read_text() == "keep me"
    assert trained.save_model("dlinear", str(tmp_path / "models" / "dlinear"))
    for missing in ("nowhere", "nowhere.pt"):
        assert not fresh.load_model("dlinear", str(tmp_path / missing))
        assert "does not exist\n  Name a file or directory that save_model wrote" in str(fresh.last_error)


def test_a_model_that_forecasts_no_tokens_is_refused(tmp_path: Path, minutes: pl.DataFrame) -> None:
    panel = ForecasterPredictor(ModelConfig("dlinear")).prepare_data(minutes).panel.select(["requests"])
    model = RecentMean(context=20, horizon=2)
    model.fit(panel, Span(np.array([0]), np.array([len(panel)])))
    model.save(tmp_path / "requests-only")
    with pytest.raises(ModelError, match="does not forecast input_tokens and output_tokens"):
        ForecasterPredictor(ModelConfig("recent-mean")).load_model(str(tmp_path / "requests-only"))
