"""Time stamps: every form that a person writes them in means the same microsecond."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from presurge.errors import DataError
from presurge.series.timestamps import (
    TimeUnit,
    check_unit,
    detect_form,
    format_stamp,
    stamp_expr,
    stamp_words,
)

MOMENT = datetime(2023, 11, 16, 18, 15, 46, 680590, tzinfo=UTC)
MOMENT_US = 1_700_158_546_680_590
moments = st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def stamps(column: pl.Series, unit: TimeUnit | None = None) -> list[int | None]:
    form = detect_form(column, unit=unit, where="here")
    return pl.DataFrame({"t": column}).select(stamp_expr("t", form)).to_series().to_list()


@pytest.mark.parametrize(
    "text",
    [
        "2023-11-16 18:15:46.6805900",
        "2023-11-16 18:15:46.680590",
        "2023-11-16T18:15:46.680590",
        "2023-11-16T18:15:46.680590Z",
        "2023-11-16 18:15:46.680590 UTC",
        "2023-11-16T19:15:46.680590+01:00",
        "2023-11-16 12:45:46.680590999-0530",
        "2023-11-16 18:15:46.680590+00:00",
        "2023/11/16 18:15:46.680590",
        " 2023-11-16 18:15:46.68059 ",
        "1700158546.680590",
    ],
)
def test_text(text: str) -> None:
    assert stamps(pl.Series([text])) == [MOMENT_US]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2023-11-16", datetime(2023, 11, 16, tzinfo=UTC)),
        ("2023-11-16 18:15", datetime(2023, 11, 16, 18, 15, tzinfo=UTC)),
        ("2023-11-16T18:15", datetime(2023, 11, 16, 18, 15, tzinfo=UTC)),
        ("2023/11/16", datetime(2023, 11, 16, tzinfo=UTC)),
        ("2023/11/16T18:15", datetime(2023, 11, 16, 18, 15, tzinfo=UTC)),
        ("01/Jul/1995:00:00:01 -0400", datetime(1995, 7, 1, 4, 0, 1, tzinfo=UTC)),
    ],
)
def test_text_of_less_than_a_second(text: str, moment: datetime) -> None:
    assert stamps(pl.Series([text])) == [micros(moment)]


@given(st.lists(moments, min_size=1, max_size=8))
def test_all_forms_of_a_moment_agree(times: list[datetime]) -> None:
    expected = [micros(moment) for moment in times]
    naive = [moment.replace(tzinfo=None) for moment in times]
    zone = timezone(timedelta(hours=5, minutes=30))
    columns = {
        "iso": pl.Series([moment.isoformat() for moment in naive]),
        "with a space": pl.Series([moment.isoformat(" ") for moment in naive]),
        "zone Z": pl.Series([moment.isoformat() + "Z" for moment in naive]),
        "other zone": pl.Series([moment.astimezone(zone).isoformat() for moment in times]),
        "datetime": pl.Series(naive),
        "datetime with zone": pl.Series(times).dt.convert_time_zone("Asia/Tokyo"),
        "nanoseconds": pl.Series([stamp * 1000 for stamp in expected], dtype=pl.Int64),
        "float seconds": pl.Series([stamp / 1e6 for stamp in expected]),
    }
    for name, column in columns.items():
        assert stamps(column) == expected, name


@given(st.integers(10**8, 9 * 10**9))
def test_all_units_of_a_number_agree(seconds: int) -> None:
    expected = [seconds * 10**6]
    for factor, unit in ((1, "s"), (10**3, "ms"), (10**6, "us"), (10**9, "ns")):
        column = pl.Series([seconds * factor], dtype=pl.Int64)
        form = detect_form(column, where="here")
        assert (form.unit, stamps(column)) == (unit, expected)
        assert stamps(column.cast(pl.String)) == expected
        assert form.clock(expected[0]) == "utc"


def test_whole_seconds_in_32_bits_do_not_overflow() -> None:
    assert stamps(pl.Series([1_700_158_546], dtype=pl.Int32)) == [1_700_158_546_000_000]


@given(st.lists(st.integers(0, 10**11 - 1), min_size=1))
def test_relative_seconds_keep_their_milliseconds(millis: list[int]) -> None:
    column = pl.Series([value / 1000 for value in millis])
    assert stamps(column) == [value * 1000 for value in millis]
    assert detect_form(column, where="here").clock(min(millis) * 1000) == "relative"


def test_a_given_unit_wins_over_the_magnitude() -> None:
    assert stamps(pl.Series([0, 3052]), unit="ms") == [0, 3_052_000]
    assert stamps(pl.Series([0, 3052]), unit="ns") == [0, 3]


def test_dates_and_durations() -> None:
    assert stamps(pl.Series([date(2020, 1, 2)])) == [micros(datetime(2020, 1, 2, tzinfo=UTC))]
    assert stamps(pl.Series([timedelta(seconds=1.5)])) == [1_500_000]
    assert detect_form(pl.Series([timedelta(1)]), where="here").clock(0) == "relative"


def test_compact_dates_are_no_seconds() -> None:
    compact = pl.Series([20240131, 20240201, 20240202])
    assert stamps(compact) == stamps(pl.Series(["2024-01-31", "2024-02-01", "2024-02-02"]))
    assert stamps(compact.cast(pl.String)) == stamps(compact)
    assert stamps(pl.Series([20240131, 20240132])) == [20240131_000_000, 20240132_000_000]
    assert stamps(pl.Series(["20240131.0", "20240201.0"])) == [20240131_000_000, 20240201_000_000]


def test_summer_time_is_converted() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    twice = [datetime(2023, 10, 29, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    first, second = stamps(pl.Series([moment.isoformat() for moment in twice]))
    assert (first, second) == (
        micros(datetime(2023, 10, 29, 0, 30, tzinfo=UTC)),
        micros(datetime(2023, 10, 29, 1, 30, tzinfo=UTC)),
    )


def test_a_column_may_mix_forms() -> None:
    column = pl.Series(["2023-11-16 18:15:46", "2023-11-16 18:15:46.5", "2023-11-16", "2023-11-16T18:15"])
    assert None not in stamps(column)


def test_pandas_columns() -> None:
    pandas = pytest.importorskip("pandas")
    times = pandas.date_range("2024-03-01", periods=5, freq="37min", tz="America/New_York")
    expected = [int(t.value) // 1000 for t in times]
    assert stamps(pl.Series(pl.from_pandas(times.to_series()))) == expected
    assert stamps(pl.Series([str(t) for t in times])) == expected


def test_what_cannot_be_read_is_null() -> None:
    assert stamps(pl.Series(["2023-11-16 18:15:46", "yesterday", None])) == [
        1_700_158_546_000_000,
        None,
        None,
    ]
    assert stamps(pl.Series([5.0, float("nan"), float("inf"), None])) == [5_000_000, None, None, None]


def test_the_notes_say_how_the_stamps_were_read() -> None:
    naive = detect_form(pl.Series(["2023-11-16 18:15:46"]), where="here")
    zoned = detect_form(pl.Series(["2023-11-16T18:15:46Z"]), where="here")
    assert "taken as UTC" in naive.describe("utc")
    assert "converted to UTC" in zoned.describe("utc")
    assert detect_form(pl.Series([5]), where="here").describe("relative") == "seconds from an unknown origin"
    assert detect_form(pl.Series([5e11]), where="here").describe("utc") == "milliseconds since 1970 (UTC)"


def test_a_column_without_times_is_an_error() -> None:
    with pytest.raises(DataError, match=r"'hello' in row 2 cannot be read as a time"):
        detect_form(pl.Series([None, "hello"]), where="a.csv, column 't'")
    with pytest.raises(DataError, match="empty"):
        detect_form(pl.Series([None, None]), where="here")
    with pytest.raises(DataError, match="True in row 1"):
        detect_form(pl.Series([True]), where="here")


def test_a_unit_that_fits_one_end_only_is_refused() -> None:
    relative = detect_form(pl.Series([5]), where="here")
    check_unit(relative, 5_000_000, 99_000_000_000_000, where="here")
    with pytest.raises(DataError, match="unit of the time stamps is ambiguous"):
        check_unit(relative, 5_000_000, 10**9 * 10**6, where="here")
    check_unit(detect_form(pl.Series([5]), unit="s", where="here"), 5, 10**15, where="here")


def test_stamps_go_out_as_they_came() -> None:
    assert format_stamp(MOMENT_US, "utc") == "2023-11-16T18:15:46.680590Z"
    assert format_stamp(60_000_000, "relative") == 60
    assert format_stamp(60_500_000, "relative") == 60.5


def test_times_for_people() -> None:
    assert stamp_words(MOMENT_US, "utc") == format_stamp(MOMENT_US, "utc")
    seconds = {0: "day 1, 00:00", 187_200: "day 3, 04:00", 86_399: "day 1, 23:59:59", -60: "day 0, 23:59"}
    assert {time: stamp_words(time * 1_000_000, "relative") for time in seconds} == seconds
