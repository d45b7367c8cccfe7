"""The faults of a store's response, down to the bytes on the line."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

STALL_SECONDS = 1.5  # seconds; longer than the client waits
_PIECE = 4096
_REASON = {200: "OK", 206: "Partial Content", 307: "Temporary Redirect"}


class ConnectionEnded(Exception):
    """The server ends the connection."""


@dataclass(frozen=True)
class RangeRequest:
    """A request for the bytes `start` to `end` of `content`."""

    content: bytes
    start: int
    end: int
    ranged: bool

    @property
    def part(self) -> bytes:
        return self.content[self.start : self.end]

    def content_range(self, shift: int = 0) -> dict[str, str]:
        if not self.ranged:
            return {}
        return {"Content-Range": f"bytes {self.start + shift}-{self.end - 1 + shift}/{len(self.content)}"}


class Line:
    """A connection to a client; `pace` is the pause after each piece, in seconds."""

    def __init__(self, connection: socket.socket, pace: float) -> None:
        self._connection, self._pace = connection, pace

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.head(status, {"Content-Length": str(len(body)), **headers})
        self.body(body)

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {_REASON.get(status, 'Error')}", *(f"{k}: {v}" for k, v in headers.items())]
        self._connection.sendall("\r\n".join([*lines, "", ""]).encode())

    def body(self, sent: bytes) -> None:
        for start in range(0, len(sent), _PIECE):
            self._connection.sendall(sent[start : start + _PIECE])
            if self._pace:
                time.sleep(self._pace)

    def reset(self) -> None:
        """End the connection with a reset, as a crash does, not as a server does."""
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionEnded


Fault = Callable[[Line, RangeRequest, random.Random], None]


def right(line: Line, request: RangeRequest, chance: random.Random | None = None) -> None:
    line.answer(206 if request.ranged else 200, request.part, request.content_range())


def instead(body: Callable[[RangeRequest, random.Random], bytes]) -> Fault:
    """The right headers and another body; after one that is too short the connection ends."""

    def fault(line: Line, request: RangeRequest, chance: random.Random) -> None:
        sent = body(request, chance)
        line.head(206 if request.ranged else 200, {"Content-Length": str(len(request.part)), **request.content_range()})
        line.body(sent)
        if len(sent) < len(request.part):
            raise ConnectionEnded

    return fault


def _start(request: RangeRequest, chance: random.Random) -> bytes:
    return request.part[: chance.randrange(len(request.part) + 1)]


def _flipped(request: RangeRequest, chance: random.Random) -> bytes:
    sent = bytearray(request.part)
    sent[chance.randrange(len(sent))] ^= 1 << chance.randrange(8)
    return bytes(sent)


def _repeated(request: RangeRequest, chance: random.Random) -> bytes:
    at = chance.randrange(len(request.part) + 1)
    return (request.part[:at] + request.part[max(0, at - 100) : at] + request.part[at:])[: len(request.part)]


def _swapped(request: RangeRequest, chance: random.Random) -> bytes:
    at = chance.randrange(len(request.part) + 1)
    return request.part[at:] + request.part[:at]


def _other_part(request: RangeRequest, chance: random.Random) -> bytes:
    start = chance.randrange(len(request.content) - len(request.part) + 1)
    return request.content[start : start + len(request.part)]


def _reset(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.head(206 if request.ranged else 200, {"Content-Length": str(len(request.part)), **request.content_range()})
    line.body(_start(request, chance))
    line.reset()


def _cut_in_the_head(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line._connection.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Le")
    raise ConnectionEnded


def _nonsense(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line._connection.sendall(chance.randbytes(300))
    raise ConnectionEnded


def _no_answer(line: Line, request: RangeRequest, chance: random.Random) -> None:
    raise ConnectionEnded


def _stalled(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.head(206 if request.ranged else 200, {"Content-Length": str(len(request.part)), **request.content_range()})
    line.body(_start(request, chance))
    time.sleep(STALL_SECONDS)
    raise ConnectionEnded


def _shorter(line: Line, request: RangeRequest, chance: random.Random) -> None:
    """The start of the range, as if it were all of it."""
    line.answer(206 if request.ranged else 200, _start(request, chance), request.content_range())


def _longer(line: Line, request: RangeRequest, chance: random.Random) -> None:
    """The whole range, and after a while bytes that follow it."""
    line.head(206 if request.ranged else 200, {"Transfer-Encoding": "chunked", **request.content_range()})
    line.body(b"%x\r\n%s\r\n" % (len(request.part), request.part))
    time.sleep(chance.choice([0, 0.02]))
    line.body(b"4\r\nmore\r\n0\r\n\r\n")


def _bad_chunks(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.head(206 if request.ranged else 200, {"Transfer-Encoding": "chunked", **request.content_range()})
    line.body(b"%x\r\n%s\r\nzz\r\n" % (len(request.part), request.part))
    raise ConnectionEnded


def _ignores_ranges(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.answer(200, request.content)


def _ignores_ranges_and_cuts(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.head(200, {"Content-Length": str(len(request.content))})
    line.body(request.content[: chance.randrange(len(request.content) + 1)])
    raise ConnectionEnded


def _other_range(line: Line, request: RangeRequest, chance: random.Random) -> None:
    """Another range than the requested one, and the headers say so."""
    at = chance.randrange(len(request.content))
    other = RangeRequest(request.content, at, min(len(request.content), at + len(request.part)), ranged=True)
    line.answer(206, other.part, other.content_range())


def _wrong_label(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.answer(206, request.part, request.content_range(shift=chance.choice([-1, 1, 4096])))


def _no_label(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.answer(206, request.part)


def _multipart(line: Line, request: RangeRequest, chance: random.Random) -> None:
    body = b"--x\r\n" + request.part + b"\r\n--x--\r\n"
    line.answer(206, body, {"Content-Type": "multipart/byteranges; boundary=x"})


def _compressed(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.answer(
        206 if request.ranged else 200,
        gzip.compress(request.part),
        {"Content-Encoding": "gzip", **request.content_range()},
    )


def _loop(line: Line, request: RangeRequest, chance: random.Random) -> None:
    line.answer(307, headers={"Location": "?"})


def _status(code: int, headers: Mapping[str, str] = {}) -> Fault:
    def fault(line: Line, request: RangeRequest, chance: random.Random) -> None:
        line.answer(code, b"<Error/>", headers)

    return fault


# Faults whose wrong bytes the client cannot notice before it hashes them.
SILENT: dict[str, Fault] = {
    "corrupt": instead(_flipped),
    "duplicate": instead(_repeated),
    "reorder": instead(_swapped),
    "other part": instead(_other_part),
    "compressed": _compressed,
}
LOUD: dict[str, Fault] = {
    "cut": instead(_start),
    "reset": _reset,
    "cut in the head": _cut_in_the_head,
    "nonsense": _nonsense,
    "no answer": _no_answer,
    "stall": _stalled,
    "shorter": _shorter,
    "longer": _longer,
    "bad chunks": _bad_chunks,
    "deaf to ranges": _ignores_ranges,
    "deaf and cut": _ignores_ranges_and_cuts,
    "other range": _other_range,
    "wrong label": _wrong_label,
    "no label": _no_label,
    "multipart": _multipart,
    "redirect loop": _loop,
    "416": _status(416),
    "404": _status(404),
    "403": _status(403),
    "500": _status(500),
    "503": _status(503, {"Retry-After": "1"}),
    "429": _status(429),
}
EXPIRED = "links expire"  # all links that were handed out until now are refused from now on
FAULTS = SILENT | LOUD | {EXPIRED: _status(403)}
