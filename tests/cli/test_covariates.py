"""Covariates from a file to a forecast: a target of two items that follows a driver known in advance."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

Run = Callable[..., tuple[int, str, str]]
ROWS, AHEAD = 500, 4
COLUMNS = ("--time", "when", "--value", "load", "--item", "pod")
WINDOWS = ("--context", 12, "--horizon", AHEAD)


def frame(first: int, last: int, *, load: bool = True) -> pl.DataFrame:
    """Rows of a ten-minute series of two pods; the driver and a sensor of each move its load."""
    parts = []
    for number, pod in enumerate(("a", "b")):
        rng = np.random.default_rng(number)
        driver = rng.normal(0, 20, ROWS + AHEAD).round(3)
        heat = rng.normal(0, 20, ROWS + AHEAD).round(3)
        values = 200 + driver + np.roll(heat, 1) + rng.normal(0, 3, ROWS + AHEAD)
        begin = datetime(2026, 5, 4, tzinfo=UTC)
        times = [(begin + timedelta(minutes=10 * row)).isoformat() for row in range(first, last)]
        part = {"when": times, "pod": [pod] * len(times), "driver": driver[first:last]}
        if load:
            part |= {"load": values[first:last].round(3), "heat": heat[first:last]}
        parts.append(pl.DataFrame(part))
    return pl.concat(parts)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    frame(0, ROWS).write_csv(tmp_path / "load.csv")
    frame(ROWS, ROWS + AHEAD, load=False).write_csv(tmp_path / "plan.csv")
    return tmp_path


def error_of(run: Run, model: str, *roles: str) -> float:
    """Test WAPE of a model on the load."""
    quick = ("--epochs", 8, "--learning-rate", 3e-3) if model == "mlp" else ()
    names = ("--model", model)
    code, out, err = run(
        "train",
        "load.csv",
        *COLUMNS,
        *WINDOWS,
        *names,
        *quick,
        *roles,
        "--out",
        "run",
        "--no-plots",
        "--json",
    )
    assert code == 0, err
    scores = json.loads(out)["metrics"][model]
    assert set(scores) == {"load"}, "covariates are not scored"
    return float(scores["load"]["wape"])


@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_covariates_lower_the_error_and_reach_the_forecast(run: Run, files: Path, model: str) -> None:
    if model == "mlp":
        pytest.importorskip("torch")
    alone = error_of(run, model)
    told = error_of(run, model, "--known", "driver")
    assert told < 0.85 * alone
    assert error_of(run, model, "--known", "driver", "--observed", "heat") < 0.95 * told

    code, out, err = run("predict", "run", "--history", "load.csv", "--future", "plan.csv", "--json")
    assert code == 0, err
    rows = json.loads(out)["forecast"]
    assert [(row["item"], row["channel"]) for row in rows] == [("a", "load")] * AHEAD + [
        ("b", "load")
    ] * AHEAD
    assert rows[0]["timestamp"] == frame(ROWS, ROWS + 1, load=False)["when"][0].replace("+00:00", "Z")
    actual = frame(ROWS, ROWS + AHEAD)["load"].to_numpy()
    mean = np.array([row["mean"] for row in rows])
    assert np.abs(mean - actual).mean() < 25

    code, _, err = run("evaluate", "run", "--data", "load.csv", "--json")
    assert code == 0, err
    turned = frame(ROWS, ROWS + AHEAD, load=False).with_columns(driver=pl.lit(60.0))
    turned.write_csv("plan.csv")
    code, out, _ = run("predict", "run", "--history", "load.csv", "--future", "plan.csv", "--json")
    higher = np.array([row["mean"] for row in json.loads(out)["forecast"]])
    assert (higher > mean).mean() > 0.8

    for first, last, message in (
        (ROWS, ROWS + AHEAD - 1, r"has 3 rows from 2026-05-07T11:20:00Z to 2026-05-07T11:40:00Z"),
        (ROWS - 1, ROWS + AHEAD - 1, r"needs 4: every 10m from 2026-05-07T11:20:00Z to 2026-05-07T11:50:00Z"),
    ):
        frame(first, last, load=False).write_csv("plan.csv")
        code, _, err = run("predict", "run", "--history", "load.csv", "--future", "plan.csv")
        assert code == 2
        assert "--future" in err
        assert message in err
    code, _, err = run("predict", "run", "--history", "load.csv")
    assert code == 2
    assert "the model needs the future of 'driver', 4 rows after the history" in err
    assert "--future" in err


def test_backtest_gives_every_model_the_covariates_that_it_uses(run: Run, files: Path) -> None:
    code, out, err = run(
        "backtest",
        "load.csv",
        *COLUMNS,
        *WINDOWS,
        "--models",
        "linear,last-value",
        "--known",
        "driver",
        "--json",
    )
    assert code == 0, err
    metrics = json.loads(out)["metrics"]
    assert metrics["linear"]["load"]["wape"] < metrics["last-value"]["load"]["wape"]


def test_a_search_goes_on_only_with_the_same_roles(run: Run, files: Path) -> None:
    pytest.importorskip("optuna")
    search = ("tune", "load.csv", *COLUMNS, *WINDOWS, "--model", "linear", "--out", "search", "--json")
    code, out, err = run(*search, "--trials", 1, "--known", "driver")
    assert code == 0, err
    told = json.loads(out)["best"]["error"]
    code, _, err = run(*search, "--trials", 2, "--observed", "driver")
    assert code == 2
    assert "search" in err
    code, out, err = run(*search[:-2], "other", "--trials", 1, "--json")
    assert code == 0, err
    assert told < 0.85 * json.loads(out)["best"]["error"]


@pytest.mark.parametrize(("model", "unused"), [("dlinear", "heat, driver"), ("linear", None)])
def test_a_model_that_ignores_covariates_says_so(
    run: Run, files: Path, model: str, unused: str | None
) -> None:
    roles = ("--known", "driver", "--observed", "heat")
    code, _, err = run("train", "load.csv", *COLUMNS, *WINDOWS, *roles, "--model", model, "--no-plots")
    assert code == 0, err
    assert ("does not use these covariates" in err) == (unused is not None)
    if unused:
        assert f"Warning: {model} does not use these covariates: {unused}" in err
        assert (
            f"does not use these covariates: {unused}"
            in (files / "training_output/training_report.txt").read_text()
        )
