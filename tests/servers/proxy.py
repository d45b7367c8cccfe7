"""A TCP proxy on loopback that cuts connections and changes bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from tests.servers.server import free_port


class Proxy:
    """Forwards connections to `target`, a port of 127.0.0.1.

    Args:
        cut_after: bytes of the answer after which a connection is cut.
        cuts: connections to cut; later ones are forwarded to their end.
        alter: changes each piece that is sent to the target.
        alter_answer: changes each piece of the target's answer.

    A new `target` holds for later connections, as a name that is moved to another address does.
    """

    def __init__(
        self,
        target: int,
        *,
        cut_after: int = 0,
        cuts: int = 0,
        alter: Callable[[bytes], bytes] = lambda piece: piece,
        alter_answer: Callable[[bytes], bytes] = lambda piece: piece,
    ) -> None:
        self.port = free_port()
        self.cuts_left = cuts
        self.target = target
        self._cut_after = cut_after
        self._alter, self._alter_answer = alter, alter_answer
        self._listener = socket.create_server(("127.0.0.1", self.port))

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes `accept`, which a mere close would not
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                for direction in (self._requests, self._answers):
                    threading.Thread(target=direction, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(1 << 16):
                server.sendall(self._alter(piece))
        _close(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        forwarded = 0  # bytes
        with contextlib.suppress(OSError):
            while piece := server.recv(1 << 16):
                forwarded += len(piece)
                if self.cuts_left and forwarded > self._cut_after:
                    self.cuts_left -= 1
                    break
                client.sendall(self._alter_answer(piece))
        _close(client, server)


def _close(*connections: socket.socket) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
