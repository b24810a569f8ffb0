"""Files that cannot be read give a plain error that names the file, whatever reads them."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zstandard

from presurge.errors import DataError
from presurge.sources import open_trace, read_table, recognise_file

HEADER = "Timestamp,Request tokens,Response tokens\n"
MANY = HEADER + "".join(f"{i},{i * 7919 % 1009},{i * 104729 % 997}\n" for i in range(50_000))


def as_trace(path: Path) -> object:
    return open_trace(path)


def as_table(path: Path) -> object:
    return read_table(path, time="Timestamp", values=["Request tokens"])


readers = pytest.mark.parametrize("read", [as_trace, as_table])


@readers
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("a.csv", HEADER.encode(), "holds no rows"),
        ("a.csv", MANY.encode("utf-16"), "UTF-16"),
        ("a.csv", MANY.encode("utf-16-le"), "not UTF-8"),
        ("a.csv", MANY.replace("Request", "Requête").encode("latin-1"), "not UTF-8"),
        ("a.csv.gz", gzip.compress(MANY.encode(), mtime=0)[:100_000], "damaged or was cut off"),
        ("a.csv.gz", gzip.compress(MANY.encode(), mtime=0)[:-8], "damaged or was cut off"),
        ("a.csv.gz", gzip.compress(MANY.encode(), mtime=0)[:20], "damaged or was cut off"),
        ("a.csv.zst", zstandard.compress(MANY.encode())[:50_000], "damaged or was cut off"),
        ("a.parquet", b"PAR1" + bytes(100), "is not a readable Parquet file"),
        ("a.xlsx", b"PK\x03\x04" + bytes(100), "zip archive or an Excel"),
        ("a.jsonl", b'{"timestamp": 1, "input_length": NaN, "output_length": 1}\n', "is not valid JSON"),
    ],
)
def test_an_unreadable_file_gives_a_plain_error(
    tmp_path: Path, read: Callable[[Path], object], name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.hint


@readers
def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is a directory"):
        read(tmp_path)


def test_a_row_with_too_many_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(MANY + "1,2,3,4\n")
    with pytest.raises(DataError, match="more fields than the header"):
        open_trace(path)


def test_a_truncated_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"Timestamp": np.arange(1000)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        recognise_file(path)


def test_a_gzip_file_of_several_members(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(
        gzip.compress(HEADER.encode(), mtime=0)
        + gzip.compress(b"1,2,3\n", mtime=0)
        + gzip.compress(b"2,3,4\n", mtime=0)
    )
    assert open_trace(path).rows == 2
