"""The HTTP doors: Presurge's own routes, the Open Inference Protocol, health, metrics and the page.

FastAPI describes and finds the routes; msgspec reads and writes their bodies. Every request passes ``Gate``: token, size of the
body, deadline, and what becomes of an error. The routes that are asked most often are answered there, without FastAPI.
"""

import asyncio
import hmac
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi

from presurge import __version__
from presurge.errors import ConfigError, ModelError, PresurgeError, StorageError, plain, spelled
from presurge.serving import oip
from presurge.serving.bodies import (
    Answer,
    Asked,
    Failure,
    ForecastRequest,
    Observed,
    ObserveRequest,
    encode,
    read_forecast,
    read_observe,
)
from presurge.serving.metrics import Metrics
from presurge.serving.service import NotFoundError, Service

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Route = Callable[[Asked], Awaitable[Answer]]

OPEN = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/")
"""Paths that need no token: they tell nothing of the load. The page asks for the token and sends it with its questions."""
JSON = b"application/json"
_log = logging.getLogger("presurge.serving")


class TokenError(PresurgeError):
    """A request without a valid token."""


class BodyTooLargeError(PresurgeError):
    """The body of a request is larger than allowed."""


class DeadlineError(PresurgeError):
    """A request took too long."""


class ClientGoneError(PresurgeError):
    """The client went away before its request was complete."""


STATUSES: dict[type[Exception], int] = {
    TokenError: 401,
    NotFoundError: 404,
    BodyTooLargeError: 413,
    ClientGoneError: 499,
    DeadlineError: 504,
    ModelError: 409,
    StorageError: 507,
    PresurgeError: 422,
    msgspec.ValidationError: 422,
    msgspec.DecodeError: 400,
    UnicodeDecodeError: 400,
}
"""Error -> status of its answer; the first that fits."""


