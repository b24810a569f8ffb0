"""Models in files: their names and configurations, and files that make no sense."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge import store
from presurge.errors import ConfigError, ModelError
from presurge.predictor import EnhancedRequestPredictor, ForecasterPredictor, ModelConfig
from presurge.predictor.frames import read_history
from presurge.series.dataset import Dataset
from presurge.workflows.config import resolve_config
from presurge.workflows.train import train

SMALL = ModelConfig("dlinear", sequence_length=20, prediction_horizon=2)


@pytest.fixture(scope="module")
def model(requests: pl.DataFrame) -> ForecasterPredictor:
    made = ForecasterPredictor(SMALL)
    made.train(requests)
    return made


def dataset(minutes: pl.DataFrame, **source: str) -> Dataset:
    panel = read_history(minutes).panel
    head, test = panel.full_span().cut_tail(0.2)
    first, validation = head.cut_tail(0.2)
    return Dataset(
        panel=panel, train=first, validation=validation, test=test, validation_given=False, source={**source}
    )


def test_a_model_is_loaded_under_the_name_it_was_saved_under(requests: pl.DataFrame, tmp_path: Path) -> None:
    predictor = EnhancedRequestPredictor()
    for name, model_name in (("mine", "mine"), ("other", "its name")):
        predictor.add_model(name, replace(SMALL, model_name=model_name))
    predictor.train_models(requests)
    before = predictor.predict_next_request(requests)["predictions"]
    for name in ("mine", "other", "its name"):
        assert predictor.save_model(name, str(tmp_path / name))
        assert predictor.load_model(name, str(tmp_path / name)), predictor.last_error
        assert predictor.get_model_info(name)["is_trained"]
    assert predictor.predict_next_request(requests)["predictions"] == before
    assert set(predictor.get_active_models()) == {"mine", "its name"}
    assert not predictor.save_model("mine", None)
    assert isinstance(predictor.last_error, TypeError)


def test_numpy_settings_can_be_saved(requests: pl.DataFrame, tmp_path: Path) -> None:
    config = ModelConfig(
        "dlinear",
        sequence_length=np.int64(20),
        prediction_horizon=2,
        learning_rate=np.float32(1e-3),
        custom_params={"kernel_size": np.int64(5)},
    )
    model = ForecasterPredictor(config)
    model.train(requests)
    assert model.save_model(str(tmp_path / "model"))
    other = ForecasterPredictor(SMALL)
    assert other.load_model(str(tmp_path / "model"))
    assert other.config.custom_params == {"kernel_size": 5}


def test_a_folder_with_other_files_is_left_alone(model: ForecasterPredictor, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "precious.bin").write_text("x")
    with pytest.raises(ConfigError, match=r"files that are not a model \(precious.bin\)"):
        model.save_model(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "precious.bin"]


@pytest.mark.parametrize(
    "change",
    [
        {"training": []},
        {"training": {"predictor": {"bogus": 1}}},
        {"training": {"predictor": 3}},
        {"training": {"predictor": {"epochs": -1}}},
        {"training": {"predictor": {"custom_params": {"bogus": 1}}}},
        {"training": {"rolling_errors": "abc"}},
        {"training": {"settings": {"epochs": "many"}}},
        {"context": -5},
        {"context": "a"},
        {"settings": None},
        {"state": {}},
        {"model": ["dlinear"]},
    ],
)
def test_a_file_that_makes_no_sense_is_a_plain_error(
    change: dict[str, Any], model: ForecasterPredictor, tmp_path: Path
) -> None:
    """Its checksums are right, as if a program had written it."""
    model.save_model(str(tmp_path / "good"))
    config, arrays = store.load_model(tmp_path / "good")
    store.save_model(tmp_path / "bad", {**config, **change}, arrays)
    with pytest.raises(ModelError, match="bad"):
        ForecasterPredictor(SMALL).load_model(str(tmp_path / "bad"))


def test_a_model_without_a_record_is_loaded_but_not_ranked(
    model: ForecasterPredictor, requests: pl.DataFrame, tmp_path: Path
) -> None:
    model.model.save(tmp_path / "model")
    predictor = EnhancedRequestPredictor()
    assert predictor.load_model("dlinear", str(tmp_path / "model"))
    compared = predictor.compare_models(requests)["performance_summary"]
    assert compared["unranked"] == {"dlinear_default": "its error was not measured"}
    assert predictor.predict_next_request(requests)["predictions"]["dlinear_default"]["confidence"] is None


def test_a_run_brings_its_configuration(minutes: pl.DataFrame, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    flags = {"epochs": 1, "batch_size": 64, "learning_rate": 0.002, "patience": 2, "weight_decay": 0.01}
    settings = resolve_config(
        {**flags, "model": "gru", "context": 20, "horizon": 3, "model_settings": {"hidden_size": 4}}
    )
    train(dataset(minutes, path="minutes.csv"), settings, tmp_path / "run", plots=False)
    predictor = EnhancedRequestPredictor()
    for name, place in (("gru", "run"), ("file", "run/best_model.pt")):
        assert predictor.load_model(name, str(tmp_path / place), ModelConfig("gru")), predictor.last_error
        config = predictor.get_model_info(name)["config"]
        assert {key: config[key] for key in ("epochs", "batch_size", "learning_rate", "patience")} == {
            key: flags[key] for key in ("epochs", "batch_size", "learning_rate", "patience")
        }
        assert config["custom_params"]["weight_decay"] == 0.01
        assert config["custom_params"]["hidden_size"] == 4
        assert "clip_norm" not in config["custom_params"]
        training = predictor.model_manager.active_models[name].model.training
        assert training.model_dump(exclude={"device"}) == settings.training().model_dump(exclude={"device"})
    summary = predictor.compare_models(minutes)["performance_summary"]
    assert set(summary["rolling_errors"]) == {"gru", "file"}
    assert predictor.train_models(minutes)["gru"].success


def test_a_run_refuses_a_folder_with_other_files_before_it_trains(
    minutes: pl.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.bin").write_text("x")
    settings = resolve_config({"model": "last-value", "context": 20, "horizon": 3})
    with pytest.raises(ConfigError, match=r"precious\.bin"):
        train(dataset(minutes), settings, tmp_path, plots=False)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
