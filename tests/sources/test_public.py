"""The public traces: every entry is complete, found by name, and fetched through the command line."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest

from presurge.cli import main
from presurge.errors import ConfigError, FetchError
from presurge.sources import open_trace, public
from presurge.sources.public import CATALOG, PublicTrace, cache_directory, find_trace, get_trace, read_catalog

TRACE = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:46.6805900,374,44\r\n"
each_trace = pytest.mark.parametrize("trace", CATALOG, ids=lambda trace: trace.name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("PRESURGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A catalogue of two small files on a local server; the second has no size."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "small.csv").write_bytes(TRACE)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.server_port}/small.csv"
        digest = hashlib.sha256(TRACE).hexdigest()
        here = {"name": "known", "file": "known.csv", "url": url, "size": len(TRACE), "sha256": digest}
        known = CATALOG[0].model_copy(update=here)
        unknown = known.model_copy(update={"name": "unknown", "file": "unknown.csv", "size": None})
        monkeypatch.setattr(public, "CATALOG", (known, unknown))
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield
        server.shutdown()


def taxis(shared: Path) -> str:
    """The published file of the taxis, rebuilt from their series; its last line has no line end."""
    series = pl.read_parquet(shared / "data" / "workload" / "nab_real.parquet")
    rows = (
        series.filter(pl.col("series") == "realKnownCause/nyc_taxi")
        .sort("timestamp")
        .select("timestamp", "value")
    )
    text = [f"{stamp:%Y-%m-%d %H:%M:%S},{value:.0f}" for stamp, value in rows.iter_rows()]
    return "\n".join(["timestamp,value", *text])


@each_trace
def test_an_entry_is_complete(trace: PublicTrace) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", trace.name)
    assert trace.url.startswith("https://")
    assert trace.title
    assert trace.licence
    assert trace.citation
    assert Path(trace.file).name == trace.file
    assert re.fullmatch(r"[0-9a-f]{64}", trace.sha256)
    assert "/master/" not in trace.url  # a checksum belongs to a release or a commit
    assert "/main/" not in trace.url
    assert trace.size is None or trace.size > 100_000


def test_names_files_and_checksums_are_unique() -> None:
    for key in ("name", "file", "url", "sha256"):
        assert len({getattr(trace, key) for trace in CATALOG}) == len(CATALOG)


@each_trace
def test_a_trace_is_found_by_name_and_by_file(trace: PublicTrace) -> None:
    assert find_trace(trace.name.upper()) is trace
    assert find_trace(trace.file) is trace


def test_an_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(ConfigError, match="'burst-gpt1'") as caught:
        find_trace("burst-gpt1")
    assert "burstgpt-1" in str(caught.value)
    with pytest.raises(ConfigError, match="presurge data list"):
        find_trace("")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PRESURGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "presurge"
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_directory() == Path("/var/cache/me/presurge")
    monkeypatch.setenv("PRESURGE_CACHE", "~/traces")
    assert cache_directory() == tmp_path / "traces"


def test_the_published_trace_matches_its_entry(shared: Path, cache: Path, tmp_path: Path) -> None:
    """The local copies are the published files byte for byte, and come from the cache without a network."""
    import gzip

    copies = {
        "azure-2023-conversation": "llm/AzureLLMInferenceTrace_conv.csv.gz",
        "etth1": "benchmark/ETTh1.csv.gz",
    }
    cache.mkdir()
    for name, copy in copies.items():
        (cache / find_trace(name).file).write_bytes(gzip.decompress((shared / "data" / copy).read_bytes()))
        assert not get_trace(name, out=tmp_path / name).downloaded
    (cache / find_trace("nyc-taxi").file).write_text(taxis(shared), newline="")
    assert not get_trace("nyc-taxi").downloaded
    assert open_trace(tmp_path / "azure-2023-conversation").rows == 19_366


def test_a_fetched_file_is_copied_to_out(published: None, cache: Path, tmp_path: Path) -> None:
    fetched = get_trace("known", out=tmp_path / "here" / "trace.csv")
    assert fetched.path == cache / "known.csv"
    assert (tmp_path / "here" / "trace.csv").read_bytes() == TRACE


def test_get_prints_the_path_of_the_file(
    published: None, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "get", "known"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{cache / 'known.csv'}\n"
    assert "CC BY 4.0" in printed.err
    assert f"presurge prepare {cache / 'known.csv'} --out data" in printed.err


def test_get_as_json(published: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--cache", str(tmp_path / "other"), "--out", str(tmp_path / "out.csv"), "--json"]
    for source in ("download", "cache"):
        assert main(["data", "get", "unknown", *options]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed["source"] == source
        assert printed["path"] == str(tmp_path / "out.csv")
        assert (printed["size"], printed["sha256"]) == (len(TRACE), hashlib.sha256(TRACE).hexdigest())


def test_list_prints_every_field(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list"]) == 0
    printed = capsys.readouterr().out
    for trace in CATALOG:
        for text in (trace.name, trace.title, trace.size_text, trace.licence, trace.url, trace.citation):
            assert text in printed
        assert f"checksum: sha256 {trace.sha256}" in printed


def test_list_as_json_tells_what_is_cached(
    published: None, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get_trace("known")
    assert main(["data", "list", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["cache"] == str(cache)
    assert {trace["name"]: trace["cached"] for trace in printed["traces"]} == {
        "known": True,
        "unknown": False,
    }


def test_an_error_of_the_server_is_a_user_error(
    published: None, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site" / "small.csv").unlink()
    with pytest.raises(FetchError, match="404"):
        get_trace("known")
    assert main(["data", "get", "known"]) == 2
    assert str(cache / "known.csv") in capsys.readouterr().err


ENTRY = """
[[trace]]
name = "mine"
file = "mine.csv"
title = "My trace"
url = "https://example.org/mine.csv"
sha256 = "0"
licence = "MIT"
citation = "Me"
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("colour = 'red'", "table: unknown key 'trace.0.colour'"),
        ("size = 'large'", "table: trace.0.size: "),
        ("[other]", "table: unknown key 'other'"),
    ],
)
def test_a_wrong_entry_is_named_by_its_path(line: str, words: str) -> None:
    assert read_catalog(ENTRY)[0].settings == {"out": "data"}
    with pytest.raises(ConfigError) as caught:
        read_catalog(f"{ENTRY}{line}\n", where="table")
    assert str(caught.value).startswith(words)


def test_an_entry_without_a_licence_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trace\.0\.licence: field required"):
        read_catalog(ENTRY.replace('licence = "MIT"\n', ""))


def test_the_examples_are_commands_with_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for command in {trace.command for trace in CATALOG}:
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        for trace in CATALOG:
            assert trace.command != command or all(f"--{name}" in text for name in trace.settings)


def test_the_example_of_a_table_names_its_columns(
    published: None, monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = {"command": "backtest", "settings": {"time": "date", "horizon": 96}}
    monkeypatch.setattr(public, "CATALOG", (public.CATALOG[0].model_copy(update=example),))
    assert main(["data", "get", "known"]) == 0
    expected = f"Next: presurge backtest {cache / 'known.csv'} --time date --horizon 96\n"
    assert capsys.readouterr().err.endswith(expected)


def test_get_writes_through_a_fifo(
    published: None, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    assert main(["data", "get", "known", "--out", str(fifo), "--json"]) == 0
    reader.join(timeout=30)
    assert read == [TRACE]
    assert fifo.is_fifo()
    assert json.loads(capsys.readouterr().out)["size"] == len(TRACE)
