"""The main job through the command line, and what outside scripts rely on."""

import json
import math
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.cli import main
from presurge.evaluation.fit import fit_model
from presurge.evaluation.walk import walk
from presurge.series.forecast import QUANTILE_LEVELS
from presurge.workflows.dataset import TableConfig, load_dataset

Run = Callable[..., tuple[int, str, str]]

COMMANDS = (
    ["demo"],
    ["prepare"],
    ["prepare", "dense"],
    ["prepare", "compress"],
    ["prepare", "split"],
    ["data", "list"],
    ["data", "get"],
    ["data", "synthesize"],
    ["train"],
    ["backtest"],
    ["evaluate"],
    ["predict"],
    ["models"],
)
METRICS = {"wql", "wape", "mae", "rmse", "mse", "mase", "r2", "bias", "relative_bias", "pinball"} | {
    f"{kind}_{level}" for kind in ("coverage", "width") for level in (50, 80, 95)
}
COLUMNS = ("--time", "when", "--value", "requests,cpu")


def table(path: str, rows: int = 1500, *, start: datetime = datetime(2024, 3, 1, tzinfo=UTC)) -> pl.DataFrame:
    """Requests with a rhythm of two hours, and a level; minutes."""
    rng = np.random.default_rng(3)
    rhythm = 1 + 0.5 * np.sin(2 * np.pi * np.arange(rows) / 120)
    frame = pl.DataFrame(
        {
            "when": [(start + timedelta(minutes=i)).isoformat() for i in range(rows)],
            "requests": rng.poisson(40 * rhythm),
            "cpu": (0.4 * rhythm + rng.normal(0, 0.02, rows)).round(4),
        }
    )
    frame.write_csv(path)
    return frame


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_of_every_command_shows_an_example(run: Run, command: list[str]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert re.search(r"Examples?:", out)
    assert "--debug" in out
    assert max(map(len, out.splitlines())) <= 110


def test_train_writes_a_run_directory_and_forecasts_every_item(run: Run) -> None:
    first, second = table("a.csv"), table("b.csv").with_columns(pl.col("requests") * 3)
    both = pl.concat([first.with_columns(service=pl.lit("a")), second.with_columns(service=pl.lit("b"))])
    both.sample(fraction=1.0, shuffle=True, seed=1).write_parquet("both.parquet")
    columns = (*COLUMNS, "--item", "service")
    code, out, err = run("train", "both.parquet", *columns, "--out", "run", "--model", "dlinear")
    assert code == 0, err
    assert "recent-mean" in out
    assert "Report:" in err
    for name in (
        "models/config.json",
        "models/model.safetensors",
        "logs/training.log",
        "plots/forecast.png",
        "training_config.json",
        "training_report.txt",
        "report.html",
        "metrics.json",
    ):
        assert Path("run", name).stat().st_size > 0, name
    resolved = json.loads(Path("run/training_config.json").read_text())
    assert resolved["model"] == "dlinear"
    assert (resolved["context"], resolved["horizon"]) == (120, 3)
    assert "Item a." in Path("run/report.html").read_text(), "the pictures show one of them"
    code, out, _ = run("predict", "run", "--history", "both.parquet", "--json")
    assert code == 0
    rows = json.loads(out)["forecast"]
    mean = {
        item: np.mean([r["mean"] for r in rows if r["item"] == item and r["channel"] == "requests"])
        for item in "ab"
    }
    assert mean["b"] > 2 * mean["a"]


def test_backtest_prints_one_object_with_the_baselines(run: Run) -> None:
    table("load.csv")
    code, out, _ = run(
        "backtest", "load.csv", *COLUMNS, "--models", "dlinear,linear", "--sequence_length", "60",
        "--prediction_horizon", "5", "--test-fraction", "0.3", "--json",
    )  # fmt: skip
    assert code == 0
    result = json.loads(out)
    assert set(result["metrics"]) == {
        "dlinear", "linear", "zero", "last-value", "recent-mean", "recent-median", "drift", "seasonal-naive"
    }  # fmt: skip
    for channels in result["metrics"].values():
        assert set(channels) == {"requests", "cpu"}
        assert all(set(metrics) == METRICS for metrics in channels.values())
    assert result["windows"] == 450 - 5 + 1
    assert result["horizon"] == 5
    wape = {model: result["metrics"][model]["requests"]["wape"] for model in result["metrics"]}
    assert wape["linear"] < wape["last-value"]


def test_backtest_trains_as_it_is_told(run: Run) -> None:
    table("load.csv", rows=600)
    shape = ("--models", "linear,gru", "--context", "12", "--seed", "3", "--epochs", "1", "--json")
    scores = []
    for more in ((), ("--set", "gru:hidden_size=4"), ("--set", "stride=5")):
        code, out, _ = run("backtest", "load.csv", *COLUMNS, *shape, *more)
        assert code == 0
        metrics = json.loads(out)["metrics"]
        scores.append((metrics["linear"]["cpu"]["wape"], metrics["gru"]["cpu"]["wape"]))
    assert scores[1][0] == scores[0][0]
    assert scores[1][1] != scores[0][1]
    assert scores[2][0] != scores[0][0]
    assert scores[2][1] != scores[0][1]
    for wrong, said in (
        (("--set", "mlp:stride=5"), "mlp:stride"),
        (("--models", "lstn"), "--models: there is no model"),
    ):
        code, _, err = run("backtest", "load.csv", *COLUMNS, *shape, *wrong)
        assert code == 2
        assert said in err


@pytest.mark.parametrize("command", [("train", "--no-plots"), ("backtest",)])
def test_the_season_of_the_seasonal_baseline_can_be_given(run: Run, command: tuple[str, ...]) -> None:
    table("load.csv", rows=600)
    shape = (*COLUMNS, "--context", "12", "--json", "--season")
    code, out, _ = run(command[0], "load.csv", *command[1:], *shape, "47m")
    assert code == 0
    assert json.loads(out)["context"]["seasonal-naive"] == 47
    for wrong in ("", "soon", "2w"):
        code, _, err = run(command[0], "load.csv", *command[1:], *shape, wrong)
        assert code == 2
        assert "--season" in err


def test_wape_is_what_its_name_says(run: Run) -> None:
    frame = table("load.csv")
    _, out, _ = run(
        "backtest",
        "load.csv",
        *COLUMNS,
        "--models",
        "last-value",
        "--context",
        "10",
        "--test-fraction",
        "0.3",
        "--json",
    )
    measured = json.loads(out)["metrics"]["last-value"]["requests"]
    y = frame["requests"].to_numpy().astype(float)
    season = json.loads(out)["context"]["seasonal-naive"]
    origins = np.arange(max(1050 - 1, season - 1), 1500 - 3)
    dataset = load_dataset(
        Path("load.csv"), TableConfig(time="when", values=("requests", "cpu")), test_fraction=0.3
    )
    model = fit_model("last-value", dataset, context=10, horizon=3).model
    medians = np.concatenate([piece.median_BHC for piece in walk([model], dataset.panel, origins)])[:, :, 0]
    errors = np.stack([np.abs(y[origins + h] - medians[:, h - 1]) for h in (1, 2, 3)])
    loads = np.stack([y[origins + h] for h in (1, 2, 3)])
    assert measured["wape"] == pytest.approx(np.mean(errors.sum(1) / loads.sum(1)), rel=1e-5)
    assert measured["mae"] == pytest.approx(errors.mean(), rel=1e-5)
    scale = np.abs(np.diff(y[:1050])).mean()
    assert measured["mase"] == pytest.approx(errors.mean() / scale, rel=1e-5)


def test_predict_gives_real_time_stamps_and_intervals(run: Run) -> None:
    frame = table("load.csv")
    assert (
        run("train", "load.csv", *COLUMNS, "--out", "run", "--model", "dlinear", "--quiet", "--no-plots")[0]
        == 0
    )
    frame.head(700).write_csv("history.csv")
    code, out, _ = run("predict", "run", "--history", "history.csv", "--json", "--horizon", "2")
    assert code == 0
    result = json.loads(out)
    origin = datetime.fromisoformat(result["origin"])
    assert origin == datetime(2024, 3, 1, tzinfo=UTC) + timedelta(minutes=699)
    assert result["step_seconds"] == 60
    assert [row["channel"] for row in result["forecast"]] == ["requests", "cpu"] * 2
    for index, row in enumerate(result["forecast"]):
        assert datetime.fromisoformat(row["timestamp"]) == origin + timedelta(minutes=index // 2 + 1)
        quantiles = list(row["quantiles"].values())
        assert list(row["quantiles"]) == [f"{level:g}" for level in QUANTILE_LEVELS]
        assert quantiles == sorted(quantiles)
        assert quantiles[0] >= 0
        assert all(math.isfinite(value) for value in [row["mean"], *quantiles])

    assert run("predict", "run", "--history", "history.csv", "--output", "forecast.csv")[0] == 0
    written = pl.read_csv("forecast.csv")
    assert written.columns[:3] == ["timestamp", "channel", "mean"]
    assert len(written) == 6


def test_evaluate_scores_as_training_did(run: Run) -> None:
    table("load.csv")
    options = ("--model", "dlinear", "--test-fraction", "0.25", "--season", "47m", "--json")
    code, out, _ = run("train", "load.csv", *COLUMNS, "--out", "run", *options, "--no-plots")
    assert code == 0
    trained = json.loads(out)["metrics"]
    code, out, _ = run("evaluate", "run", "--data", "load.csv", "--json")
    assert code == 0
    again = json.loads(out)["metrics"]
    for name in ("dlinear", "seasonal-naive"):
        for channel, metrics in trained[name].items():
            assert again[name][channel] == pytest.approx(metrics, rel=1e-6)


def test_the_form_of_the_time_stamps_is_kept(run: Run) -> None:
    frame = table("load.csv").with_columns(when=pl.int_range(pl.len()) * 60 + 300)
    frame.write_csv("seconds.csv")
    options = ("--model", "dlinear", "--quiet", "--no-plots")
    assert run("train", "seconds.csv", *COLUMNS, "--out", "run", *options)[0] == 0
    _, out, _ = run("predict", "run", "--history", "seconds.csv", "--json")
    result = json.loads(out)
    assert result["origin"] == 300 + 60 * 1499
    assert result["forecast"][0]["timestamp"] == 300 + 60 * 1500


def test_a_config_file_loses_to_a_flag_and_wins_over_a_preset(run: Run) -> None:
    table("load.csv")
    Path("config.json").write_text(
        json.dumps({"sequence_length": 48, "prediction_horizon": 4, "model": "dlinear"})
    )
    code, _, err = run(
        "train", "load.csv", *COLUMNS, "--out", "run", "--config", "config.json", "--preset", "long-20",
        "--horizon", "2", "--quiet", "--no-plots",
    )  # fmt: skip
    assert code == 0, err
    resolved = json.loads(Path("run/training_config.json").read_text())
    assert (resolved["context"], resolved["horizon"], resolved["preset"]) == (48, 2, "long-20")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "oracle"), ("oracle", "dlinear")),
        (("--preset", "hour-1"), ("hour-1", "minute-3")),
        (("--set", "ridge"), ("ridge", "--set")),
        (("--set", "colour=red"), ("colour", "settings of dlinear")),
        (("--set", "kernel_size=24"), ("kernel_size", "odd")),
        (("--test-fraction", "1.5"), ("--test-fraction", "between 0 and 1")),
        (("--kind", "requests=many"), ("--kind", "requests=many")),
        (("--fill", "maybe"), ("--fill", "zero")),
        (("--step", "2 fortnights"), ("fortnights", "60s")),
        (("--config", "none.json"), ("none.json",)),
        (("--value", "nothing"), ("nothing", "columns are")),
        (("--context", "5000"), ("rows", "5000")),
    ],
)
def test_a_wrong_option_is_named(run: Run, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    table("load.csv", 800)
    code, _, err = run("train", "load.csv", *COLUMNS, "--model", "dlinear", "--out", "run", *arguments)
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    code, _, err = run("train", "load.csv", "--colour", "red")
    assert code == 2
    assert "--colour" in err


def test_debug_shows_the_traceback(run: Run) -> None:
    code, _, err = run("train", "nowhere.csv", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_everything_works_with_the_network_cut_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", "the main job opened a connection to another machine"
        connect(self, address)

    monkeypatch.setattr("socket.socket.connect", refuse)
    code, out, _ = run("demo", "--rows", "20000", "--days", "1", "--out", "demo", "--json", "--quiet")
    assert code == 0
    result = json.loads(out)
    assert Path(result["report"]).is_file()
    assert len(result["forecast"]) == 9
    served = result["served"]
    assert served["observed"] == 240
    assert [row["mean"] for row in served["forecast"]] == pytest.approx(
        [row["mean"] for row in result["forecast"]]
    )


@pytest.mark.integration
def test_python_m_presurge_and_a_closed_pipe(tmp_path: Path) -> None:
    table(str(tmp_path / "load.csv"))
    command = [sys.executable, "-m", "presurge", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("presurge ")


def test_main_returns_zero_for_help() -> None:
    assert main(["--help"]) == 0


def test_further_channels_of_a_prepared_directory_can_be_forecast(run: Run) -> None:
    assert (
        run("data", "synthesize", "--rows", "20000", "--days", "2", "--out", "trace.csv", "--quiet")[0] == 0
    )
    assert run("prepare", "trace.csv", "-o", "data", "-q")[0] == 0
    options = ("--model", "dlinear", "--no-plots", "-q")
    code, _, err = run("train", "data", "--value", "requests,in_flight,failures", "--out", "run", *options)
    assert code == 0, err
    for history in ("data", "data/trace_compressed_60s.csv", "trace.csv"):
        code, out, err = run("predict", "run", "--history", history, "--json", "--horizon", "1")
        assert code == 0, err
        assert [row["channel"] for row in json.loads(out)["forecast"]] == [
            "requests",
            "in_flight",
            "failures",
        ]
    code, out, _ = run("evaluate", "run", "--data", "data", "--json")
    assert set(json.loads(out)["metrics"]["dlinear"]) == {"requests", "in_flight", "failures"}
    code, _, err = run("train", "data", "--value", "requests,nothing", "--out", "run", *options)
    assert code == 2
    assert "nothing" in err
    assert "in_flight" in err


def test_covariates_are_read_in_their_roles_and_never_forecast(run: Run) -> None:
    frame = table("load.csv", rows=800)
    frame.with_columns(price=pl.col("cpu") * 2, other=pl.col("cpu") * 3).write_csv("load.csv")
    columns = ("--time", "when", "--value", "requests", "--known", "price", "--observed", "other,cpu")
    train = (
        "train",
        "load.csv",
        *columns,
        "--model",
        "last-value",
        "--no-plots",
        "--quiet",
        "--channels",
        "1",
    )
    assert run(*train, "--out", "run")[0] == 0
    record = json.loads(Path("run/models/config.json").read_text())["training"]["table"]
    assert (record["values"], record["known"], record["observed"]) == (
        ["requests"],
        ["price"],
        ["other", "cpu"],
    )
    code, out, err = run("predict", "run", "--history", "load.csv", "--json", "--horizon", "1")
    assert code == 0, err
    assert [row["channel"] for row in json.loads(out)["forecast"]] == ["requests"]
    code, out, err = run("evaluate", "run", "--data", "load.csv", "--json")
    assert code == 0, err
    assert list(json.loads(out)["metrics"]["last-value"]) == ["requests"]
    code, _, err = run("predict", "run", "--history", "load.csv", "--future", "load.csv")
    assert code == 2
    assert "--future: the model uses no known columns" in err
    code, _, err = run("train", "load.csv", *columns, "--known", "cpu", "--out", "again")
    assert code == 2
    assert "--observed" in err


@pytest.fixture
def naive(run: Run) -> Run:
    """The command line, where ``run`` is a trained model and ``load.csv`` its history."""
    table("load.csv", rows=400)
    model = ("--model", "last-value", "--no-plots", "--quiet")
    assert run("train", "load.csv", *COLUMNS, "--out", "run", *model)[0] == 0
    return run


def test_a_forecast_goes_through_a_fifo_and_leaves_it(naive: Run) -> None:
    for name, read in (("pipe", json.loads), ("pipe.csv", lambda text: pl.read_csv(text.encode()))):
        os.mkfifo(name)
        reader = subprocess.Popen(["cat", name], stdout=subprocess.PIPE, text=True)
        code, _, err = naive("predict", "run", "--history", "load.csv", "--output", name)
        assert code == 0, err
        assert len(read(reader.communicate(timeout=30)[0])) > 0
        assert Path(name).is_fifo()


@pytest.mark.parametrize("redirected", [False, True])
def test_a_forecast_on_dev_stdout_is_one_json_object(naive: Run, redirected: bool) -> None:
    del naive
    command = [
        sys.executable,
        "-m",
        "presurge",
        "predict",
        "run",
        "--history",
        "load.csv",
        "--output",
        "/dev/stdout",
    ]
    with Path("out.txt").open("w+") as file:
        done = subprocess.run(command, stdout=file if redirected else subprocess.PIPE, text=True, check=True)
        file.seek(0)
        assert len(json.loads(file.read() if redirected else done.stdout)["forecast"]) == 6


def test_the_null_device_stays_a_device(naive: Run) -> None:
    try:
        os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:  # only root can make one
        Path("null").symlink_to("/dev/null")
    assert naive("predict", "run", "--history", "load.csv", "--output", "null")[0] == 0
    assert Path("null").is_char_device()


def test_an_output_that_says_no_format_is_refused(naive: Run) -> None:
    code, _, err = naive("predict", "run", "--history", "load.csv", "--output", "forecast.txt")
    assert code == 2
    assert "--output" in err
    assert ".csv" in err
