"""``presurge serve``: the forecast service."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from presurge.cli.command import Options
from presurge.cli.console import console
from presurge.cli.options import CommonWithModels
from presurge.errors import ConfigError, required


@dataclass(frozen=True, kw_only=True)
class Models(Options):
    """Arguments.

    Attributes:
        models: Run or model directories, as DIR or NAME=DIR; without a name a model is called after its directory.
    """

    models: Annotated[list[str] | None, typer.Argument(metavar="MODEL...")] = None


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Options.

    Attributes:
        config: File with any of the settings, YAML or JSON; options override it.
        host: Address to listen at (default: 127.0.0.1; 0.0.0.0 for all).
        port: Port of HTTP (default: 8080).
        state: Directory that keeps observations across restarts (default: in memory alone).
        token_file: File with the bearer token that clients must send.
        certificate: PEM file of the TLS certificate chain.
        key: PEM file of its key.
        fill: What a bucket without a row holds (default: auto, zero for counts and missing for gauges).
        lateness: How long after its end a bucket of raw events stays open, such as 30s (default: 0s).
    """

    config: Path | None = None
    host: Annotated[str | None, "ADDRESS"] = None
    port: int | None = None
    state: Annotated[Path | None, "DIR"] = None
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    fill: Literal["auto", "zero", "missing"] | None = None
    lateness: Annotated[str | None, "TIME"] = None


@dataclass(frozen=True, kw_only=True)
class Sources(Options):
    """Rows from Prometheus.

    Attributes:
        prometheus: Address of a server that is asked for every row, such as http://host:9090.
        query: The expression of a channel, evaluated at the end of each bucket; repeatable.
        item: The label of the answers that names the item.
    """

    prometheus: Annotated[str | None, "URL"] = None
    query: Annotated[list[str], "CHANNEL=PROMQL"] = field(default_factory=list)
    item: Annotated[str | None, "--item-label", "LABEL"] = None


@dataclass(frozen=True, kw_only=True)
class Scalers(Options):
    """Autoscalers.

    Attributes:
        keda_port: Port of the KEDA external scaler, which any model can answer.
        dynamo_port: Port of the plugin for NVIDIA Dynamo's planner; its model forecasts requests, input_tokens/requests and
            output_tokens/requests, in steps of the planner's interval.
        point: What the planner takes as demand: mean, median or a quantile such as q0.9 (default: mean).
        steps: Forecast the largest window of so many, for workers that start slowly (default: 1).
    """

    keda_port: int | None = None
    dynamo_port: int | None = None
    point: Annotated[str | None, "mean|median|q0.9"] = None
    steps: int | None = None


def serve(
    models: Models, options: ServeOptions, sources: Sources, scalers: Scalers, common: CommonWithModels
) -> None:
    """Serve forecasts over HTTP and gRPC.

    Send histories to /v1/forecast, or rows and raw events to /v1/observe and ask /v1/forecast/ITEM. The page at / shows
    forecasts and how wrong they were lately, /metrics tells Prometheus, /openapi.json describes everything.

    Examples:
      presurge serve run
      presurge serve web=runs/web gpu=runs/gpu --state state --host 0.0.0.0
      presurge serve run --prometheus http://prom:9090 --query 'cpu=avg(load1)'
      presurge serve run --keda-port 9090 --dynamo-port 9099 --point q0.9
    """
    from presurge.config import read_mapping, validated

    with (
        required("fastapi", purpose="the service", extra="serve"),
        required("grpc", purpose="the service", extra="serve"),
    ):
        from presurge.serving.config import ServeConfig
        from presurge.serving.server import serve as run
    given: dict[str, Any] = {} if options.config is None else read_mapping(options.config)
    given |= {name: value for name, value in options.given().items() if name != "config"}
    if models.models:
        given["models"] = dict(_named(text) for text in models.models)
    if sources.prometheus is not None:
        queries = dict(_pair(text) for text in sources.query)
        given["prometheus"] = [{"url": sources.prometheus, "queries": queries, "item": sources.item}]
    elif sources.given():
        raise ConfigError("is needed to ask for rows", setting="prometheus")
    if scalers.keda_port is not None:
        given["keda_port"] = scalers.keda_port
    dynamo = {"port": scalers.dynamo_port, "point": scalers.point, "steps": scalers.steps}
    if changed := {name: value for name, value in dynamo.items() if value is not None}:
        given["dynamo"] = {**(given.get("dynamo") or {}), **changed}
        if "port" not in given["dynamo"]:
            raise ConfigError("is needed for the planner's plugin", setting="dynamo_port")
    if not given.get("models"):
        hint = "Give the directory that `presurge train --out` wrote."
        raise ConfigError("no model is named", setting="models", hint=hint)
    config = validated(ServeConfig, given, where=None if options.config is None else str(options.config))
    run(config, console.say)


def _named(text: str) -> tuple[str, str]:
    """Name and directory of a model; the name of a run directory is its own."""
    name, found, path = text.partition("=")
    if found:
        return name, path
    place = Path(text).resolve()
    return (place.parent.name if place.name == "models" else place.name) or "model", text


def _pair(text: str) -> tuple[str, str]:
    channel, found, query = text.partition("=")
    if not (found and channel and query):
        raise ConfigError(f"{text!r} is no CHANNEL=PROMQL", setting="query")
    return channel, query
