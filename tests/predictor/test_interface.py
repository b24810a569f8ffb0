"""Configurations, devices, the registry and the base class."""

import subprocess
import sys
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.errors import ConfigError, DataError, HistoryError
from presurge.models import registry
from presurge.models.naive import RecentMean
from presurge.predictor import (
    BasePredictor,
    EnhancedRequestPredictor,
    ForecasterPredictor,
    ModelConfig,
    ModelDevice,
    ModelManager,
    ModelRegistry,
    ModelType,
    PredictionResult,
    TrainingResult,
    create_enhanced_predictor,
    model_registry,
    register_model,
)
from presurge.predictor.config import usable_device


class MeanOfHistory(BasePredictor):
    """A predictor as a user writes it: repeats the mean of all requests."""

    def prepare_data(self, data: Any) -> Any:
        return data[["Request tokens", "Response tokens"]].to_numpy().mean(axis=0)

    def build_model(self) -> Any:
        return None

    def train(self, data: Any, validation_split: float = 0.2) -> TrainingResult:
        return TrainingResult(True, 0.1, 0.0, 0.0, 1, False)

    def predict(self, data: Any, steps: int | None = None) -> PredictionResult:
        self.validate_input_data(data)
        request, response = self.prepare_data(data)
        n = self.config.prediction_horizon if steps is None else steps
        return PredictionResult([0.0] * n, [request] * n, [response] * n, 0.5, "?", 0.0)

    def save_model(self, path: str) -> bool:
        return False

    def load_model(self, path: str) -> bool:
        raise OSError("no such thing")


def test_the_defaults_are_the_published_ones() -> None:
    config = ModelConfig(ModelType.LSTM, "mine")
    assert config.to_dict() == {
        "model_type": "lstm",
        "model_name": "mine",
        "device": "cpu",
        "sequence_length": 50,
        "prediction_horizon": 10,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "epochs": 100,
        "early_stopping": True,
        "patience": 10,
        "custom_params": {},
    }


def test_types_and_devices_may_be_text() -> None:
    config = ModelConfig(model_type="LSTM", device="mps")
    assert config.model_type is ModelType.LSTM
    assert config.device is ModelDevice.MPS
    assert ModelConfig(model_type="seasonal-naive").model_type == "seasonal-naive"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"device": "tpu"}, "there is no device 'tpu'\n  Choose one of: auto, cpu, cuda, mps"),
        ({"sequence_length": 0}, "ModelConfig: sequence_length: input should be at least 1 (got 0)"),
        ({"epochs": 1.5}, "ModelConfig: epochs"),
        ({"learning_rate": 0}, "ModelConfig: learning_rate"),
    ],
)
def test_an_impossible_value_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**values)
    assert words in str(caught.value)


def test_a_missing_device_is_refused_unless_fallback_is_allowed(
    monkeypatch: pytest.MonkeyPatch, requests: pl.DataFrame
) -> None:
    devices = pytest.importorskip("presurge.training.devices")
    monkeypatch.setattr(devices, "available_devices", lambda: ("cpu",))
    assert usable_device(None) is usable_device("auto") is ModelDevice.CPU
    with pytest.raises(ConfigError, match="no cuda device") as caught:
        EnhancedRequestPredictor(device="cuda")
    assert "allow_fallback=True" in str(caught.value)
    predictor = EnhancedRequestPredictor(device="cuda", allow_fallback=True)
    predictor.add_model("dlinear", ModelConfig(device=ModelDevice.CUDA))
    assert predictor.get_model_info("dlinear")["device"] == "cpu"
    with pytest.raises(ConfigError, match="no mps device"):
        ForecasterPredictor(ModelConfig("dlinear", device="mps"))
    monkeypatch.setenv("PRESURGE_ALLOW_FALLBACK", "1")
    assert EnhancedRequestPredictor(device="cuda").device is ModelDevice.CPU


def test_the_best_device_is_taken_and_can_be_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = pytest.importorskip("presurge.training.devices")
    monkeypatch.setattr(devices, "available_devices", lambda: ("mps", "cpu"))
    predictor = create_enhanced_predictor(["dlinear"])
    model = predictor.model_manager.active_models["dlinear_default"]
    assert (predictor.device, model.device, model.model.training.device) == ("mps", "mps", "mps")
    assert predictor.switch_device("cpu")
    assert (predictor.device, model.device, model.model.training.device) == ("cpu", "cpu", "cpu")
    assert not predictor.switch_device("cuda")
    assert "no cuda device" in str(predictor.last_error)
    assert model.device == "cpu"


