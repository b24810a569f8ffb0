"""Runs a service with all its doors until it is told to stop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import uvicorn

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
    asyncio.run(_serve(config, say))


async def _serve(config: ServeConfig, say: Say) -> None:
    async with running(config, say) as (service, app):
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=config.host,
                port=config.port,
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=round(config.grace),
                ssl_certfile=None if config.certificate is None else str(config.certificate),
                ssl_keyfile=None if config.key is None else str(config.key),
            )
        )
        say(f"HTTP: {'https' if config.certificate else 'http'}://{config.host}:{config.port}")
        await server.serve()
        service.stopping = True


@asynccontextmanager
async def running(config: ServeConfig, say: Say) -> AsyncIterator[tuple[Service, Any]]:
    """A service that is started, with the sources that it asks and its gRPC doors, and its HTTP application."""
    service, token = Service(config), None
    if config.token_file is not None:
        try:
            token = config.token_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be read: {error}", setting="token_file") from error
    await service.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.stop)
        for text in service.warnings:
            say(f"Warning: {text}")
        for poll in config.prometheus:
            task = asyncio.create_task(Poller(service, poll).run())
            stack.callback(task.cancel)
        if config.keda_port is not None:
            await _listen(stack, config, config.keda_port, add_keda, Scaler(service), say, "KEDA")
        if config.dynamo is not None:
            plugin = Plugin(service, config.dynamo)
            await _listen(stack, config, config.dynamo.port, add_plugin, plugin, say, "Dynamo")
        yield service, create_app(service, Metrics(service), token)


async def _listen(
    stack: AsyncExitStack, config: ServeConfig, port: int, add: Any, servicer: Any, say: Say, name: str
) -> None:
    """Start a gRPC server, which ends with the stack. Dynamo's planner speaks plain text only.

    Raises:
        ConfigError: The port is taken.
    """
    server = grpc.aio.server()
    add(servicer, server)
    address = f"{config.host}:{port}"
    try:
        if config.certificate is not None and config.key is not None and name == "KEDA":
            pair = config.key.read_bytes(), config.certificate.read_bytes()
            bound = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            bound = server.add_insecure_port(address)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{address} cannot be listened at: {error}", setting="port") from error
    await server.start()
    stack.push_async_callback(server.stop, config.grace)
    say(f"{name}: grpc://{config.host}:{bound}")
