"""Logs of requests: known formats without options, any other by the names of its columns; nothing is lost on the way."""

import gzip
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from presurge.errors import DataError, FormatError
from presurge.sources import check_trace, open_trace, recognise_file, requests_panel
from presurge.workflows.prepare import PrepareConfig, prepare

CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "model": "qwen", "choices": [{"index": 0}]}
USAGE = {"prompt_tokens": 40, "completion_tokens": 57, "total_tokens": 97, "prompt_tokens_details": None}


def batch(created: int, inputs: int, outputs: int, code: int = 200) -> dict[str, Any]:
    """A line as ``vllm run-batch`` writes it."""
    usage = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
    body = {**CHAT, "created": created, "usage": usage}
    return {
        "id": "vllm-1",
        "custom_id": "a",
        "response": {"status_code": code, "request_id": "r", "body": body},
    }


def dynamo(at: int, inputs: int, outputs: int) -> dict[str, Any]:
    request = {"request_id": "r", "model": "m", "request_received_ms": at, "output_tokens": outputs}
    replay = {"trace_block_size": 64, "input_length": inputs, "input_sequence_hashes": [1]}
    return {
        "schema": "dynamo.request.trace.v1",
        "event_type": "request_end",
        "event_time_unix_ms": at + 900,
        "request": {**request, "replay": replay},
    }


def litellm(at: float, inputs: int, outputs: int, status: str = "success") -> dict[str, Any]:
    tokens = {"prompt_tokens": inputs, "completion_tokens": outputs, "total_tokens": inputs + outputs}
    return {"id": "x", "startTime": at, "endTime": at + 1.5, "model": "m", "status": status, **tokens}


JSON_LINES = {
    "openai": [
        {**CHAT, "created": 1_772_595_634, "usage": USAGE},
        {**CHAT, "created": 1_772_595_640, "usage": {**USAGE, "prompt_tokens": 2}},
    ],
    "openai-batch": [batch(1_772_595_634, 40, 57), batch(1_772_595_640, 2, 57)],
    "litellm": [litellm(1_772_595_634.0, 40, 57), litellm(1_772_595_640.0, 2, 57)],
    "dynamo": [dynamo(1_772_595_634_000, 40, 57), dynamo(1_772_595_640_000, 2, 57)],
}


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", JSON_LINES)
def test_known_json_lines_need_no_options(tmp_path: Path, name: str) -> None:
    rows = JSON_LINES[name]
    path = lines(tmp_path / "a.jsonl", rows)
    trace = open_trace(path)
    assert (trace.format, trace.clock, trace.rows) == (name, "utc", 2)
    assert (trace.first_us, trace.last_us) == (1_772_595_634_000_000, 1_772_595_640_000_000)
    events = trace.events.collect()
    assert events["input_tokens"].to_list() == [40, 2]
    assert events["output_tokens"].to_list() == [57, 57]
    assert events["failed"].to_list() == [False, False]
    assert "model" in events.columns
    (tmp_path / "a.json").write_text(json.dumps(rows))
    as_array = open_trace(tmp_path / "a.json")
    assert as_array.events.collect().equals(events)
    pl.read_ndjson(path).write_parquet(tmp_path / "a.parquet")
    assert open_trace(tmp_path / "a.parquet").events.collect().equals(events)


def test_an_answer_that_is_an_error_is_not_taken_for_an_empty_row(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl", [*JSON_LINES["openai"], {"error": {"message": "overloaded", "code": 429}}]
    )
    with pytest.raises(DataError, match=r"row 3, column 'created': .*overloaded.* is not a time"):
        open_trace(path)
    assert open_trace(path, bad_rows="drop").dropped == 1


def test_the_answers_of_the_responses_interface(tmp_path: Path) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    path = lines(tmp_path / "a.jsonl", [{"id": "resp_1", "created_at": 1_772_595_634, "usage": usage}])
    trace = open_trace(path)
    assert (trace.format, trace.events.collect().row(0)[1:3]) == ("openai", (7, 3))


def test_other_records_of_a_dynamo_trace_are_no_requests(tmp_path: Path) -> None:
    tool = {
        "schema": "dynamo.request.trace.v1",
        "event_type": "tool_end",
        "event_time_unix_ms": 5,
        "tool": {},
    }
    path = lines(tmp_path / "a.jsonl", [dynamo(1_772_595_634_000, 40, 57), tool, tool])
    trace = open_trace(path)
    assert trace.rows == len(trace.events.collect()) == 1
    assert "rows other than request_end skipped: 2" in trace.notes


