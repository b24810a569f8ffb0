"""The guide's three steps, in sequence through the command line and one by one."""

import gzip
import json
import os
from pathlib import Path

import pandas as pd
import polars as pl
import pytest

from presurge.cli import main
from presurge.errors import DataError
from presurge.series.frequency import HOUR, MINUTE
from presurge.sources import files
from presurge.workflows.prepare import PrepareConfig, prepare, trace_panel
from presurge.workflows.prepare.steps import prepare_compress, prepare_dense, prepare_split

COUNTS = ["Concurrent_requests", "Request_tokens_sum", "Response_tokens_sum"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder like the guide's: dataset/BurstGPT_1.csv and nothing else."""
    rows = [
        (30 + 7 * i, "GPT-4", 100 + i, 0 if i % 9 == 0 else i, 100 + 2 * i, "API log") for i in range(900)
    ]
    columns = ["Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type"]
    (tmp_path / "dataset").mkdir()
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "dataset" / "BurstGPT_1.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line, capsys):
    assert main(line.split()) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_the_guides_three_commands_give_the_same_as_one(folder, capsys):
    statistics = run("prepare dense --convert-original --analyze", capsys)
    assert "duplicate stamps" in statistics
    run("prepare compress", capsys)
    run("prepare split", capsys)
    run("prepare dataset/BurstGPT_1.csv --out whole --dense", capsys)
    one_by_one, whole = (
        {str(p.relative_to(d)): p for p in d.rglob("*") if p.is_file()}
        for d in (folder / "dataset", folder / "whole")
    )
    assert set(one_by_one) - {"BurstGPT_1.csv"} == set(whole)
    for name in whole:
        if name != "prepare.json":
            assert one_by_one[name].read_bytes() == whole[name].read_bytes(), name
    manifests = [json.loads((folder / d / "prepare.json").read_text()) for d in ("dataset", "whole")]
    for key in (
        "split",
        "totals",
        "channels",
        "extra_channels",
        "rows",
        "start_us",
        "partial_edges",
        "clock",
    ):
        assert manifests[0][key] == manifests[1][key]


def test_json_prints_exactly_one_object(folder, capsys):
    value = json.loads(run("prepare dense --analyze --json", capsys))
    assert value["statistics"]["rows"] == value["totals"]["requests"] == 900
    assert value["statistics"]["failures"] == 100
    assert value["statistics"]["span_seconds"] == 899 * 7
    assert value["statistics"]["empty_share"] == pytest.approx(1 - 900 / value["statistics"]["seconds"])
    value = json.loads(run("prepare --json --out x dataset/BurstGPT_1.csv --step 5m --name mine", capsys))
    assert value["manifest"]["step_seconds"] == 300
    assert "mine_compressed_300s.csv" in value["files"]


def test_help_names_the_options_and_the_steps(capsys):
    text = run("prepare --help", capsys)
    for word in ("--out", "--step", "--dense", "--split", "--name", "--failures", "--analyze", "--json"):
        assert word in text
    assert all(
        f"presurge prepare {step}" in " ".join(text.split()) for step in ("dense", "compress", "split")
    )
    assert "--convert-original" in run("prepare dense --help", capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("prepare absent.csv --out x", "no such file"),
        ("prepare compress", "no such file, which this step reads by default"),
        ("prepare dense --convert-original dataset/BurstGPT_1.csv", "Leave one of them out"),
        ("prepare dataset/BurstGPT_1.csv --out x --split 0.5,half", "not a number"),
        ("prepare dataset/BurstGPT_1.csv --out x --split 0.5,0.5", "not four"),
        ("prepare dataset/BurstGPT_1.csv --out x --step 1y", "not a step"),
        ("prepare split dataset/BurstGPT_1.csv", "Concurrent_requests"),
    ],
)
def test_an_error_says_what_to_do(folder, capsys, line, words):
    assert main(line.split()) == 2
    assert words in capsys.readouterr().err


def test_a_file_with_the_name_of_a_step_is_reached_by_its_path(folder, capsys):
    (folder / "dataset" / "BurstGPT_1.csv").rename(folder / "dense")
    assert "900 requests" in run("prepare ./dense --out x", capsys)


def test_compress_also_reads_a_trace(folder):
    prepare_compress(folder / "dataset" / "BurstGPT_1.csv", folder / "a", PrepareConfig(step=HOUR))
    prepare(folder / "dataset" / "BurstGPT_1.csv", folder / "b", PrepareConfig(step=HOUR))
    name = "BurstGPT_1_compressed_3600s.csv"
    assert (folder / "a" / name).read_bytes() == (folder / "b" / name).read_bytes()


