"""Which format a file has, told by its columns alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from presurge.errors import FormatError
from presurge.series.timestamps import TimeUnit
from presurge.sources.files import open_file

GUIDE_SERIES = "guide-series"
GUIDE_COLUMNS = (
    "Timestamp",
    "Time_interval",
    "Concurrent_requests",
    "Request_tokens_sum",
    "Response_tokens_sum",
)
"""The second and the minute series of the training guide; the minute one has three averages more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """The columns of one kind of request trace; those named in ``optional`` (by role) may be absent."""

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
        """The columns that a file must have to be of this format."""
        return self.time, self.input_tokens, self.output_tokens


TRACE_FORMATS = (
    TraceFormat(
        name="burstgpt",
        time="Timestamp",
        input_tokens="Request tokens",
        output_tokens="Response tokens",
        elapsed="Elapsed time",
        model="Model",
        log_type="Log Type",
    ),
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


def recognise_file(path: Path | str) -> str:
    """Name the format of a file: that of a trace, or ``guide-series``.

    Raises:
        DataError: The file cannot be opened.
        FormatError: No format fits, or several do.
    """
    file = open_file(Path(path))
    return _fitting(file.columns, file.path)


def trace_format(columns: Sequence[str], *, path: Path, name: str | None = None) -> TraceFormat:
    """Find the trace format that fits the columns, or check the one that is named.

    Raises:
        FormatError: None fits, several do, the named one does not, or the file is a series already.
    """
    known = {each.name: each for each in TRACE_FORMATS}
    if name is None:
        name = _fitting(columns, path)
        if name == GUIDE_SERIES:
            raise FormatError(
                "is a series of sums already, not a trace of requests",
                where=str(path),
                hint="Use it as training data, or sum it up further: presurge prepare compress.",
            )
        return known[name]
    if name not in known:
        raise FormatError(
            f"{name!r} is no trace format", where=str(path), hint=f"The formats are: {', '.join(known)}."
        )
    missing = [column for column in known[name].needs if column not in columns]
    if missing:
        raise FormatError(
            f"is not in the format {name}: no column {', '.join(map(repr, missing))}",
            where=str(path),
            hint=f"The columns are: {', '.join(columns)}.",
        )
    return known[name]


def _fitting(columns: Sequence[str], path: Path) -> str:
    needs = {**{each.name: each.needs for each in TRACE_FORMATS}, GUIDE_SERIES: GUIDE_COLUMNS}
    fitting = [name for name, needed in needs.items() if set(needed) <= set(columns)]
    if len(fitting) == 1:
        return fitting[0]
    wants = "\n".join(f"  {name}: {', '.join(needed)}" for name, needed in needs.items())
    what = f"fits several formats ({', '.join(fitting)})" if fitting else "fits no known format"
    hint = (
        "Choose one with `format`"
        if fitting
        else "For any other table name its columns: `time=COL` `value=COL`"
    )
    raise FormatError(
        f"{what}; its columns are: {', '.join(columns)}",
        where=str(path),
        hint=f"{hint}. The formats and the columns they need:\n{wants}",
    )
