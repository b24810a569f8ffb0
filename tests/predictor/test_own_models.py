"""Models of users that fail in every way: each reports its reason, and the others continue."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.errors import DataError
from presurge.predictor import (
    BasePredictor,
    EnhancedRequestPredictor,
    ModelConfig,
    ModelManager,
    PredictionResult,
    TrainingResult,
    create_enhanced_predictor,
    register_model,
)

Answer = Callable[[int], Any]


class Constant(BasePredictor):
    """Returns ``answer`` for the requested number of rows."""

    answer: Answer = staticmethod(lambda n: PredictionResult([0.0] * n, [1.0] * n, [1.0] * n, 0.5, "?", 0.0))

    def prepare_data(self, data: Any) -> Any:
        return data

    def build_model(self) -> Any:
        return None

    def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
        return TrainingResult(True, 0.0, 0.0, 0.0, 0, False)

    def predict(self, data: Any, steps: int | None = None) -> PredictionResult:
        result = self.answer(steps or self.config.prediction_horizon)
        assert isinstance(result, PredictionResult)
        return result

    def save_model(self, path: str) -> bool:
        return False

    def load_model(self, path: str) -> bool:
        return False


def answering(answer: Answer) -> EnhancedRequestPredictor:
    """A model with this answer, beside one of ours."""
    register_model("own")(type("Own", (Constant,), {"answer": staticmethod(answer)}))
    return create_enhanced_predictor(["own", "last-value"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda n: PredictionResult([], [], [], 0.5, "", 0.0), "gave 0 timestamps where 1 were asked for"),
        (lambda n: PredictionResult([0.0], [1.0, 2.0], [1.0], 0.5, "", 0.0), "2 request_tokens where 1 were"),
        (lambda n: PredictionResult([0.0] * 10, [1.0] * 10, [1.0] * 10, 0.5, "", 0.0), "10 timestamps where"),
        (
            lambda n: PredictionResult([0.0], [math.nan], [1.0], 0.5, "", 0.0),
            "request_tokens.0: input should be a finite number (got nan)",
        ),
        (
            lambda n: PredictionResult([0.0], [1.0], [None], 0.5, "", 0.0),
            "response_tokens.0: input should be a valid number (got None)",
        ),
        (
            lambda n: PredictionResult([0.0], [1.0], [1.0], None, "", 0.0),
            "confidence: input should be a valid number (got None)",
        ),
        (
            lambda n: PredictionResult([0.0], [1.0], [1.0], 9.9, "", 0.0),
            "confidence: must be a number from 0 to 1, or NaN (got 9.9)",
        ),
        (
            lambda n: PredictionResult([0.0], [1.0], [1.0], 0.5, "", 0.0, None),
            "metadata: input should be a valid dictionary (got None)",
        ),
        (lambda n: PredictionResult([], [], [], 0.5, "", 0.0, {"error": ""}), "gave no reason"),
    ],
)
def test_an_invalid_answer_is_reported_and_stops_no_other_model(
    answer: Answer, words: str, requests: pl.DataFrame
) -> None:
    predictor = answering(answer)
    assert all(result.success for result in predictor.train_models(requests).values())
    found = predictor.predict_next_request(requests)
    assert words in found["predictions"]["own_default"]["error"]
    assert found["summary"]["models_used"] == ["last-value_default"]
    assert len(predictor.predict_multiple_requests(requests, 2)["predictions"]["last-value_default"]) == 2
    assert predictor.compare_models(requests)["performance_summary"]["best_model"] == "last-value_default"


def test_arrays_become_plain_lists(requests: pl.DataFrame) -> None:
    predictor = answering(
        lambda n: PredictionResult(np.arange(n), np.ones(n, np.float32), np.ones(n), math.nan, "", 0.0)
    )
    predictor.train_models(requests)
    found = predictor.predict_next_request(requests)
    row = json.loads(json.dumps(found, allow_nan=False))["predictions"]["own_default"]
    assert row["confidence"] is None
    assert (row["timestamp"], row["request_tokens"]) == (0, 1.0)


def test_every_failure_has_a_reason(requests: pl.DataFrame) -> None:
    class Silent(Constant):
        def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
            raise RuntimeError

    class Refusing(Constant):
        def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
            return TrainingResult(False, 0.0, 0.0, 0.0, 0, False)

    register_model("silent")(Silent)
    register_model("refusing")(Refusing)
    predictor = create_enhanced_predictor(["silent", "refusing"])
    predictor.train_models(requests)
    assert predictor.predict_next_request(requests)["predictions"] == {
        "silent_default": {"error": "RuntimeError"},
        "refusing_default": {"error": "train failed and gave no reason"},
    }
    assert not predictor.save_model("silent", "x")
    assert "save_model of the model 'silent' returned False" in str(predictor.last_error)
    assert not predictor.load_model("silent", "x")
    assert "load_model of the model 'silent' returned False" in str(predictor.last_error)


def test_a_failed_training_keeps_what_it_reports(requests: pl.DataFrame) -> None:
    class Diverging(Constant):
        def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
            return TrainingResult(False, 0.5, 9.0, 1.0, 7, False, None, "it diverged", {"step": 12})

    register_model("diverging")(Diverging)
    result = create_enhanced_predictor(["diverging"]).train_models(requests)["diverging_default"]
    assert (result.success, result.error_message, result.epochs_trained) == (False, "it diverged", 7)
    assert (result.training_time, result.best_loss, result.metadata) == (0.5, 1.0, {"step": 12})


def test_nothing_trains_on_what_is_not_a_data_frame() -> None:
    trained = []

    class Eager(Constant):
        def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
            trained.append(data)
            return TrainingResult(True, 0.0, 0.0, 0.0, 1, False)

    register_model("eager")(Eager)
    manager = ModelManager()
    manager.add_model(ModelConfig("eager"))
    with pytest.raises(DataError, match="dict is not a data frame"):
        manager.train_all_models({"Timestamp": [1]})
    assert (trained, manager.results) == ([], {})


def test_only_a_comparison_with_naive_models_is_a_warning(
    requests: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ModelManager()
    manager.train_all_models(requests)
    assert not caplog.messages
    manager.add_model(ModelConfig("drift", sequence_length=20, prediction_horizon=3))
    manager.train_all_models(requests)
    assert "not below" in caplog.text


def test_a_failed_device_switch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(Constant):
        def to_device(self, device: str) -> None:
            raise RuntimeError(f"it does not move to {device}")

    devices = pytest.importorskip("presurge.training.devices")
    monkeypatch.setattr(devices, "available_devices", lambda: ("cuda", "cpu"))
    register_model("fixed")(Fixed)
    predictor = create_enhanced_predictor(["dlinear"], device="cpu")
    predictor.add_model("fixed", ModelConfig())
    assert not predictor.switch_device("cuda")
    model = predictor.model_manager.active_models["dlinear_default"]
    assert (predictor.device, model.device, model.model.training.device) == ("cpu", "cpu", "cpu")
    assert str(predictor.last_error) == "it does not move to cuda", "not why it cannot go back either"