def test_files_that_the_guides_own_scripts_wrote(folder):
    """A left join made their counts floats, and they do not tell failures."""
    out = folder / "dataset"
    prepare_dense(out=out)
    dense = pd.read_csv(out / "BurstGPT_1_dense_timeseries.csv").astype(dict.fromkeys(COUNTS, float))
    (out / "BurstGPT_1_dense_timeseries.parquet").unlink()
    dense.to_csv(out / "BurstGPT_1_dense_timeseries.csv", index=False)
    compressed = prepare_compress(out=out)
    prepared = prepare_split(out=out)
    assert prepared.totals == {name: compressed.totals[name] for name in prepared.totals}
    assert prepared.totals["input_tokens"] == dense["Request_tokens_sum"].sum()
    assert "failures" not in prepared.totals
    assert "does not say which requests failed" in compressed.notes[0]
    minutes = pd.read_csv(out / "BurstGPT_1_compressed_60s.csv")
    assert minutes["Partial"].tolist() == [True] + [False] * (len(minutes) - 2) + [True]
    assert prepared.manifest["partial_edges"] == {"first": True, "last": True}


def test_a_csv_changed_by_hand_is_read_instead_of_the_parquet(folder):
    out = folder / "dataset"
    prepare_dense(out=out)
    path = out / "BurstGPT_1_dense_timeseries.csv"
    text = path.read_text().replace("30,1.0,1,100,0", "30,1.0,5,100,0")
    path.write_text(text)
    assert prepare_compress(out=out).totals["requests"] == 904


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.drop(frame.index[5]), "follows"),
        (lambda frame: frame.assign(Concurrent_requests=-1), "not a whole number from 0"),
        (lambda frame: frame.assign(Concurrent_requests=0.5), "not a whole number from 0"),
        (lambda frame: frame.assign(Concurrent_requests="x"), "not a number"),
        (lambda frame: frame.drop(columns="Concurrent_requests"), "no column"),
        (lambda frame: frame.iloc[:0], "no rows"),
    ],
)
def test_a_bad_minute_file_is_refused(folder, change, words):
    out = folder / "dataset"
    prepare_compress(out / "BurstGPT_1.csv", out)
    change(pd.read_csv(out / "BurstGPT_1_compressed_60s.csv")).to_csv(folder / "bad.csv", index=False)
    with pytest.raises(DataError, match=words):
        prepare_split(folder / "bad.csv", folder / "x")
    assert not (folder / "x").exists()


def test_minutes_can_be_made_coarser_but_not_finer(folder):
    out = folder / "dataset"
    prepare_compress(out / "BurstGPT_1.csv", out)
    minutes = out / "BurstGPT_1_compressed_60s.parquet"
    hours = prepare_compress(minutes, out, PrepareConfig(step=HOUR))
    assert hours.totals["requests"] == pl.read_parquet(minutes)["Concurrent_requests"].sum() == 900
    with pytest.raises(DataError, match="not a multiple"):
        prepare_compress(minutes, out, PrepareConfig(step=MINUTE // 2))


def test_split_takes_the_only_series_there_is_or_asks(folder):
    trace = folder / "dataset" / "BurstGPT_1.csv"
    prepare_compress(trace, folder / "x", PrepareConfig(step=HOUR))
    assert prepare_split(out=folder / "x").step == HOUR
    prepare_compress(trace, folder / "x", PrepareConfig(step=5 * MINUTE))
    with pytest.raises(DataError, match="several series"):
        prepare_split(out=folder / "x")


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n2023-11-16 18:17:05,20,3\n"
GUIDE_PARTS = {
    "burstgpt_predictor_train_minute.csv",
    "burstgpt_predictor_val_minute.csv",
    "burstgpt_rl_train_minute.csv",
    "burstgpt_final_test_minute.csv",
}


def csv_files(directory):
    return {path.name for path in directory.rglob("*.csv")}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("chat.csv", "chat"),
        ("my.log.2024.CSV", "my.log.2024"),
        ("chat[1].csv", "chat[1]"),
        ("trace", "trace"),
    ],
)
def test_the_files_of_other_traces_have_the_names_of_the_traces(folder, capsys, file, name):
    (folder / file).write_text(AZURE)
    run(f"prepare {file} --out data --dense", capsys)
    written = {f"{name}_dense_timeseries.csv", f"{name}_compressed_60s.csv"}
    written |= {f"{name}_{part}.csv" for part in ("train", "val", "rl", "test")}
    assert csv_files(folder / "data") == written
    assert not any("burst" in str(path).lower() for path in (folder / "data").rglob("*"))


