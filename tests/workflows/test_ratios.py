"""Tokens of a request are forecast as ratios of sums, from tables, traces and prepared directories alike."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from presurge.cli.app import main

NAME = "input_tokens/requests"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five hours of requests, with a rhythm and minutes without one, as a trace and as a table."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    minute_R = np.arange(300)
    count_R = rng.poisson(2 + np.sin(minute_R / 20))
    stamp_N = np.repeat(minute_R * 60, count_R) + rng.uniform(0, 59, count_R.sum()).round(3)
    tokens_N = rng.integers(50, 150, len(stamp_N)) + np.repeat(
        (100 * np.sin(minute_R / 30)).astype(int) + 100, count_R
    )
    frame = pl.DataFrame({"Timestamp": stamp_N, "Request tokens": tokens_N, "Response tokens": 1})
    frame.write_csv("trace.csv")
    minutes = frame.group_by(t=(pl.col("Timestamp") // 60 * 60).cast(pl.Int64)).agg(
        requests=pl.len(), input_tokens=pl.col("Request tokens").sum()
    )
    pl.DataFrame({"t": minute_R * 60}).join(minutes, on="t", how="left").fill_null(0).sort("t").write_csv(
        "table.csv"
    )
    assert (count_R[:-2] == 0).sum() > 10
    return tmp_path


def run(line: str, capsys: Any) -> Any:
    code = main([*line.split(), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def forecast_of(run_directory: str, history: str, capsys: Any) -> list[Any]:
    rows = run(f"predict {run_directory} --history {history}", capsys)["forecast"]
    assert {row["channel"] for row in rows} == {"requests", NAME}
    for row in rows:
        assert np.isfinite(row["mean"])
        assert 0 <= row["quantiles"]["0.01"] <= row["quantiles"]["0.1"] < row["quantiles"]["0.9"]
    return [row["mean"] for row in rows]


def test_a_ratio_from_table_trace_and_prepared_data(log: Path, capsys: Any) -> None:
    model = "--model linear --context 20 --horizon 2 --no-plots"
    run("prepare trace.csv --out data", capsys)
    run(f"train trace.csv --value requests,{NAME} --out a {model}", capsys)
    run(f"train table.csv --time t --value requests,{NAME} --out b {model}", capsys)
    for name, history in (("a", "data"), ("b", "table.csv"), ("a", "table.csv --time t")):
        means = forecast_of(name, history, capsys)
        assert all(20 < mean < 400 for mean in means[1::2]), (name, history)
    assert NAME in next(log.glob("b/**/metrics.json")).read_text()


def test_a_ratio_of_every_item_of_a_fleet(log: Path, capsys: Any) -> None:
    frame = pl.read_csv("trace.csv").with_row_index("n")
    frame.with_columns(
        Model=pl.when(pl.col("n") % 3 == 0).then(pl.lit("a")).otherwise(pl.lit("b"))
    ).write_csv("models.csv")
    run("prepare models.csv --model Model --out data", capsys)
    run(
        f"train data --value requests,{NAME} --out fleet --model linear --context 20 --horizon 2 --no-plots",
        capsys,
    )
    every = run("predict fleet --history data", capsys)["forecast"]
    alone = run("predict fleet --history data --item b", capsys)["forecast"]
    assert [row for row in every if row["item"] == "b"] == [{**row, "item": "b"} for row in alone]
