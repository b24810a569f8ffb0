"""A PREDICT plugin of NVIDIA Dynamo's planner: its traffic in, the forecast of the next window out.

Read from ai-dynamo 1.6.1. The planner takes what it is told as the demand itself, so ``point`` may be a quantile. Where there is no
forecast, the answer is empty and says why, and the planner goes on with its own predictor.
"""

import math
import re
from typing import Any

from presurge.errors import ConfigError, DataError, PresurgeError
from presurge.series.frequency import SECOND, format_step
from presurge.serving.bodies import Record
from presurge.serving.config import DynamoConfig
from presurge.serving.protos import planner_pb2 as pb
from presurge.serving.protos import planner_pb2_grpc as stubs
from presurge.serving.service import Served, Service
from presurge.serving.value import Value

CHANNELS = {"num_req": "requests", "isl": "input_tokens/requests", "osl": "output_tokens/requests"}
"""Field of the planner's traffic, which is that of its answer too -> channel of the model."""
_TICK = re.compile(r"tick-(\d+(?:\.\d+)?)")
_JITTER = 0.1
"""How much two windows may overlap, in windows: ticks are late by a moment, and the next one is not."""


class Plugin(stubs.PredictPluginServicer):
    """The plugin of a service.

    Args:
        service: Holds the history, across restarts of planner and service.
        config: Which model and number.

    Raises:
        ConfigError: The model forecasts or reads something else than requests and their mean tokens.
    """

    def __init__(self, service: Service, config: DynamoConfig) -> None:
        self._service, self._config, self._end = service, config, -math.inf
        served = service.named(config.model)
        reads = {channel.name for channel in served.stream.shape.channels}
        names = {channel.name for channel in served.model.fitted_spec().targets}
        if not {*CHANNELS.values()} <= names or len(reads) > len(CHANNELS) or served.stream.refusal:
            raise ConfigError(
                f"the model {served.name!r} reads {', '.join(sorted(reads))} and forecasts {', '.join(sorted(names))}",
                setting="dynamo",
                hint=f"The planner needs a model of `value={','.join(CHANNELS.values())}` and nothing else, whose `step` is the "
                "planner's throughput_adjustment_interval_seconds.",
            )
        self._values(served)

    def _values(self, served: Served) -> dict[str, Value]:
        """The number of each field of an answer.

        Raises:
            ConfigError: The model does not forecast so far, or a channel no more.
        """
        config, point = self._config, self._config.point
        level = None if point == "mean" else 0.5 if point == "median" else float(point[1:])
        demand = Value(served, config.item, CHANNELS["num_req"], level, config.steps, peak=True)
        means = {field: Value(served, config.item, CHANNELS[field]) for field in ("isl", "osl")}
        return means | {"num_req": demand}

    async def Predict(self, request: pb.PredictStageRequest, context: Any) -> pb.PredictStageResponse:
        """The demand of the next window, and the mean tokens of its requests."""
        observed, served = request.context.observations, self._service.named(self._config.model)
        if not observed.HasField("traffic"):
            return pb.PredictStageResponse(reason="no_traffic_data")
        step, seconds = served.model.fitted_spec().step, observed.traffic.duration_s
        if not abs(seconds * SECOND - step) <= _JITTER * step:
            reason = f"the window has {seconds:g} s, and a step of the model {format_step(step)}"
            return pb.PredictStageResponse(reason=reason)
        tick = _TICK.fullmatch(request.context.request_id)
        now = round(float(tick[1]) * SECOND) if tick else self._service.now()
        try:
            await self._observe(served, observed.traffic, now)
            numbers = {field: value.now() for field, value in self._values(served).items()}
        except PresurgeError as error:
            return pb.PredictStageResponse(reason=error.what)
        told = {f"predicted_{field}": max(0.0, number) for field, number in numbers.items()}
        return pb.PredictStageResponse(predictions=pb.PredictionData(source="presurge", **told))

    async def _observe(self, served: Served, traffic: pb.TrafficMetrics, end: int) -> None:
        """Take a window in, unless it overlaps the one before; windows between the two are missing.

        Raises:
            DataError: The service refuses it.
        """
        step, item = served.stream.shape.step, served.stream.items.get(self._config.item)
        begin = end - step
        times = [begin]
        if item is not None:
            rows = item.rows
            follows = abs(begin - rows.start(rows.last + 1)) < 0.75 * step  # else the windows have drifted
            bucket = rows.last + 1 if follows else round((begin - rows.phase) / step)
            new = range(max(rows.last + 1, bucket - rows.shape.rows), bucket + 1)
            times = [rows.start(one) for one in new]
        if not times or begin < self._end - _JITTER * step:
            return
        before, self._end = self._end, end
        number = traffic.num_req if traffic.num_req > 0 else 0.0
        means = (1.0, traffic.isl, traffic.osl) if number else (0.0, 0.0, 0.0)
        sums = [number * mean for mean in means]  # what is no number is missing
        row = dict(zip(("requests", "input_tokens", "output_tokens"), sums, strict=True))
        rows_in = [(self._config.item, at, dict.fromkeys(row), False) for at in times]
        rows_in[-1][2].update(row)
        took = await self._service.write(Record(self._service.now(), rows_in, served.name))
        if took["refused"]:
            self._end = before
            raise DataError(took["refused"][0]["reason"])