def test_the_three_steps_find_the_files_of_another_trace(folder, capsys):
    (folder / "chat.csv").write_text(AZURE)
    run("prepare dense chat.csv --out data", capsys)
    run("prepare compress --out data", capsys)
    run("prepare split --out data", capsys)
    run("prepare chat.csv --out whole --dense", capsys)
    assert csv_files(folder / "data") == csv_files(folder / "whole")


def test_burstgpt_keeps_the_names_of_the_guide(folder, capsys):
    whole = folder / "dataset" / "BurstGPT_1.csv"
    for number in (1, 2):
        path = folder / f"BurstGPT_{number}.csv.gz"
        path.write_bytes(gzip.compress(whole.read_bytes()))
        run(f"prepare {path.name} --out data{number}", capsys)
        assert csv_files(folder / f"data{number}") == {f"BurstGPT_{number}_compressed_60s.csv", *GUIDE_PARTS}


def test_a_given_name_is_used(folder, capsys):
    (folder / "chat.csv").write_text(AZURE)
    run("prepare chat.csv --out data --name BurstGPT_1", capsys)
    assert csv_files(folder / "data") == {"BurstGPT_1_compressed_60s.csv", *GUIDE_PARTS}
    run("prepare compress chat.csv --out other --name mine", capsys)
    run("prepare split --out other --name mine", capsys)
    assert "mine_compressed_60s.csv" in csv_files(folder / "other")
    with pytest.raises(DataError, match="no such file"):
        prepare_split(out=folder / "other", config=PrepareConfig(name="other"))


def test_a_coarser_series_keeps_the_name_of_its_trace(folder):
    (folder / "chat.csv").write_text(AZURE)
    prepare_compress(folder / "chat.csv", folder / "a")
    prepare_compress(folder / "a" / "chat_compressed_60s.csv", folder / "a", PrepareConfig(step=HOUR))
    assert csv_files(folder / "a") == {"chat_compressed_60s.csv", "chat_compressed_3600s.csv"}


@pytest.mark.parametrize(
    "work",
    [
        lambda path: prepare(path, path.parent / "x", PrepareConfig(dense=True)),
        lambda path: prepare_compress(path, path.parent / "x"),
        lambda path: trace_panel(path, MINUTE),
    ],
)
def test_a_file_is_opened_once(folder, monkeypatch, work):
    opened = []
    first_bytes = files._first_bytes
    monkeypatch.setattr(
        files, "_first_bytes", lambda path, data: opened.append(path) or first_bytes(path, data)
    )
    work(folder / "dataset" / "BurstGPT_1.csv")
    assert len(opened) == 1


def test_predict_and_evaluate_open_their_file_once(folder, monkeypatch, capsys):
    rows = "".join(f"{60 * i},{i % 7}\n" for i in range(300))
    (folder / "load.csv").write_text("time,requests\n" + rows)
    model = "--model dlinear --context 10 --horizon 2 --out run --no-plots"
    run(f"train load.csv --time time --value requests {model}", capsys)
    opened = []
    first_bytes = files._first_bytes
    monkeypatch.setattr(
        files, "_first_bytes", lambda path, data: opened.append(path) or first_bytes(path, data)
    )
    run("predict run --history load.csv", capsys)
    run("evaluate run --data load.csv", capsys)
    run("predict run --history load.csv --value requests --time time", capsys)
    assert len(opened) == 3


def test_a_device_or_fifo_is_not_replaced_by_a_directory(folder, capsys):
    os.mkfifo(folder / "fifo")
    for place in ("fifo", os.devnull):
        assert main(["prepare", "dataset/BurstGPT_1.csv", "--out", place]) == 2
        assert "cannot be written" in capsys.readouterr().err
    assert (folder / "fifo").is_fifo()
    assert Path(os.devnull).is_char_device()


def test_compress_reads_a_log_whose_columns_are_named(folder, capsys):
    (folder / "log.csv").write_text("at,code\n1,200\n70,500\n130,200\n")
    assert "3 rows of 60 s: 3 requests" in run("prepare compress log.csv --time at --out data", capsys)
