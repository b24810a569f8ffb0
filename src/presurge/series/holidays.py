"""Public holidays as a known covariate: a channel whose name says where they are, so that any row's value follows from its time.

The channel ``holidays:DE-BY@Europe/Berlin`` is 1 in every row that begins on a public holiday of Bavaria by the clock of
Berlin, and 0 in all others; in rows longer than a day it is the share of their days. A model that uses it needs no table of
holidays to forecast: its name is all that it remembers.
"""

from collections.abc import Container, Iterable
from datetime import date
from difflib import get_close_matches
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import polars as pl

from presurge.errors import ConfigError, required
from presurge.series.frequency import DAY
from presurge.series.panel import Channel, FloatArray, IntArray, Panel

PREFIX = "holidays:"


def of_holidays(place: str | None) -> tuple[str, ...]:
    """The name of the channel with the holidays of a place; none of no place."""
    return () if place is None else (PREFIX + place,)


def is_holidays(name: str) -> bool:
    """Whether a channel of this name holds holidays, so that no data need to hold it."""
    return name.startswith(PREFIX)


def with_holidays(panel: Panel, names: Iterable[str]) -> Panel:
    """The panel with every channel of holidays among the names that it does not have yet, as known covariates.

    Raises:
        ConfigError: The clock of the panel is relative, or there is no such country, subdivision or time zone.
        MissingDependencyError: The package ``holidays`` is not installed.
    """
    for name in dict.fromkeys(names):
        if not is_holidays(name) or name in panel.channel_names:
            continue
        if panel.clock != "utc":
            raise ConfigError(
                "the stamps count seconds from an unknown origin, so no row is known to be a holiday",
                setting="holidays",
                hint="Give data with dates, or leave it out.",
            )
        share_R = _share(name.removeprefix(PREFIX), panel.times(), panel.step)
        panel = panel.with_channel(Channel(name, role="known"), share_R)
    return panel


def holidays_after(history: Panel, horizon: int, names: Iterable[str]) -> Panel:
    """The channels of holidays for the rows after the history of every item, which follow its clock."""
    items = len(history.items)
    after = Panel(
        values=np.zeros((items * horizon, 0), np.float32),
        channels=(),
        step=history.step,
        start=history.times_of(history.indptr[1:] - 1) + history.step,
        items=history.items,
        indptr=horizon * np.arange(items + 1),
        clock=history.clock,
    )
    return with_holidays(after, names)


def _share(place: str, time_R: IntArray, step: int) -> FloatArray:
    """The share of the days of every row that are holidays: float32 [R]."""
    region, _, zone = place.partition("@")
    country, _, subdivision = region.partition("-")
    day_RD = _local_days(time_R, zone or "UTC")[:, None] + np.arange(max(1, step // DAY))
    calendar, days = _holidays(country, subdivision), np.unique(day_RD)
    found = [day in calendar for day in days.astype("M8[D]").tolist()]
    share_R: FloatArray = np.isin(day_RD, days[found]).mean(axis=1, dtype=np.float32)
    return share_R


def _local_days(time_R: IntArray, zone: str) -> IntArray:
    """The local dates of times, in days since 1970.

    Raises:
        ConfigError: There is no such time zone.
    """
    try:
        ZoneInfo(zone)
    except (OSError, ValueError, LookupError) as error:
        near = get_close_matches(zone, available_timezones(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "For example: `holidays=DE@Europe/Berlin`"
        raise ConfigError(f"there is no time zone {zone!r}", setting="holidays", hint=hint) from error
    stamp = pl.Series(time_R).cast(pl.Datetime("us", "UTC")).dt.convert_time_zone(zone)
    return stamp.dt.date().cast(pl.Int32).to_numpy().astype(np.int64)


@cache
def _holidays(country: str, subdivision: str) -> Container[date]:
    """The public holidays, of every year that is asked for.

    Raises:
        ConfigError: There is no such country or subdivision.
        MissingDependencyError: The package ``holidays`` is not installed.
    """
    with required("holidays", purpose="public holidays", extra="holidays"):
        from holidays import country_holidays, list_supported_countries
    try:
        return country_holidays(country, subdiv=subdivision or None)
    except NotImplementedError as error:
        among = list_supported_countries(include_aliases=False)
        wrong, hint = country, "Give the code of a country, such as DE or US."
        if near := get_close_matches(country.upper(), among, n=3, cutoff=0.5):
            hint = f"Did you mean {' or '.join(near)}?"
        if country in among:
            parts, wrong = [f"{country}-{part}" for part in among[country]], f"{country}-{subdivision}"
            hint = f"Choose one of: {', '.join(parts)}." if parts else "Name the country alone."
        what = f"no public holidays are known for {wrong!r}"
        raise ConfigError(what, setting="holidays", hint=hint) from error