class Routes:
    """What the routes do: each takes the names in its path, the query and the body, and returns status and body."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def forecast(self, asked: Asked) -> Answer:
        """Forecast what follows the histories that you send: one item or many, each as many rows as the model reads or more."""
        made = await self.service.forecast(read_forecast(asked.body))
        return 200, encode(made.to_dict())

    async def observe(self, asked: Asked) -> Answer:
        """Take in rows and raw events. The answer comes when the disk holds them; the next forecast knows them."""
        return 200, encode(await self.service.observe(read_observe(asked.body)))

    async def forecast_item(self, asked: Asked) -> Answer:
        """The newest forecast of an item that you send rows of; of the item without a name at ``/v1/forecast/``."""
        served = self.service.named(asked.query.get("model"))
        item, query = asked.names["item"], asked.query
        if item not in served.stream.items:
            hint = "Send its rows to /v1/observe first."
            raise NotFoundError(f"nothing was observed of item {item!r}", hint=hint)
        horizon = None if "horizon" not in query else _number(query, "horizon")
        levels = _levels(query["levels"]) if "levels" in query else None
        return 200, encode(served.stream.forecast([item], horizon, levels).to_dict())

    async def models(self, asked: Asked) -> Answer:
        """The models, what they read and how wrong they were when they were measured."""
        return 200, encode({"models": [self.service.described(one) for one in self.service.served.values()]})

    async def reload(self, asked: Asked) -> Answer:
        """Load a model again from its directory; the old one serves until the new one has forecast once."""
        return 200, encode(self.service.described(await self.service.reload(asked.names["name"])))

    async def live(self, asked: Asked) -> Answer:
        """Rows, forecast and live error of an item; without one, the items and their scores."""
        served = self.service.named(asked.query.get("model"))
        return 200, encode(self.service.live(served, asked.query.get("item")))

    async def healthz(self, asked: Asked) -> Answer:
        """Whether the process answers."""
        return 200, encode({"status": "alive"})

    async def readyz(self, asked: Asked) -> Answer:
        """Whether forecasts can be asked for, and what does not work: a full disk, a source that is away."""
        state = self.service.state()
        return 200 if state["status"] in ("ready", "degraded") else 503, encode(state)


class Gate:
    """What every request passes, and where every error becomes an answer.

    Args:
        app: The application behind.
        routes: The routes that are answered here.
        metrics: Counts and times the requests.
        token: The bearer token that clients must send; None lets everybody in.
    """

    def __init__(self, app: Any, routes: Routes, metrics: Metrics, token: str | None) -> None:
        self.app, self.metrics, self.token = app, metrics, token
        self.config = routes.service.config
        self.direct = {("POST", "/v1/forecast"): routes.forecast, ("POST", "/v1/observe"): routes.observe}
        self.item = routes.forecast_item

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def sending(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            async with asyncio.timeout(self.config.deadline):
                await self._serve(scope, receive, sending)
        except Exception as error:
            if status:
                raise  # the answer has begun
            if isinstance(error, TimeoutError):
                error = DeadlineError(
                    f"took longer than {self.config.deadline:g} s", hint="Send less at once."
                )
            await respond(sending, *refused(error))
        finally:
            self.metrics.request(_path_of(scope), status, time.perf_counter() - began)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method, headers = scope["path"], scope["method"], dict(scope["headers"])
        if self.token is not None and path not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise TokenError("no valid token", hint="Send the header Authorization: Bearer TOKEN.")
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self.config.max_body:
            raise self._too_large()
        route, names = self.direct.get((method, path)), {}
        if method == "GET" and path.startswith("/v1/forecast/"):
            route, names = self.item, {"item": path.removeprefix("/v1/forecast/")}
        if route is None:
            await self.app(scope, self._limited(receive), send)
            return
        scope["route"] = path if not names else "/v1/forecast/{item}"
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        await respond(send, *await route(Asked(names, query, await _body(self._limited(receive)), {})))

    def _too_large(self) -> BodyTooLargeError:
        what = f"the body is larger than {self.config.max_body:,} bytes"
        return BodyTooLargeError(what, hint="Send less at once, or raise `max_body`.")

    def _limited(self, receive: Receive) -> Receive:
        read = 0

        async def receiving() -> dict[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.config.max_body:
                raise self._too_large()
            return message

        return receiving


def _path_of(scope: Scope) -> str:
    """The path of a request with its names left out; of a path that there is not, ``other``."""
    route = scope.get("route")
    return str(route if isinstance(route, str) else getattr(route, "path", "other"))


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client went away")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def refused(error: Exception) -> Answer:
    """The answer to a request that failed."""
    status = next((status for kind, status in STATUSES.items() if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("a request failed", exc_info=error)
        return 500, encode(Failure("the service failed; its log says how"))
    if not isinstance(error, PresurgeError):
        return status, encode(Failure(str(error)))
    what, hint = (None if text is None else spelled(text, plain) for text in (error.what, error.hint))
    return status, encode(Failure(what or "", error.where, error.setting, hint))


async def respond(send: Send, status: int, body: bytes, kind: bytes = JSON) -> None:
    """Send a whole answer."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def create_app(service: Service, metrics: Metrics, token: str | None = None) -> Gate:
    """The application: routes, their description and the gate before them."""
    api = FastAPI(title="Presurge", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None)
    routes = Routes(service)
    _add(api, "POST", "/v1/forecast", routes.forecast, body=ForecastRequest, example=_FORECAST)
    _add(api, "POST", "/v1/observe", routes.observe, body=ObserveRequest, example=_OBSERVE, answer=Observed)
    _add(api, "GET", "/v1/forecast/{item:path}", routes.forecast_item, query=("model", "horizon", "levels"))
    _add(api, "GET", "/v1/models", routes.models)
    _add(api, "POST", "/v1/models/{name}/reload", routes.reload)
    _add(api, "GET", "/v1/live", routes.live, query=("model", "item"))
    _add(api, "GET", "/healthz", routes.healthz)
    _add(api, "GET", "/readyz", routes.readyz)
    protocol = oip.InferenceProtocol(service)
    _add(api, "GET", "/v2", protocol.server)
    _add(api, "GET", "/v2/health/live", protocol.live)
    _add(api, "GET", "/v2/health/ready", protocol.ready)
    for at in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        _add(api, "GET", at, protocol.model)
        _add(api, "GET", f"{at}/ready", protocol.model_ready)
        _add(api, "POST", f"{at}/infer", protocol.infer, body=oip.InferRequest, example=_INFER)
    page = files("presurge.serving").joinpath("page.html").read_bytes()

    @api.get("/", include_in_schema=False)
    async def _page() -> Response:
        return Response(
            page, media_type="text/html; charset=utf-8", headers={"content-security-policy": _POLICY}
        )

    @api.get("/metrics", include_in_schema=False)
    async def _metrics() -> Response:
        return Response(metrics.text(), media_type=metrics.content_type)

    @api.exception_handler(404)
    @api.exception_handler(405)
    async def _no_route(request: Request, error: Any) -> Response:
        hint = "The routes are in /openapi.json."
        return Response(
            encode(Failure(f"{error.detail}: {request.method} {request.url.path}", hint=hint)),
            error.status_code,
            media_type=JSON.decode(),
        )

    api.openapi = lambda: _described(api)  # type: ignore[method-assign]
    return Gate(api, routes, metrics, token)


