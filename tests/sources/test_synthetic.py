"""The synthetic trace: the same for the same seed, exact, labelled, and as bursty and rhythmic as a service."""

import json
import os
import stat
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from presurge.errors import ConfigError, StorageError
from presurge.sources import check_trace, open_trace
from presurge.sources.rhythm import gamma_process
from presurge.sources.synthetic import SCHEMA, SyntheticConfig, SyntheticTrace, parse_start, synthesize

FORTNIGHT = SyntheticConfig(rows=400_000, days=14, seed=3)
ENDINGS = ["csv", "csv.gz", "csv.zst", "parquet"]


@pytest.fixture(scope="module")
def fortnight() -> pl.DataFrame:
    """Two weeks of requests that begin on a Monday at midnight."""
    return pl.concat(SyntheticTrace(FORTNIGHT).blocks())


def per_minute(frame: pl.DataFrame, days: int = 14) -> npt.NDArray[np.float64]:
    """Count the requests of each minute."""
    minute = (frame["Timestamp"].to_numpy() // 60).astype(np.int64)
    return np.bincount(minute, minlength=days * 1440).astype(float)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, ending: str) -> None:
    spec = SyntheticConfig(rows=300_000, days=2, seed=5)
    written = []
    for folder in ("a", "b"):
        path = tmp_path / folder / f"trace.{ending}"
        synthesize(spec, path)
        written.append((path.read_bytes(), path.with_name(path.name + ".json").read_bytes()))
    assert written[0] == written[1]


def test_another_seed_gives_another_trace() -> None:
    one, other = (next(SyntheticTrace(SyntheticConfig(rows=1000, days=1, seed=s)).blocks()) for s in (1, 2))
    assert not one.equals(other)


@settings(max_examples=25)
@given(rows=st.integers(1, 3000), minutes=st.integers(1, 30_000), seed=st.integers(0, 2**63))
def test_any_trace_is_exact(rows: int, minutes: int, seed: int) -> None:
    trace = SyntheticTrace(SyntheticConfig(rows=rows, days=minutes / 1440, seed=seed))
    whole = pl.concat(trace.blocks())
    assert whole.schema == SCHEMA
    assert whole.equals(pl.concat(trace.blocks()))
    assert len(whole) == rows
    assert whole["Timestamp"].is_sorted()
    assert 0 <= whole["Timestamp"][0] <= whole["Timestamp"][-1] < minutes * 60
    assert whole["Request tokens"].min() >= 1
    assert (whole["Total tokens"] == whole["Request tokens"] + whole["Response tokens"]).all()


def test_a_long_trace_is_drawn_in_blocks() -> None:
    assert len(list(SyntheticTrace(FORTNIGHT).blocks())) > 1


def test_the_rate_sets_the_number_of_requests() -> None:
    rows = [SyntheticTrace(SyntheticConfig(rate=0.5, days=2, seed=seed)).rows for seed in range(20)]
    assert len(set(rows)) > 10
    assert abs(np.mean(rows) - 86_400) < 5 * np.sqrt(86_400 / 20)


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_report_matches_the_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"trace.{ending}"
    report = synthesize(SyntheticConfig(rows=5000, days=1), path)
    trace = open_trace(path)
    counts = check_trace(trace)
    assert trace.format == "burstgpt"
    assert "elapsed_us" in trace.events.collect_schema()
    assert (report.rows, report.failures) == (counts.rows, counts.failures) == (5000, counts.failures)
    assert (report.input_tokens, report.output_tokens) == (counts.input_tokens, counts.output_tokens)
    assert counts.unsorted_steps == 0


