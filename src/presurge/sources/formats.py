"""The formats of files that Presurge knows by their columns: request traces, and the series of the training guide."""

from dataclasses import dataclass
from pathlib import Path

from presurge.errors import FormatError
from presurge.series.panel import Channel
from presurge.series.timestamps import TimeUnit
from presurge.sources.files import RowFile, open_file

LOAD_CHANNELS = (
    Channel("requests", "requests", "count"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)
"""The channels of a series made from a trace: what arrived in each step."""

REQUEST_CHANNELS = (
    Channel("inter_arrival", "s", "gauge"),
    Channel("input_tokens", "tokens", "count"),
    Channel("output_tokens", "tokens", "count"),
)
"""The channels of a panel with one row per request."""

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
    """The columns of one kind of request trace; ``elapsed``, ``model`` and ``log_type`` may be absent from a file."""

    name: str
    time: str
    input_tokens: str
    output_tokens: str
    time_unit: TimeUnit | None = None
    elapsed: str | None = None
    model: str | None = None
    log_type: str | None = None

    @property
    def needs(self) -> tuple[str, str, str]:
        """The columns that a file of this format must have."""
        return self.time, self.input_tokens, self.output_tokens


BURSTGPT = TraceFormat(
    name="burstgpt",
    time="Timestamp",
    input_tokens="Request tokens",
    output_tokens="Response tokens",
    elapsed="Elapsed time",
    model="Model",
    log_type="Log Type",
)
TRACE_FORMATS = (
    BURSTGPT,
    TraceFormat(
        name="azure-llm", time="TIMESTAMP", input_tokens="ContextTokens", output_tokens="GeneratedTokens"
    ),
    TraceFormat(
        name="mooncake",
        time="timestamp",
        input_tokens="input_length",
        output_tokens="output_length",
        time_unit="ms",
    ),
    TraceFormat(
        name="mooncake-csv",
        time="timestamp_ms",
        input_tokens="input_tokens",
        output_tokens="output_tokens",
        time_unit="ms",
    ),
)
_BY_NAME = {each.name: each for each in TRACE_FORMATS}
_NEEDS = {**{each.name: each.needs for each in TRACE_FORMATS}, GUIDE_SERIES: GUIDE_COLUMNS}


def recognise_file(source: Path | str | RowFile) -> str:
    """Name the format of a file: that of a trace, or ``guide-series``.

    Raises:
        DataError: The file cannot be opened.
        FormatError: No format fits, or several do.
    """
    file = open_file(source)
    fitting = [name for name, needed in _NEEDS.items() if set(needed) <= set(file.columns)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        what, hint = f"fits several formats ({', '.join(fitting)})", "Choose one with `format`"
    else:
        what, hint = "fits no known format", "For any other table name its columns: `time=COL` `value=COL`"
    wants = "\n".join(f"  {name}: {', '.join(needed)}" for name, needed in _NEEDS.items())
    raise FormatError(
        f"{what}; its columns are: {', '.join(file.columns)}",
        where=str(file.path),
        hint=f"{hint}. The formats and the columns they need:\n{wants}",
    )


def trace_format(file: RowFile, name: str | None = None) -> TraceFormat:
    """Find the trace format that fits the columns of a file, or check the one that is named.

    Raises:
        FormatError: None fits, several do, the named one does not, or the file is a series already.
    """
    name, where = name or recognise_file(file), str(file.path)
    if name == GUIDE_SERIES:
        raise FormatError(
            "is a series of sums already, not a trace of requests",
            where=where,
            hint="Use it as training data, or sum it over longer steps with `presurge prepare compress`.",
        )
    if name not in _BY_NAME:
        raise FormatError(
            f"{name!r} is not a trace format", where=where, hint=f"The formats are: {', '.join(_BY_NAME)}."
        )
    missing = [column for column in _BY_NAME[name].needs if column not in file.columns]
    if missing:
        raise FormatError(
            f"is not in the format {name}: no column {', '.join(map(repr, missing))}",
            where=where,
            hint=f"The columns are: {', '.join(file.columns)}.",
        )
    return _BY_NAME[name]
