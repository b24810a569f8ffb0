"""A log of several models becomes a fleet: a series for each model, and nothing is lost."""

import json
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presurge.cli.app import main
from presurge.errors import DataError
from presurge.workflows.dataset import load_series
from presurge.workflows.prepare import PrepareConfig, prepare

REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 900), st.integers(0, 2**45), st.integers(0, 9), st.sampled_from(["a", "b", None])
    ),
    min_size=1,
    max_size=40,
)
COLUMNS = {"time": "t", "input_tokens": "i", "output_tokens": "o", "model": "m"}


@settings(max_examples=40)
@given(requests=REQUESTS, drop=st.booleans())
def test_totals_of_the_models_are_those_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int, str | None]], drop: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    frame = pl.DataFrame(
        requests, schema={"t": pl.Int64, "i": pl.Int64, "o": pl.Int64, "m": pl.String}, orient="row"
    )
    frame.write_parquet(folder / "log.parquet")
    config = PrepareConfig(columns=COLUMNS, time_unit="s", failures="drop" if drop else "keep")
    prepared = prepare(folder / "log.parquet", folder / "out", config)
    kept = frame.filter(pl.col("o") > 0) if drop else frame
    told = {"requests": len(kept), "input_tokens": kept["i"].sum(), "output_tokens": kept["o"].sum()}
    assert prepared.totals == {**told, "failures": int((frame["o"] == 0).sum())}
    assert any("failed requests" in note for note in prepared.notes) == bool(prepared.totals["failures"])
    series = pl.read_parquet(folder / "out" / "series.parquet")
    assert {name: series[name].sum() for name in prepared.totals} == prepared.totals
    for model, rows in kept.with_columns(pl.col("m").fill_null("no model")).group_by("m"):
        own = series.filter(pl.col("model") == model[0])
        minutes = rows.group_by(pl.col("t") // 60 * 60).agg(pl.len()).sort("t")
        busy = own.filter(pl.col("requests") > 0)
        assert busy["time"].to_list() == minutes["t"].to_list()
        assert busy["requests"].to_list() == minutes["len"].to_list()
        assert (
            own["time"].max() == frame["t"].max() // 60 * 60
        )  # a model without requests has zeros, and no end


def test_edges_that_the_log_covers_in_part_are_left_out(tmp_path: Path) -> None:
    stamps = [(30, "a"), (70, "b"), (130, "a"), (250, "b"), (270, "a")]
    (tmp_path / "log.csv").write_text("t,m\n" + "".join(f"{t},{m}\n" for t, m in stamps))
    prepare(tmp_path / "log.csv", tmp_path / "out", PrepareConfig(columns={"time": "t", "model": "m"}))
    panel = load_series(tmp_path / "out").panel
    assert panel.items == ("a", "b")
    assert panel.start.tolist() == [60_000_000, 60_000_000]  # the first minute is cut from a alone
    assert panel.values[:, 0].tolist() == [0, 1, 0, 1, 0, 0]
    with pytest.raises(DataError, match="no column 'llm'"):
        prepare(tmp_path / "log.csv", tmp_path / "x", PrepareConfig(columns={"time": "t", "model": "llm"}))


def test_train_and_predict_each_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    stamps = np.sort(rng.uniform(0, 300 * 60, 3_000)).round(3)
    names = rng.choice(["small", "large"], 3_000, p=[0.8, 0.2])
    table = pl.DataFrame({"Timestamp": stamps, "Request tokens": 5, "Response tokens": 7, "Model": names})
    table.write_csv("trace.csv")
    assert main(["prepare", "trace.csv", "--model", "Model", "--out", "data"]) == 0
    assert "a series for each of 2 models" in capsys.readouterr().err
    words = "train data --value requests --model recent-mean --context 20 --horizon 2 --out run --no-plots -q"
    assert main(words.split()) == 0
    capsys.readouterr()
    assert main(["predict", "run", "--history", "data", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["forecast"]
    means = {row["item"]: row["mean"] for row in rows}
    assert means["small"] == pytest.approx(8, abs=2.5)
    assert means["large"] == pytest.approx(2, abs=1.5)
    assert main(["prepare", "trace.csv", "--model", "Model", "--dense", "--out", "x"]) == 2
    assert "--dense: cannot be used with --model" in capsys.readouterr().err
    assert main(["prepare", "trace.csv", "--model", "Model", "--split", "0.7,0.1,0.1,0.1", "--out", "x"]) == 2
    assert "--split: cannot be used with --model" in capsys.readouterr().err
    assert main([*words.split(), "--step", "5m"]) == 2
    assert "data: --step: the rows are 1m apart, not 5m" in capsys.readouterr().err


START = 1_772_409_600  # 2 March 2026


def log(path: Path, seconds: int) -> Path:
    """Requests of two models every ten seconds."""
    stamps = pl.Series("t", (START + np.arange(0, seconds, 10)) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    models = ["a", "b"] * (len(stamps) // 2)
    pl.DataFrame({"t": stamps, "llm": models}).write_csv(path)
    return path


@pytest.mark.parametrize("column", [{}, {"model": "llm"}])
def test_rows_that_were_not_over_when_the_log_was_read_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: dict[str, str]
) -> None:
    columns = {"time": "t", **column}
    running, over = log(tmp_path / "running.csv", 600 + 20), log(tmp_path / "over.csv", 600)
    wanted = prepare(over, tmp_path / "over", PrepareConfig(columns=columns))
    now = (START + 600 + 25) * 1_000_000
    for name, said, clock in (
        ("fixed", now, 0),
        ("fresh", None, now),
        ("late", None, now + 900 * 1_000_000),
    ):
        monkeypatch.setattr(time, "time", lambda us=clock: us / 1e6)
        found = prepare(running, tmp_path / name, PrepareConfig(columns=columns, now=said, dense=not column))
        ours, theirs = (pl.read_parquet(tmp_path / one / "series.parquet") for one in (name, "over"))
        if name == "late":  # the log ends in the middle of a minute, whatever the clock says
            assert found.manifest is not None
            assert found.manifest["partial_edges"]["last"]
            assert ours.height > theirs.height
            continue
        # Without the clock, only the stamps can tell that the log ends a little before the end of a minute.
        assert ours.drop("partial", strict=False).equals(theirs.drop("partial", strict=False))
        assert found.totals == wanted.totals
        assert any("not over at 2026-03-02T00:10:25Z (`now`)" in note for note in found.notes)
        assert load_series(tmp_path / name).panel.values[:, 0].tolist() == ours["requests"].to_list()
    with pytest.raises(DataError, match="no row was over"):
        prepare(running, tmp_path / "x", PrepareConfig(columns=columns, now=START * 1_000_000))
