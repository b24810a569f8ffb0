"""The HTTP doors: Presurge's own routes, the Open Inference Protocol, health, metrics and the page.

FastAPI describes and finds the routes; msgspec reads and writes their bodies. Every request passes ``Gate``: token, size of the
body, deadline, and what becomes of an error. The routes that are asked most often are answered there, without FastAPI.
"""

import asyncio
import hmac
import inspect
import logging
import re
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI, Request, Response

from presurge import __version__
from presurge.errors import ModelError, PresurgeError, StorageError, plain, spelled
from presurge.series.frequency import SECOND
from presurge.series.timestamps import format_stamp
from presurge.serving import bodies, oip
from presurge.serving.answers import written
from presurge.serving.bodies import Answer, Asked, Failure, encode
from presurge.serving.histories import channels_of
from presurge.serving.metrics import Metrics
from presurge.serving.service import NotFoundError, Served, Service

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/")
"""Paths that need no token: they tell nothing of the load. The page asks for the token and sends it with its questions."""
JSON = "application/json"
_log = logging.getLogger("presurge.serving")


class HttpError(PresurgeError):
    """A request that is refused before anybody reads what it asks."""

    def __init__(self, status: int, what: str, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.status = status


STATUSES: dict[type[Exception], int] = {
    NotFoundError: 404,
    ModelError: 409,
    StorageError: 507,
    PresurgeError: 422,
    msgspec.ValidationError: 422,
    msgspec.DecodeError: 400,
    UnicodeDecodeError: 400,
    RecursionError: 400,
}
"""Error -> status of its answer; the first that fits."""


class Route(NamedTuple):
    """A method and a path, what answers, and what it takes and gives."""

    method: str
    path: str
    work: Callable[[Asked], Awaitable[Answer]]
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    gives: Any = dict[str, Any]


class Routes:
    """What Presurge's own routes do: each takes the names in its path, the query and the body."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def forecast(self, asked: Asked) -> Answer:
        """Forecast what follows the histories that you send: one item or many, each as many rows as the model reads or more."""
        return 200, await self.service.forecast(bodies.read_forecast(asked.body))

    async def observe(self, asked: Asked) -> Answer:
        """Take in rows and raw events. The answer comes when the disk holds them; the next forecast knows them."""
        return 200, encode(await self.service.observe(bodies.read_observe(asked.body)))

    async def forecast_item(self, asked: Asked) -> Answer:
        """The newest forecast of an item that you send rows of; of the item without a name at ``/v1/forecast/``."""
        item, query = asked.names["item"], _query(asked, bodies.ItemQuery)
        served = self.service.named(query.model)
        if item not in served.stream.items:
            hint = "Send its rows to /v1/observe first."
            raise NotFoundError(f"nothing was observed of item {item!r}", hint=hint)
        return 200, written(served.stream.forecast([item], query.horizon, query.levels))

    async def models(self, asked: Asked) -> Answer:
        """The models, what they read and how wrong they were when they were measured."""
        return 200, encode({"models": [self.service.described(one) for one in self.service.served.values()]})

    async def reload(self, asked: Asked) -> Answer:
        """Load a model again from its directory; the old one serves until the new one has forecast once."""
        return 200, encode(self.service.described(await self.service.reload(asked.names["name"])))

    async def live(self, asked: Asked) -> Answer:
        """Rows, forecast and live error of an item; without one, the items and their scores."""
        query = _query(asked, bodies.LiveQuery)
        return 200, encode(self.service.live(self.service.named(query.model), query.item))

    async def healthz(self, asked: Asked) -> Answer:
        """Whether the process answers."""
        return 200, encode({"live": True})

    async def readyz(self, asked: Asked) -> Answer:
        """Whether forecasts can be asked for, and what does not work: a full disk, a source that is away."""
        state = self.service.state()
        if state["status"] not in ("ready", "degraded"):
            raise HttpError(503, f"the service is {state['status']}")
        return 200, encode(state)


class Gate:
    """What every request passes, and where every error becomes an answer.

    Args:
        app: The application behind.
        routes: The routes that are answered here.
        metrics: Counts and times the requests.
        token: The bearer token that clients must send; None lets everybody in.
    """

    def __init__(self, app: Any, routes: Routes, metrics: Metrics, token: str | None) -> None:
        self.app, self.metrics = app, metrics
        self.token = None if token is None else token.encode()
        self.config = routes.service.config
        self.direct = {("POST", "/v1/forecast"): routes.forecast, ("POST", "/v1/observe"): routes.observe}
        self.item = routes.forecast_item

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        began, status, answer = time.perf_counter(), 0, None

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            try:
                async with asyncio.timeout(self.config.deadline):
                    answer = await self._serve(scope, receive, sending)
            except Exception as error:
                if status:
                    raise  # the answer has begun
                if isinstance(error, TimeoutError):
                    what = f"took longer than {self.config.deadline:g} s"
                    error = HttpError(504 if "body" in scope else 408, what, "Send less at once.")
                answer = refused(error)
            if answer is not None:
                status = answer[0]
                await respond(send, *answer)
        finally:
            self.metrics.request(_path_of(scope), status, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> Answer | None:
        """The answer of a direct route; none if the application behind gave its own."""
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        if self.token is not None and path not in OPEN:
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self.token):
                raise HttpError(401, "no valid token", "Send the header Authorization: Bearer TOKEN.")
        body = scope["body"] = await self._body(headers, receive)
        route, names = self.direct.get((method, path)), {}
        if method == "GET" and path.startswith("/v1/forecast/"):
            route, names = self.item, {"item": path.removeprefix("/v1/forecast/")}
        if route is None:
            await self.app(scope, receive, send)
            return None
        scope["route"] = path if not names else "/v1/forecast/{item}"
        query = scope["query_string"] and dict(parse_qsl(scope["query_string"].decode("latin-1")))
        return await route(Asked(names, query or {}, body, headers))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The whole body.

        Raises:
            HttpError: It is too large, or the client went away.
        """
        size, parts, more = int(headers.get(b"content-length", 0)), list[bytes](), True
        while more and size <= self.config.max_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise HttpError(499, "the client went away")
            parts.append(message.get("body", b""))
            more, size = message.get("more_body", False), max(size, sum(map(len, parts)))
        if size > self.config.max_body:
            what = f"the body is larger than {self.config.max_body:,} bytes"
            raise HttpError(413, what, "Send less at once, or raise `max_body`.")
        return b"".join(parts)


def _path_of(scope: Scope) -> str:
    """The path of a request with its names left out; of a path that there is not, ``other``."""
    route = scope.get("route")
    return str(route if isinstance(route, str) else getattr(route, "path", "other"))


def _query(asked: Asked, kind: type[msgspec.Struct]) -> Any:
    given = {name: text.split(",") if name == "levels" else text for name, text in asked.query.items()}
    return msgspec.convert(given, kind, strict=False)


def refused(error: Exception) -> Answer:
    """The answer to a request that failed."""
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("a request failed", exc_info=error)
        return 500, encode(Failure("the service failed; its log says how"))
    if isinstance(error, PresurgeError):
        what, hint = (None if text is None else spelled(text, plain) for text in (error.what, error.hint))
        status = error.status if isinstance(error, HttpError) else status
        return status, encode(Failure(what or "", error.where, error.setting, hint))
    what, _, where = str(error).partition(" - at ")
    return status, encode(Failure(what, where.strip("`").removeprefix("$.") or None))


async def respond(send: Send, status: int, body: bytes) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 408:
        headers.append((b"connection", b"close"))  # the rest of the body would still come, slowly
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def create_app(service: Service, metrics: Metrics, token: str | None = None) -> Gate:
    """The application: routes, their description and the gate before them."""
    api = FastAPI(title="Presurge", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    routes, protocol = Routes(service), oip.InferenceProtocol(service)
    described = [
        Route("POST", "/v1/forecast", routes.forecast, body=bodies.ForecastRequest),
        Route("POST", "/v1/observe", routes.observe, body=bodies.ObserveRequest, gives=bodies.Observed),
        Route("GET", "/v1/forecast/{item:path}", routes.forecast_item, bodies.ItemQuery),
        Route("GET", "/v1/models", routes.models),
        Route("POST", "/v1/models/{name}/reload", routes.reload),
        Route("GET", "/v1/live", routes.live, bodies.LiveQuery),
        Route("GET", "/healthz", routes.healthz),
        Route("GET", "/readyz", routes.readyz),
        Route("GET", "/v2", protocol.server),
        Route("GET", "/v2/health/live", routes.healthz),
        Route("GET", "/v2/health/ready", routes.readyz),
    ]
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        described += [
            Route("GET", at, protocol.model),
            Route("GET", f"{at}/ready", protocol.model_ready),
            Route("POST", f"{at}/infer", protocol.infer, body=oip.InferRequest),
        ]
    examples = _examples(next(iter(service.served.values())))
    named = {"name": {"enum": [*service.served]}, "version": {"enum": ["1"]}, "item": {"examples": ["web"]}}
    for route in described:
        _add(api, route, examples, named)
    _describe(api, described, secured=token is not None)
    page = files("presurge.serving").joinpath("page.html").read_bytes()

    @api.get("/", include_in_schema=False)
    async def _page() -> Response:
        return Response(page, headers={"content-security-policy": _POLICY}, media_type="text/html")

    @api.get("/metrics", include_in_schema=False)
    async def _metrics() -> Response:
        text = await asyncio.to_thread(metrics.text)  # with many items it takes a while
        return Response(text, headers={"content-type": metrics.content_type})

    @api.exception_handler(404)
    @api.exception_handler(405)
    async def _no_route(request: Request, error: Any) -> Response:
        what = f"{error.detail}: {request.method} {request.url.path}"
        failure = Failure(what, hint="The routes are in /openapi.json.")
        return Response(encode(failure), error.status_code, error.headers, JSON)

    return Gate(api, routes, metrics, token)


def _add(api: FastAPI, route: Route, examples: dict[Any, Any], named: dict[str, Any]) -> None:
    """Give a route its path, and describe it."""

    async def endpoint(request: Request) -> Response:
        query, headers = dict(request.query_params), dict(request.headers.raw)
        try:
            asked = Asked(request.path_params, query, request.scope["body"], headers)
            status, content = await route.work(asked)
        except Exception as error:
            status, content = refused(error)
        return Response(content, status, media_type=JSON)

    more: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"} | named[name]}
            for name in re.findall(r"{(\w+)", route.path)
        ]
    }
    if route.query is not None:
        fields = msgspec.json.schema_components([route.query])[1][route.query.__name__]["properties"]
        more["parameters"] += [
            {"name": name, "in": "query", "schema": schema["anyOf"][0], "explode": False}
            for name, schema in fields.items()
        ]
    if route.body is not None:
        content = {"schema": _schema_of(route.body), "example": examples[route.body]}
        more["requestBody"] = {"required": True, "content": {JSON: content}}
    good = {"description": "The answer", "content": {JSON: {"schema": _schema_of(route.gives)}}}
    bad = {"description": "What was wrong", "content": {JSON: {"schema": _schema_of(Failure)}}}
    summary, _, text = inspect.cleandoc(route.work.__doc__ or "").partition(".")
    api.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        summary=summary,
        description=" ".join(text.split()),
        name=route.work.__name__,
        responses={200: good, "default": bad},
        openapi_extra=more,
    )


