"""Public holidays as a covariate that every row's time gives."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import holidays as reference
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from presurge.errors import ConfigError, MissingDependencyError
from presurge.series.frequency import DAY, HOUR, WEEK
from presurge.series.holidays import _holidays, holidays_after, with_holidays
from presurge.series.panel import Channel, Panel

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def panel_from(first: str, rows: int, step: int) -> Panel:
    start = (datetime.fromisoformat(first).replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    return Panel(
        values=np.zeros((rows, 1), np.float32), channels=(Channel("y"),), step=step, start=np.array([start])
    )


@settings(max_examples=30, deadline=None)
@given(
    first=st.dates(date(2010, 1, 1), date(2030, 1, 1)),
    place=st.sampled_from(
        [
            "DE",
            "DE-BY",
            "US@America/New_York",
            "JP@Asia/Tokyo",
            "GB-SCT@Europe/London",
            "AU-NSW@Australia/Sydney",
        ]
    ),
)
def test_a_row_is_a_holiday_where_its_local_date_is_one(first: date, place: str) -> None:
    panel = with_holidays(panel_from(str(first), 240, HOUR), [f"holidays:{place}"])
    region, _, zone = place.partition("@")
    country, _, part = region.partition("-")
    calendar = reference.country_holidays(country, subdiv=part or None)
    local = [
        (EPOCH + timedelta(microseconds=int(time))).astimezone(ZoneInfo(zone or "UTC")).date()
        for time in panel.times()
    ]
    assert panel.values[:, 1].tolist() == [float(day in calendar) for day in local]
    assert panel.channels[1] == Channel(f"holidays:{place}", role="known")


def test_long_rows_hold_a_share_of_holidays() -> None:
    week = with_holidays(panel_from("2024-12-23", 2, WEEK), ["holidays:DE"])  # 25 and 26 December, 1 January
    np.testing.assert_allclose(week.values[:, 1], [2 / 7, 1 / 7])
    days = with_holidays(panel_from("2024-12-23", 10, DAY), ["holidays:DE"])
    assert days.values[:, 1].tolist() == [0, 0, 1, 1, 0, 0, 0, 0, 0, 1]


def test_a_channel_that_is_there_stays_and_other_names_are_none() -> None:
    panel = panel_from("2024-12-20", 200, HOUR)
    once = with_holidays(panel, ["holidays:DE", "y", "holidays:DE"])
    assert with_holidays(once, ["holidays:DE"]) is once
    assert with_holidays(panel, ["y", "price"]) is panel
    assert once.channel_names == ("y", "holidays:DE")


def test_the_future_follows_every_item() -> None:
    one = panel_from("2024-12-24", 30, HOUR)
    start = np.array([one.start[0], one.start[0] + 12 * HOUR])
    two = one.replace(items=("a", "b"), start=start, indptr=np.array([0, 12, 30]))
    after = holidays_after(two, 24, ["holidays:DE"])
    assert after.items == ("a", "b")
    assert after.start.tolist() == [start[0] + 12 * HOUR, start[1] + 18 * HOUR]
    whole = with_holidays(panel_from("2024-12-24", 100, HOUR), ["holidays:DE"]).values[:, 1]
    assert after.values[:, 0].tolist() == [*whole[12:36], *whole[30:54]]


def test_a_relative_clock_knows_no_holidays() -> None:
    panel = panel_from("2024-01-01", 5, HOUR).replace(clock="relative")
    with pytest.raises(ConfigError, match="unknown origin") as caught:
        with_holidays(panel, ["holidays:DE"])
    assert caught.value.setting == "holidays"


@pytest.mark.parametrize(
    ("place", "what", "hint"),
    [
        ("XX", "'XX'", "Did you mean SX or MX or CX?"),
        ("DE-ZZ", "'DE-ZZ'", "DE-BB, DE-BE, DE-BW, DE-BY"),
        ("DE@Europe/Berln", "time zone 'Europe/Berln'", "Europe/Berlin"),
        ("DE@../etc", "time zone", "Europe/Berlin"),
        ("", "''", "such as DE or US"),
    ],
)
def test_an_unknown_place_is_named_with_those_that_there_are(place: str, what: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        with_holidays(panel_from("2024-01-01", 5, HOUR), [f"holidays:{place}"])
    assert caught.value.setting == "holidays"
    assert hint in (caught.value.hint or "")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _holidays.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "holidays", None)
    with pytest.raises(MissingDependencyError, match="needs the package holidays") as caught:
        with_holidays(panel_from("2024-01-01", 5, HOUR), ["holidays:DE"])
    assert "presurge[holidays]" in (caught.value.hint or "")
