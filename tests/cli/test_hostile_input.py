"""What a user can do wrong, end to end: exit code 2, a message that names the place, no traceback, no partial file."""

import gzip
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def rows(n: int, *, step: float = 10.0) -> str:
    """A small regular trace: one request every ``step`` seconds."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 500, (n, 2))
    lines = [
        f"{int(i * step)},ChatGPT,{a},{b},{a + b},Conversation log"
        for i, (a, b) in enumerate(tokens.tolist())
    ]
    return HEADER + "\n".join(lines) + "\n"


Run = Callable[..., tuple[int, str, str]]


def refused(result: tuple[int, str, str], *words: str) -> None:
    """The command was refused as a user's error that says all the words."""
    code, _, err = result
    assert code == 2, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("trace.csv", "empty")),
        (HEADER.encode(), ("trace.csv", "no rows")),
        (rows(50).encode("utf-16"), ("trace.csv", "UTF-8")),
        ((HEADER + "5,Chät,1,2,3,x\n").encode("latin-1"), ("trace.csv", "UTF-8")),
        (gzip.compress(rows(5000).encode())[:-200], ("trace.csv", "cut off")),
        ((HEADER + "5,G,NaN,2,3,x\n").encode(), ("row 1", "'Request tokens'", "--bad-rows")),
        ((HEADER + "5,G,1,inf,3,x\n").encode(), ("row 1", "'Response tokens'", "inf")),
        ((HEADER + "5,G,4,4,8,x\n6,G,-7,2,3,x\n").encode(), ("row 2", "'Request tokens'", "-7")),
        ((HEADER + "soon,G,4,4,8,x\n").encode(), ("'Timestamp'", "soon")),
        (b"a,b\n1,2\n", ("columns are: a, b", "burstgpt")),
    ],
    ids=[
        "empty",
        "header",
        "utf16",
        "latin1",
        "truncated",
        "nan",
        "infinite",
        "negative",
        "stamp",
        "columns",
    ],
)
def test_a_trace_that_cannot_be_used(run: Run, content: bytes, words: tuple[str, ...]) -> None:
    write("trace.csv", content)
    refused(run("prepare", "trace.csv", "--out", "data"), *words)
    assert not Path("data").exists()


def test_bad_rows_can_be_left_out_and_are_counted(run: Run) -> None:
    write("trace.csv", rows(500) + "5001,G,-7,2,3,x\n5002,G,nan,2,3,x\n")
    code, out, _ = run("prepare", "trace.csv", "--out", "data", "--bad-rows", "drop", "--json")
    assert code == 0
    assert json.loads(out)["totals"]["requests"] == 500


def test_one_row_can_be_prepared_but_not_trained_on(run: Run) -> None:
    write("trace.csv", rows(1))
    assert run("prepare", "trace.csv", "--out", "data")[0] == 0
    refused(run("train", "data", "--out", "run"), "data", "1 rows", "longer trace")
    assert not Path("run", "models").exists()


def test_a_clock_that_runs_backwards_loses_nothing(run: Run) -> None:
    lines = rows(3000).splitlines(keepends=True)
    write("forwards.csv", "".join(lines))
    write("backwards.csv", lines[0] + "".join(reversed(lines[1:])))
    assert run("prepare", "forwards.csv", "--out", "a")[0] == 0
    assert run("prepare", "backwards.csv", "--out", "b")[0] == 0
    forwards, backwards = Path("a/forwards_compressed_60s.csv"), Path("b/backwards_compressed_60s.csv")
    assert forwards.read_bytes() == backwards.read_bytes()


@pytest.mark.parametrize("gap", [365 * 86_400, 10_000_000])
def test_a_long_gap_is_zero_for_counts(run: Run, gap: int) -> None:
    text = rows(2000) + f"{gap + 20_000},G,5,5,10,x\n"
    write("trace.csv", text)
    code, out, _ = run("prepare", "trace.csv", "--out", "data", "--json")
    assert code == 0
    prepared = json.loads(out)
    assert prepared["rows"] == (gap + 20_000) // 60 + 1
    assert prepared["totals"]["requests"] == 2001


def test_a_long_gap_is_missing_for_gauges(run: Run) -> None:
    values = np.random.default_rng(0).normal(50, 5, 1200).round(3)
    stamps = [*range(1199), 1198 + 10_000_000]
    write("gauge.csv", "t,load\n" + "".join(f"{t},{v}\n" for t, v in zip(stamps, values, strict=True)))
    columns = ("--time", "t", "--value", "load", "--step", "1s", "--context", "20", "--test-fraction", "0.5")
    refused(run("backtest", "gauge.csv", *columns, "--models", "dlinear"), "without a gap")


