"""The HTTP server of one API process: uvicorn with the farm's limits for connections."""

from __future__ import annotations

import asyncio
import resource
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from api.http.connections import BoundedConnection, Connections
from models.settings import Settings

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
        # Seconds. Without a limit an open stream, such as a followed log, would delay the shutdown until it ends.
        timeout_graceful_shutdown=5,
        # Clients need not know which server and version answers.
        server_header=False,
    )


def raise_file_limit(settings: Settings) -> None:
    """Let this process open a file for each connection that it may have.

    Without one left, the kernel could not hand over a connection, and the limits of `api.http.connections` would not
    hold.

    Raises:
        ValueError: the hard limit of the process is lower.
    """
    needed = settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f"ENGINEFARM_MAX_CONNECTIONS={settings.max_connections} needs {needed} open files, and this process may "
            f"have {hard}: raise its hard limit (ulimit -Hn), or lower the setting"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
