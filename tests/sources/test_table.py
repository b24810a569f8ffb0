"""Tables become panels: the grid, the rules for counts, gauges and gaps, and what the reader refuses."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import ConfigError, DataError
from presurge.sources import Table, read_guide_csv, read_table

GUIDE = "Timestamp,Time_interval,Concurrent_requests,Request_tokens_sum,Response_tokens_sum"
MINUTE = 60_000_000


def read(tmp_path: Path, text: str, values: str = "v", **options: Any) -> Table:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_table(path, time="t", values=values.split(","), **options)


def column(table: Table, index: int = 0) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in table.panel.values[:, index]]


def test_a_count_is_zero_and_a_gauge_missing_where_nothing_was_logged(tmp_path: Path) -> None:
    text = "t,n,level\n0,3,1.5\n60,4,2.5\n240,5,3.5\n"
    table = read(tmp_path, text, "n,level")
    assert [channel.kind for channel in table.panel.channels] == ["count", "gauge"]
    assert column(table, 0) == [3, 4, 0, 0, 5]
    assert column(table, 1) == [1.5, 2.5, None, None, 3.5]
    assert table.totals == {"n": 12}
    assert table.counts.empty_buckets == 2
    assert "n: count (summed in a bucket; zero where there is no row)" in table.notes
    assert "level: gauge (averaged in a bucket; missing where there is no row)" in table.notes
    assert "buckets without a row: 2 of 5" in table.notes


def test_the_rules_can_be_set(tmp_path: Path) -> None:
    text = "t,n,level\n0,3,1.5\n0,5,2.5\n60,4,2.5\n180,5,3.5\n"
    declared = read(tmp_path, text, "n,level", step=60, kinds={"n": "gauge", "level": "count"})
    assert column(declared, 0) == [4, 4, None, 5]
    assert column(declared, 1) == [4, 2.5, 0, 3.5]
    assert declared.totals == {}
    assert column(read(tmp_path, text, "n", fill="missing")) == [8, 4, None, 5]
    assert column(read(tmp_path, text, "level", fill="zero")) == [2, 2.5, 0, 3.5]
    with pytest.raises(ConfigError, match="level=count"):
        read(tmp_path, text, "n", kinds={"level": "count"})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2"], "count"),
        (["1.0", "2.0"], "count"),
        (["1", "NaN"], "count"),
        (["0", "-1"], "gauge"),
        (["1", "2.5"], "gauge"),
        (["true", "false"], "gauge"),
        (["True", "False"], "gauge"),
    ],
)
def test_the_values_of_a_column_decide_its_kind(tmp_path: Path, values: list[str], kind: str) -> None:
    table = read(tmp_path, f"t,v\n0,{values[0]}\n60,{values[1]}\n")
    assert table.panel.channels[0].kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(
            (name, "gauge")
            for name in ("node_w", "watts", "GPU-Temp", "cpu", "cpu0", "cpuUsage", "mem percent", "util.gpu")
        ),
        *(
            (name, "count")
            for name in ("requests", "cpus", "new_attempts", "window", "wait_events", "temporary")
        ),
    ],
)
def test_whole_numbers_with_the_name_of_a_level_are_a_gauge(tmp_path: Path, name: str, kind: str) -> None:
    text = f"t,{name}\n0,0\n60,70\n120,20\n"
    table = read(tmp_path, text, name)
    assert table.panel.channels[0].kind == kind
    settles = f"if it counts events: `kind={name}=count`"
    assert [settles in note for note in table.notes].count(True) == (kind == "gauge")
    declared = read(tmp_path, text, name, kinds={name: "count"})
    assert declared.panel.channels[0].kind == "count"
    assert not any("`kind=" in note for note in declared.notes)


def test_whole_numbers_that_never_come_near_zero_are_a_doubtful_count(tmp_path: Path) -> None:
    for least, doubtful in ((50, True), (49, False)):
        table = read(tmp_path, f"t,sessions\n0,{least}\n60,100\n120,70\n", "sessions")
        assert table.panel.channels[0].kind == "count"
        assert any("if it is a level: `kind=sessions=gauge`" in note for note in table.notes) is doubtful


def test_a_column_may_have_any_name(tmp_path: Path) -> None:
    table = read(tmp_path, "t,cell,0\n0,1,5\n60,2,6\n60,3,7\n", "cell,0")
    assert (column(table, 0), column(table, 1)) == ([1, 5], [5, 13])


def test_types_of_parquet_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"t": [0, 60], "i8": [1, 2], "dec": [1, 2], "flag": [True, False], "text": ["1", "2.5"]}
    )
    frame = frame.with_columns(pl.col("i8").cast(pl.UInt8), (pl.col("dec") / 4).cast(pl.Decimal(10, 2)))
    frame.write_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", time="t", values=["i8", "dec", "flag", "text"])
    assert [channel.kind for channel in table.panel.channels] == ["count", "gauge", "gauge", "gauge"]
    assert table.panel.values.tolist() == [[1, 0.25, 1, 1], [2, 0.5, 0, 2.5]]


def test_duplicates_are_summed_or_averaged_and_counted(tmp_path: Path) -> None:
    table = read(tmp_path, "t,n,level\n60,1,1.5\n0,2,2\n60,3,3.5\n120,1,1\n", "n,level")
    assert column(table, 0) == [2, 4, 1]
    assert column(table, 1) == [2, 2.5, 1]
    assert (table.counts.unsorted, table.counts.duplicates, table.counts.off_grid) == (1, 1, 0)


def test_missing_values_of_a_bucket(tmp_path: Path) -> None:
    table = read(tmp_path, "t,n,level\n0,1,1.5\n60,,nan\n120,NaN,2.5\n120,4,NA\n240,5,3\n", "n,level")
    assert column(table, 0) == [1, None, 4, 0, 5]
    assert column(table, 1) == [1.5, None, 2.5, None, 3]
    assert table.counts.missing == {"n": 2, "level": 2}
    assert "missing values of n: 2 of 5" in table.notes


def test_regular_stamps_keep_their_phase_and_others_are_floored(tmp_path: Path) -> None:
    regular = read(tmp_path, "t,v\n610,1\n4210,2\n7810,3\n")
    assert regular.panel.start.tolist() == [610_000_000]
    assert regular.counts.off_grid == 0
    irregular = read(tmp_path, "t,v\n610.5,1\n4209,2\n7810,3\n", step="1h")
    assert irregular.panel.start.tolist() == [0]
    assert column(irregular) == [1, 2, 3]
    assert irregular.counts.off_grid == 3


def test_a_coarser_step_resamples(tmp_path: Path) -> None:
    text = "t,n,level\n" + "".join(f"{60 * i},{i},{i / 2}\n" for i in range(10))
    table = read(tmp_path, text, "n,level", step="5m")
    assert column(table, 0) == [10, 35]
    assert column(table, 1) == [1, 3.5]


def test_long_tables(tmp_path: Path) -> None:
    text = "t,item,v\n120,b,1\n0,a,2\n60,a,3\n180,b,4\n60,c,0\n"
    panel = read(tmp_path, text, item="item").panel
    assert panel.items == ("a", "b", "c")
    assert panel.indptr.tolist() == [0, 2, 4, 5]
    assert panel.start.tolist() == [0, 2 * MINUTE, MINUTE]
    assert panel.values[:, 0].tolist() == [2, 3, 1, 4, 0]


def test_numbered_items_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    panel = read(tmp_path, "t,item,v\n0,10,1\n60,10,2\n0,9,3\n60,9,4\n", item="item").panel
    assert panel.items == ("9", "10")
    assert panel.values[:, 0].tolist() == [3, 4, 1, 2]


def test_json_lines_equal_csv(tmp_path: Path) -> None:
    rows = [{"t": 60 * i, "v": i * 1.5, "more": [i]} for i in range(400)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read_table(tmp_path / "a.jsonl", time="t", values=["v"])
    text = "t,v\n" + "".join(f"{row['t']},{row['v']}\n" for row in rows)
    assert np.array_equal(table.panel.values, read(tmp_path, text).panel.values)


def test_a_type_that_only_later_rows_show(tmp_path: Path) -> None:
    text = "t,v\n" + "".join(f"{60 * i},{i}\n" for i in range(3000)) + "180000.5,2.25\n180060,\n"
    table = read(tmp_path, text)
    assert column(table)[-2:] == [2.25, None]


def test_the_clock_follows_the_stamps(tmp_path: Path) -> None:
    assert read(tmp_path, "t,v\n0,1\n60,2\n").panel.clock == "relative"
    absolute = read(tmp_path, "t,v\n2024-05-01T02:00:00+02:00,1\n2024-05-01T00:01:00Z,2\n").panel
    assert absolute.clock == "utc"
    assert absolute.start.tolist() == [int(datetime(2024, 5, 1, tzinfo=UTC).timestamp()) * 10**6]
    assert read(tmp_path, "t,v\n0,1\n60000,2\n", time_unit="ms").panel.step == 60_000_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t,v\n0,1\n60,inf\n", "row 2 (line 3), column 'v': the value is infinite (inf)"),
        ("t,v\n0,1\n\n60,-inf\n", "row 3 (line 4), column 'v': the value is infinite (-inf)"),
        ("t,v\n0,1\n60,many\n", "row 2 (line 3), column 'v': 'many' is not a number"),
        ("t,v\n0,1\nsoon,2\n", "row 2 (line 3), column 't': 'soon' is not a time"),
        ("t,v\n0,1\n,2\n", "row 2 (line 3), column 't': an empty cell is not a time"),
        ("t,v\n0,\n60,\n", "column 'v': no row has a value"),
        ("t,w\n0,1\n60,1\n", "no column 'v'"),
        ("t,v\n0,1\n", "the step cannot be inferred from fewer than two different time stamps"),
        ("t,v\n0,1\n0,1\n", "the step cannot be inferred from fewer than two different time stamps"),
        ("t,v\n0,1\n3000000,1\n", "more than one week"),
        ("t,v\n", "holds no rows"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "table.csv"))
    assert message in str(caught.value)
    assert caught.value.hint


def test_more_bad_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'v': a count cannot be negative \(-3\)"):
        read(tmp_path, "t,v\n0,1\n60,-3\n", kinds={"v": "count"})
    with pytest.raises(DataError, match=r"row 2 \(line 3\), column 'item': an empty cell is not an item"):
        read(tmp_path, "t,item,v\n0,a,1\n60,,2\n", item="item")
    with pytest.raises(DataError, match="The columns are: t, v, w"):
        read(tmp_path, "t,v,w\n0,a,1\n60,b,2\n")
    with pytest.raises(DataError, match="does not fit into 64 bits"):
        read(tmp_path, f"t,v\n0,{2**62}\n60,{2**62}\n", kinds={"v": "count"})


def test_one_row_with_a_step_is_a_panel(tmp_path: Path) -> None:
    panel = read(tmp_path, "t,v\n90,1\n", step="1m").panel
    assert (len(panel), panel.start.tolist()) == (1, [90_000_000])


def test_ten_million_seconds_between_two_rows(tmp_path: Path) -> None:
    table = read(tmp_path, "t,v\n0,1\n10000000,2\n", step="1s")
    assert len(table.panel) == 10_000_001
    assert float(table.panel.values.sum()) == 3


def test_a_grid_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1,700,000,001 buckets of 1s\n.*step=5m"):
        read(tmp_path, "t,v\n1700000000,1\n3400000000,2\n", step="1s")


def test_a_year_long_gap(tmp_path: Path) -> None:
    table = read(tmp_path, "t,v,w\n2023-01-01,1,1.5\n2023-01-02,2,2\n2024-01-02,3,2\n", "v,w")
    assert len(table.panel) == 367
    assert np.isnan(table.panel.values[2:-1, 1]).all()
    assert (table.panel.values[2:-1, 0] == 0).all()


def test_sums_are_exact_before_they_become_floats(tmp_path: Path) -> None:
    table = read(tmp_path, f"t,v\n0,{2**53 + 1}\n0,{2**53 + 1}\n60,1\n")
    assert table.totals == {"v": 2**54 + 3}


@pytest.mark.parametrize("kind", ["count", "gauge"])
def test_the_order_of_rows_does_not_change_a_sum_of_floats(tmp_path: Path, kind: Any) -> None:
    """Without care the small values are lost after the largest, and float32 then rounds to another number."""
    values = [1.0, 2.0**-24, *[2.0**-54] * 6]
    tables = []
    for ordered in (values, values[::-1]):
        text = "t,v\n60,0.5\n" + "".join(f"0,{value!r}\n" for value in ordered)
        tables.append(column(read(tmp_path, text, kinds={"v": kind}, step=60)))
    assert tables[0] == tables[1]
    assert tables[0][0] == np.float32(1 + 2.0**-23) / (1 if kind == "count" else 8)


def test_the_guides_series(tmp_path: Path) -> None:
    path = tmp_path / "dense.csv"
    rows = [f"{5 + i},1.0,{i % 3},{i * 10},{i}" for i in range(120)]
    path.write_text(GUIDE + "\n" + "\n".join(rows) + "\n")
    dense = read_guide_csv(path)
    assert dense.panel.channel_names == ("requests", "input_tokens", "output_tokens")
    assert dense.panel.count_mask.all()
    assert (dense.panel.step, len(dense.panel), dense.panel.clock) == (1_000_000, 120, "relative")
    minutes = read_guide_csv(path, step="60s")
    assert minutes.panel.start.tolist() == [0]
    assert len(minutes.panel) == 3
    assert minutes.totals == dense.totals == {"requests": 120, "input_tokens": 71_400, "output_tokens": 7_140}
    path.write_text("t,v\n0,1\n")
    with pytest.raises(DataError, match="no column 'Timestamp'"):
        read_guide_csv(path)


def test_the_guides_minutes(tmp_path: Path) -> None:
    path = tmp_path / "minutes.csv"
    averages = ",Avg_concurrent_requests,Avg_request_tokens_per_sec,Avg_response_tokens_per_sec"
    rows = [f"{60 * i},60,{i},{i * 10},{i},0.1,0.2,0.3" for i in range(10)]
    path.write_text(GUIDE + averages + "\n" + "\n".join(rows) + "\n")
    assert read_guide_csv(path).panel.step == 60_000_000
    path.write_text(GUIDE + "\n0,60,0.5,3,4\n60,60,1,3,4\n120,60,1,3,4\n")
    assert read_guide_csv(path).totals == {"input_tokens": 9, "output_tokens": 12}, "none of a fraction"


def test_against_pandas_on_real_data(shared: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = shared / "data/workload/cluster_capacity_1min.parquet"
    panel = read_table(path, time="timestamp", values=["cpu", "mem"], item="cluster", step="5m").panel
    frame = pandas.read_parquet(path)
    for index, name in enumerate(panel.items):
        rows = frame[frame.cluster == int(name)].set_index("timestamp").sort_index()
        expected = rows[["cpu", "mem"]].astype("float64").resample("5min").mean()
        found = panel.values[panel.rows_of(index)]
        assert panel.start[index] == expected.index[0].value // 1000
        np.testing.assert_allclose(found, expected.to_numpy(), rtol=1e-6)


def test_real_counts_are_conserved(shared: Path) -> None:
    path = shared / "data/workload/nasa_http_1s.parquet"
    seconds = pl.read_parquet(path)
    minutes = read_table(path, time="timestamp", values=["requests"], step="1m")
    assert minutes.totals["requests"] == int(seconds["requests"].cast(pl.Int64).sum())
    assert int(minutes.panel.values.astype(np.int64).sum()) == minutes.totals["requests"]
    kept = pl.read_csv(shared / "data/workload/nasa_http_1min.csv.gz", try_parse_dates=True)
    expected = kept.filter(pl.col("requests") > 0)
    found = minutes.panel.to_frame().filter(pl.col("requests") > 0)
    assert found["requests"].cast(pl.Int64).to_list() == expected["requests"].to_list()


rows_of_a_table = st.lists(
    st.tuples(
        st.integers(0, 3_000_000),  # milliseconds
        st.sampled_from("abc"),
        st.one_of(st.none(), st.integers(0, 10**6)),
        st.one_of(st.none(), st.floats(-1e6, 1e6, allow_subnormal=False)),
    ),
    min_size=1,
    max_size=40,
)


def write_rows(path: Path, rows: list[tuple[int, str, int | None, float | None]]) -> Path:
    # The first row gives every column a value.
    rows = [(0, "a", 1, 0.5), *rows]
    lines = [
        f"{t / 1000},{item},{'' if n is None else n},{'' if x is None else repr(x)}" for t, item, n, x in rows
    ]
    path.write_text("t,item,n,x\n" + "\n".join(lines) + "\n")
    return path


@given(rows_of_a_table, st.randoms(use_true_random=False), st.sampled_from(["1s", "7s", "1m", "1h"]))
def test_neither_order_nor_grid_changes_what_was_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], random: Any, step: str
) -> None:
    folder = tmp_path_factory.mktemp("table")
    options: dict[str, Any] = {"time": "t", "values": ["n", "x"], "item": "item", "step": step}
    options["kinds"] = {"n": "count", "x": "gauge"}
    table = read_table(write_rows(folder / "a.csv", rows), **options)
    total = 1 + sum(row[2] or 0 for row in rows)
    assert table.totals["n"] == total
    assert int(np.nansum(table.panel.values[:, 0].astype(np.float64))) == total
    shuffled = list(rows)
    random.shuffle(shuffled)
    other = read_table(write_rows(folder / "b.csv", shuffled), **options)
    assert np.array_equal(table.panel.values, other.panel.values, equal_nan=True)
    assert table.panel.start.tolist() == other.panel.start.tolist()
    assert table.panel.indptr.tolist() == other.panel.indptr.tolist()


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=30, unique=True), st.integers(-11, 12))
def test_iso_and_epoch_stamps_give_the_same_panel(
    tmp_path_factory: pytest.TempPathFactory, seconds: list[int], hours: int
) -> None:
    folder = tmp_path_factory.mktemp("table")
    begin = datetime(2024, 3, 31, tzinfo=UTC)
    zone = timedelta(hours=hours)
    forms = {
        "epoch": [str(int(begin.timestamp()) + s) for s in seconds],
        "naive": [(begin + timedelta(seconds=s)).strftime("%Y-%m-%d %H:%M:%S") for s in seconds],
        "zoned": [
            (begin + zone + timedelta(seconds=s)).strftime("%Y-%m-%dT%H:%M:%S") + f"{hours:+03d}:00"
            for s in seconds
        ],
    }
    panels = [
        read(folder, "t,v\n" + "".join(f"{t},{i}\n" for i, t in enumerate(stamps)), step=60).panel
        for stamps in forms.values()
    ]
    for panel in panels[1:]:
        assert panel.start.tolist() == panels[0].start.tolist()
        assert np.array_equal(panel.values, panels[0].values)


def test_fields_inside_objects_are_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        {"at": {"ts": 60 * i}, "gpu": {"0": {"load": i / 2}}, "who": "x" if i % 2 else "y"} for i in range(4)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    table = read_table(path, time="at.ts", values=["gpu.0.load"], item="who", time_unit="s")
    assert table.panel.items == ("x", "y")
    assert table.panel.values[:, 0].tolist() == [0.5, 1.5, 0, 1]
    pl.read_ndjson(path).write_parquet(tmp_path / "a.parquet")
    again = read_table(tmp_path / "a.parquet", time="at.ts", values=["gpu.0.load"], item="who", time_unit="s")
    assert again.panel.values.tolist() == table.panel.values.tolist()
