"""The HTTP server of one API process: uvicorn with the farm's limits for connections."""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from socket import socket
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from api.http.connections import MOST_LINGERING, BoundedConnection, Connections
from models.loops import end_later
from models.settings import Settings
from models.stop_signals import handle_stop_signals

log = logging.getLogger(__name__)

# Streams and long polls end as soon as they look at the catalogue again, also if a second signal follows at once.
_STREAM_SECONDS = 0.5
_GRACE_SECONDS = 3.0  # then, for requests that take a moment, and for bytes that a client still reads
_CUT_SECONDS = 2.0  # for requests to end after their connections were cut
_END_SECONDS = 5.0  # for the rest: a thread may wait for a database or a model hub that does not answer

# Files that a process opens besides its connections: the database's and the store's connections, files that it serves.
_OTHER_FILES = 256


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How to serve `app` with these settings."""
    connections = Connections(settings.max_connections, settings.max_connections_per_peer, settings.proxies)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # uvicorn calls it as it would call the class of a protocol.
        http=cast(type[asyncio.Protocol], partial(BoundedConnection, connections=connections)),
        # No route has a WebSocket.
        ws="none",
        # uvicorn's loggers then pass their lines to the root logger, which `start_logging` configured.
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(_STREAM_SECONDS + _GRACE_SECONDS + _CUT_SECONDS),
        # Clients need not know which server and version answers.
        server_header=False,
        # Named, because WEB_CONCURRENCY of another program, which need not be a number, would be the default.
        workers=1,
    )


class Server(uvicorn.Server):
    """uvicorn's server with an orderly and quick end by SIGTERM, SIGINT and SIGHUP.

    `app.state.leaving` is set first, which ends streams and long polls. Other requests get _GRACE_SECONDS, and none
    after a second signal; then their connections are cut, so that they end as if their clients had left.
    """

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(server_config(app, settings))
        self._state = app.state
        self._second_signal = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals while the server runs, and afterwards: the process is ending then."""
        handle_stop_signals(self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler. Unlike uvicorn's, it does not note the signal to raise it again after the end."""
        if self.should_exit:
            self._second_signal.set()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """End the requests and the application."""
        self._state.leaving.set()
        end_later(_STREAM_SECONDS + _GRACE_SECONDS + _CUT_SECONDS + _END_SECONDS, self._state.loops.exit_status)
        cutting = asyncio.create_task(self._cut_connections())
        await super().shutdown(sockets)
        cutting.cancel()

    async def _cut_connections(self) -> None:
        await asyncio.sleep(_STREAM_SECONDS)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._second_signal.wait(), _GRACE_SECONDS)
        connections = list(self.server_state.connections)
        if connections:
            log.warning("cutting %d connections that have not ended", len(connections))
        for connection in connections:
            cast(BoundedConnection, connection).transport.abort()


def raise_file_limit(settings: Settings) -> None:
    """Let this process open a file for each connection that it may have.

    Without one left, the kernel could not hand over a connection, and the limits of `api.http.connections` would not
    hold.

    Raises:
        ValueError: the hard limit of the process is lower.
    """
    needed = settings.max_connections + MOST_LINGERING + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"ENGINEFARM_MAX_CONNECTIONS={settings.max_connections} needs {needed} open files, and this process may "
            f"have {hard}: raise its hard limit (ulimit -Hn), or lower the setting"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
