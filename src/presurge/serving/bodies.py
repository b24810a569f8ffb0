"""Requests and answers: msgspec checks and reads them, and describes them in the OpenAPI document."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from presurge.errors import DataError

LARGEST = 3.4e38
"""The largest value that a float32 holds."""
Answer = tuple[int, bytes]
"""Status and body of an answer."""


class Asked(NamedTuple):
    """A request: the names in its path, its query, body and headers."""

    names: Mapping[str, str]
    query: Mapping[str, str]
    body: bytes
    headers: Mapping[bytes, bytes]


Name = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00-\x1f]*$")]
Channel = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Time = Annotated[str | float, msgspec.Meta(description="ISO 8601, or seconds (or milliseconds) since 1970")]
Horizon = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Level = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Levels = Annotated[list[Level], msgspec.Meta(min_length=1, max_length=99)]


class History(msgspec.Struct, forbid_unknown_fields=True):
    """The rows of one item, oldest first."""

    values: dict[Channel, list[float | None]]
    end: Time | None = None
    item: Name = ""
    features: dict[Channel, float] = {}


class ForecastRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Histories to forecast from; ``future`` holds the known channels of the rows after them."""

    history: Annotated[list[History], msgspec.Meta(min_length=1)]
    model: Name | None = None
    horizon: Horizon | None = None
    levels: Levels | None = None
    future: list[History] = []


class ItemQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What to forecast of an item; ``model`` may be left out where there is one."""

    model: Name | None = None
    horizon: Horizon | None = None
    levels: Levels | None = None


class LiveQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Whose live error to show."""

    model: Name | None = None
    item: Name | None = None


class Observation(msgspec.Struct, forbid_unknown_fields=True):
    """A row of all channels, or a raw event."""

    time: Time
    values: dict[Channel, float | None] = {}
    item: Name = ""


class ObserveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Rows (whole buckets) and events (to be added up); one ``id`` is counted once, however often it is sent."""

    rows: list[Observation] = []
    events: list[Observation] = []
    model: Name | None = None
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None


class Record(msgspec.Struct, array_like=True):
    """An observation as the log keeps it; ``now`` is when it came, in microseconds."""

    now: int
    rows: list[tuple[str, int, dict[str, float | None], bool]]
    model: str | None = None
    id: str | None = None


class Refusal(msgspec.Struct):
    """A row that was not taken in, and why."""

    item: str
    time: float
    reason: str


class Observed(msgspec.Struct):
    """What became of the rows and events: ``late`` ones are among the accepted; ``durable`` says whether the disk holds them."""

    accepted: int
    late: int
    duplicate: int
    refused: list[Refusal]
    durable: bool


class Failure(msgspec.Struct, omit_defaults=True):
    """What was wrong, where, and what to do about it."""

    error: str
    where: str | None = None
    setting: str | None = None
    hint: str | None = None


read_forecast = msgspec.json.Decoder(ForecastRequest).decode
read_observe = msgspec.json.Decoder(ObserveRequest).decode
read_record = msgspec.json.Decoder(Record).decode


def encode(value: Any) -> bytes:
    """JSON in UTF-8; numbers that are not finite become null."""
    return msgspec.json.encode(value)


def finite(value: float | None, *, where: str) -> float | None:
    """A value that is a finite number or missing.

    Raises:
        DataError: It is infinite or beyond what a float32 holds.
    """
    if value is not None and not abs(value) <= LARGEST:
        raise DataError("a value is infinite", where=where, hint="Send null where a value is missing.")
    return value
