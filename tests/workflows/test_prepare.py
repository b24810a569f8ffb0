"""The prepared directory has the numbers of pandas and the names of the guide, and is never half-written."""

import json
import subprocess
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from presurge.errors import ConfigError, DataError, StorageError
from presurge.progress import silent
from presurge.series.buckets import Buckets
from presurge.series.frequency import HOUR, MINUTE, SECOND
from presurge.workflows.dataset import load_dataset
from presurge.workflows.prepare import PrepareConfig, aggregate, prepare, trace_panel

GUIDE_DENSE = [
    "Timestamp",
    "Time_interval",
    "Concurrent_requests",
    "Request_tokens_sum",
    "Response_tokens_sum",
]
GUIDE_MINUTES = [
    *GUIDE_DENSE,
    "Avg_concurrent_requests",
    "Avg_request_tokens_per_sec",
    "Avg_response_tokens_per_sec",
]
SPLIT_NAMES = [
    "burstgpt_predictor_train_minute",
    "burstgpt_predictor_val_minute",
    "burstgpt_rl_train_minute",
    "burstgpt_final_test_minute",
]


def burst_table(rows=400, seed=0, span=7200, start=30):
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 3000, rows), rng.integers(0, 400, rows)
    outputs[rng.random(rows) < 0.05] = 0
    return pd.DataFrame(
        {
            "Timestamp": np.sort(rng.integers(start, start + span, rows)),
            "Model": "ChatGPT",
            "Request tokens": inputs,
            "Response tokens": outputs,
            "Total tokens": inputs + outputs,
            "Log Type": "API log",
        }
    )


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "BurstGPT_1.csv"
    burst_table().to_csv(path, index=False)
    return path


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def minutes_by_pandas(table: pd.DataFrame, width: int = 60) -> pd.DataFrame:
    window = table["Timestamp"] // width * width
    sums = table.groupby(window).agg(
        requests=("Timestamp", "size"),
        inputs=("Request tokens", "sum"),
        outputs=("Response tokens", "sum"),
        failures=("Response tokens", lambda tokens: int((tokens == 0).sum())),
    )
    return sums.reindex(range(int(window.min()), int(window.max()) + 1, width), fill_value=0)


def test_every_file_has_the_guides_name_and_columns(trace, tmp_path):
    out = tmp_path / "dataset"
    prepared = prepare(trace, out, PrepareConfig(dense=True))
    stems = [
        "BurstGPT_1_dense_timeseries",
        "BurstGPT_1_compressed_60s",
        *(f"split/{name}" for name in SPLIT_NAMES),
    ]
    expected = {f"{stem}.{ending}" for stem in stems for ending in ("csv", "parquet")}
    expected |= {"series.parquet", "prepare.json"}
    assert set(everything_in(out)) == expected == set(map(str, prepared.files))
    assert pd.read_csv(out / f"{stems[0]}.csv").columns.tolist() == GUIDE_DENSE
    for stem in stems[1:]:
        assert pd.read_csv(out / f"{stem}.csv").columns.tolist() == [*GUIDE_MINUTES, "Failures", "Partial"]