def test_a_channel_of_zeros_is_forecast_as_zero(run: Run) -> None:
    rng = np.random.default_rng(0)
    lines = "".join(f"{60 * i},{rng.poisson(20)},0\n" for i in range(1500))
    write("table.csv", "t,busy,idle\n" + lines)
    columns = ("--time", "t", "--value", "busy,idle")
    options = ("--model", "dlinear", "--quiet", "--no-plots")
    assert run("train", "table.csv", *columns, "--out", "run", *options)[0] == 0
    code, out, _ = run("predict", "run", "--history", "table.csv", "--json")
    assert code == 0
    idle = [row for row in json.loads(out)["forecast"] if row["channel"] == "idle"]
    assert [row["mean"] for row in idle] == [0.0, 0.0, 0.0]
    _, out, _ = run("evaluate", "run", "--data", "table.csv", "--json")
    assert json.loads(out)["metrics"]["dlinear"]["idle"]["wape"] is None


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a tiny file system needs the right to mount: run as root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_leaves_nothing_behind(run: Run, tiny_disk: Path) -> None:
    write("trace.csv", rows(40_000))
    refused(run("prepare", "trace.csv", "--out", tiny_disk / "data", "--dense"), "tiny", "space")
    assert list(tiny_disk.iterdir()) == []
    assert run("prepare", "trace.csv", "--out", "data")[0] == 0
    (tiny_disk / "filler").write_bytes(os.urandom(180 * 1024))
    refused(run("train", "data", "--out", tiny_disk / "run", "--model", "dlinear"), "tiny")
    partial = [path.name for path in tiny_disk.rglob("*") if path.name.startswith(".")]
    assert partial == []
    refused(run("data", "synthesize", "--rows", "50000", "--out", tiny_disk / "trace.csv"), "tiny")
    assert not (tiny_disk / "trace.csv").exists()


@pytest.fixture
def trained(run: Run) -> Path:
    """A model directory, beside the prepared data that it was trained on."""
    write("trace.csv", rows(40_000))
    assert run("prepare", "trace.csv", "--out", "data", "--quiet")[0] == 0
    assert run("train", "data", "--out", "run", "--model", "dlinear", "--quiet", "--no-plots")[0] == 0
    return Path("run", "models")


def test_a_damaged_model_is_refused(run: Run, trained: Path) -> None:
    weights = trained / "model.safetensors"
    sound = weights.read_bytes()
    predict = ("predict", "run", "--history", "data")
    assert run(*predict)[0] == 0

    for place in (10, len(sound) // 2, len(sound) - 1):
        weights.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        refused(run(*predict), "model.safetensors", "checksum")
    weights.write_bytes(pickle.dumps({"weight": [1.0]}))
    refused(run(*predict), "pickle")
    weights.write_bytes(sound)

    config = trained / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"horizon": 3', '"horizon": 4'))
    refused(run(*predict), "config.json", "checksum")
    config.write_text(text.replace('"format_version": 1', '"format_version": 99'))
    refused(run(*predict), "version 99", "Upgrade")
    config.write_text(text)
    shutil.rmtree(trained)
    refused(run(*predict), "run", "no model")


def test_a_history_that_does_not_fit_is_refused(run: Run, trained: Path) -> None:
    del trained
    rng = np.random.default_rng(1)

    def history(stamps: list[int], *, header: str = "timestamp,requests,input_tokens,output_tokens") -> Path:
        lines = [",".join(map(str, [t, *rng.integers(1, 9, header.count(","))])) for t in stamps]
        return write("history.csv", header + "\n" + "\n".join(lines) + "\n")

    minutes = [60 * i for i in range(200)]
    predict = ("predict", "run", "--history", "history.csv")
    history(minutes)
    assert run(*predict)[0] == 0
    history(minutes[:100])
    refused(run(*predict), "100 rows", "120")
    history([2 * t for t in minutes])
    refused(run(*predict), "step", "2m", "1m")
    history(minutes, header="timestamp,requests,input_tokens")
    refused(run(*predict), "history.csv")
    history([*minutes[:150], *minutes[153:]])
    refused(run(*predict, "--fill", "missing", "--time", "timestamp", "--value",
                "requests,input_tokens,output_tokens"), "missing", "--fill-gaps")  # fmt: skip
    code, _, err = run(*predict, "--fill", "missing", "--time", "timestamp", "--value",
                       "requests,input_tokens,output_tokens", "--fill-gaps", "interpolate")  # fmt: skip
    assert code == 0
    assert "interpolated" in err
    refused(run("predict", "run", "--history", "nowhere.csv"), "nowhere.csv", "no such file")
    refused(run("predict", "run", "--history", "data", "--horizon", "9"), "9", "3")


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("predict run --history load.csv --levels ", "--levels"),
        ("predict run --history load.csv --item ,", "--item"),
        ("train load.csv --time time --value ", "--value"),
        ("backtest load.csv --time time --value requests --models ,", "--models"),
    ],
)
def test_a_list_that_names_nothing_is_refused(run: Run, trained: Path, command: str, flag: str) -> None:
    refused(run(*command.split(" ")), f"{flag}: names nothing")
