"""KEDA's external scaler: the forecast as the metric of a ScaledObject, before the load arrives.

https://keda.sh/docs/latest/concepts/external-scalers/. The value is the whole load; KEDA divides it by the replicas and compares
it with what one replica serves.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import grpc
from pydantic import Field

from presurge.config import Config, validated
from presurge.errors import ConfigError, HistoryError, PresurgeError
from presurge.series.frequency import SECOND
from presurge.serving.protos import externalscaler_pb2 as pb
from presurge.serving.protos import externalscaler_pb2_grpc as stubs
from presurge.serving.service import NotFoundError, Service
from presurge.serving.value import Value

_OF_KEDA = {
    "scalerAddress",
    "caCert",
    "tlsCertFile",
    "tlsClientCert",
    "tlsClientKey",
    "enableTLS",
    "unsafeSsl",
}
_CODES = {HistoryError: grpc.StatusCode.UNAVAILABLE, NotFoundError: grpc.StatusCode.NOT_FOUND}
_SECONDS_BETWEEN = 1.0


class TriggerConfig(Config):
    """The metadata of a trigger; KEDA sends every value as text.

    Attributes:
        model: Name of the model; needed if several are served.
        item: The item, such as a host; none if the rows have no names.
        channel: The channel; needed if the model forecasts several.
        horizon: The step to take, counted from 1.
        lead: Instead of a step, take the peak of so many seconds: the time that a replica takes to start.
        quantile: A quantile instead of the mean.
        perReplica: The load that one replica serves in a step of the model.
        activation: The forecast above which there is anything to scale for.
    """

    model: str | None = None
    item: str = ""
    channel: str | None = None
    horizon: int | None = Field(default=None, ge=1)
    lead: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    quantile: float | None = Field(default=None, gt=0, lt=1)
    perReplica: float = Field(gt=0, allow_inf_nan=False)
    activation: float = Field(default=0, allow_inf_nan=False)


class Trigger(NamedTuple):
    """What a ScaledObject asks for."""

    name: str
    value: Value
    config: TriggerConfig

    @classmethod
    def of(cls, metadata: dict[str, str], service: Service) -> "Trigger":
        """Read the metadata of a trigger; KEDA has looked up what ``...FromEnv`` names.

        Raises:
            ConfigError: A key is unknown or missing, has an impossible value, or asks for what the model does not forecast.
            NotFoundError: There is no such model.
        """
        own = {key.removesuffix("FromEnv"): text for key, text in metadata.items()}
        config = validated(TriggerConfig, {key: text for key, text in own.items() if key not in _OF_KEDA})
        served, lead = service.named(config.model), config.lead
        if lead is not None and config.horizon is not None:
            hint = "`lead` takes the peak until then, `horizon` one step."
            raise ConfigError("`lead` and `horizon` exclude each other", hint=hint)
        step = served.model.fitted_spec().step / SECOND
        steps = math.ceil(lead / step) if lead is not None else config.horizon or 1
        value = Value(served, config.item, config.channel, config.quantile, steps, peak=lead is not None)
        parts = ("presurge", served.name, config.item, config.channel)
        return cls(re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(filter(None, parts))), value, config)


class Scaler(stubs.ExternalScalerServicer):
    """The external scaler of a service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        """Whether there is load to scale for: the forecast is above ``activation``."""
        trigger, number = await self._ask(request, context)
        return pb.IsActiveResponse(result=number > trigger.config.activation)

    async def StreamIsActive(
        self, request: pb.ScaledObjectRef, context: Any
    ) -> AsyncIterator[pb.IsActiveResponse]:
        """The same whenever it changes; while there is no forecast, nothing changes."""
        await self._ask(request, context, number=False)
        before = None
        while not self._service.stopping:
            with contextlib.suppress(PresurgeError):  # without a forecast nothing changes
                trigger = Trigger.of(dict(request.scalerMetadata), self._service)
                active = trigger.value.now(self._service.now()) > trigger.config.activation
                if active != before:
                    before = active
                    yield pb.IsActiveResponse(result=active)
            await asyncio.sleep(_SECONDS_BETWEEN)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        """The name of the metric and what one replica serves."""
        trigger, _ = await self._ask(request, context, number=False)
        each = trigger.config.perReplica
        spec = pb.MetricSpec(metricName=trigger.name, targetSize=math.ceil(each), targetSizeFloat=each)
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
        trigger, number = await self._ask(request.scaledObjectRef, context)
        value = pb.MetricValue(metricValue=math.ceil(number), metricValueFloat=number)
        value.metricName = request.metricName or trigger.name
        return pb.GetMetricsResponse(metricValues=[value])

    async def _ask(
        self, request: pb.ScaledObjectRef, context: Any, *, number: bool = True
    ) -> tuple[Trigger, float]:
        """A trigger and its forecast; without one KEDA keeps the replicas, or takes the trigger's fallback."""
        try:
            trigger = Trigger.of(dict(request.scalerMetadata), self._service)
            return trigger, trigger.value.now(self._service.now()) if number else math.nan
        except PresurgeError as error:
            await context.abort(_CODES.get(type(error), grpc.StatusCode.INVALID_ARGUMENT), str(error))
            raise