def test_the_files_hold_what_pandas_counts(trace, tmp_path):
    prepare(trace, tmp_path / "out", PrepareConfig(dense=True))
    table = pd.read_csv(trace)
    minutes = pd.read_csv(tmp_path / "out" / "BurstGPT_1_compressed_60s.csv")
    expected = minutes_by_pandas(table)
    assert minutes["Timestamp"].tolist() == expected.index.tolist()
    assert set(minutes["Time_interval"]) == {60.0}
    for ours, theirs in zip([*GUIDE_DENSE[2:], "Failures"], expected, strict=True):
        assert minutes[ours].tolist() == expected[theirs].tolist()
        assert minutes[ours].dtype == np.int64
    dense = pd.read_csv(tmp_path / "out" / "BurstGPT_1_dense_timeseries.csv")
    seconds = minutes_by_pandas(table, 1)
    seconds = seconds.loc[table["Timestamp"].min() :]
    assert dense["Timestamp"].tolist() == seconds.index.tolist()
    assert dense["Request_tokens_sum"].tolist() == seconds["inputs"].tolist()
    present = dense.groupby(dense["Timestamp"] // 60).size().to_numpy()
    np.testing.assert_allclose(minutes["Avg_concurrent_requests"], expected["requests"] / present)
    np.testing.assert_allclose(minutes["Avg_response_tokens_per_sec"], expected["outputs"] / present)
    assert minutes["Partial"].tolist() == (present < 60).tolist()


def test_parquet_and_csv_agree_and_keep_integers(trace, tmp_path):
    prepare(trace, tmp_path / "out", PrepareConfig(dense=True))
    for csv in (tmp_path / "out").rglob("*.csv"):
        table = pl.read_parquet(csv.with_suffix(".parquet"))
        written = pl.read_csv(csv)
        assert written.equals(table.select(written.columns))
        assert all(table[name].dtype == pl.Int64 for name in GUIDE_DENSE[2:])


def test_the_manifest_and_the_series_hold_what_training_needs(trace, tmp_path):
    out = tmp_path / "out"
    prepared = prepare(trace, out, PrepareConfig(step=5 * MINUTE, name="mine"))
    manifest = json.loads((out / "prepare.json").read_text())
    assert manifest == prepared.manifest
    expected = minutes_by_pandas(pd.read_csv(trace), 300)
    rows = len(expected)
    assert (manifest["rows"], manifest["step_seconds"], manifest["clock"]) == (rows, 300, "relative")
    assert [channel["name"] for channel in manifest["channels"]] == [
        "requests",
        "input_tokens",
        "output_tokens",
    ]
    cuts = [0, int(rows * 0.6), int(rows * 0.7), int(rows * 0.9), rows]
    assert list(manifest["split"].values()) == [list(pair) for pair in pairwise(cuts)]
    assert list(manifest["split"]) == ["train", "val", "rl", "test"]
    assert manifest["totals"]["requests"] == 400
    series = pl.read_parquet(out / manifest["series"])
    assert series["time_us"].to_list() == [second * SECOND for second in expected.index]
    assert series["output_tokens"].to_list() == expected["outputs"].tolist()
    assert manifest["start_us"] == series["time_us"][0]
    assert (out / "mine_compressed_300s.csv").is_file()
    dataset = load_dataset(out)
    edges = manifest["partial_edges"]
    assert len(dataset.panel) == rows - edges["first"] - edges["last"]


def test_burstgpts_minutes_split_as_in_the_guide(tmp_path):
    table = pd.DataFrame(
        {"Timestamp": [0, 87_833 * 60 - 1], "Request tokens": [5, 7], "Response tokens": [0, 1]}
    )
    table.to_csv(tmp_path / "BurstGPT_1.csv", index=False)
    prepare(tmp_path / "BurstGPT_1.csv", tmp_path / "out")
    lengths = [
        len(pl.read_parquet(tmp_path / "out" / "split" / f"{name}.parquet", columns=["Timestamp"]))
        for name in SPLIT_NAMES
    ]
    assert lengths == [52_699, 8_784, 17_566, 8_784]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(
        st.tuples(st.integers(0, 20_000_000), st.integers(0, 10**6), st.integers(0, 10**6)),
        min_size=1,
        max_size=60,
    ),
    step=st.sampled_from([1, 10, 60, 3600]),
    dense=st.booleans(),
)
def test_no_request_and_no_token_is_lost_in_any_file(tmp_path_factory, requests, step, dense):
    """Whatever the order, the fractions and the duplicates of the stamps (milliseconds here)."""
    folder = tmp_path_factory.mktemp("conserved")
    table = pd.DataFrame(requests, columns=["Timestamp", "Request tokens", "Response tokens"])
    table["Timestamp"] /= 1000
    table.to_csv(folder / "BurstGPT_1.csv", index=False)
    prepare(folder / "BurstGPT_1.csv", folder / "out", PrepareConfig(step=step * SECOND, dense=dense))
    totals = [len(requests), sum(r[1] for r in requests), sum(r[2] for r in requests)]

    def sums(stem: str) -> list[int]:
        frame = pl.read_csv(folder / "out" / f"{stem}.csv", infer_schema_length=None)
        return [int(frame[name].cast(pl.Int64).sum()) for name in GUIDE_DENSE[2:]]

    assert sums(f"BurstGPT_1_compressed_{step}s") == totals
    parts = [sums(f"split/{name}") for name in SPLIT_NAMES]
    assert [sum(column) for column in zip(*parts, strict=True)] == totals
    if dense:
        assert sums("BurstGPT_1_dense_timeseries") == totals


def test_stamps_moved_by_a_millisecond_each_keep_every_request(tmp_path):
    """The cleaned format of the guide's repository, of which the guide's own second step lost a third."""
    table = burst_table(rows=5000, span=1200)
    repeats = table.groupby("Timestamp").cumcount()
    table["Timestamp"] = table["Timestamp"] + repeats / 1000
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "BurstGPT_1.csv", index=False)
    prepared = prepare(tmp_path / "BurstGPT_1.csv", tmp_path / "out", PrepareConfig(dense=True))
    dense = pd.read_csv(tmp_path / "out" / "BurstGPT_1_dense_timeseries.csv")
    assert dense["Concurrent_requests"].sum() == 5000 == prepared.totals["requests"]
    assert dense["Request_tokens_sum"].sum() == table["Request tokens"].sum()


