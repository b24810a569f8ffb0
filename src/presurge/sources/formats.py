"""The formats of files that Presurge knows by their columns: request traces, and the series of the training guide."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from presurge.errors import FormatError
from presurge.series.panel import Channel
from presurge.series.timestamps import TimeUnit
from presurge.sources.files import RowFile, check_columns, open_file

LOAD_CHANNELS = (
    Channel("requests", "requests", "count"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)
"""The channels of a series made from a trace: what arrived in each step."""

REQUEST_CHANNELS = (
    Channel("inter_arrival", "s", "count"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)
"""The channels of a panel with one row per request; waiting times add up and are never negative, as counts are."""

PROMETHEUS = "prometheus"
GUIDE_SERIES = "guide-series"
GUIDE_TIME = "Timestamp"
GUIDE_COUNTS = {
    "requests": "Concurrent_requests",
    "input_tokens": "Request_tokens_sum",
    "output_tokens": "Response_tokens_sum",
}
"""Channel -> its column in the guide's second and minute files. The guide calls arrivals concurrent requests."""

GUIDE_COLUMNS = (GUIDE_TIME, "Time_interval", *GUIDE_COUNTS.values())
"""The columns of a second file; a minute file adds three averages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """The columns of one kind of request log.

    In `TRACE_FORMATS` a column may be one of several (``"created|created_at"``): a file has the first that it holds.

    Attributes:
        name: Name of the format.
        time: When a request arrived.
        input_tokens: Tokens of its prompt; None if the log does not count them.
        output_tokens: Tokens of its answer.
        time_unit: Unit of numeric times.
        elapsed: Seconds that it took; may be absent from a file, as may the columns that follow.
        model: The model that answered.
        log_type: A kind of request.
        status: How it ended; without one, a request without an output token is a failure.
        ok: The values of ``status`` that mean success; empty for HTTP codes from 100 to 399 and the usual words.
        also: A column that a file must have too, although nothing reads it.
        only: A column, and its value in the rows that are requests.
    """

    name: str
    time: str
    input_tokens: str | None = None
    output_tokens: str | None = None
    time_unit: TimeUnit | None = None
    elapsed: str | None = None
    model: str | None = None
    log_type: str | None = None
    status: str | None = None
    ok: Sequence[str] = ()
    also: str | None = None
    only: Sequence[str] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns of which a row must have a usable value."""
        return tuple(name for name in (self.time, self.input_tokens, self.output_tokens) if name is not None)

    @property
    def required(self) -> tuple[str, ...]:
        """The columns that a file of this format must have."""
        status = self.status if self.output_tokens is None else None
        return (*self.needs, *self.only[:1], *(name for name in (status, self.also) if name is not None))

    def of(self, columns: Collection[str]) -> Self:
        """The format with the columns that a file has."""
        given = {name: text for name in _COLUMNS if (text := getattr(self, name)) is not None}
        found = {
            name: next((c for c in text.split("|") if c in columns), text) for name, text in given.items()
        }
        return replace(self, **found)

    def fits(self, columns: Collection[str]) -> bool:
        """Whether a file with these columns is of this format."""
        return set(self.of(columns).required) <= set(columns)


_COLUMNS = ("time", "input_tokens", "output_tokens", "elapsed", "model", "log_type", "status", "also")

TRACE_FORMATS = tuple(
    TraceFormat(**one)
    for one in tomllib.loads(files(__package__).joinpath("formats.toml").read_text("utf-8"))["format"]
)
_BY_NAME = {each.name: each for each in TRACE_FORMATS}
BURSTGPT = _BY_NAME["burstgpt"]
_NEEDS = {**{each.name: each.required for each in TRACE_FORMATS}, GUIDE_SERIES: GUIDE_COLUMNS[:3]}


def recognise_file(source: Path | str | RowFile) -> str:
    """Name the format of a file: that of a trace, ``guide-series``, or ``prometheus``.

    Raises:
        DataError: The file cannot be opened.
        FormatError: No format fits, or several do.
    """
    file = open_file(source)
    if file.table:
        return PROMETHEUS
    # The columns of an access log have common names, but were not in the file.
    formats = [each for each in TRACE_FORMATS if (each.name == "access-log") == (file.kind == "log")]
    fitting = [each.name for each in formats if each.fits(file.columns)]
    if set(_NEEDS[GUIDE_SERIES]) <= set(file.columns):
        fitting.append(GUIDE_SERIES)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what, hint = f"fits several formats ({', '.join(fitting)})", "Choose one with `format`"
    else:
        what = "fits no known format"
        hint = "For any other log of requests name its columns: `time=COL` `input_tokens=COL` `output_tokens=COL`, or `time` alone. "
        hint += "A table of values needs no preparing: `presurge train` and `presurge backtest` read it by its columns"
    wants = "\n".join(f"  {name}: {', '.join(needed)}" for name, needed in _NEEDS.items())
    raise FormatError(
        f"{what}; its columns are: {', '.join(file.columns)}",
        where=str(file.path),
        hint=f"{hint}. The formats and the columns they need:\n{wants}",
    )


def trace_format(
    file: RowFile, name: str | None = None, columns: Mapping[str, Any] | None = None
) -> TraceFormat:
    """Find the trace format that fits the columns of a file, or check the one that is named.

    Args:
        file: The file.
        name: Name of a format; by default the columns of the file decide.
        columns: Attributes of ``TraceFormat`` that replace those of the format. If they name the time and no format is
            named, they are all that is read.

    Raises:
        FormatError: None fits, several do, the named one does not, or the file is a series already.
    """
    columns, where = columns or {}, str(file.path)
    given = [value for key, value in columns.items() if key in _COLUMNS]
    if "time" in columns and name is None:
        check_columns(file, given)
        return TraceFormat(name="columns", **columns)
    name = name or recognise_file(file)
    if name in (GUIDE_SERIES, PROMETHEUS):
        raise FormatError(
            "is a series of sums already, not a trace of requests",
            where=where,
            hint="Use it as training data, or sum it over longer steps with `presurge prepare compress`.",
        )
    if name not in _BY_NAME:
        raise FormatError(
            f"{name!r} is not a trace format", where=where, hint=f"The formats are: {', '.join(_BY_NAME)}."
        )
    found = replace(_BY_NAME[name].of(file.columns), **columns)
    missing = [column for column in (*found.required, *given) if column not in file.columns]
    if missing:
        raise FormatError(
            f"is not in the format {name}: no column {', '.join(map(repr, missing))}",
            where=where,
            hint=f"The columns are: {', '.join(file.columns)}.",
        )
    return found
