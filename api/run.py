"""`dncbm serve`: the service in a server that ends gracefully."""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from api.asgi import assemble
from api.configuration import describe, load_settings
from api.lifecycle import Lifecycle
from api.logs import configure_logging
from api.settings import Settings
from dncbm.errors import Unavailable

logger = logging.getLogger(__name__)

_TICK = 0.05
_LAST_SECONDS = 1
"""What connections get to close once no request runs any more."""


def serve(
    config: Path | None,
    given: Mapping[str, Any],
    *,
    say: Any,
    beside: Callable[[Settings], AbstractContextManager[object]] = lambda _: nullcontext(),
    print_settings: bool = False,
    verbose: bool = False,
) -> None:
    """Run the service until SIGTERM or SIGINT, or print its settings.

    Args:
        config: settings file, or None for the one of the environment.
        given: settings of the command line.
        say: shows a line of text to the user.
        beside: what runs as long as the service does, a worker say.
        print_settings: show the settings in force and return.
        verbose: log details too.

    Raises:
        InvalidInput: a setting is missing or wrong, or there is no model.
        Unavailable: the port is taken, or something that the service needs does not answer.
    """
    loaded = load_settings(config, given)
    settings = loaded.settings
    if print_settings:
        for warning in loaded.warnings:
            say(f"# {warning}")
        say(describe(loaded))
        return
    require_free_port(settings.host, settings.port)
    configure_logging(settings.log_format, verbose=verbose)
    for warning in loaded.warnings:
        logger.warning(warning)
    app = assemble(settings)
    say(
        f"Serving {settings.model_dir} at http://{settings.host}:{settings.port}/  "
        "(API description: /docs)"
    )
    with beside(settings):
        make_server(app, settings.host, settings.port, settings.shutdown_seconds).run()


def make_server(app: FastAPI, host: str, port: int, shutdown_seconds: float) -> "GracefulServer":
    """A server for an application of `create_app`."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # only by DNCBM_TRUSTED_PROXIES
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return GracefulServer(config, app.state.service.lifecycle, shutdown_seconds)


class GracefulServer(uvicorn.Server):
    """Answers 503 to new requests while those that run are finished, then ends."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, seconds: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._seconds = seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests, at most the given time, then close.

        A thread that still computes then is left; the process ends without it.
        """
        self._lifecycle.end()
        logger.warning("Ending: %d requests run.", self._lifecycle.in_flight)
        try:
            async with asyncio.timeout(self._seconds):
                while self._lifecycle.in_flight and not self.force_exit:
                    await asyncio.sleep(_TICK)
        except TimeoutError:
            logger.error(
                "Ending after %g s although %d requests run (DNCBM_SHUTDOWN_SECONDS).",
                self._seconds,
                self._lifecycle.in_flight,
            )
        await super().shutdown(sockets)


def require_free_port(host: str, port: int) -> None:
    """Refuse an address that is taken, before models are loaded.

    Raises:
        Unavailable: another program listens there, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Unavailable(
                f"Cannot listen on {host}:{port}: {error.strerror}. Choose another --port or "
                "--host, or stop the program that uses it."
            ) from error