def test_a_failed_request_may_have_no_tokens(tmp_path: Path) -> None:
    failed = {**litellm(1_772_595_635, 0, 0, "failure"), "prompt_tokens": None, "completion_tokens": None}
    rows = [litellm(1_772_595_634, 40, 57), failed, litellm(1_772_595_639, 9, 0)]
    trace = open_trace(lines(tmp_path / "a.jsonl", rows))
    counts = check_trace(trace)
    assert (counts.rows, counts.failures, counts.input_tokens) == (3, 1, 49)
    rows[1]["status"] = "success"
    with pytest.raises(DataError, match=r"row 2, column 'prompt_tokens'"):
        open_trace(lines(tmp_path / "b.jsonl", rows))


# Access logs

COMBINED = """\
127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326 "http://a/[x]" "Mozilla (\\" 404 1)"
::1 - - [10/Oct/2000:20:55:37 +0000] "POST /v1/chat "quoted" HTTP/1.1" 503 - "-" "curl" 0.012 0.011
example.org:443 10.0.0.7 - - [10/Oct/2000:22:55:38 +0200] "-" 408 0
"""


def test_access_logs_with_mixed_zones(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    for content in (
        COMBINED.encode(),
        gzip.compress(COMBINED.encode()),
        zstandard.compress(COMBINED.encode()),
    ):
        path.write_bytes(content)
        trace = open_trace(path)
        assert (trace.format, trace.clock, trace.rows) == ("access-log", "utc", 3)
        assert trace.first_us == int(datetime(2000, 10, 10, 20, 55, 36, tzinfo=UTC).timestamp() * 1e6)
        assert (trace.last_us - trace.first_us) == 2_000_000
        assert trace.events.collect()["failed"].to_list() == [False, True, True]
        assert "input_tokens" not in trace.events.collect().columns


def test_a_line_that_is_not_of_an_access_log_is_named(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(COMBINED.replace("example.org", "\nrotten line\nexample.org"))
    with pytest.raises(DataError) as caught:
        open_trace(path)
    assert "access.log, row 4 (line 4), column 'time': 'rotten line' is not a time" in str(caught.value)
    trace = open_trace(path, bad_rows="drop")
    assert (trace.rows, trace.dropped) == (3, 1)
    assert "empty rows skipped: 1" in trace.notes


@pytest.mark.parametrize(
    "line",
    [
        {"time_iso8601": "2024-05-01T12:00:00+02:00", "status": "502", "request": "GET / HTTP/1.1"},
        {"msec": "1714557600.000", "remote_addr": "1.2.3.4", "status": 502, "request_time": 0.1},
        {"time_local": "01/May/2024:12:00:00 +0200", "request_uri": "/", "status": "502"},
        {"@timestamp": "2024-05-01T10:00:00Z", "response": 502, "request": "GET /"},
        {"ts": 1714557600.0, "request": {"method": "GET", "uri": "/"}, "status": 502, "size": 3},
        {
            "StartUTC": "2024-05-01T10:00:00.000Z",
            "DownstreamStatus": 502,
            "time": "2024-05-01T10:09:00Z",
            "RequestMethod": "GET",
        },
        {"start_time": "2024-05-01T10:00:00.000Z", "response_code": 502, "method": "GET", "path": "/"},
    ],
)
def test_access_logs_in_json(tmp_path: Path, line: dict[str, Any]) -> None:
    path = lines(tmp_path / "a.jsonl", [line, line])
    trace = open_trace(path)
    assert (trace.format, trace.rows, trace.first_us) == ("access-json", 2, 1_714_557_600_000_000)
    assert check_trace(trace).failures == 2


# Any other log


def test_a_log_by_the_names_of_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("at,in,out,code,llm\n2024-05-01 10:00:00,4,5,200,a\n2024-05-01 10:00:01,3,0,200,b\n")
    columns = {"time": "at", "input_tokens": "in", "output_tokens": "out"}
    trace = open_trace(path, columns=columns)
    assert (trace.format, trace.clock) == ("columns", "utc")
    assert check_trace(trace).failures == 1  # no output token
    trace = open_trace(path, columns={**columns, "status": "code", "model": "llm"})
    assert check_trace(trace).failures == 0
    assert trace.events.collect()["model"].to_list() == ["a", "b"]
    alone = open_trace(path, columns={"time": "at"})
    assert alone.events.collect().columns == ["time_us"]
    assert check_trace(alone).rows == 2
    assert requests_panel(alone).channel_names == ("inter_arrival",)
    path.write_text(path.read_text().replace(",", ", ").replace(", in, out, code, llm", ",in,out,code,llm"))
    assert check_trace(open_trace(path, columns={**columns, "status": "code"})).input_tokens == 7
    with pytest.raises(DataError, match="no column 'prompt'"):
        open_trace(path, columns={"time": "at", "input_tokens": "prompt"})


@pytest.mark.parametrize(
    ("ok", "failed"),
    [
        ((), [False, False, True, True, True, False, True]),
        (("404", "SUCCESS"), [True, False, False, True, True, True, True]),
    ],
)
def test_what_a_failure_is(tmp_path: Path, ok: tuple[str, ...], failed: list[bool]) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,s\n1,200\n2,Success\n3,404\n4,\n5,error\n6,302.0\n7,99\n")
    trace = open_trace(path, columns={"time": "t", "status": "s", "ok": ok})
    assert trace.events.collect()["failed"].to_list() == failed


def test_a_column_of_a_known_format_can_be_replaced(tmp_path: Path) -> None:
    rows = [{**row, "outcome": "stop"} for row in JSON_LINES["openai"]]
    path = lines(tmp_path / "a.jsonl", rows)
    trace = open_trace(path, columns={"status": "outcome", "ok": ("length",)})
    assert (trace.format, check_trace(trace).failures) == ("openai", 2)
    with pytest.raises(FormatError, match="no column 'verdict'"):
        open_trace(path, columns={"status": "verdict"})


def test_a_row_without_a_time_is_no_empty_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("t,what\n1,x\n,y\n\n3,z\n")
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 't': an empty cell is not a time"):
        open_trace(path, columns={"time": "t"})
    trace = open_trace(path, columns={"time": "t"}, bad_rows="drop")
    assert (trace.rows, trace.dropped) == (2, 1)


@pytest.mark.parametrize("form", ["s", "ms", "us", "ns", "iso", "apache", "offset"])
def test_times_in_any_form(tmp_path: Path, form: str) -> None:
    moments = [datetime(2024, 5, 1, 10, 0, second, tzinfo=UTC) for second in (0, 7, 3)]
    seconds = [int(moment.timestamp()) for moment in moments]
    texts: Mapping[str, list[Any]] = {
        "s": seconds,
        "ms": [s * 10**3 for s in seconds],
        "us": [s * 10**6 for s in seconds],
        "ns": [s * 10**9 for s in seconds],
        "iso": [m.strftime("%Y-%m-%dT%H:%M:%SZ") for m in moments],
        "apache": [m.strftime("%d/%b/%Y:%H:%M:%S +0000") for m in moments],
        "offset": [
            m.astimezone(timezone(timedelta(hours=h))).isoformat()
            for m, h in zip(moments, (0, 2, -7), strict=True)
        ],
    }
    path = lines(tmp_path / "a.jsonl", [{"at": {"when": text}} for text in texts[form]])
    trace = open_trace(path, columns={"time": "at.when"})
    assert trace.events.collect()["time_us"].to_list() == [s * 10**6 for s in seconds]


def test_an_unknown_log_says_what_was_tried_and_what_to_do(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"when": 1, "usage": {"tokens": 5}}])
    with pytest.raises(FormatError) as caught:
        recognise_file(path)
    message = str(caught.value)
    assert "its columns are: when, usage.tokens" in message
    assert "time=COL input_tokens=COL output_tokens=COL" in message
    assert "A table of values needs no preparing: `presurge train` and `presurge backtest` read it" in message
    for name in ("openai-batch", "access-json", "litellm", "burstgpt"):
        assert f"  {name}: " in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"t": 1, "n": 2}\n{"t": 2, "n": \n{"t": 3, "n": 4}\n', "a.jsonl, line 2: is not valid JSON"),
        ('{"t": 1, "n": 2}\n\n{"t": 2, "n": NaN}\n', "a.jsonl, line 3: is not valid JSON"),
        ('{"t": 1, "n": 2}\nplain text\n', "a.jsonl, line 2: is not valid JSON"),
        ('\ufeff{"t": 1, "n": 2}\n', "a.jsonl: begins with a byte order mark"),
        ('{"t": 1, "n": 2}\n[1, 2]\n', "a.jsonl, line 2: is not valid JSON"),
        ("t,n\n1,2\n\n2,3,4\n", "a.jsonl, line 4: a row has more fields"),
        ('t,n\n1,"2\n2"\n2,3,4\n', "a.jsonl, line 4: a row has more fields"),
        ("t,n\r\n1,-2\r\n", "row 1 (line 2), column 'n': '-2' is not a whole number"),
        ('{"t": 1, "n": 99999999999999999999999}\n', "row 1, column 'n'"),
        ('{"t": 1, "n": {"a": 5}}\n', "no column 'n'"),
        ('{\n  "t": 1\n}\n', "is neither JSON lines nor the answer of a Prometheus server"),
        ("", "the file is empty"),
    ],
)
def test_hostile_files_name_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="utf-8", newline="")
    with pytest.raises(DataError) as caught:
        open_trace(path, columns={"time": "t", "input_tokens": "n"})
    assert message in str(caught.value)


