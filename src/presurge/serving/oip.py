"""The Open Inference Protocol, version 2, over REST, so that clients of KServe and Triton work.

https://github.com/kserve/open-inference-protocol. Inputs may be JSON or, as Triton's client sends them, binary behind the JSON
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md); answers are JSON.
Shapes: B windows, L context, H horizon, Q quantiles, C target channels, N all channels, K known channels.
"""

import math
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from presurge import __version__
from presurge.errors import DataError
from presurge.serving.bodies import Answer, Asked, encode
from presurge.serving.histories import Histories, channels_of, now_of
from presurge.serving.rows import moment
from presurge.serving.service import NotFoundError, Served, Service

HEADER = "inference-header-content-length"
_TYPES = {
    **{
        f"{kind}{bits}": f"<{letter}{bits // 8}"
        for kind, letter in (("INT", "i"), ("UINT", "u"))
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
}


class Tensor(msgspec.Struct):
    """A tensor: data row by row, flat or nested; left out where it follows in binary."""

    name: str
    shape: list[int]
    datatype: Literal[
        "FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"
    ]
    data: Any = None
    parameters: dict[str, Any] = {}


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """Tensors to forecast from; the parameter ``end`` is the time of their last rows, ``item`` whose they are."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] = []


_read = msgspec.json.Decoder(InferRequest).decode


class InferenceProtocol:
    """The routes of the protocol, over a service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def live(self, asked: Asked) -> Answer:
        """Whether the server answers."""
        return 200, encode({"live": True})

    async def ready(self, asked: Asked) -> Answer:
        """Whether the models can be asked."""
        ready = self.service.state()["status"] in ("ready", "degraded")
        return 200 if ready else 503, encode({"live": True, "ready": ready})

    async def server(self, asked: Asked) -> Answer:
        """The server and the extensions of the protocol that it knows."""
        return 200, encode({"name": "presurge", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def model(self, asked: Asked) -> Answer:
        """What a model takes and gives."""
        served = self._named(asked)
        model, spec = served.model, served.model.fitted_spec()
        levels = model.calibration.levels if model.calibration else ()
        outputs = {"mean": [-1, model.horizon, len(spec.targets)]}
        if levels:
            outputs["median"] = outputs["mean"]
            outputs["quantiles"] = [-1, model.horizon, len(levels), len(spec.targets)]
            outputs["levels"] = [len(levels)]
        inputs = {"context": [-1, -1, len(channels_of(spec))]}
        if known := channels_of(spec, known=True):
            inputs["known"] = [-1, model.horizon, len(known)]
        tensors = {
            kind: [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in shapes.items()]
            for kind, shapes in (("inputs", inputs), ("outputs", outputs))
        }
        return 200, encode({"name": served.name, "versions": ["1"], "platform": "presurge", **tensors})

    async def model_ready(self, asked: Asked) -> Answer:
        """Whether a model can be asked."""
        return 200, encode({"name": self._named(asked).name, "ready": self.service.ready})

    def _named(self, asked: Asked) -> Served:
        if asked.names.get("version", "1") != "1":
            version = asked.names["version"]
            raise NotFoundError(f"there is no version {version!r} of a model", hint="The only version is 1.")
        return self.service.named(asked.names["name"])

    async def infer(self, asked: Asked) -> Answer:
        """Forecast what follows the windows of ``context``. Data may be nested or flat, or binary behind the JSON."""
        served, size = self._named(asked), _header_size(asked)
        request = _read(asked.body[:size])
        tensors, at = {}, size
        for tensor in request.inputs:
            tensors[tensor.name], at = _array(tensor, asked.body, at)
        spec = served.model.fitted_spec()
        context_BLN = _shaped(tensors, "context", (None, None, len(channels_of(spec))))
        windows = len(context_BLN)
        given = request.parameters.get("end")
        end = now_of(spec) if given is None else moment(given, where="parameters.end")
        items = [str(request.parameters.get("item", ""))] * windows
        histories = Histories(
            channels_of(spec),
            [*context_BLN],
            [end - (context_BLN.shape[1] - 1) * spec.step] * windows,
            items,
            [],
        )
        future = None
        if known := channels_of(spec, known=True):
            known_BHK = _shaped(tensors, "known", (windows, served.model.horizon, len(known)))
            future = Histories(known, [*known_BHK], [end + spec.step] * windows, items, [])
        made = await self.service.forecast_histories(served, histories, future)
        outputs = {"mean": made.mean}
        if made.levels:
            levels = np.array(made.levels, np.float32)
            outputs |= {"median": made.median, "quantiles": made.quantiles, "levels": levels}
        wanted = [one.name for one in request.outputs] or [*outputs]
        if unknown := [key for key in wanted if key not in outputs]:
            raise DataError(
                f"there is no output {unknown[0]!r}", hint=f"The outputs are {', '.join(outputs)}."
            )
        answer = {
            "model_name": served.name,
            "model_version": "1",
            **({} if request.id is None else {"id": request.id}),
            "outputs": [
                {
                    "name": key,
                    "datatype": "FP32",
                    "shape": [*outputs[key].shape],
                    "data": outputs[key].ravel().tolist(),
                }
                for key in wanted
            ],
        }
        return 200, encode(answer)


def _header_size(asked: Asked) -> int:
    """The bytes of the JSON before binary data.

    Raises:
        DataError: The header is no such number.
    """
    header = asked.headers.get(HEADER)
    if header is None:
        return len(asked.body)
    if not header.isdigit() or int(header) > len(asked.body):
        raise DataError(f"{header!r} is not the size of a JSON header", where=HEADER)
    return int(header)


def _array(tensor: Tensor, body: bytes, at: int) -> tuple[npt.NDArray[np.float32], int]:
    """A tensor as an array, and where the binary data of the next one begin.

    Raises:
        DataError: There are more or fewer numbers than its shape says, or they are none.
    """
    size = tensor.parameters.get("binary_data_size")
    try:
        if size is None:
            flat = np.array(tensor.data, np.float32).ravel()
        else:
            flat = np.frombuffer(body[at : at + int(size)], _TYPES[tensor.datatype]).astype(np.float32)
            at += int(size)
        if min(tensor.shape, default=0) < 0 or len(flat) != math.prod(tensor.shape):
            raise ValueError(f"{len(flat)} numbers do not fill the shape {tensor.shape}")
        return flat.reshape(tensor.shape), at
    except (ValueError, TypeError) as error:
        raise DataError(f"cannot be read: {error}", where=f"input {tensor.name!r}") from error


def _shaped(
    tensors: dict[str, npt.NDArray[np.float32]], name: str, shape: tuple[int | None, ...]
) -> npt.NDArray[np.float32]:
    """An input of a shape.

    Raises:
        DataError: It is missing or has another shape.
    """
    found = tensors.get(name)
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    if found is None:
        raise DataError("is missing", where=f"input {name!r}", hint=f"Its shape is [{wanted}].")
    if (
        found.ndim != len(shape)
        or any(size not in (None, own) for size, own in zip(shape, found.shape, strict=True))
        or 0 in found.shape
    ):
        raise DataError(
            f"has the shape {[*found.shape]}", where=f"input {name!r}", hint=f"Its shape is [{wanted}]."
        )
    return found
