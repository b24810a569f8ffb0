"""Request traces: every format is read, every row is kept, and bad values are named."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import DataError, FormatError
from presurge.sources import (
    TRACE_FORMATS,
    Trace,
    check_trace,
    open_trace,
    recognise_file,
    requests_panel,
)

V1 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,230,1317,Conversation log
118,GPT-4,417,0,417,API log
"""
V2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,a,1.25,ChatGPT,472,18,490,Conversation log
5,,-1,ChatGPT,1087,230,1317,Conversation log
118,b,,GPT-4,417,0,417,API log
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_burstgpt(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "a.csv", V1))
    assert (trace.format, trace.clock, trace.rows) == ("burstgpt", "relative", 3)
    assert (trace.first_us, trace.last_us) == (5_000_000, 118_000_000)
    events = trace.events.collect()
    assert events.schema == {
        "time_us": pl.Int64,
        "input_tokens": pl.Int64,
        "output_tokens": pl.Int64,
        "failed": pl.Boolean,
        "model": pl.String,
        "log_type": pl.String,
    }
    assert events["failed"].to_list() == [False, False, True]
    assert events["input_tokens"].to_list() == [472, 1087, 417]
    assert events["model"].to_list() == ["ChatGPT", "ChatGPT", "GPT-4"]


def test_burstgpt_with_elapsed_times(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "a.csv", V2))
    assert trace.events.collect()["elapsed_us"].to_list() == [1_250_000, None, None]
    assert "negative or infinite elapsed times taken as unknown: 1" in trace.notes


def test_stamps_moved_by_milliseconds_keep_every_row(tmp_path: Path) -> None:
    rows = "".join(f"{5 + i / 1000},472,18\n" for i in range(900))
    trace = open_trace(write(tmp_path / "a.csv", "Timestamp,Request tokens,Response tokens\n" + rows))
    counts = check_trace(trace)
    assert (counts.rows, counts.fractional_stamps, counts.duplicate_stamps) == (900, 899, 0)
    assert trace.events.collect()["time_us"].to_list() == [5_000_000 + 1000 * i for i in range(900)]


def test_mooncake_lines(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]},
        {"timestamp": 3052, "input_length": 6472, "output_length": 26, "hash_ids": []},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n"
    trace = open_trace(write(tmp_path / "a.jsonl", text))
    assert (trace.format, trace.clock, trace.last_us) == ("mooncake", "relative", 3_052_000)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert open_trace(tmp_path / "b.jsonl.gz").events.collect().equals(trace.events.collect())
    as_array = open_trace(write(tmp_path / "c.json", json.dumps(lines)))
    assert as_array.events.collect().equals(trace.events.collect())


def test_real_traces(shared: Path) -> None:
    azure = open_trace(shared / "data/llm/AzureLLMInferenceTrace_conv.csv.gz")
    assert (azure.format, azure.clock, azure.rows) == ("azure-llm", "utc", 19_366)
    assert azure.first_us == 1_700_158_546_680_590
    mooncake = check_trace(open_trace(shared / "data/llm/mooncake_conversation.csv.gz"))
    frame = pl.read_csv(shared / "data/llm/mooncake_conversation.csv.gz")
    assert mooncake.rows == len(frame)
    assert mooncake.input_tokens == frame["input_tokens"].sum()
    assert mooncake.output_tokens == frame["output_tokens"].sum()
    assert mooncake.duplicate_stamps == len(frame) - frame["timestamp_ms"].n_unique()


def test_a_real_sized_parquet_trace(shared: Path) -> None:
    path = shared / "data/llm/burstgpt_rebuilt_events.parquet"
    counts = check_trace(open_trace(path))
    frame = pl.read_parquet(path)
    assert counts.rows == len(frame)
    assert counts.duplicate_stamps == len(frame) - frame["Timestamp"].n_unique()
    assert counts.unsorted_steps == (frame["Timestamp"].diff() < 0).sum()
    assert counts.failures == (frame["Response tokens"] == 0).sum()
    assert counts.input_tokens + counts.output_tokens == frame["Total tokens"].sum()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ""])
def test_the_content_decides_the_compression(tmp_path: Path, suffix: str) -> None:
    pack = {".gz": gzip.compress, ".zst": zstandard.compress, "": gzip.compress}[suffix]
    path = tmp_path / f"a.csv{suffix}"
    path.write_bytes(pack(V1.encode()))
    assert open_trace(path).rows == 3


@pytest.mark.parametrize("compression", ["snappy", "zstd", "gzip", "lz4", "uncompressed"])
def test_parquet_of_any_compression(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.parquet"
    pl.read_csv(V1.encode()).write_parquet(path, compression=compression)  # type: ignore[arg-type]
    assert open_trace(path).rows == 3


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_line_ends_and_a_byte_order_mark(tmp_path: Path, separator: str) -> None:
    text = "\ufeff" + V1.replace(",", separator).replace("\n", "\r\n")
    path = tmp_path / "a[1].csv"
    path.write_bytes(text.encode())
    assert open_trace(path).events.collect()["output_tokens"].to_list() == [18, 230, 0]


def test_empty_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "a.csv", V1.replace("\n45", "\n\n45") + "\n\n"))
    assert trace.rows == len(trace.events.collect()) == 3
    assert "empty rows skipped: 3" in trace.notes


