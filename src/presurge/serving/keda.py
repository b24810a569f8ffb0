"""KEDA's external scaler: the forecast as the metric of a ScaledObject, before the load arrives.

https://keda.sh/docs/latest/concepts/external-scalers/. The value is the whole load; KEDA divides it by the replicas and compares
it with what one replica serves.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc

from presurge.errors import ConfigError, PresurgeError
from presurge.series.frequency import SECOND
from presurge.serving.protos import externalscaler_pb2 as pb
from presurge.serving.protos import externalscaler_pb2_grpc as stubs
from presurge.serving.service import Service
from presurge.serving.value import Value

KEYS = ("model", "item", "channel", "horizon", "lead", "quantile", "perReplica", "activation")
"""The keys of trigger metadata that are read; KEDA adds ``scalerAddress`` and the like."""
_OF_KEDA = (
    "scalerAddress",
    "scalerAddressFromEnv",
    "tlsCertFile",
    "caCert",
    "tlsClientCert",
    "tlsClientKey",
    "unsafeSsl",
    "enableTLS",
)
_SECONDS_BETWEEN = 5.0


class Trigger(NamedTuple):
    """What a ScaledObject asks for."""

    name: str
    value: Value
    per_replica: float
    activation: float

    @classmethod
    def of(cls, metadata: dict[str, str], service: Service) -> "Trigger":
        """Read the metadata of a trigger.

        Raises:
            ConfigError: A key is unknown or missing, or has an impossible value.
        """
        unknown = [key for key in metadata if key not in KEYS + _OF_KEDA and not key.endswith("FromEnv")]
        if unknown:
            hint = f"The keys are {', '.join(KEYS)}."
            raise ConfigError(f"unknown key {unknown[0]!r} in the trigger's metadata", hint=hint)
        if "perReplica" not in metadata:
            hint = "Give the load that one replica serves in a step of the model."
            raise ConfigError("the trigger's metadata lack perReplica", hint=hint)
        served = service.named(metadata.get("model"))
        step = served.model.fitted_spec().step / SECOND
        lead, horizon = (_positive(metadata, key) if key in metadata else None for key in ("lead", "horizon"))
        if lead is not None and horizon is not None:
            raise ConfigError(
                "lead and horizon exclude each other",
                hint="lead takes the peak until then, horizon one step.",
            )
        value = Value.of(
            served,
            item=metadata.get("item", ""),
            channel=metadata.get("channel"),
            point="mean" if "quantile" not in metadata else f"q{_positive(metadata, 'quantile'):g}",
            steps=math.ceil(lead / step) if lead is not None else int(horizon or 1),
            peak=lead is not None,
        )
        name = "-".join(part for part in ("presurge", served.name, value.item, value.channel) if part)
        return cls(name, value, _positive(metadata, "perReplica"), float(metadata.get("activation", 0)))


class Scaler(stubs.ExternalScalerServicer):
    """The external scaler of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        """Whether there is load to scale for: the forecast is above ``activation``."""
        trigger = await self._trigger(request, context)
        return pb.IsActiveResponse(result=await self._number(trigger, context) > trigger.activation)

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """The same, whenever it changes."""
        trigger, before = await self._trigger(request, context), None
        while not self._service.stopping:
            try:
                active = trigger.value.now(self._service) > trigger.activation
            except PresurgeError:  # no forecast yet: nothing changes
                active = bool(before)
            if active != before:
                yield pb.IsActiveResponse(result=active)
                before = active
            await asyncio.sleep(_SECONDS_BETWEEN)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        """The name of the metric and what one replica serves."""
        trigger = await self._trigger(request, context)
        spec = pb.MetricSpec(
            metricName=trigger.name,
            targetSize=math.ceil(trigger.per_replica),
            targetSizeFloat=trigger.per_replica,
        )
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def StreamMetricSpec(
        self, request: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.GetMetricSpecResponse]:
        """The same once: it follows from the metadata alone, which KEDA sends with every stream."""
        yield await self.GetMetricSpec(request, context)
        while not self._service.stopping:
            await asyncio.sleep(_SECONDS_BETWEEN)

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        """The forecast load, under the name that KEDA asks for."""
        trigger = await self._trigger(request.scaledObjectRef, context)
        number = await self._number(trigger, context)
        value = pb.MetricValue(
            metricName=request.metricName or trigger.name,
            metricValue=math.ceil(number),
            metricValueFloat=number,
        )
        return pb.GetMetricsResponse(metricValues=[value])

    async def _trigger(self, request: pb.ScaledObjectRef, context: Any) -> Trigger:
        try:
            return Trigger.of(dict(request.scalerMetadata), self._service)
        except PresurgeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def _number(self, trigger: Trigger, context: Any) -> float:
        """The value of now; without one KEDA keeps the replicas, or takes the trigger's fallback."""
        try:
            return trigger.value.now(self._service)
        except PresurgeError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
            raise


def _positive(metadata: dict[str, str], key: str) -> float:
    try:
        number = float(metadata[key])
    except ValueError as error:
        raise ConfigError(f"{key} is {metadata[key]!r}, which is not a number") from error
    if not 0 < number < math.inf:
        raise ConfigError(f"{key} is {metadata[key]!r}, which is not greater than 0")
    return number
