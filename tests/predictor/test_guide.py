"""The guide of the published interface: its code blocks run as they are, with only the import path changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from doc_blocks import Block, blocks
from presurge.predictor import ModelConfig, ModelType, TrainingResult

GUIDE = "seeds/gpu-model-interface-and-deployment.md"
Names = dict[str, Any]

pytest.importorskip("torch")


@pytest.fixture
def guide(shared: Path) -> list[Block]:
    return [one for one in blocks((shared / GUIDE).read_text(encoding="utf-8")) if one.language == "python"]


@pytest.fixture
def _folder(requests: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the guide's data file, for a smoke run on a machine that may have no GPU."""
    (tmp_path / "dataset").mkdir()
    requests.write_csv(tmp_path / "dataset" / "BurstGPT_1_cleaned.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRESURGE_ALLOW_FALLBACK", "1")
    monkeypatch.setenv("PRESURGE_MAX_EPOCHS", "1")


def run(block: Block, names: Names) -> None:
    code = block.code.replace("from predictor.", "from presurge.predictor.")
    exec(compile("\n" * (block.line - 1) + code, GUIDE, "exec"), names)


def all_trained(names: Names) -> None:
    results = names["training_results"]
    assert results
    assert all(isinstance(result, TrainingResult) and result.success for result in results.values())


def after_first_use(names: Names) -> None:
    all_trained(names)
    predictions = names["prediction"]["predictions"]
    assert [row["method"] for row in predictions.values()] == ["lstm", "dlinear", "transformer", "gru"]
    assert all(row["timestamp"] >= names["data"]["Timestamp"].iloc[-1] for row in predictions.values())


def after_large_transformer(names: Names) -> None:
    all_trained(names)
    model = names["predictor"].model_manager.active_models["large_transformer"].model
    assert (model.config.d_model, model.config.nhead, model.config.num_layers) == (256, 8, 6)
    assert (model.context, model.horizon, model.training.batch_size) == (100, 20, 64)
    assert "large_transformer" in names["predictions"]["predictions"]


def after_custom_model(names: Names) -> None:
    """Its methods are ``pass``: it can be added and queried, and the answer says why it gives nothing."""
    result = names["training_results"]["my_custom_model"]
    assert not result.success
    assert "returned NoneType" in result.error_message
    assert names["predictions"]["predictions"] == {"my_custom_model": {"error": result.error_message}}


def after_saving(names: Names) -> None:
    """The previous section's predictor holds no transformer: both calls report that, and nothing is lost."""
    predictor = names["predictor"]
    assert predictor.get_active_models() == ["my_custom_model"]
    assert "best_transformer_model.pth" in str(predictor.last_error)


def after_several(names: Names) -> None:
    assert names["results"] == dict.fromkeys(["lstm", "dlinear", "transformer", "gru"], True)
    errors = names["comparison"]["performance_summary"]["rolling_errors"]
    assert len(errors) == 4
    assert names["best_model"] == min(errors, key=errors.__getitem__)


def after_offline(names: Names) -> None:
    """Files are named by model_name; the guide's service looks for them without a part of the name."""
    for kind in ("lstm", "transformer"):
        shutil.copy(f"models/offline_{kind}_offline_final.pth", f"models/offline_{kind}_final.pth")


def after_service(names: Names) -> None:
    predictions = names["prediction"]["predictions"]
    assert set(predictions) == {"inference_lstm", "inference_transformer"}
    assert all(row["request_tokens"] >= 0 for row in predictions.values())
    info = names["service"].get_model_info()
    assert info["inference_lstm"]["config"]["sequence_length"] == 100


def after_monitor(names: Names) -> None:
    import torch

    if not torch.cuda.is_available():
        names["monitor_gpu_performance"]()


CHECKS: dict[str, Callable[[Names], None]] = {
    "# 5. 预测": after_first_use,
    "large_transformer": after_large_transformer,
    "my_custom_model": after_custom_model,
    "best_transformer_model": after_saving,
    "models_to_add": after_several,
    "# offline_gpu_training.py": after_offline,
    "# inference_service.py": after_service,
    "def monitor_gpu_performance": after_monitor,
    "def monitor_training_progress": lambda names: names["monitor_training_progress"](names["predictor"]),
}
"""What must be true after the block that contains the text."""


@pytest.mark.usefixtures("_folder")
def test_every_block_runs(guide: list[Block], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psutil", reason="a block of the guide imports it")
    names: Names = {"__name__": "__main__"}
    checked = []
    for block in guide:
        run(block, names)
        for text in [text for text in CHECKS if text in block.code]:
            CHECKS[text](names)
            checked.append(text)
    assert sorted(checked) == sorted(CHECKS)
    shown = capsys.readouterr().out
    assert "Offline training completed!" in shown
    assert "lstm_default:" in shown
    assert "N/A" not in shown.split("lstm_default:")[1]


@pytest.mark.usefixtures("_folder")
def test_saving_and_loading_works_once_there_is_a_transformer(guide: list[Block]) -> None:
    names: Names = {"__name__": "__main__", "ModelConfig": ModelConfig, "ModelType": ModelType}
    create = next(block for block in guide if "create_enhanced_predictor" in block.code)
    run(create, names)
    run(next(block for block in guide if "best_transformer_model" in block.code), names)
    predictor = names["predictor"]
    assert predictor.last_error is None
    rows = predictor.predict_next_request(names["historical_data"])["predictions"]
    assert rows["loaded_transformer"] == rows["transformer_default"]
