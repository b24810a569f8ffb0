"""The command line for fleets and rolling cutoffs, and what a training says about itself."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from presurge.models import registry

Run = Callable[..., tuple[int, str, str]]
COLUMNS = ("--time", "time", "--item", "host", "--value", "requests")
ROWS = 300


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hosts by the minute, of which the last one has hardly begun."""
    rng, rows = np.random.default_rng(5), []
    for host, first in (("web-1", 0), ("web-2", 0), ("new-1", ROWS - 5)):
        for minute in range(first, ROWS):
            stamp = f"2026-03-02T{minute // 60:02d}:{minute % 60:02d}:00Z"
            rows.append((stamp, host, int(rng.poisson(30 + 10 * np.sin(minute / 20)))))
    path = tmp_path_factory.mktemp("fleet") / "fleet.csv"
    pl.DataFrame(rows, schema=["time", "host", "requests"], orient="row").write_csv(path)
    return path


@pytest.fixture(scope="module")
def pair(fleet: Path) -> Path:
    """The two hosts with a history."""
    path = fleet.with_name("pair.csv")
    pl.read_csv(fleet).filter(pl.col("host") != "new-1").write_csv(path)
    return path


def test_an_item_without_a_forecast_costs_an_exit_code(run: Run, fleet: Path, pair: Path) -> None:
    sizes = ("--context", "20", "--horizon", "2", "--model", "linear", "--no-plots", "--quiet")
    assert run("train", pair, *COLUMNS, *sizes, "--out", "run")[0] == 0
    code, out, err = run("predict", "run", "--history", fleet)
    assert code == 3
    assert "Warning: no forecast for new-1: the history has 5 rows, and the model reads 20" in err
    assert "web-2" in out
    assert "new-1" not in out
    code, out, _ = run("predict", "run", "--history", fleet, "--json", "--output", "f.json")
    assert code == 3
    assert json.loads(out) == json.loads(Path("f.json").read_text())
    assert [row["item"] for row in json.loads(out)["missing"]] == ["new-1"]
    code, out, err = run("predict", "run", "--history", fleet, "--item", "web-2,web-1", "--json")
    assert (code, err) == (0, "")
    assert [row["item"] for row in json.loads(out)["forecast"]] == ["web-2"] * 2 + ["web-1"] * 2
    for words, told in (
        (("--item", "web2"), "--item: there is no item 'web2'\n  Did you mean: web-2"),
        (("--item", "new-1"), "item 'new-1': the history has 5 rows"),
        (("--max-age", "15m"), "--max-age"),
        (("--max-age", "soon"), "--max-age: is no age"),
        (("--now", "soon"), "--now: 'soon' is not a time"),
        (("--now", "2020-01-01"), "--now: no row was over at 2020-01-01T00:00:00Z\n  Give a later time"),
        (("--horizon", "0"), "Ask for 1 to 2.\n"),
    ):
        code, _, err = run("predict", "run", "--history", fleet, *words)
        assert code == 2, words
        assert told in err
    now = ("--now", "2026-03-02T04:59:30Z")
    code, out, err = run("predict", "run", "--history", pair, *now, "--json", "--item-column", "host")
    assert code == 0
    assert json.loads(out)["origin"] == "2026-03-02T04:58:00Z"
    assert "left out 2 rows from 2026-03-02T04:59:00Z on" in err
    assert "(--now)" in err


def test_a_backtest_writes_every_forecast_of_its_cutoffs(run: Run, pair: Path) -> None:
    options = ("--context", "20", "--horizon", "2", "--models", "linear", "--cutoffs", "4", "--refit", "2")
    code, out, err = run("backtest", pair, *COLUMNS, *options, "--out", "scores", "--json")
    assert code == 0, err
    table = pl.read_parquet("scores/forecasts.parquet").filter(pl.col("model") == "linear")
    assert table.group_by("item").agg(pl.col("origin").n_unique())["origin"].to_list() == [4, 4]
    assert json.loads(out)["windows"] == 8
    report = Path("scores/report.txt").read_text()
    assert "How to train it" in report
    train = next(shlex.split(line)[1:] for line in report.splitlines() if line.startswith("  presurge train"))
    code, _, err = run(*train, "--no-plots")
    assert code == 0, err
    assert registry.load(Path("RUN"))[0].context == 20
    code, _, err = run("backtest", pair, *COLUMNS, *options, "--stride", "3")
    assert code == 2
    assert "Give --stride or --cutoffs, not both." in err


def test_a_training_says_what_it_chose_among_and_when_it_stopped(run: Run, pair: Path) -> None:
    sizes = (*COLUMNS, "--context", "20", "--horizon", "2", "--no-plots", "--out", "run")
    code, _, err = run("train", pair, *sizes, "--verbose")
    assert code == 0, err
    assert "Candidate of auto: " in err
    assert "Note: After scoring, the stored model was fitted again to all 600 rows." in err
    code, _, err = run("train", pair, *sizes)
    assert "Candidate of" not in err
    code, _, err = run("train", pair, *sizes, "--solver", "sgd", "--epochs", "30", "--patience", "2",
                       "--learning-rate", "1", "--schedule", "constant")  # fmt: skip
    assert code == 0, err
    assert "the solver sgd trains by gradient with the optimizer adam; --optimizer chooses another" in err
    assert "stopped early: no better validation loss in 2 epochs" in err
    code, _, err = run("train", pair, *sizes, "--model", "gru", "--final-fit")
    assert code == 2
    assert "--final-fit: gru learns by gradient" in err