def test_every_part_is_labelled_synthetic(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    report = synthesize(SyntheticConfig(rows=500, days=1, seed=9), path)
    beside = json.loads(report.sidecar.read_text())
    assert beside["synthetic"] is True
    assert beside["parameters"]["seed"] == 9
    assert beside["parameters"]["start"] == "2024-01-01T00:00:00"
    assert beside["totals"]["rows"] == 500
    metadata = pl.read_parquet_metadata(path)
    assert metadata["presurge.synthetic"] == "true"
    assert json.loads(metadata["presurge.generator"])["generator"] == beside["generator"]
    assert pl.read_parquet(path)["Model"].str.starts_with("synthetic-").all()
    assert report.to_dict()["synthetic"] is True


def test_progress_runs_from_start_to_end(tmp_path: Path) -> None:
    told: list[tuple[str, float, str]] = []
    spec = SyntheticConfig(rows=600_000, days=3)
    synthesize(spec, tmp_path / "t.parquet", progress=lambda *words: told.append(words))
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert told[-1] == ("Drawing a synthetic trace", 1.0, "600,000 requests")


def test_memory_does_not_grow_with_the_rows() -> None:
    """Four times as many rows do not make the largest block larger."""
    small, large = (
        max(frame.estimated_size() for frame in SyntheticTrace(SyntheticConfig(rows=rows, days=30)).blocks())
        for rows in (2_000_000, 8_000_000)
    )
    assert large < 1.1 * small


def test_the_largest_trace_starts_at_once() -> None:
    trace = SyntheticTrace(SyntheticConfig(rows=100_000_000, days=60))
    assert trace.rows == 100_000_000
    assert 200_000 < len(next(trace.blocks())) < 300_000


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, ending: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    try:
        path = disk / f"trace.{ending}"
        synthesize(SyntheticConfig(rows=1000, days=1), path)
        before = {file.name: file.read_bytes() for file in disk.iterdir()}
        with pytest.raises(StorageError, match=r"(?i)no space"):
            synthesize(SyntheticConfig(rows=300_000, days=1), path)
        assert {file.name: file.read_bytes() for file in disk.iterdir()} == before
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_fifo_is_written_through(tmp_path: Path) -> None:
    fifo, config, read = tmp_path / "trace.csv", SyntheticConfig(rows=500, days=1), []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    synthesize(config, fifo)
    reader.join(timeout=30)
    synthesize(config, tmp_path / "again.csv")
    assert read == [(tmp_path / "again.csv").read_bytes()]
    assert fifo.is_fifo()


def test_a_device_stays_a_device(tmp_path: Path) -> None:
    path = tmp_path / "null.csv"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("only root makes device nodes, and not on every file system")
    synthesize(SyntheticConfig(rows=500, days=1), path)
    assert path.is_char_device()


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def stop(phase: str, share: float, detail: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseException, match=r"^$|Interrupt"):
        synthesize(SyntheticConfig(rows=1000, days=1), tmp_path / "out" / "trace.csv", progress=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_failures_have_no_output(fortnight: pl.DataFrame) -> None:
    failed = fortnight.filter(pl.col("Response tokens") == 0)
    assert 0.005 < len(failed) / len(fortnight) < 0.03
    assert (failed["Total tokens"] == failed["Request tokens"]).all()
    worst = failed["Timestamp"].cast(pl.Int64) // 60
    assert worst.value_counts()["count"].max() > 5  # they come in episodes


def test_arrivals_are_overdispersed(fortnight: pl.DataFrame) -> None:
    """A Poisson process has a variance of one mean, also around its daily rhythm."""
    counts = per_minute(fortnight)
    assert counts.var() > 5 * counts.mean()
    neighbours = counts[::2] - counts[1::2]
    assert neighbours.var() > 1.5 * 2 * counts.mean()


def test_the_modulation_is_gamma_distributed() -> None:
    """Mean 1, variance and skewness of the gamma distribution, and the requested autocorrelation."""
    drawn = gamma_process(400_000, shape=4, minutes_to_forget=3, rng=np.random.default_rng(1))
    centred = drawn - drawn.mean()
    assert drawn.min() > 0
    assert drawn.mean() == pytest.approx(1, abs=0.02)
    assert drawn.var() == pytest.approx(1 / 4, rel=0.05)
    assert (centred**3).mean() / drawn.std() ** 3 == pytest.approx(2 / np.sqrt(4), rel=0.1)
    assert (centred[:-3] * centred[3:]).mean() / drawn.var() == pytest.approx(np.exp(-1), abs=0.03)


def test_there_is_a_daily_cycle_and_a_quieter_weekend(fortnight: pl.DataFrame) -> None:
    chats = fortnight.filter(pl.col("Log Type") == "Conversation log")
    days = per_minute(chats).reshape(14, 24, 60).sum(2)
    by_hour = days.mean(0)
    assert by_hour[9:18].mean() > 4 * by_hour[2:6].mean()
    weekend = days.sum(1)[[5, 6, 12, 13]].mean()
    assert weekend < 0.75 * days.sum(1)[[0, 1, 2, 3, 4, 7, 8, 9, 10, 11]].mean()


def test_the_start_sets_hour_and_weekday() -> None:
    """A trace that begins on Saturday evening counts its seconds from that day's midnight."""
    assert parse_start("2024-02-29") == datetime(2024, 2, 29)
    spec = SyntheticConfig(rows=2000, days=1, start=parse_start("2024-01-06T18:30"))
    frame = next(SyntheticTrace(spec).blocks())
    assert 18.5 * 3600 <= frame["Timestamp"][0] < 19.5 * 3600
    assert frame["Timestamp"][-1] < (18.5 + 24) * 3600


def test_conversations_answer_longer_and_have_sessions(fortnight: pl.DataFrame) -> None:
    chat = fortnight.filter(pl.col("Log Type") == "Conversation log")
    calls = fortnight.filter(pl.col("Log Type") == "API log")
    assert 0.5 < len(chat) / len(fortnight) < 0.7
    assert chat["Response tokens"].median() > 3 * calls["Response tokens"].median()
    assert calls["Session ID"].null_count() == len(calls)
    turns = chat.group_by("Session ID").len()["len"]
    assert 2 < turns.mean() < 4


def test_token_lengths_are_log_normal(fortnight: pl.DataFrame) -> None:
    chat = fortnight.filter(pl.col("Log Type") == "Conversation log", pl.col("Response tokens") > 0)
    logs = chat["Response tokens"].log().to_numpy()
    z = (logs - logs.mean()) / logs.std()
    assert abs((z**3).mean()) < 0.25
    assert abs((z**4).mean() - 3) < 0.5


def test_a_linear_model_beats_last_value_and_recent_mean(fortnight: pl.DataFrame) -> None:
    """Least squares of NumPy on the counts of 120 minutes; the last 30 % are scored three minutes ahead."""
    counts = per_minute(fortnight)
    windows = sliding_window_view(counts, 123)
    train, test = windows[: int(0.7 * len(windows)) : 4], windows[int(0.7 * len(windows)) + 123 :]
    design = np.column_stack([train[:, :120], np.ones(len(train))])
    weights, *_ = np.linalg.lstsq(design, train[:, 120:], rcond=None)
    linear = np.column_stack([test[:, :120], np.ones(len(test))]) @ weights
    error = {
        "linear": np.abs(linear - test[:, 120:]).mean(),
        "last": np.abs(test[:, [119]] - test[:, 120:]).mean(),
        "mean": np.abs(test[:, :120].mean(1, keepdims=True) - test[:, 120:]).mean(),
    }
    assert error["linear"] < 0.95 * min(error["last"], error["mean"])


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"rows": 5, "rate": 1.0}, "rows"),
        ({"rows": 0}, "rows"),
        ({"rows": 100_000_001}, "rows"),
        ({"days": 0.0}, "days"),
        ({"days": float("nan")}, "days"),
        ({"days": 1e9}, "days"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"rate": 1e6}, "rate"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_parameters_are_refused(options: dict[str, float], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SyntheticConfig(**options)  # type: ignore[arg-type]
    assert caught.value.setting == where


def test_too_many_requests_for_one_minute_are_refused() -> None:
    with pytest.raises(ConfigError, match="busiest minute") as caught:
        SyntheticTrace(SyntheticConfig(rows=50_000_000, days=0.01))
    assert "more days" in str(caught.value)


@pytest.mark.parametrize("text", ["tomorrow", "2024-01-01T00:00+02:00", "2024-01-01T00:00:30"])
def test_an_impossible_start_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=text[:10]):
        parse_start(text)


def test_an_unknown_ending_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trace\.xlsx"):
        synthesize(SyntheticConfig(), tmp_path / "trace.xlsx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.integration
def test_the_command_prints_one_json_object(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "presurge", "data", "synthesize", "--rows", "200", "--days", "1"]
    done = subprocess.run(
        [*command, "--out", "t.csv", "--json"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["rows"] == 200
    assert {file.name for file in tmp_path.iterdir()} == {"t.csv", "t.csv.json"}
