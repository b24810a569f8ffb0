"""Runs a service with all its doors until it is told to stop."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from presurge.errors import ConfigError
from presurge.serving.app import create_app
from presurge.serving.config import ServeConfig
from presurge.serving.dynamo import Plugin
from presurge.serving.keda import Scaler
from presurge.serving.metrics import Metrics
from presurge.serving.poll import Poller
from presurge.serving.protos.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server as add_keda
from presurge.serving.protos.planner_pb2_grpc import add_PredictPluginServicer_to_server as add_plugin
from presurge.serving.service import Service

Say = Callable[[str], None]
LARGEST_HEAD = 65_536
"""Bytes of a request before its body."""


def serve(config: ServeConfig, say: Say = print) -> None:
    """Serve until SIGINT or SIGTERM; what is in flight is finished.

    Args:
        config: What to serve.
        say: Called with the addresses and with warnings.

    Raises:
        ModelError: A model cannot be loaded.
        ConfigError: A file of the configuration cannot be read, a port is taken, or another service uses the state directory.
        StorageError: The state directory cannot be written.
    """
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(_until_told(config, say))


async def _until_told(config: ServeConfig, say: Say) -> None:
    async with running(config, say) as (_, server):
        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it is done
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        gc.freeze()  # what is loaded stays: collections need not look at it
        gc.set_threshold(10_000)
        await server.serve()


class Server(uvicorn.Server):
    """uvicorn at a socket that is bound, which resets no connection when it stops."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket, service: Service) -> None:
        super().__init__(config)
        self.bound, self.service = bound, service

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer until ``should_exit`` is set and what is in flight is finished."""
        await super().serve(sockets or [self.bound])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let no new connection in, answer who has asked or asks within half a second, and stop."""
        self.service.stopping = True
        self.bound.listen(0)  # closed now, it would reset connections that wait to be accepted
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
        await asyncio.sleep(0.5)
        await super().shutdown(sockets)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which lets no client keep a connection with a head that never ends, or with none."""

    deadline = 10.0
    _timer: asyncio.TimerHandle | None = None
    _head = 0

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.close)
        self._head = 0

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait(self.deadline)

    def on_message_begin(self) -> None:
        """Wait for the rest of a head."""
        super().on_message_begin()
        self._wait(self.deadline)

    def on_headers_complete(self) -> None:
        """Leave the body to the application."""
        self._wait(None)
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Refuse a head that is too large."""
        super().data_received(data)
        self._head += len(data)
        if self._timer is not None and self._head > LARGEST_HEAD:
            self._wait(None)
            self.send_400_response("The head of the request is too large.")

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._wait(None)
        super().connection_lost(exc)


@asynccontextmanager
async def running(config: ServeConfig, say: Say) -> AsyncIterator[tuple[Service, Server]]:
    """A service that is started, with the sources that it asks and its gRPC doors, and the HTTP server to run.

    Raises:
        ModelError: A model cannot be loaded.
        ConfigError: A file of the configuration cannot be read, a port is taken, or another service uses the state directory.
        StorageError: The state directory cannot be written.
    """
    token = None if config.token_file is None else _token(config.token_file)
    async with AsyncExitStack() as stack:
        bound = stack.enter_context(_bound(config.host, config.port))
        service = Service(config)
        await service.start()
        stack.push_async_callback(service.stop)
        for text in service.warnings:
            say(f"Warning: {text}")
        for poll in config.prometheus:
            for name in [poll.model] if poll.model else [*service.served]:
                task = asyncio.create_task(Poller(service, poll, name).run())
                stack.callback(task.cancel)
        if config.keda_port is not None:
            await _listen(stack, config, config.keda_port, add_keda, Scaler(service), say, "KEDA")
        if config.dynamo is not None:
            plugin = Plugin(service, config.dynamo)
            await _listen(stack, config, config.dynamo.port, add_plugin, plugin, say, "Dynamo")
        http = uvicorn.Config(
            create_app(service, Metrics(service), token),
            log_level="warning",
            access_log=False,
            lifespan="off",
            http=type("Protocol", (Protocol,), {"deadline": config.deadline}),
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=round(config.grace),
            ssl_certfile=config.certificate,
            ssl_keyfile=config.key,
        )
        try:
            http.load()
        except OSError as error:  # of ssl too
            raise ConfigError(f"cannot be read: {error}", setting="certificate") from error
        scheme, host = (
            "https" if http.is_ssl else "http",
            f"[{config.host}]" if ":" in config.host else config.host,
        )
        say(f"HTTP: {scheme}://{host}:{bound.getsockname()[1]}")
        yield service, Server(http, bound, service)


def _token(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", setting="token_file") from error
    if not token:
        raise ConfigError(
            f"{path} is empty", setting="token_file", hint="Write the token into it, on one line."
        )
    return token


def _bound(host: str, port: int, setting: str = "port") -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0
        if number < 0:  # of looking the name up
            raise ConfigError(f"there is no address {host!r}", setting="host") from error
        what, hint = f"cannot listen at {host}:{port}: {os.strerror(number)}", "Choose another port."
        raise ConfigError(what, setting=setting, hint=hint) from error


async def _listen(
    stack: AsyncExitStack, config: ServeConfig, port: int, add: Any, servicer: Any, say: Say, name: str
) -> None:
    """Start a gRPC server, which ends with the stack. Dynamo's planner speaks plain text only.

    Raises:
        ConfigError: The port is taken.
    """
    _bound(config.host, port, f"{name.lower()}_port").close()  # gRPC would not say why it cannot
    server, address = grpc.aio.server(options=[("grpc.so_reuseport", 0)]), f"{config.host}:{port}"
    add(servicer, server)
    if config.certificate is not None and config.key is not None and name == "KEDA":
        pair = config.key.read_bytes(), config.certificate.read_bytes()
        bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    else:
        bound = server.add_insecure_port(address)
    await server.start()
    stack.push_async_callback(server.stop, config.grace)
    say(f"{name}: grpc://{config.host}:{bound}")
