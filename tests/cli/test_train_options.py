"""Every option and configuration key of the training guide, with underscores and dashes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training by gradient needs torch: make test")

Run = Callable[..., tuple[int, str, str]]

COLUMNS = ("--time", "t", "--value", "requests,input_tokens,output_tokens")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three channels of counts with a rhythm of two hours; minutes."""
    import numpy as np

    rng = np.random.default_rng(5)
    rows = 1000
    level = 30 * (1 + 0.5 * np.sin(2 * np.pi * np.arange(rows) / 120))
    counts = rng.poisson(level[:, None] * [1, 100, 40])
    path = tmp_path_factory.mktemp("table") / "load.csv"
    lines = [f"{60 * i}," + ",".join(map(str, row)) for i, row in enumerate(counts.tolist())]
    path.write_text("t,requests,input_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def resolved() -> dict[str, object]:
    """The settings that the run in ``run`` was trained with."""
    loaded: dict[str, object] = json.loads(Path("run/training_config.json").read_text())
    return loaded


@pytest.mark.parametrize("dash", ["_", "-"])
def test_all_options_of_the_guide(run: Run, table: Path, dash: str) -> None:
    options = (
        "--sequence_length", "60", "--prediction_horizon", "2", "--batch_size", "64", "--learning_rate", "0.01",
        "--epochs", "2", "--channels", "3", "--individual", "--kernel_size", "13", "--device", "cpu", "--use_wandb=false",
        "--wandb_project", "p", "--wandb_entity", "e", "--wandb_run_name", "r", "--solver", "sgd", "--no-plots",
    )  # fmt: skip
    spelled = [word.replace("_", dash) if word.startswith("--") else word for word in options]
    code, _, err = run("train", table, *COLUMNS, "--out", "run", "--quiet", *spelled)
    assert code == 0, err
    settings = resolved()
    expected = {
        "context": 60, "horizon": 2, "batch_size": 64, "learning_rate": 0.01, "epochs": 2, "channels": 3,
        "device": "cpu", "use_wandb": False, "wandb_project": "p", "wandb_entity": "e", "wandb_run_name": "r",
        "model_settings": {"individual": True, "kernel_size": 13, "solver": "sgd"},
    }  # fmt: skip
    assert {key: settings[key] for key in expected} == expected
    for name in ("best_model.pt", "checkpoints/last.pt", "checkpoints/best.pt", "logs/metrics.jsonl"):
        assert Path("run", name).stat().st_size > 0


def test_the_configuration_file_of_the_guide(run: Run, table: Path) -> None:
    guide = {
        "sequence_length": 120, "prediction_horizon": 3, "batch_size": 64, "learning_rate": 0.001, "epochs": 1,
        "channels": 3, "individual": True, "kernel_size": 25, "early_stopping_patience": 15, "device": "cuda",
        "use_wandb": False,
    }  # fmt: skip
    Path("predictor_config.json").write_text(json.dumps(guide))
    train = (
        "train",
        table,
        *COLUMNS,
        "--out",
        "run",
        "--quiet",
        "--no-plots",
        "--config",
        "predictor_config.json",
    )
    import torch

    if not torch.cuda.is_available():
        code, _, err = run(*train)
        assert code == 2
        assert "no cuda device" in err
        assert "--allow-fallback" in err
    code, _, err = run(*train, "--allow-fallback", "--individual", "false")
    assert code == 0, err
    settings = resolved()
    assert settings["patience"] == 15
    assert settings["model_settings"] == {"individual": False, "kernel_size": 25}
    code, _, err = run(
        "train",
        table,
        *COLUMNS,
        "--config",
        "run/training_config.json",
        "--out",
        "again",
        "--quiet",
        "--no-plots",
    )
    assert code == 0, err

    Path("wrong.json").write_text(json.dumps({**guide, "dropuot": 0.1}))
    code, _, err = run(*train[:-1], "wrong.json")
    assert code == 2
    assert "dropuot" in err
    assert "wrong.json" in err
    Path("comments.json").write_text('{"epochs": 3} // three')
    code, _, err = run(*train[:-1], "comments.json")
    assert code == 2
    assert "no comments" in err


def test_a_wrong_number_of_channels_is_refused(run: Run, table: Path) -> None:
    code, _, err = run("train", table, *COLUMNS, "--out", "run", "--channels", "2")
    assert code == 2
    assert "2 channels" in err
    assert not Path("run").exists()


@pytest.mark.parametrize("loss", ["mae", "huber", "quantile"])
def test_other_losses_go_through_to_a_forecast(run: Run, table: Path, loss: str) -> None:
    options = ("--loss", loss, "--epochs", "2", "--learning-rate", "0.01", "--quiet", "--no-plots")
    assert run("train", table, *COLUMNS, "--out", "run", *options)[0] == 0
    code, out, _ = run("predict", "run", "--history", table, "--json")
    assert code == 0
    for row in json.loads(out)["forecast"]:
        quantiles = list(row["quantiles"].values())
        assert quantiles == sorted(quantiles)
        assert quantiles[0] >= 0


def test_the_exact_solver_refuses_another_loss(run: Run, table: Path) -> None:
    code, _, err = run("train", table, *COLUMNS, "--loss", "mae", "--solver", "exact")
    assert code == 2
    assert "sgd" in err


@pytest.mark.integration
def test_ctrl_c_writes_a_checkpoint_and_says_how_to_go_on(run: Run, table: Path, tmp_path: Path) -> None:
    options = (
        "train", str(table), *COLUMNS, "--out", "run", "--solver", "sgd", "--epochs", "5000", "--no-plots",
    )  # fmt: skip
    command = [sys.executable, "-m", "presurge", *options, "--patience", "5000"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ})
    last = tmp_path / "run/checkpoints/last.pt"
    for _ in range(600):
        if last.exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    code, _, err = run(*options, "--patience", "1", "--resume")
    assert code == 2, "another patience is another configuration"
    assert "patience" in err


def test_a_run_is_not_resumed_as_another_model(run: Run, table: Path) -> None:
    brief = ("--epochs", "1", "--no-plots", "--quiet", "--out", "run")
    assert run("train", table, *COLUMNS, *brief, "--model", "mlp", "--set", "stride=20")[0] == 0
    before = Path("run/models/config.json").read_bytes()
    code, _, err = run("train", table, *COLUMNS, *brief, "--resume")
    assert code == 2
    assert "has model 'mlp', and 'auto' was asked for" in err
    assert Path("run/checkpoints/last.pt").exists()
    assert Path("run/models/config.json").read_bytes() == before
    code, _, err = run("train", table, *COLUMNS, *brief, "--config", "run/training_config.json", "--resume")
    assert code == 0, err
    Path("run/training_config.json").write_text("{")
    code, _, err = run("train", table, *COLUMNS, *brief, "--model", "mlp", "--resume")
    assert code == 2
    assert "not valid JSON" in err


def test_a_network_larger_than_the_memory_is_a_plain_error(run: Run, table: Path) -> None:
    code, _, err = run(
        "train", table, *COLUMNS, "--model", "mlp", "--set", "hidden_size=100000000000", "--no-plots"
    )
    assert code == 2
    assert "memory" in err