def test_a_row_without_a_number_is_no_empty_row(tmp_path: Path) -> None:
    first, rest = V1.split("\n", 1)
    path = write(tmp_path / "a.csv", f"{V1}\n  \n{first}\n{rest}")
    with pytest.raises(DataError, match=r"row 6 \(line 7\), column 'Timestamp': 'Timestamp' is not a time"):
        open_trace(path)
    trace = open_trace(path, bad_rows="drop")
    assert (trace.rows, trace.dropped) == (6, 1)
    assert "empty rows skipped: 2" in trace.notes


def test_a_row_of_a_table_without_any_value_is_a_bad_row(tmp_path: Path) -> None:
    rows = pl.read_csv(V1.encode())
    pl.concat([rows, rows.clear(1)]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 4, column 'Timestamp': an empty cell is not a time"):
        open_trace(tmp_path / "a.parquet")
    trace = open_trace(tmp_path / "a.parquet", bad_rows="drop")
    assert (trace.rows, trace.dropped) == (3, 1)


def test_whole_tokens_may_be_written_as_floats(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "a.csv", V1.replace("472,18", "472.0,18.0")))
    assert trace.events.collect()["input_tokens"].to_list() == [472, 1087, 417]


@pytest.mark.parametrize(
    ("old", "new", "column", "value"),
    [
        (",230,", ",nan,", "Response tokens", "'nan'"),
        (",230,", ",,", "Response tokens", "an empty cell"),
        (",230,", ",inf,", "Response tokens", "'inf'"),
        (",1087,", ",-4,", "Request tokens", "'-4'"),
        (",1087,", ",12.5,", "Request tokens", "'12.5'"),
        (",1087,", ",1e30,", "Request tokens", "'1e30'"),
        (",1087,", ",many,", "Request tokens", "'many'"),
        ("45,", "soon,", "Timestamp", "'soon'"),
        ("45,", ",", "Timestamp", "an empty cell"),
    ],
)
def test_bad_values_are_named_or_dropped(tmp_path: Path, old: str, new: str, column: str, value: str) -> None:
    path = write(tmp_path / "a.csv", V1.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        open_trace(path)
    assert str(caught.value).startswith(f"{path}, row 2 (line 3), column {column!r}: {value} is not")
    assert "bad_rows=drop" in str(caught.value)
    trace = open_trace(path, bad_rows="drop")
    assert trace.rows == len(trace.events.collect()) == 2
    assert trace.dropped == check_trace(trace).bad_rows == 1
    assert f"bad rows left out: 1 ({column}: 1)" in trace.notes


def test_bad_values_far_down_and_in_other_files(tmp_path: Path) -> None:
    frame = pl.DataFrame({"Timestamp": range(5000), "Request tokens": 1.0, "Response tokens": 2})
    frame[4321, "Request tokens"] = float("nan")
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 4322, column 'Request tokens': nan is not"):
        open_trace(tmp_path / "a.parquet")
    line = '{{"timestamp": {}, "input_length": {}, "output_length": 5}}\n'
    text = "".join(line.format(i, '"x"' if i == 1500 else 7) for i in range(2000))
    with pytest.raises(DataError, match=r"row 1501, column 'input_length': .*\"x\""):
        open_trace(write(tmp_path / "a.jsonl", text))


def test_a_trace_of_bad_rows_is_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Timestamp,Request tokens,Response tokens\n1,x,1\n2,-1,1\n")
    with pytest.raises(DataError, match="holds no rows"):
        open_trace(path, bad_rows="drop")


def test_stamps_of_a_doubtful_unit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Timestamp,Request tokens,Response tokens\n0,1,1\n3600000000,1,1\n")
    with pytest.raises(DataError, match="time_unit"):
        open_trace(path)
    assert open_trace(path, time_unit="us").last_us == 3_600_000_000


def test_nanoseconds_are_exact(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "Timestamp,Request tokens,Response tokens\n1700158546680590123,1,1\n")
    assert open_trace(path).first_us == 1_700_158_546_680_590


def test_columns_decide_the_format(tmp_path: Path) -> None:
    assert recognise_file(write(tmp_path / "a.csv", V1)) == "burstgpt"
    strange = write(tmp_path / "b.csv", "when,what\n1,2\n")
    with pytest.raises(FormatError) as caught:
        open_trace(strange)
    message = str(caught.value)
    assert "when, what" in message
    assert all(column in message for each in TRACE_FORMATS for column in each.needs)
    both = write(
        tmp_path / "c.csv", "TIMESTAMP,ContextTokens,GeneratedTokens," + V1.partition("\n")[0] + "\n"
    )
    with pytest.raises(FormatError, match=r"several formats \(burstgpt, azure-llm\)"):
        open_trace(both)
    with pytest.raises(FormatError, match="is not a trace format"):
        open_trace(strange, format="csv")
    with pytest.raises(FormatError, match="no column 'TIMESTAMP', 'ContextTokens', 'GeneratedTokens'"):
        open_trace(tmp_path / "a.csv", format="azure-llm")


def test_an_ambiguous_file_opens_by_name(tmp_path: Path) -> None:
    columns = "TIMESTAMP,ContextTokens,GeneratedTokens,Timestamp,Request tokens,Response tokens\n"
    path = write(tmp_path / "a.csv", columns + "2023-11-16 18:15:46,1,2,7,3,4\n")
    assert open_trace(path, format="azure-llm").events.collect()["input_tokens"].item() == 1
    assert open_trace(path, format="burstgpt").events.collect()["input_tokens"].item() == 3


def test_a_series_is_not_a_trace(tmp_path: Path) -> None:
    header = "Timestamp,Time_interval,Concurrent_requests,Request_tokens_sum,Response_tokens_sum\n"
    path = write(tmp_path / "a.csv", header + "5,1.0,1,472,18\n")
    assert recognise_file(path) == "guide-series"
    with pytest.raises(FormatError, match="a series of sums already"):
        open_trace(path)


def test_one_request_is_a_trace(tmp_path: Path) -> None:
    trace = open_trace(write(tmp_path / "a.csv", "\n".join(V1.split("\n")[:2])))
    counts = check_trace(trace)
    assert (counts.rows, counts.unsorted_steps, counts.duplicate_stamps) == (1, 0, 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 40_000), st.integers(0, 9), st.integers(0, 2**40)), min_size=1, max_size=30
    )
)
def test_counts_are_exact_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, requests: list[tuple[int, int, int]]
) -> None:
    path = tmp_path_factory.mktemp("trace") / "a.csv"
    rows = "".join(f"{millis / 1000},{inputs},{outputs}\n" for millis, inputs, outputs in requests)
    counts = check_trace(open_trace(write(path, "Timestamp,Request tokens,Response tokens\n" + rows)))
    millis = [request[0] for request in requests]
    assert counts.rows == len(requests)
    assert counts.input_tokens == sum(request[1] for request in requests)
    assert counts.output_tokens == sum(request[2] for request in requests)
    assert counts.failures == sum(request[2] == 0 for request in requests)
    assert counts.unsorted_steps == sum(b < a for a, b in pairwise(millis))
    assert counts.duplicate_stamps == len(millis) - len(set(millis))
    assert counts.fractional_stamps == sum(value % 1000 != 0 for value in millis)
    assert (counts.first_us, counts.last_us) == (min(millis) * 1000, max(millis) * 1000)


