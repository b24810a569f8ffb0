"""Models by name, and the errors of directories that hold none."""

import json
from pathlib import Path

import pytest

from presurge import store
from presurge.errors import ConfigError, ModelError
from presurge.models import registry
from presurge.models.naive import LastValue
from presurge.series.panel import Panel


@pytest.fixture
def saved(load: Panel, tmp_path: Path) -> Path:
    model = LastValue(context=3, horizon=2)
    model.fit(load, load.full_span())
    model.save(tmp_path / "run" / "models")
    return tmp_path / "run"


def test_the_baselines_are_registered() -> None:
    assert set(registry.BASELINES) < set(registry.model_names())


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="last-value"):
        registry.model_class("prophet")


def test_a_run_directory_and_its_models_folder_are_the_same(saved: Path) -> None:
    assert registry.load(saved)[1] == registry.load(saved / "models")[1]


def rewrite(saved: Path, **change: object) -> None:
    config, arrays = store.load_model(saved / "models")
    store.save_model(saved / "models", {**config, **change}, arrays)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "made-elsewhere"},
        {"settings": {"unknown": 1}},
        {"series": {"channels": []}},
        {"series": {}},
    ],
)
def test_a_directory_that_describes_no_model_is_refused(saved: Path, change: dict[str, object]) -> None:
    rewrite(saved, **change)
    with pytest.raises(ModelError, match=r"config\.json"):
        registry.load(saved)


def test_the_configuration_is_plain_json(saved: Path) -> None:
    config = json.loads((saved / "models" / "config.json").read_text())
    assert config["model"] == "last-value"
    assert config["series"]["step_seconds"] == 3600