def _schema_of(kind: Any) -> dict[str, Any]:
    """How the OpenAPI document refers to a body."""
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return schema


def _describe(api: FastAPI, routes: list[Route], *, secured: bool) -> None:
    """Complete the OpenAPI document of FastAPI, which it keeps: the schemas of bodies, and the token."""
    kinds = {kind for route in routes for kind in (route.body, route.gives, Failure) if kind is not None}
    _, parts = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    document = api.openapi()
    api.openapi = lambda: document  # type: ignore[method-assign]
    document["components"] = {"schemas": parts}
    if secured:
        document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
        for path in document["paths"].keys() & {*OPEN}:
            document["paths"][path]["get"]["security"] = []


def _examples(served: Served) -> dict[Any, Any]:
    """Bodies that a model answers, by class."""
    model, spec = served.model, served.model.fitted_spec()

    def history(end: int, rows: int, *, known: bool = False) -> dict[str, Any]:
        names, values = channels_of(spec, known=known), [float(10 + row % 7) for row in range(rows)]
        return {"item": "web", "end": format_stamp(end, spec.clock), "values": dict.fromkeys(names, values)}

    past = history(_EXAMPLE, model.context) | {"features": dict.fromkeys(spec.features, 1.0)}
    future = history(_EXAMPLE + model.horizon * spec.step, model.horizon, known=True)
    values = {channel.name: 16.0 for channel in served.stream.shape.channels}
    tensors = [
        {"name": name, "shape": [1, rows, size], "datatype": "FP32", "data": [10.0] * (rows * size)}
        for name, (_, _, size) in oip.inputs_of(served).items()
        for rows in [model.context if name == "context" else model.horizon]
    ]
    return {
        bodies.ForecastRequest: {"history": [past], "future": [future] if future["values"] else []},
        bodies.ObserveRequest: {
            "rows": [{"item": "web", "time": past["end"], "values": values}],
            "id": "web-1",
        },
        oip.InferRequest: {"inputs": tensors},
    }


_ABOUT = "Forecasts with intervals, from whole histories or from the rows that the service has seen."
_REFERENCE = "#/components/schemas/{name}"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_EXAMPLE = 1_714_521_600 * SECOND
