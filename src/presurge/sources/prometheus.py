"""The answers of a Prometheus server to range queries, saved as a file or asked for over HTTP, as a table.

The format and its limits: https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
"""

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import polars as pl

from presurge import __version__
from presurge.errors import ConfigError, DataError, FetchError
from presurge.series.frequency import SECOND, parse_step
from presurge.series.timestamps import detect_form, stamp_expr
from presurge.sources.files import RowFrame

MAX_POINTS = 11_000
"""A server refuses a query for more moments than this; a longer time is asked for in pieces."""
TIMEOUT_SECONDS = 120

_ANSWER = re.compile(r'\s*\{\s*"status"\s*:\s*"(success|error)"\s*,.{0,200}?"(resultType|errorType)"\s*:')
_JSON_LINES = "JSON lines have one object in each line: jq -c . FILE > NEW"

Piece = tuple[list[tuple[dict[str, str], list[tuple[float, float]]]], list[str]]
"""The series of an answer, each with its labels and its (seconds since 1970, value), and the server's warnings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A range query.

    Attributes:
        url: Address of the server: ``http://host:9090``, with a path if it has one.
        query: The expression, in PromQL.
        start: First moment in seconds since 1970.
        end: Last moment.
        step: Seconds between two moments, each a multiple of it.
        token_file: File with a bearer token to authenticate with.

    Raises:
        ConfigError: The address is none of a server, or the times are in the wrong order.
    """

    url: str
    query: str
    start: int
    end: int
    step: int
    token_file: Path | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ConfigError(
                f"{parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()!r} is not the address of a server",
                setting="prometheus",
                hint="Write http://HOST:9090 or https://HOST/PATH; a password belongs into the file of `token_file`.",
            )
        if self.end < self.start:
            raise ConfigError(
                "the last moment is before the first", setting="end", hint="Swap `start` and `end`."
            )

    def pieces(self) -> Iterable[str]:
        """The addresses to ask, each for no more moments than a server answers."""
        base = self.url.rstrip("/").removesuffix("/api/v1/query_range") + "/api/v1/query_range?"
        moments = range(self.start // self.step * self.step, self.end + 1, self.step)
        for begin in range(0, len(moments), MAX_POINTS):
            piece = moments[begin : begin + MAX_POINTS]
            yield base + urlencode(
                {"query": self.query, "start": piece[0], "end": piece[-1], "step": self.step}
            )


def parse_moment(text: str, setting: str) -> int:
    """A moment in seconds since 1970, from a date and time, such a number, ``now`` or ``now-7d``.

    Raises:
        ConfigError: It is none of them.
    """
    if match := re.fullmatch(r"now(?:-(\d+)([smhdw]))?", text):
        ago = int(match[1]) * parse_step(f"1{match[2]}") // SECOND if match[1] else 0
        return int(time.time()) - ago
    try:
        form = detect_form(pl.Series([text]), where=text)
    except DataError as error:
        hint = "Write 2024-05-01T00:00:00Z, seconds since 1970, now or now-7d."
        raise ConfigError(f"{text!r} is not a time", setting=setting, hint=hint) from error
    return int(pl.DataFrame({"at": [text]}).select(stamp_expr("at", form)).item()) // SECOND


def is_answer(line: str) -> bool:
    """Whether a file that begins with this line is the answer of a Prometheus server."""
    return _ANSWER.match(line) is not None


def parse_answer(text: str, name: str, **more: Any) -> RowFrame:
    """The answer to one range query; ``more`` as in ``RowFrame``.

    Returns:
        ``time`` (seconds since 1970), ``item`` (the labels, unless there are none) and a column for each metric: ``value`` if
        the expression left no name.

    Raises:
        DataError: It is something else, or holds no series.
    """
    return _answer([_parsed(text, name)], name, name, **more)


def fetch(query: Query) -> RowFrame:
    """Ask a server.

    Raises:
        FetchError: It cannot be reached, or refuses the query.
        DataError: The answer holds no series.
    """
    file = _answer(answers(query), query.query, f"{query.url}, {query.query}")
    return replace(file, table={**file.table, "step": f"{query.step}s"})


def answers(query: Query, timeout: float = TIMEOUT_SECONDS) -> list[Piece]:
    """The series that a server gives, a piece for each request that it took.

    Args:
        query: What to ask.
        timeout: Seconds to wait for an answer.

    Raises:
        FetchError: It cannot be reached, or refuses the query.
        DataError: It answers something else.
    """
    token = None
    if query.token_file is not None:
        try:
            token = query.token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be read: {error}", setting="token_file") from error
    return [_parsed(_ask(address, token, timeout), query.url) for address in query.pieces()]


def _ask(address: str, token: str | None, timeout: float) -> str:
    """The body that a server answers, also where it says what is wrong with a query."""
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(address, headers={"User-Agent": f"presurge/{__version__}"})
    if token:  # and not to where a redirect leads
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    server = address.partition("/api/v1/")[0]
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        body = error.read().decode(errors="replace")
        if is_answer(body):
            return body
        hint = (
            "Give a token with `token_file`."
            if error.code in (401, 403)
            else "Check the address and its path."
        )
        raise FetchError(f"answers HTTP {error.code} {error.reason}", where=server, hint=hint) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        hint = "Check the address, and that the server runs."
        raise FetchError(f"cannot be asked: {cause}", where=server, hint=hint) from error


def _parsed(text: str, where: str) -> Piece:
    """The series of an answer, and the server's warnings."""
    try:
        answer = json.loads(text)
        if answer["status"] != "success":
            hint = "Fix `query`, or ask for less: a shorter time or a wider `step`."
            raise FetchError(
                f"refuses the query ({answer['errorType']}): {answer['error']}", where=where, hint=hint
            )
        if (kind := answer["data"]["resultType"]) != "matrix":
            hint = "Save the answer of /api/v1/query_range, which covers a time and not one moment."
            raise DataError(f"is a {kind}, not the answer to a range query", where=where, hint=hint)
        series = [
            (dict(one["metric"]), [(float(moment), float(value)) for moment, value in one.get("values", ())])
            for one in answer["data"]["result"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        what = "is neither JSON lines nor the answer of a Prometheus server to a range query"
        raise DataError(what, where=where, hint=_JSON_LINES) from error
    return series, [f"the server warns: {warning}" for warning in answer.get("warnings", ())]


def _answer(pieces: Sequence[Piece], name: str, where: str, **more: Any) -> RowFrame:
    """A row for each moment and item, a column for each metric; infinite values are missing."""
    found = [one for series, _ in pieces for one in series]
    used = {label for labels, _ in found for label in labels if label != "__name__"}
    rows = []
    for labels, points in found:
        channel = labels.pop("__name__", "value")
        own = ",".join(text if len(used) == 1 else f"{name}={text}" for name, text in sorted(labels.items()))
        frame = pl.DataFrame(points, schema={"time": pl.Float64, "value": pl.Float64}, orient="row")
        rows.append(frame.with_columns(item=pl.lit(own), channel=pl.lit(channel)))
    samples = pl.concat(rows or [pl.DataFrame({"value": []})])
    infinite = int(samples["value"].is_infinite().sum())
    samples = samples.filter(pl.col("value").is_finite())
    if samples.is_empty():
        hint = "Check the query and its times: the server keeps samples for a limited time."
        raise DataError("no series has a value", where=where, hint=hint)
    # Of several samples of one moment, as in answers that were joined, the last one counts.
    frame = samples.pivot("channel", index=["time", "item"], values="value", aggregate_function="last")
    frame = frame.sort("item", "time")
    values = frame.columns[2:]
    alone = frame["item"].unique().to_list() == [""]
    table: dict[str, Any] = {"time": "time", "values": values, "item": None if alone else "item"}
    # A sample holds for a moment: four of a minute do not add up.
    table["kinds"] = dict.fromkeys(values, "gauge")
    warnings = dict.fromkeys(note for _, notes in pieces for note in notes)
    lost = [f"infinite values taken as missing: {infinite:,}"] if infinite else []
    return RowFrame.of(
        frame.drop("item") if alone else frame, name, table=table, notes=(*warnings, *lost), **more
    )
