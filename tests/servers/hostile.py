"""An HTTP server on loopback that answers with the bytes that a test wants: bombs, endless bodies, trickles."""

from __future__ import annotations

import itertools
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Self

Answer = Callable[["RawRequest"], Iterable[bytes]]


@dataclass(frozen=True)
class RawRequest:
    method: str
    target: str  # path and query
    headers: dict[str, str]  # names in lower case


class HostileServer:
    """Use it as a context manager. `answer` yields the bytes of each answer; the connection is closed after each.

    `requests` lists the requests in order, `sent` counts the bytes of all answers.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[RawRequest] = []
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_open = True
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        # close() alone leaves a thread in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def _accept(self) -> None:
        while self._is_open:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError):
            reader = connection.makefile("rb")
            method, target, _ = reader.readline().decode("latin-1").split(" ", 2)
            headers: dict[str, str] = {}
            for line in iter(reader.readline, b"\r\n"):
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            reader.read(int(headers.get("content-length", 0)))
            request = RawRequest(method, target, headers)
            self.requests.append(request)
            for chunk in self.answer(request):
                if not self._is_open:
                    return
                connection.sendall(chunk)
                self.sent += len(chunk)


def head(status: str = "200 OK", **headers: object) -> bytes:
    """Return the head of an answer; an underscore in a header's name stands for '-'."""
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: bytes, status: str = "200 OK", **headers: object) -> Iterator[bytes]:
    yield head(status, Content_Length=len(body), **headers)
    yield body


def redirect(location: str) -> Iterator[bytes]:
    yield head("302 Found", Location=location, Content_Length=0)


def endless(start: bytes, again: bytes, status: str = "200 OK", **headers: object) -> Iterator[bytes]:
    """An answer in chunks that never ends: `start`, then `again` for ever."""
    yield head(status, Transfer_Encoding="chunked", **headers)
    for piece in itertools.chain([start], itertools.repeat(again)):
        yield b"%x\r\n%b\r\n" % (len(piece), piece)


def trickle(content: bytes, pause: float = 0.1) -> Iterator[bytes]:
    """`content`, a byte at a time."""
    for byte in content:
        time.sleep(pause)
        yield bytes([byte])


@cache
def gzip_bomb(mebibytes: int = 128) -> bytes:
    """Blanks, which JSON allows anywhere, compressed to a thousandth."""
    compressor = zlib.compressobj(1, wbits=31)
    blanks = b" " * (1 << 20)
    return b"".join(compressor.compress(blanks) for _ in range(mebibytes)) + compressor.flush()
