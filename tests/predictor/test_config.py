"""What a configuration accepts and refuses, and that it is a copy."""

import json
from typing import Any

import numpy as np
import pytest

from presurge.errors import ConfigError
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
    create_enhanced_predictor,
    model_registry,
    register_model,
)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sequence_length": True}, "sequence_length: input should be a valid integer (got True)"),
        ({"batch_size": "32"}, "batch_size: input should be a valid integer (got '32')"),
        ({"learning_rate": "0.1"}, "learning_rate: input should be a valid number (got '0.1')"),
        ({"learning_rate": float("inf")}, "learning_rate: input should be a finite number (got inf)"),
        ({"learning_rate": None}, "learning_rate: input should be a valid number (got None)"),
        ({"early_stopping": "no"}, "early_stopping: input should be a valid boolean (got 'no')"),
        ({"model_name": ""}, "model_name: string should have at least 1 character (got '')"),
        ({"model_name": 5}, "model_name: input should be a valid string (got 5)"),
        ({"model_type": 3}, "model_type: input should be a valid string (got 3)"),
        ({"device": ["cpu"]}, "device: there is no device ['cpu']"),
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES=1"),
        ({"custom_params": None}, "custom_params: input should be a valid dictionary (got None)"),
        ({"custom_params": [1]}, "custom_params: input should be a valid dictionary (got [1])"),
        ({"custom_params": {1: 2}}, "custom_params.1.[key]: input should be a valid string (got 1)"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**values)
    assert words in str(caught.value)


def test_numpy_numbers_become_python_numbers() -> None:
    config = ModelConfig(
        sequence_length=np.int64(50),
        learning_rate=np.float32(0.5),
        early_stopping=np.bool_(False),
        custom_params={"hidden_size": np.int64(8), "sizes": [np.int64(1)], "more": {"rate": np.float64(0.1)}},
    )
    assert json.loads(json.dumps(config.to_dict()))["custom_params"] == {
        "hidden_size": 8,
        "sizes": [1],
        "more": {"rate": 0.1},
    }
    assert (config.sequence_length, config.learning_rate, config.early_stopping) == (50, 0.5, False)


@pytest.mark.parametrize(("text", "device"), [("CUDA", "cuda"), ("cuda:0", "cuda"), ("Cpu", "cpu")])
def test_devices_ignore_case_and_the_number_of_the_first(text: str, device: str) -> None:
    assert ModelConfig(device=text).device is ModelDevice(device)


def test_a_configuration_is_independent_of_its_arguments() -> None:
    params = {"kernel_size": 5}
    predictor = EnhancedRequestPredictor()
    predictor.add_model("a", ModelConfig("dlinear", "k5", custom_params=params))
    params["kernel_size"] = 4
    predictor.add_model("b", ModelConfig("dlinear", "k7", custom_params={"kernel_size": 7}))
    kept = [predictor.get_model_info(name)["config"]["custom_params"] for name in ("k5", "k7")]
    assert kept == [{"kernel_size": 5}, {"kernel_size": 7}]


def test_a_model_without_a_name_is_named_after_its_type() -> None:
    manager, own = ModelManager(), ModelRegistry()
    for kind in ("dlinear", "linear"):
        manager.add_model(ModelConfig(kind))
        own.create_model(ModelConfig(kind))
    assert list(manager.active_models) == own.list_models() == ["dlinear", "linear"]
    assert manager.active_models["linear"].config.model_name == "linear"


def test_a_name_means_one_model() -> None:
    predictor = EnhancedRequestPredictor()
    predictor.add_model("dlinear", ModelConfig(model_name="linear"))
    for name, model_name in (("linear", "other"), ("linear", "linear"), ("drift", "dlinear")):
        with pytest.raises(ConfigError, match="belongs to another model"):
            predictor.add_model(name, ModelConfig("linear", model_name))
    assert predictor.get_active_models() == ["linear"]
    predictor.add_model("dlinear", ModelConfig(model_name="linear", sequence_length=7))
    assert predictor.get_model_info("dlinear")["config"]["sequence_length"] == 7
    predictor.add_model("dlinear", ModelConfig(model_name="second"))
    assert predictor.get_active_models() == ["linear", "second"]
    assert predictor.get_model_info("dlinear")["model_name"] == "second"
    assert predictor.add_models(["drift", "dlinear"]) == {"drift": True, "dlinear": True}