def test_custom_params_reach_the_model_and_the_loop() -> None:
    pytest.importorskip("torch")
    config = ModelConfig(
        "transformer",
        learning_rate=2e-4,
        epochs=7,
        early_stopping=False,
        custom_params={"d_model": 32, "nhead": 2, "dropout": 0.2, "weight_decay": 0.01, "amp": True},
    )
    model = ForecasterPredictor(config).model
    assert (model.config.d_model, model.config.nhead, model.config.dropout) == (32, 2, 0.2)
    assert (model.training.weight_decay, model.training.precision, model.training.learning_rate) == (
        0.01,
        "bf16",
        2e-4,
    )
    assert (model.training.epochs, model.training.patience, model.training.batch_size) == (7, None, 32)


@pytest.mark.parametrize(
    ("model", "params", "words"),
    [
        ("dlinear", {"d_model": 64}, "unknown key 'd_model'"),
        ("dlinear", {"kernel_size": 4}, "kernel_size"),
        ("dlinear", {"mixed_precision": True}, "precision: dlinear is solved in closed form"),
        ("dlinear", {"gradient_checkpointing": True}, "unknown key 'gradient_checkpointing'"),
        ("dlinear", {"solver": "sgd", "optimizer": "none"}, "optimizer"),
        ("dlinear", {"solver": "sgd", "device": "cuda"}, "unknown key 'device'"),
    ],
)
def test_a_custom_param_is_honoured_or_refused(model: str, params: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ForecasterPredictor(ModelConfig(model, custom_params=params))
    assert words in str(caught.value)


def test_the_environment_can_limit_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    def epochs(config: ModelConfig) -> int:
        return ForecasterPredictor(config).model.training.epochs

    monkeypatch.setenv("PRESURGE_MAX_EPOCHS", "3")
    assert epochs(ModelConfig("dlinear")) == 3
    assert epochs(ModelConfig("dlinear", epochs=2)) == 2
    for wrong in ("few", "0"):
        monkeypatch.setenv("PRESURGE_MAX_EPOCHS", wrong)
        with pytest.raises(ConfigError, match=rf"PRESURGE_MAX_EPOCHS: input should be .* \(got '{wrong}'\)"):
            ForecasterPredictor(ModelConfig("dlinear"))


def test_an_explicit_precision_wins() -> None:
    pytest.importorskip("torch")
    for params, precision in (
        ({"amp": True, "precision": "fp16"}, "fp16"),
        ({"amp": False}, "fp32"),
        ({"mixed_precision": True}, "bf16"),
    ):
        assert (
            ForecasterPredictor(ModelConfig("gru", custom_params=params)).model.training.precision
            == precision
        )
    assert (
        ForecasterPredictor(ModelConfig("dlinear", custom_params={"amp": False})).model.training.precision
        == "fp32"
    )


def test_presets_are_the_published_ones() -> None:
    pytest.importorskip("torch")
    predictor = create_enhanced_predictor(["lstm", "dlinear", "transformer", "gru"])
    models = predictor.model_manager.active_models.values()
    assert [(m.model.context, m.model.horizon, m.config.epochs) for m in models] == [
        *((50, 10, 30), (50, 10, 100), (50, 10, 50), (30, 5, 30))
    ]
    _, _, transformer, gru = (m.model for m in models)
    assert (transformer.training.learning_rate, transformer.training.batch_size) == (5e-4, 16)
    own = transformer.config
    assert (own.d_model, own.nhead, own.num_layers, own.dim_feedforward, own.dropout) == (64, 4, 2, 256, 0.1)
    assert (gru.config.hidden_size, gru.config.num_layers) == (64, 2)


@pytest.mark.parametrize("name", ["cnn", "prophet", "custom", "oracle"])
def test_a_type_without_a_model_is_refused_with_a_list_of_types(name: str) -> None:
    with pytest.raises(ConfigError, match=f"no model of the type '{name}'") as caught:
        EnhancedRequestPredictor().add_model(name)
    assert "dlinear" in str(caught.value)
    assert "@register_model" in str(caught.value)


def test_the_registry_creates_and_removes_models() -> None:
    registry = ModelRegistry()
    made = registry.create_model(ModelConfig(ModelType.DLINEAR, "mine"))
    assert registry.get_model("mine") is made
    assert registry.list_models() == ["mine"]
    assert registry.remove_model("mine")
    assert not registry.remove_model("mine")
    assert registry.get_model("mine") is None
    types = registry.get_available_model_types()
    assert {ModelType.DLINEAR, "linear", "last-value"} <= set(types)
    assert ModelType.CUSTOM not in types
    with pytest.raises(ConfigError, match="model_type"):
        registry.create_model(ModelConfig())
    with pytest.raises(ValueError, match="does not derive from BasePredictor"):
        registry.register_model_class(ModelType.CUSTOM, dict)


def test_a_class_registers_under_a_type_or_a_name_of_its_own() -> None:
    assert register_model(ModelType.CUSTOM)(MeanOfHistory) is MeanOfHistory
    register_model("mean-of-all")(MeanOfHistory)
    assert model_registry.get_available_model_types()[-2:] == [ModelType.CUSTOM, "mean-of-all"]
    predictor = create_enhanced_predictor(["custom", "mean-of-all"])
    assert predictor.get_active_models() == ["custom_default", "mean-of-all_default"]


def test_a_registered_forecaster_is_a_type(requests: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanOfTwo(RecentMean):
        name = "mean-of-two"

    monkeypatch.setattr(registry, "_registered", {})
    registry.register(MeanOfTwo)
    predictor = create_enhanced_predictor(["mean-of-two"])
    assert predictor.train_models(requests)["mean-of-two_default"].success
    assert predictor.predict_next_request(requests)["summary"]["models_used"] == ["mean-of-two_default"]


def test_exact_models_need_neither_torch_nor_pandas() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['pandas'] = None\n"
        "import polars as pl\n"
        "from presurge.predictor import create_enhanced_predictor\n"
        "rows = pl.DataFrame({'Timestamp': range(400)})\n"
        "tokens = pl.col('Timestamp') * 7 % 13\n"
        "rows = rows.with_columns(tokens.alias('Request tokens'), tokens.alias('Response tokens'))\n"
        "predictor = create_enhanced_predictor(['dlinear'], device='cpu')\n"
        "assert predictor.train_models(rows)['dlinear_default'].success\n"
        "print(predictor.predict_next_request(rows)['summary']['models_used'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "['dlinear_default']\n", done.stderr


def test_the_input_is_validated(requests: pl.DataFrame) -> None:
    model = MeanOfHistory(ModelConfig())
    assert model.validate_input_data(requests)
    with pytest.raises(HistoryError, match="49 rows, and 50"):
        model.validate_input_data(requests.head(49))
    with pytest.raises(DataError, match="neither requests nor minutes"):
        model.validate_input_data(requests.drop("Request tokens"))
    assert model.get_model_info()["model_name"] == "MeanOfHistory"


def test_your_own_model_is_trained_measured_and_ranked(requests: pl.DataFrame) -> None:
    """Its error, computed by hand from its forecasts."""
    register_model(ModelType.CUSTOM)(MeanOfHistory)
    manager = ModelManager()
    manager.add_model(ModelConfig("custom", "mean", prediction_horizon=2))
    manager.add_model(ModelConfig("last-value", "last", prediction_horizon=2))
    assert manager.predict_all(requests) == {}
    assert all(result.success for result in manager.train_all_models(requests).values())
    mean = manager.active_models["mean"]
    assert mean.is_trained

    tokens = requests[["Request tokens", "Response tokens"]].to_numpy()
    ends = np.unique(np.linspace(320, 398, 50).astype(int))
    forecasts = np.array([tokens[:end].mean(axis=0) for end in ends])
    for step in (0, 1):
        actual = tokens[ends + step]
        wape = (np.abs(forecasts - actual).sum(axis=0) / actual.sum(axis=0)).mean()
        assert mean.rolling_errors[step] == pytest.approx(wape)

    compared = manager.compare_models(requests, steps=1)
    summary = compared["performance_summary"]
    assert compared["model_count"] == 2
    assert summary["best_model"] == "mean"
    assert summary["rolling_errors"]["mean"] == pytest.approx(mean.rolling_errors[0])
    assert compared["predictions"]["mean"].model_name == "mean"


def test_your_own_model_says_why_it_fails(requests: pl.DataFrame) -> None:
    class Failing(MeanOfHistory):
        def predict(self, data: Any, steps: int | None = None) -> PredictionResult:
            raise RuntimeError("out of ideas")

    register_model(ModelType.CUSTOM)(Failing)
    predictor = create_enhanced_predictor(["custom", "dlinear"])
    assert predictor.train_models(requests)["custom_default"].success
    found = predictor.predict_next_request(requests)
    assert found["predictions"]["custom_default"] == {"error": "out of ideas"}
    assert found["summary"]["models_used"] == ["dlinear_default"]
    compared = predictor.compare_models(requests)
    assert compared["predictions"]["custom_default"].metadata == {"error": "out of ideas"}
    assert compared["predictions"]["custom_default"].request_tokens == []
    assert compared["performance_summary"]["best_model"] == "dlinear_default"
    assert not predictor.load_model("custom", "nowhere", ModelConfig())
    assert isinstance(predictor.last_error, OSError)