def test_failures_are_counted_and_can_be_left_out(trace, tmp_path):
    table = pd.read_csv(trace)
    failed = table["Response tokens"] == 0
    kept = prepare(trace, tmp_path / "keep").totals
    dropped = prepare(trace, tmp_path / "drop", PrepareConfig(failures="drop", dense=True))
    assert kept == {
        "requests": len(table),
        "input_tokens": table["Request tokens"].sum(),
        "output_tokens": table["Response tokens"].sum(),
        "failures": failed.sum(),
    }
    assert dropped.totals["requests"] == len(table) - failed.sum()
    assert dropped.totals["input_tokens"] == table.loc[~failed, "Request tokens"].sum()
    assert dropped.totals["failures"] == failed.sum()
    series = pl.read_parquet(tmp_path / "drop" / "series.parquet")
    assert series["failures"].to_list() == minutes_by_pandas(table)["failures"].tolist()


def test_requests_in_flight_where_elapsed_times_are_known(tmp_path):
    table = burst_table(rows=120, span=1800)
    table["Timestamp"] = table["Timestamp"] + np.random.default_rng(1).random(120).round(3)
    table["Elapsed time"] = np.random.default_rng(2).gamma(1, 90, 120).round(3)
    table.loc[3, "Elapsed time"] = np.nan
    table.to_csv(tmp_path / "BurstGPT_1.csv", index=False)
    for name, options in {"direct": PrepareConfig(), "by second": PrepareConfig(dense=True)}.items():
        prepared = prepare(tmp_path / "BurstGPT_1.csv", tmp_path / name, options)
        assert [c["name"] for c in prepared.manifest["extra_channels"]] == ["failures", "in_flight"]
        series = pl.read_parquet(tmp_path / name / "series.parquet")[:-1]
        begin, end = table["Timestamp"], table["Timestamp"] + table["Elapsed time"].fillna(0)
        expected = [
            (np.minimum(end, second + 60) - np.maximum(begin, second)).clip(lower=0).sum() / 60
            for second in (series["time_us"] // SECOND).to_list()
        ]
        np.testing.assert_allclose(series["in_flight"], expected, atol=1e-9)


def test_utc_stamps_become_epoch_seconds_and_read_back_as_utc(tmp_path):
    start = datetime(2023, 11, 16, 18, 15, tzinfo=UTC)
    pd.DataFrame(
        {
            "TIMESTAMP": [f"2023-11-16 18:{15 + i // 2}:{30 * (i % 2):02d}.1234567" for i in range(8)],
            "ContextTokens": range(8),
            "GeneratedTokens": 1,
        }
    ).to_csv(tmp_path / "azure.csv", index=False)
    manifest = prepare(tmp_path / "azure.csv", tmp_path / "out").manifest
    minutes = tmp_path / "out" / "azure_compressed_60s.csv"
    assert manifest["clock"] == "utc"
    assert pd.read_csv(minutes)["Timestamp"].tolist() == [start.timestamp() + 60 * i for i in range(4)]
    from_trace, _, _ = trace_panel(tmp_path / "azure.csv", MINUTE)
    from_minutes, kind, _ = trace_panel(minutes, MINUTE)
    assert (from_minutes.clock, kind) == ("utc", "guide-series")
    assert from_minutes.start.tolist() == from_trace.start.tolist() == [int(start.timestamp()) * SECOND]
    assert np.array_equal(from_minutes.values, from_trace.values)


def test_a_panel_has_only_buckets_that_the_trace_covers(trace):
    table = pd.read_csv(trace)
    panel, kind, notes = trace_panel(trace, MINUTE)
    expected = minutes_by_pandas(table)
    begin = int(table["Timestamp"].min() % 60 > 0)
    end = len(expected) - int(table["Timestamp"].max() % 60 < 59)
    inner = expected.iloc[begin:end]
    assert panel.values[:, 1].tolist() == inner["inputs"].tolist()
    assert panel.channel_names == ("requests", "input_tokens", "output_tokens", "failures")
    assert kind == "burstgpt"
    assert any("in part" in note for note in notes)
    with pytest.raises(DataError, match="no bucket of 1d is covered"):
        trace_panel(trace, 24 * HOUR)


def test_a_year_without_requests_is_zeros_in_between(tmp_path):
    year = 365 * 86_400
    pd.DataFrame({"Timestamp": [0, year], "Request tokens": [5, 7], "Response tokens": [1, 1]}).to_csv(
        tmp_path / "BurstGPT_1.csv", index=False
    )
    prepared = prepare(tmp_path / "BurstGPT_1.csv", tmp_path / "out", PrepareConfig(step=HOUR))
    assert (prepared.rows, prepared.totals["input_tokens"]) == (8761, 12)


@pytest.mark.parametrize("split", [("0.6", "0.4"), ("0.6", "0.1", "0.2", "0.2"), ("1", "1", "-1", "0")])
def test_an_impossible_split_is_refused_before_anything_is_read(tmp_path, split):
    with pytest.raises(ConfigError):
        prepare(tmp_path / "absent.csv", tmp_path / "out", PrepareConfig(split=split))


@pytest.mark.parametrize("bad", ["x,5,1", "7,NaN,1", "7,-5,1", "7,5,inf", "7,5,1.5", "7,,1"])
def test_a_bad_row_is_an_error_or_left_out(tmp_path, bad):
    path = tmp_path / "BurstGPT_1.csv"
    path.write_text(f"Timestamp,Request tokens,Response tokens\n1,2,3\n\n{bad}\n65,4,0\n")
    with pytest.raises(DataError, match=r"row \d"):
        prepare(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    left = prepare(path, tmp_path / "out", PrepareConfig(bad_rows="drop"))
    assert left.totals == {"requests": 2, "input_tokens": 6, "output_tokens": 3, "failures": 1}
    assert any("left out: 1" in note for note in left.notes)


@pytest.mark.parametrize("rows", ["", "5,7,9\n"])
def test_an_empty_trace_is_an_error_and_one_row_is_enough(tmp_path, rows):
    path = tmp_path / "BurstGPT_1.csv"
    path.write_text(f"Timestamp,Request tokens,Response tokens\n{rows}")
    if not rows:
        with pytest.raises(DataError, match="no rows"):
            prepare(path, tmp_path / "out")
        return
    prepared = prepare(path, tmp_path / "out", PrepareConfig(dense=True))
    assert (prepared.rows, prepared.totals["output_tokens"]) == (1, 9)
    assert prepared.manifest["partial_edges"] == {"first": True, "last": True}


# Nothing half-written


def losing_one_request(events, failures):
    from presurge.sources.trace import counted

    return counted(events, failures).slice(1)


def losing_the_last_bucket(self, step):
    whole = COARSEN(self, step)
    sums = {
        name: np.where(np.arange(len(whole.index_N)) < 1, 0, values) for name, values in whole.sums.items()
    }
    return Buckets(step=step, index_N=whole.index_N, sums=sums, first=whole.first, last=whole.last)


COARSEN = Buckets.coarsen


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [(aggregate, "counted", losing_one_request), (Buckets, "coarsen", losing_the_last_bucket)],
)
def test_a_step_that_loses_requests_is_caught_and_nothing_is_written(
    trace, tmp_path, monkeypatch, owner, name, broken
):
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(DataError, match="were not conserved"):
        prepare(trace, tmp_path / "out", PrepareConfig(dense=True))
    assert not (tmp_path / "out").exists()


def test_other_files_in_the_directory_stay(trace, tmp_path):
    out = tmp_path / "dataset"
    (out / "split").mkdir(parents=True)
    (out / "BurstGPT_1.csv").write_text("mine")
    (out / "split" / "notes.txt").write_text("mine too")
    prepare(trace, out)
    prepare(trace, out, PrepareConfig(step=HOUR))
    assert (out / "BurstGPT_1.csv").read_text() == "mine"
    assert (out / "split" / "notes.txt").read_text() == "mine too"
    assert json.loads((out / "prepare.json").read_text())["step_seconds"] == 3600
    assert not list(out.glob(".presurge*"))


@pytest.mark.parametrize("moment", ["while writing", "while moving"])
def test_an_interrupted_run_leaves_what_was_there(trace, tmp_path, monkeypatch, moment):
    out = tmp_path / "out"
    prepare(trace, out)
    before = everything_in(out)
    burst_table(seed=9).to_csv(trace, index=False)
    calls = 0

    def stops(*_):
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return rename(*_)

    rename = Path.rename
    if moment == "while moving":
        monkeypatch.setattr(Path, "rename", stops)
        progress = silent
    else:

        def progress(phase, share):
            if phase == "Writing the second series":
                raise KeyboardInterrupt

    with pytest.raises(BaseException, match=r"^$|Interrupt"):
        prepare(trace, out, PrepareConfig(dense=moment == "while writing"), progress=progress)
    assert everything_in(out) == before


def test_a_full_disk_is_an_error_and_leaves_what_was_there(trace, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        prepare(trace, disk / "out")
        before = everything_in(disk)
        for options in (PrepareConfig(dense=True), PrepareConfig(step=SECOND)):
            with pytest.raises(StorageError, match=r"(?i)no space"):
                prepare(trace, disk / "out", options)
            assert everything_in(disk) == before
        with pytest.raises(StorageError):
            prepare(trace, disk / "other" / "place", PrepareConfig(dense=True))
        assert not (disk / "other").exists()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
