"""Precedence and provenance of a configuration, and the settings of several models that are compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from presurge.errors import ConfigError
from presurge.workflows.config import resolve_config, resolve_each


def write_config(folder: Path, name: str = "config.json", **values: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(values))
    return path


def test_given_beats_file_beats_preset_beats_default(tmp_path: Path) -> None:
    file = write_config(tmp_path, sequence_length=48, preset="long-20", epochs=7, kernel_size=13, loss="mae")
    config = resolve_config({"epochs": 5, "model_settings": {"loss": "huber"}, "seed": None}, file)
    assert (config.context, config.horizon, config.epochs, config.seed) == (48, 20, 5, 0)
    assert config.model_settings == {"kernel_size": 13, "loss": "huber"}
    assert (resolve_config({}).context, resolve_config({}).horizon) == (120, 3)


def test_a_resolved_configuration_is_a_file_that_resolves_to_itself(tmp_path: Path) -> None:
    config = resolve_config({"model": "gru", "epochs": 3, "model_settings": {"hidden_size": 4}})
    file = write_config(tmp_path, **config.model_dump(mode="json"))
    assert resolve_config({}, file) == config


def test_yaml_reads_as_json_does(tmp_path: Path) -> None:
    values = {"model": "mlp", "prediction_horizon": 4, "model_settings": {"stride": 5}, "patience": None}
    yaml = tmp_path / "config.yaml"
    yaml.write_text("model: mlp\nprediction_horizon: 4\nmodel_settings:\n  stride: 5\npatience: null\n")
    assert resolve_config({}, yaml) == resolve_config({}, write_config(tmp_path, **values))


@pytest.mark.parametrize(
    ("given", "written", "setting", "where"),
    [
        ({"horizon": 0}, {"context": 20}, "horizon", None),  # not the file's fault
        ({"horizon": 0}, {"horizon": 3}, "horizon", None),
        ({}, {"horizon": 0}, None, "config.json: horizon"),
        ({}, {"prediction_horizon": 0}, None, "config.json: prediction_horizon"),  # as it is written there
        ({"epochs": 3}, {"preset": "hour-1"}, None, "config.json: preset"),
        ({"preset": "hour-1"}, {"preset": "long-20"}, "preset", None),
        ({}, {"model": "oracle"}, None, "config.json: model"),
        ({}, {"loggers": ["carrier-pigeon"]}, None, "config.json: loggers.0"),
        ({}, {"epoch": 3}, None, "config.json"),
        ({"epoch": 3}, None, None, None),
        ({}, {"kernel_size": 24}, None, "config.json: kernel_size"),
        ({}, {"model_settings": {"kernel_size": 24}}, None, "config.json: model_settings.kernel_size"),
        ({"model_settings": {"kernel_size": 24}}, {"kernel_size": 25}, "model_settings.kernel_size", None),
        ({"kernel_size": 24}, {"kernel_size": 25}, "kernel_size", None),
        ({}, {"model_settings": {"colour": 1}}, None, "config.json: model_settings"),
        ({"model_settings": {"colour": 1}}, {"kernel_size": 25}, None, "settings of dlinear"),
        ({}, {"model_settings": [1]}, None, "config.json: model_settings"),
    ],
)
def test_a_bad_value_is_named_where_it_stands(
    tmp_path: Path,
    given: dict[str, Any],
    written: dict[str, Any] | None,
    setting: str | None,
    where: str | None,
) -> None:
    file = None if written is None else write_config(tmp_path, **written)
    with pytest.raises(ConfigError) as caught:
        resolve_config(given, file)
    named = caught.value.where
    assert (caught.value.setting, named and named.replace(f"{tmp_path}/", "")) == (setting, where)


def test_a_setting_goes_to_every_model_that_has_it_and_a_named_one_to_its_model_only() -> None:
    own = {"gru:stride": 7, "stride": 3, "hidden_size": 16, "linear:ridge": 0.5}
    each = resolve_each(["linear", "gru", "mlp"], {"epochs": 4, "seed": None}, own)
    assert each["linear"].model_settings == {"stride": 3, "ridge": 0.5}
    assert each["gru"].model_settings == {"stride": 7, "hidden_size": 16}
    assert each["mlp"].model_settings == {"stride": 3, "hidden_size": 16}
    assert {each[name].epochs for name in ("linear", "gru", "mlp")} == {4}
    assert (each["gru"].batch_size, each["mlp"].weight_decay) == (32, 0.3)  # what suits the model stays
    assert each["gru"].training().epochs == 4
    assert each["gru"].training().batch_size == 32


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"hiden_size": 3}, "hiden_size"),
        ({"mlp:stride": 3}, "mlp:stride"),  # a model that is not compared
        ({"gru:stride": 0}, "stride"),
        ({"gru:strid": 2}, "strid"),
    ],
)
def test_a_setting_that_nobody_has_is_refused(own: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_each(["linear", "gru"], {}, own)


def test_an_impossible_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="epochs"):
        resolve_each(["gru"], {"epochs": 0}, {})


def test_baselines_are_compared_too_and_set_by_name() -> None:
    each = resolve_each(["dlinear"], {}, {"recent-mean:window": 5})
    assert each["recent-mean"].model_settings == {"window": 5}


def test_a_setting_of_training_that_a_model_has_itself_goes_to_it() -> None:
    own = {"challengers": ["gru"]}
    assert resolve_each(["auto"], {"epochs": 2}, own)["auto"].model_settings == {**own, "epochs": 2}
    assert resolve_each(["auto"], {"epochs": 2}, {"epochs": 3})["auto"].model_settings["epochs"] == 3


def test_a_device_that_is_not_there_is_refused_at_once() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no cuda device"):
        resolve_each(["dlinear"], {"device": "cuda"}, {})
    assert resolve_each(["dlinear"], {"device": "cuda", "allow_fallback": True}, {})