def _add(
    api: FastAPI,
    method: str,
    path: str,
    route: Route,
    *,
    body: type[msgspec.Struct] | None = None,
    example: Any = None,
    answer: Any = dict[str, Any],
    query: tuple[str, ...] = (),
) -> None:
    """Give a route a path, and describe it."""

    async def endpoint(request: Request) -> Response:
        asked = Asked(
            request.path_params, dict(request.query_params), await request.body(), dict(request.headers)
        )
        try:
            status, content = await route(asked)
        except Exception as error:
            status, content = refused(error)
        return Response(content, status, media_type=JSON.decode())

    described: dict[str, Any] = {}
    if body is not None:
        content = {"schema": _schema(body), "example": example}
        described["requestBody"] = {"required": True, "content": {JSON.decode(): content}}
    if query:
        described["parameters"] = [_QUERY[name] for name in query]
    failures: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": {JSON.decode(): {"schema": _schema(Failure)}}}
        for status, text in _FAILURES.items()
    }
    good = {"description": "Good", "content": {JSON.decode(): {"schema": _schema(answer)}}}
    summary, _, text = inspect.cleandoc(route.__doc__ or "").partition(".")
    api.add_api_route(
        path,
        endpoint,
        methods=[method],
        summary=summary,
        description=" ".join(text.split()),
        operation_id=f"{route.__name__}{'_version' * path.count('/versions/')}",
        responses={200: good, **failures},
        openapi_extra=described,
    )


def _schema(kind: Any) -> dict[str, Any]:
    """How OpenAPI refers to a body."""
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REFERENCE)
    return schema


def _described(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of all bodies."""
    if api.openapi_schema is None:
        api.openapi_schema = get_openapi(
            title=api.title, version=api.version, description=api.description, routes=api.routes
        )
        kinds = (ForecastRequest, ObserveRequest, Observed, Failure, oip.InferRequest)
        _, parts = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
        api.openapi_schema.setdefault("components", {})["schemas"] = parts
    return api.openapi_schema


def _number(query: dict[str, str], name: str) -> int:
    try:
        return int(query[name])
    except ValueError as error:
        raise ConfigError(f"{query[name]!r} is not a whole number", setting=name) from error


def _levels(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{text!r} is no list of levels", setting="levels", hint="Write 0.5,0.9") from error


_ABOUT = "Forecasts with intervals, from whole histories or from the rows that the service has seen."
_REFERENCE = "#/components/schemas/{name}"
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
_FORECAST = {
    "history": [
        {"item": "web", "end": "2024-05-01T00:09:00Z", "values": {"requests": [12, 15, 11, 14, 18, 17]}}
    ]
}
_OBSERVE = {
    "rows": [{"item": "web", "time": "2024-05-01T00:10:00Z", "values": {"requests": 16}}],
    "id": "web-0010",
}
_INFER = {
    "inputs": [{"name": "context", "shape": [1, 6, 1], "datatype": "FP32", "data": [12, 15, 11, 14, 18, 17]}]
}
_QUERY = {
    name: {"name": name, "in": "query", "description": text, "schema": schema}
    for name, text, schema in (
        ("model", "Name of the model, where there are several", {"type": "string"}),
        ("item", "Name of the item", {"type": "string"}),
        ("horizon", "Rows to give (default: the model's horizon)", {"type": "integer", "minimum": 1}),
        ("levels", "Levels of the quantiles, such as 0.5,0.9", {"type": "string"}),
    )
}
_FAILURES = {
    400: "The body is no JSON",
    401: "There is no valid token",
    404: "There is no such model or item",
    409: "The model cannot be loaded; the old one goes on",
    413: "The body is too large",
    422: "The request cannot be answered as it is",
    503: "The service is starting or stopping",
    504: "It took too long",
}