def test_repeated_stamps_of_a_shuffled_trace_are_counted_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = [1_700_000_000 + (i * 7919) % 101 for i in range(500)]
    frame = pl.DataFrame({"Timestamp": stamps, "Request tokens": 1, "Response tokens": 1})
    frame.write_parquet(tmp_path / "a.parquet")
    monkeypatch.setattr("presurge.sources.trace._DISTINCT_AT_ONCE", 60)
    assert check_trace(open_trace(tmp_path / "a.parquet")).duplicate_stamps == 500 - 101


def test_unneeded_columns_are_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", V1)
    plan = open_trace(path).events.select("time_us", "input_tokens").explain()
    assert "PROJECT 2/6 COLUMNS" in plan


# One row per request


@pytest.fixture
def requests(tmp_path: Path) -> Trace:
    table = pl.DataFrame(
        {
            "Timestamp": [10.5, 2.0, 2.0, 7.0],
            "Request tokens": [4, 1, 2, 3],
            "Response tokens": [40, 10, 0, 30],
        }
    )
    table.write_csv(tmp_path / "trace.csv")
    return open_trace(tmp_path / "trace.csv")


def test_requests_are_in_chronological_order(requests: Trace) -> None:
    panel = requests_panel(requests)
    expected = [[np.nan, 1, 10], [0, 2, 0], [5, 3, 30], [3.5, 4, 40]]
    np.testing.assert_array_equal(panel.values, np.array(expected, np.float32))
    assert panel.channel_names == ("inter_arrival", "input_tokens", "output_tokens")
    assert [channel.kind for channel in panel.channels] == ["count", "count", "count"]
    assert (panel.clock, panel.step, panel.start.tolist()) == ("relative", 1_000_000, [0])


def test_failed_requests_can_be_left_out(requests: Trace, tmp_path: Path) -> None:
    assert requests_panel(requests, "drop").values[1].tolist() == [5, 3, 30]
    (tmp_path / "failed.csv").write_text("Timestamp,Request tokens,Response tokens\n1,5,0\n")
    with pytest.raises(DataError, match="no request is left"):
        requests_panel(open_trace(tmp_path / "failed.csv"), "drop")


def test_real_requests(shared: Path) -> None:
    panel = requests_panel(open_trace(shared / "data" / "llm" / "AzureLLMInferenceTrace_conv.csv.gz"))
    assert len(panel) == 19_366
    assert np.nansum(panel.values[:, 0], dtype=np.float64) == pytest.approx(3_500, rel=0.05)
    assert (panel.values[1:, 0] >= 0).all()
