"""Standard input and FIFOs are read once, and leave nothing behind."""

import gzip
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

PRESURGE = [sys.executable, "-m", "presurge"]
MODEL = "--model recent-mean --context 20 --horizon 2 --no-plots --out run -q"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trace, compressed, and another one for temporary files, which must be empty at the end."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = "".join(f"{i * 20},{a},{b}\n" for i, (a, b) in enumerate(rng.integers(1, 500, (600, 2)).tolist()))
    text = f"Timestamp,Request tokens,Response tokens\n{rows}"
    (tmp_path / "trace.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


def shell(line: str) -> str:
    program = " ".join(PRESURGE)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("presurge", program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pipes_of_a_shell_are_read_as_files_are(place: Path) -> None:
    told = shell("presurge prepare trace.csv.gz --out a")
    assert told.startswith("200 rows of 60 s: 600 requests")
    assert shell("zcat trace.csv.gz | presurge prepare - --out b") == told
    assert shell("presurge prepare <(zcat trace.csv.gz) --out c") == told
    assert shell("presurge prepare - --out d < trace.csv.gz") == told  # packed, as it is
    series = [Path(folder, "series.parquet").read_bytes() for folder in "abcd"]
    assert len(set(series)) == 1
    assert sorted(path.name for path in Path("b").glob("*.csv")) == ["stdin_compressed_60s.csv"]
    assert not list((place / "tmp").iterdir())


def test_a_history_from_standard_input(
    place: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def piped(*words: str) -> str:
        with (place / "trace.csv.gz").open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            code, out, err = run(*words)
        assert code == 0, err
        return out

    piped("train", "-", *MODEL.split())
    told = piped("predict", "run", "--history", "-", "--json")
    assert told == run("predict", "run", "--history", place / "trace.csv.gz", "--json")[1]


@pytest.mark.parametrize("command", ["prepare fifo --out data", f"train fifo {MODEL}"])
def test_a_fifo_that_never_opens_is_interrupted(place: Path, command: str) -> None:
    os.mkfifo("fifo")
    before = sorted(path.name for path in place.iterdir())
    with subprocess.Popen([*PRESURGE, *command.split()], stderr=subprocess.PIPE, text=True) as process:
        waits = Path(f"/proc/{process.pid}/wchan")
        for _ in range(200):
            time.sleep(0.1)
            if not waits.exists() or "partner" in (name := waits.read_text()) or "fifo" in name:
                break
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(path.name for path in place.iterdir()) == before
    assert not list((place / "tmp").iterdir())


def test_a_bad_line_of_a_stream_is_named(
    place: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bad.csv").write_text("t,n\n1,2\n2,3,4\n")
    for words in ("prepare - --time t", "train - --time t --value n"):
        with Path("bad.csv").open() as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            code, _, err = run(*words.split(), "--out", place / "x")
        assert code == 2
        assert "stdin, line 3: a row has more fields than the header" in err


def test_an_empty_stream_is_an_error(place: Path) -> None:
    done = subprocess.run(
        [*PRESURGE, "prepare", "-", "--out", "x"], input="", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "stdin: the file is empty" in done.stderr
    assert not list((place / "tmp").iterdir())


def test_a_stream_leaves_nothing_however_the_process_ends(place: Path) -> None:
    command = [*PRESURGE, "prepare", "-", "--out", "x"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        process.stdin.write(b"t,n\n" + b"1,2\n" * 500_000)  # more than a pipe holds: some of it was read
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert not list((place / "tmp").iterdir())