def test_a_model_is_named_as_its_configuration_says() -> None:
    class Renamed(ForecasterPredictor):
        def __init__(self, config: ModelConfig) -> None:
            super().__init__(ModelConfig("drift", config.model_name))
            self.model_name = "renamed"

    register_model("renaming")(Renamed)
    predictor = create_enhanced_predictor("renaming")
    assert predictor.get_active_models() == ["renaming_default"]
    assert predictor.get_model_info("renaming")["model_name"] == "renaming_default"


def test_types_ignore_case(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanOfTwo(RecentMean):
        name = "MeanOfTwo"

    monkeypatch.setattr(registry, "_registered", {})
    registry.register(MeanOfTwo)
    register_model("Mine")(ForecasterPredictor)
    predictor = create_enhanced_predictor(["MeanOfTwo", "Linear"])
    predictor.add_model("mean", ModelConfig("meanoftwo"))
    assert predictor.get_model_info("mean")["model_type"] == "MeanOfTwo"
    assert {"MeanOfTwo", "Mine"} <= set(predictor.get_available_models())
    assert ModelRegistry().class_of("SEASONAL-NAIVE") is ForecasterPredictor
    assert model_registry.class_of("mine") is ForecasterPredictor
    own = ModelRegistry()
    own.register_model_class("DLinear", BasePredictor)
    own.register_model_class("dlinear", ForecasterPredictor)
    own.register_model_class("DLinear", BasePredictor)
    assert own.class_of("dlinear") is BasePredictor, "the latest class of a type counts"
    assert "DLinear" not in own.get_available_model_types()


def test_presets_ignore_case() -> None:
    pytest.importorskip("torch")
    predictor = create_enhanced_predictor(["LSTM"])
    assert predictor.get_model_info("LSTM")["config"]["epochs"] == 30


def test_one_name_may_stand_for_a_list() -> None:
    assert create_enhanced_predictor(models="dlinear").get_active_models() == ["dlinear_default"]
    predictor = EnhancedRequestPredictor()
    assert predictor.add_models("linear") == {"linear": True}
    assert predictor.add_models(["drift", 3]) == {"drift": True, 3: False}
    assert "name: input should be a valid string (got 3)" in str(predictor.last_error)
    with pytest.raises(ConfigError, match=r"models: input should be a valid list \(got None\)"):
        create_enhanced_predictor(models=None)


@pytest.mark.parametrize("add", [EnhancedRequestPredictor().add_model, None])
def test_a_dictionary_is_not_a_configuration(add: Any) -> None:
    with pytest.raises(ConfigError, match="config: input should be an instance of ModelConfig"):
        add("dlinear", {"epochs": 3}) if add else ModelManager().add_model({"epochs": 3})
    with pytest.raises(ConfigError, match="config: input should be an instance of ModelConfig"):
        ForecasterPredictor({"epochs": 3})  # type: ignore[arg-type]


def test_a_class_that_cannot_be_instantiated_is_named() -> None:
    class Abstract(BasePredictor):
        pass

    class WithoutConfig(ForecasterPredictor):
        def __init__(self) -> None:
            pass

    class WithoutBase(ForecasterPredictor):
        def __init__(self, config: ModelConfig) -> None:
            self.config = config

    for kind, words in ((Abstract, "abstract"), (WithoutConfig, "positional"), (WithoutBase, "super")):
        register_model("broken")(kind)
        with pytest.raises(ConfigError, match=f"{kind.__name__} cannot be made: TypeError: .*{words}"):
            EnhancedRequestPredictor().add_model("broken")
