"""Configuration of the service."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from presurge.config import Config
from presurge.errors import ConfigError
from presurge.series.frequency import SECOND, parse_step
from presurge.sources.prometheus import Query
from presurge.sources.table import Fill
from presurge.workflows.predict import GapRule


def _microseconds(given: str | int) -> int:
    if str(given) in ("0", "0s"):
        return 0
    try:
        return parse_step(given)
    except ConfigError as error:
        raise ValueError("is no time such as 30s or 5m") from error


def _server(url: str) -> str:
    try:
        Query(url=url, query="up", start=0, end=0, step=1)
    except ConfigError as error:
        raise ValueError(error.what) from error
    return url


Port = Annotated[int, Field(ge=0, le=65_535)]
Duration = Annotated[int, BeforeValidator(_microseconds)]
"""Microseconds, written as ``30s`` or a number of seconds."""


class PollConfig(Config):
    """A Prometheus server that is asked for every row.

    Attributes:
        url: Its address: ``http://host:9090``.
        queries: Channel -> expression in PromQL, evaluated at the end of each bucket: ``increase(...[1m])`` for a count.
        item: The label that names the item; None for one item without a name.
        model: Which model it feeds; None for all.
        delay: How long after the end of a bucket to ask, so that the samples have arrived, such as ``5s``.
        token_file: File with a bearer token for the server.
    """

    url: Annotated[str, AfterValidator(_server)]
    queries: dict[str, str] = Field(min_length=1)
    item: str | None = None
    model: str | None = None
    delay: Duration = 5 * SECOND
    token_file: Path | None = None


class DynamoConfig(Config):
    """The PREDICT plugin of NVIDIA Dynamo's planner.

    Attributes:
        port: Port of its gRPC server.
        model: The model: it forecasts requests, input_tokens/requests and output_tokens/requests.
        item: Under which name the planner's traffic is kept.
        point: What the planner takes as demand: ``mean``, ``median`` or a quantile such as ``q0.9``.
        steps: The largest value over this many steps, for workers that start slowly.
    """

    port: Port
    model: str | None = None
    item: str = "dynamo"
    point: str = Field(default="mean", pattern=r"^(mean|median|q0?\.\d*[1-9]\d*)$")
    steps: int = Field(default=1, ge=1)


class ServeConfig(Config):
    """How to serve forecasts.

    Attributes:
        models: Name -> model directory or run directory.
        host: Address to listen at.
        port: Port of HTTP.
        keda_port: Port of the KEDA external scaler; None for none.
        dynamo: The Dynamo plugin; None for none.
        prometheus: Servers to ask for rows.
        state: Directory of the log and the snapshots; None keeps observations in memory alone.
        token_file: File with the bearer token that clients must send; None lets everybody in.
        certificate: PEM file of the TLS certificate chain.
        key: PEM file of its key.
        max_body: Largest body of a request in bytes.
        max_windows: Most histories or rows in one request.
        max_items: Most items that a model follows.
        deadline: Seconds after which a request is given up.
        grace: Seconds that requests in flight have to finish when the service stops.
        fill: What a bucket without a row holds: zero for counts and missing for gauges, zero, or missing.
        fill_gaps: How to treat missing values in a context: interpolate and say so, or give no forecast.
        lateness: How long after its end a bucket of events stays open, such as ``30s``.
        window: Rows over which the live error is measured, at least ten horizons.
        snapshot_mb: Size of the log in MB at which a snapshot is taken.
        exported: Items of each model that ``/metrics`` and the page show; the others are counted.
    """

    models: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], Path] = Field(
        min_length=1
    )
    host: str = "127.0.0.1"
    port: Port = 8080
    keda_port: Port | None = None
    dynamo: DynamoConfig | None = None
    prometheus: tuple[PollConfig, ...] = ()
    state: Path | None = None
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    max_body: int = Field(default=8 << 20, ge=1024)
    max_windows: int = Field(default=10_000, ge=1)
    max_items: int = Field(default=10_000, ge=1)
    deadline: float = Field(default=10.0, gt=0)
    grace: float = Field(default=10.0, ge=0)
    fill: Fill = "auto"
    fill_gaps: GapRule = "interpolate"
    lateness: Duration = 0
    window: int = Field(default=200, ge=30, le=100_000)
    snapshot_mb: int = Field(default=64, ge=1)
    exported: int = Field(default=200, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or neither")
        names = {*self.models}
        for name in (self.dynamo and self.dynamo.model, *(poll.model for poll in self.prometheus)):
            if name is not None and name not in names:
                raise ValueError(f"there is no model {name!r}: the models are {', '.join(sorted(names))}")
        return self
