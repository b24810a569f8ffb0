"""The Open Inference Protocol, version 2, over REST, so that clients of KServe and Triton work.

https://github.com/kserve/open-inference-protocol. Inputs may be JSON or, as Triton's client sends them, binary behind the JSON
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md); answers are JSON.
Shapes: B windows, L context, H horizon, Q quantiles, C target channels, N all channels, K known channels.
"""

from typing import Annotated, Any

import msgspec
import numpy as np

from presurge import __version__
from presurge.errors import DataError
from presurge.series.panel import FloatArray
from presurge.serving.bodies import Answer, Asked, Name, Time, encode
from presurge.serving.histories import Histories, channels_of, now_of
from presurge.serving.rows import moment
from presurge.serving.service import NotFoundError, Served, Service

HEADER = b"inference-header-content-length"
"""Where binary data begin, in bytes after the first of the JSON."""
Numbers = list[float | list[float | list[float | None] | None] | None]
Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class TensorParameters(msgspec.Struct, frozen=True):
    """How many bytes of binary data follow the JSON for a tensor."""

    binary_data_size: Size | None = None


class Tensor(msgspec.Struct):
    """A tensor: data row by row, flat or nested; left out where it follows in binary. A missing value is null or NaN."""

    name: str
    shape: list[Size]
    datatype: Annotated[str, msgspec.Meta(pattern="^(FP(16|32|64)|U?INT(8|16|32|64))$")]
    data: Numbers = []
    parameters: TensorParameters = TensorParameters()


class Wanted(msgspec.Struct):
    """An output that is asked for."""

    name: str


class InferParameters(msgspec.Struct, frozen=True):
    """When the last rows of the windows began (default: the last whole step), and the item that they are of."""

    end: Time | None = None
    item: Name = ""


class InferRequest(msgspec.Struct):
    """Tensors to forecast from."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: InferParameters = InferParameters()
    outputs: list[Wanted] = []


_read = msgspec.json.Decoder(InferRequest).decode


class InferenceProtocol:
    """The routes of the protocol, over a service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def server(self, asked: Asked) -> Answer:
        """The server."""
        return 200, encode({"name": "presurge", "version": __version__, "extensions": []})

    async def model(self, asked: Asked) -> Answer:
        """What a model takes and gives."""
        served = self._named(asked)
        outputs = {"mean": [-1, served.model.horizon, len(served.model.fitted_spec().targets)]}
        if served.model.calibration:
            levels = len(served.model.calibration.levels)
            _, horizon, targets = outputs["median"] = outputs["mean"]
            outputs |= {"quantiles": [-1, horizon, levels, targets], "levels": [levels]}
        tensors = {
            kind: [{"name": name, "datatype": "FP32", "shape": shape} for name, shape in shapes.items()]
            for kind, shapes in (("inputs", inputs_of(served)), ("outputs", outputs))
        }
        return 200, encode({"name": served.name, "versions": ["1"], "platform": "presurge", **tensors})

    async def model_ready(self, asked: Asked) -> Answer:
        """Whether a model can be asked."""
        return 200, encode({"name": self._named(asked).name, "ready": self.service.ready})

    async def infer(self, asked: Asked) -> Answer:
        """Forecast what follows the windows of ``context``. Data may be nested or flat, or binary behind the JSON."""
        served, size = self._named(asked), _header_size(asked)
        request, spec = _read(asked.body[:size]), served.model.fitted_spec()
        arrays = _arrays(request.inputs, asked.body[size:], inputs_of(served))
        windows, rows, _ = arrays["context"].shape
        given = request.parameters.end
        end = now_of(spec) if given is None else moment(given, where="parameters.end")

        def histories(name: str, start: int) -> Histories:
            names, items = channels_of(spec, known=name == "known"), [request.parameters.item] * windows
            return Histories(names, [*arrays[name]], [start] * windows, items, [])

        future = histories("known", end + spec.step) if "known" in arrays else None
        context = histories("context", end - (rows - 1) * spec.step)
        made = await self.service.forecast_histories(served, context, future)
        outputs = {"mean": made.mean}
        if made.levels:
            levels = np.array(made.levels, np.float32)
            outputs |= {"median": made.median, "quantiles": made.quantiles, "levels": levels}
        wanted = [one.name for one in request.outputs] or [*outputs]
        if unknown := {*wanted} - {*outputs}:
            hint = f"The outputs are {', '.join(outputs)}."
            raise DataError(f"there is no output {min(unknown)!r}", where="outputs", hint=hint)
        tensors = [
            {"name": name, "datatype": "FP32", "shape": [*found.shape], "data": found.ravel().tolist()}
            for name in wanted
            for found in [outputs[name]]
        ]
        answer: dict[str, Any] = {"model_name": served.name, "model_version": "1", "outputs": tensors}
        return 200, encode(answer if request.id is None else answer | {"id": request.id})

    def _named(self, asked: Asked) -> Served:
        if (version := asked.names.get("version", "1")) != "1":
            raise NotFoundError(f"there is no version {version!r} of a model", hint="The only version is 1.")
        return self.service.named(asked.names["name"])


def inputs_of(served: Served) -> dict[str, list[int]]:
    """The inputs of a model and their shapes; -1 is any size."""
    spec = served.model.fitted_spec()
    shapes = {"context": [-1, -1, len(channels_of(spec))]}
    if known := channels_of(spec, known=True):
        shapes["known"] = [-1, served.model.horizon, len(known)]
    return shapes


def _header_size(asked: Asked) -> int:
    """The bytes of the JSON before binary data.

    Raises:
        DataError: The header is no such number.
    """
    size = asked.headers.get(HEADER, b"%d" % len(asked.body))
    if not size.isdigit() or int(size) > len(asked.body):
        raise DataError(f"{size.decode('latin-1')!r} is not the size of a JSON header", where=HEADER.decode())
    return int(size)


def _arrays(tensors: list[Tensor], binary: bytes, shapes: dict[str, list[int]]) -> dict[str, FloatArray]:
    """The inputs as arrays, which have the shapes that the model reads.

    Raises:
        DataError: An input is missing, unknown or has another shape, or its data are not as many numbers as its shape says.
    """
    arrays: dict[str, FloatArray] = {}
    for tensor in tensors:
        where, size = f"input {tensor.name!r}", tensor.parameters.binary_data_size
        if tensor.name not in shapes or tensor.name in arrays:
            raise DataError(
                "is unknown or there twice", where=where, hint=f"The inputs are {', '.join(shapes)}."
            )
        try:
            with np.errstate(over="ignore"):  # the panel refuses what becomes infinite
                if size is None:
                    flat = np.array(tensor.data, np.float32).ravel()
                else:
                    kind, own, binary = tensor.datatype.lower(), binary[:size], binary[size:]
                    flat = np.frombuffer(own, kind.replace("fp", "float")).astype(np.float32)
            arrays[tensor.name] = flat.reshape(tensor.shape)
        except ValueError as error:
            raise DataError(f"cannot be read: {error}", where=where) from error
    for name, shape in shapes.items():
        found = arrays[name].shape if name in arrays else ()
        if len(found) != 3 or 0 in found or any(a not in (-1, b) for a, b in zip(shape, found, strict=True)):
            what = f"has the shape {[*found]}" if name in arrays else "is missing"
            raise DataError(what, where=f"input {name!r}", hint=f"Its shape is {shape}; -1 is any size.")
    if len({len(array) for array in arrays.values()}) > 1:
        raise DataError("the inputs have different numbers of windows", where="inputs")
    return arrays
