"""A PREDICT plugin of NVIDIA Dynamo's planner: its traffic in, the forecast of the next window out.

The planner takes what it is told as the demand itself, so ``point`` may be a quantile; it asks every window, and a request
without traffic, or a window of another length than the model's step, gets no opinion and a reason.
"""

import math
import re
import time
from typing import Any

from presurge.errors import ConfigError, PresurgeError
from presurge.series.frequency import SECOND, format_step
from presurge.serving.bodies import Record
from presurge.serving.config import DynamoConfig
from presurge.serving.protos import planner_pb2 as pb
from presurge.serving.protos import planner_pb2_grpc as stubs
from presurge.serving.service import Service
from presurge.serving.value import Value

REQUESTS = ("requests", "num_req")
TOKENS = {"isl": "input_tokens", "osl": "output_tokens"}
"""Field of the planner -> channel; a model forecasts its sum, or its ratio to the requests."""
_MOST_MISSED = 10_000
_TICK = re.compile(r"tick-(\d+(?:\.\d+)?)")


class Plugin(stubs.PredictPluginServicer):
    """The plugin of a service.

    Args:
        service: Holds the history, across restarts of planner and service.
        config: Which model and number.

    Raises:
        ConfigError: The model does not forecast requests and mean tokens.
    """

    def __init__(self, service: Service, config: DynamoConfig) -> None:
        self._service, self._config = service, config
        self._values()

    def _values(self) -> tuple[Value, dict[str, tuple[Value, bool]]]:
        """The demand, and each mean of tokens: a value, and whether it is a sum still to be divided by the requests."""
        config, served = self._config, self._service.named(self._config.model)
        names = [channel.name for channel in served.model.fitted_spec().targets]
        requests = next((name for name in REQUESTS if name in names), None)
        found: dict[str, tuple[Value, bool]] = {}
        for field, tokens in TOKENS.items():
            channel = next((name for name in (f"{tokens}/{requests}", field, tokens) if name in names), None)
            if requests is None or channel is None:
                hint = "Train it on requests, input_tokens/requests and output_tokens/requests."
                raise ConfigError(
                    f"the model {served.name!r} forecasts {', '.join(names)}", setting="dynamo", hint=hint
                )
            own = Value.of(served, item=config.item, channel=channel, point="mean", steps=1, peak=False)
            found[field] = own, channel == tokens
        assert requests is not None
        demand = Value.of(
            served,
            item=config.item,
            channel=requests,
            point=config.point,
            steps=config.steps,
            peak=config.steps > 1,
        )
        return demand, found

    async def Predict(self, request: pb.PredictStageRequest, context: Any) -> pb.PredictStageResponse:
        """The demand of the next window, and the mean tokens of its requests."""
        observed = request.context.observations
        if not observed.HasField("traffic"):
            return pb.PredictStageResponse(reason="no_traffic_data")
        served, traffic = self._service.named(self._config.model), observed.traffic
        step = served.model.fitted_spec().step
        if abs(traffic.duration_s * SECOND - step) > 0.01 * step:
            reason = f"the window has {traffic.duration_s:g} s, and a step of the model {format_step(step)}"
            return pb.PredictStageResponse(reason=reason)
        tick = _TICK.fullmatch(request.context.request_id)
        now = round(float(tick[1]) * SECOND) if tick else time.time_ns() // 1000
        try:
            await self._observe(traffic, now - step)
            demand, means = self._values()
            requests = demand.now(self._service)
            told = {"predicted_num_req": max(0.0, requests)}
            mean_requests = demand._replace(point="mean", steps=1, peak=False).now(self._service)
            for field, (value, is_sum) in means.items():
                number = value.now(self._service)
                told[f"predicted_{field}"] = max(0.0, number / max(mean_requests, 1e-9) if is_sum else number)
        except PresurgeError as error:
            return pb.PredictStageResponse(reason=error.what)
        return pb.PredictStageResponse(predictions=pb.PredictionData(source="presurge", **told))

    async def _observe(self, traffic: pb.TrafficMetrics, begin: int) -> None:
        """Take a window in; windows that were missed are missing, and one that overlaps the last is left out."""
        served = self._service.named(self._config.model)
        shape, item = served.stream.shape, served.stream.items.get(self._config.item)
        values: dict[str, float | None] = {}
        idle = not traffic.num_req > 0
        for channel in shape.channels:
            name = channel.name
            if name in REQUESTS:
                values[name] = 0.0 if math.isnan(traffic.num_req) else traffic.num_req
            elif name in TOKENS:
                values[name] = None if idle else getattr(traffic, name)
            else:
                field = next(field for field, tokens in TOKENS.items() if tokens == name)
                values[name] = 0.0 if idle else getattr(traffic, field) * traffic.num_req
        rows = []
        if item is not None:
            bucket = round(
                (begin - item.rows.phase) / shape.step
            )  # the planner's ticks may be off by a moment
            if bucket <= item.rows.last:
                return
            missed = range(max(item.rows.last + 1, bucket - _MOST_MISSED), bucket)
            begin = item.rows.start(bucket)
            rows = [(self._config.item, item.rows.start(one), dict.fromkeys(values), False) for one in missed]
        row = (self._config.item, begin, values, False)
        await self._service.write(
            Record(max(time.time_ns() // 1000, begin + shape.step), [*rows, row], served.name)
        )