def test_a_byte_order_mark_is_found_inside_a_compressed_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress('\ufeff{"t": 1, "n": 2}\n'.encode()))
    with pytest.raises(DataError, match=r"begins with a byte order mark.*\n.*Unpack it first"):
        open_trace(path)


TOKENS = st.one_of(st.integers(0, 9), st.integers(0, 2**40))
REQUESTS = st.lists(
    st.tuples(st.integers(0, 4_000), TOKENS, TOKENS, st.sampled_from(["200", "ok", "500", "", "gone"])),
    min_size=1,
    max_size=40,
)


@pytest.mark.parametrize("failures", ["keep", "drop"])
@settings(max_examples=25)
@given(requests=REQUESTS, nested=st.booleans(), quoted=st.booleans())
def test_totals_are_conserved(
    tmp_path_factory: pytest.TempPathFactory, failures: Any, requests: list[Any], nested: bool, quoted: bool
) -> None:
    folder = tmp_path_factory.mktemp("log")
    rows = []
    for at, inputs, outputs, status in requests:
        usage = {"in": str(inputs) if quoted else inputs, "out": outputs}
        rows.append({"at": at, "status": status, **({"usage": usage} if nested else usage)})
    prefix = "usage." if nested else ""
    columns = {
        "time": "at",
        "input_tokens": f"{prefix}in",
        "output_tokens": f"{prefix}out",
        "status": "status",
    }
    config = PrepareConfig(columns=columns, failures=failures, time_unit="s")
    prepared = prepare(lines(folder / "log.jsonl", rows), folder / "out", config)
    good = [row for row in requests if row[3] in ("200", "ok")]
    counted = requests if failures == "keep" else good
    assert prepared.totals == {
        "requests": len(counted),
        "input_tokens": sum(row[1] for row in counted),
        "output_tokens": sum(row[2] for row in counted),
        "failures": len(requests) - len(good),
    }
    series = pl.read_parquet(folder / "out" / "series.parquet")
    assert {name: series[name].sum() for name in prepared.totals} == prepared.totals
    minutes = {at // 60 for at, *_ in counted}
    assert set((series.filter(pl.col("requests") > 0)["time_us"] // 60_000_000).to_list()) == minutes


def test_a_log_without_tokens_gives_requests_alone(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_text(COMBINED * 3)
    prepared = prepare(path, tmp_path / "out", PrepareConfig(step=1_000_000, dense=True, analyze=True))
    assert prepared.totals == {"requests": 9, "failures": 6}
    assert prepared.statistics is not None
    assert prepared.statistics["failure_share"] == pytest.approx(6 / 9)
    minutes = pl.read_csv(tmp_path / "out" / "access.log_compressed_1s.csv")
    assert minutes["Concurrent_requests"].to_list() == [3, 3, 3]
    assert "Request_tokens_sum" not in minutes.columns
    assert recognise_file(tmp_path / "out" / "access.log_compressed_1s.csv") == "guide-series"


@pytest.mark.parametrize("early", [{}, {"usage": None}])
def test_a_field_may_first_appear_late(tmp_path: Path, early: dict[str, None]) -> None:
    lines = [{"at": 1_714_557_600 + i, "ok": "no", **early} for i in range(5_000)]
    lines.append({"at": 1_714_562_600, "ok": "yes", "usage": {"in": 3, "out": 4}})
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    columns = {"time": "at", "input_tokens": "usage.in", "output_tokens": "usage.out"}
    columns |= {"status": "ok", "ok": ["yes"]}
    told = check_trace(open_trace(tmp_path / "a.jsonl", columns=columns))
    assert (told.rows, told.failures, told.input_tokens) == (5_001, 5_000, 3)
    with pytest.raises(DataError, match="of the first 10,000 rows are: at, ok, "):
        open_trace(tmp_path / "a.jsonl", columns={"time": "when"})


def test_the_lists_of_a_benchmark_of_vllm_become_requests(tmp_path: Path) -> None:
    runs = [
        {
            "start_times": [905.25 + t, 906.5 + t],
            "input_lens": [40, 12],
            "output_lens": [57, 0],
            "ttfts": [0.1, 0.0],
        }
        for t in (0, 60)
    ]
    (tmp_path / "bench.json").write_text(
        "\n".join(json.dumps({"date": "20260101-000000", **run}) for run in runs)
    )
    trace = open_trace(tmp_path / "bench.json")
    told = check_trace(trace)
    assert (trace.format, trace.clock) == ("vllm-bench", "relative")
    assert (told.rows, told.failures, told.input_tokens, told.output_tokens) == (4, 2, 104, 114)
    assert (told.first_us, told.last_us) == (905_250_000, 966_500_000)
    (tmp_path / "bench.json").write_text(json.dumps({**runs[0], "output_lens": [57]}))
    with pytest.raises(DataError, match=r"bench\.json: cannot be read"):
        open_trace(tmp_path / "bench.json")
