"""The sockets that the API listens on, bound before its server runs."""

from __future__ import annotations

import errno
import logging
import socket
from typing import Any

from models.settings import Settings
from models.start import StartUnavailableError

log = logging.getLogger(__name__)

_HOST_REMEDY = "set 127.0.0.1, an address of this machine, or 0.0.0.0 for all of them"


def listening_sockets(settings: Settings) -> list[socket.socket]:
    """Bind every address of ENGINEFARM_HOST at ENGINEFARM_PORT.

    The server could do it, but would report a taken port without the names of the settings.

    Raises:
        ValueError: the host is no address of this machine, or this user may not use the port.
        StartUnavailableError: another program has the port.
    """
    place = f"ENGINEFARM_HOST={settings.host} and ENGINEFARM_PORT={settings.port}"
    try:
        addresses = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"{place}: the host is neither an address nor a known name: {_HOST_REMEDY}") from error
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(addresses):
            try:
                sockets.append(_bound(family, kind, protocol, address))
            except OSError as error:
                # A name such as localhost can have an IPv6 address on a machine without IPv6.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                missing = error
    except OSError as error:
        for listener in sockets:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise StartUnavailableError(
                f"{place}: another program listens there: stop it, or set another port"
            ) from error
        if error.errno == errno.EACCES:
            raise ValueError(f"{place}: this user may not listen there: set a port from 1024 on") from error
        raise ValueError(f"{place}: {error.strerror}: {_HOST_REMEDY}") from error
    if not sockets:
        raise ValueError(f"{place}: the host is no address of this machine: {_HOST_REMEDY}") from missing
    for listener in sockets:
        address, port = listener.getsockname()[:2]
        # With port 0 the kernel chooses one.
        log.info("listening on %s", f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
    return sockets


def _bound(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    """A socket that is bound to the address; the kernel keeps others from it from now on.

    Raises:
        OSError: the address cannot be used.
    """
    listener = socket.socket(family, kind, protocol)
    try:
        # A port of an API that has just stopped counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The IPv4 address of the same name has a socket of its own.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
