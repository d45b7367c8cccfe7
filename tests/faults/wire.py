"""What a store can do wrong with one answer, down to the bytes on the line."""

from __future__ import annotations

import contextlib
import gzip
import random
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

STALL = 1.5  # seconds; longer than the client waits
_PIECE = 4096
_REASON = {200: "OK", 206: "Partial Content", 307: "Temporary Redirect"}


class Gone(Exception):
    """The server ends the connection."""


@dataclass(frozen=True)
class Asked:
    """Bytes `start` to `end` of `whole`, as the client wants them."""

    whole: bytes
    start: int
    end: int
    ranged: bool

    @property
    def part(self) -> bytes:
        return self.whole[self.start : self.end]

    def label(self, shift: int = 0) -> dict[str, str]:
        if not self.ranged:
            return {}
        return {"Content-Range": f"bytes {self.start + shift}-{self.end - 1 + shift}/{len(self.whole)}"}


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

    def body(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE):
            self._connection.sendall(data[start : start + _PIECE])
            if self._pace:
                time.sleep(self._pace)

    def reset(self) -> None:
        """Ends the connection as a crash does, not as a server does."""
        with contextlib.suppress(OSError):
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Gone


Fault = Callable[[Line, Asked, random.Random], None]


def right(line: Line, asked: Asked, chance: random.Random | None = None) -> None:
    line.answer(206 if asked.ranged else 200, asked.part, asked.label())


def instead(body: Callable[[Asked, random.Random], bytes]) -> Fault:
    """The right headers and another body; one that is too short is cut off there."""

    def fault(line: Line, asked: Asked, chance: random.Random) -> None:
        data = body(asked, chance)
        line.head(206 if asked.ranged else 200, {"Content-Length": str(len(asked.part)), **asked.label()})
        line.body(data)
        if len(data) < len(asked.part):
            raise Gone

    return fault


def _some(asked: Asked, chance: random.Random) -> bytes:
    return asked.part[: chance.randrange(len(asked.part) + 1)]


def _flipped(asked: Asked, chance: random.Random) -> bytes:
    data = bytearray(asked.part)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _repeated(asked: Asked, chance: random.Random) -> bytes:
    at = chance.randrange(len(asked.part) + 1)
    return (asked.part[:at] + asked.part[max(0, at - 100) : at] + asked.part[at:])[: len(asked.part)]


def _swapped(asked: Asked, chance: random.Random) -> bytes:
    at = chance.randrange(len(asked.part) + 1)
    return asked.part[at:] + asked.part[:at]


def _other_part(asked: Asked, chance: random.Random) -> bytes:
    start = chance.randrange(len(asked.whole) - len(asked.part) + 1)
    return asked.whole[start : start + len(asked.part)]


def _reset(line: Line, asked: Asked, chance: random.Random) -> None:
    line.head(206 if asked.ranged else 200, {"Content-Length": str(len(asked.part)), **asked.label()})
    line.body(_some(asked, chance))
    line.reset()


def _cut_in_the_head(line: Line, asked: Asked, chance: random.Random) -> None:
    line._connection.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Le")
    raise Gone


def _nonsense(line: Line, asked: Asked, chance: random.Random) -> None:
    line._connection.sendall(chance.randbytes(300))
    raise Gone


def _no_answer(line: Line, asked: Asked, chance: random.Random) -> None:
    raise Gone


def _stalled(line: Line, asked: Asked, chance: random.Random) -> None:
    line.head(206 if asked.ranged else 200, {"Content-Length": str(len(asked.part)), **asked.label()})
    line.body(_some(asked, chance))
    time.sleep(STALL)
    raise Gone


def _shorter(line: Line, asked: Asked, chance: random.Random) -> None:
    """A part of what was asked for, and the server thinks that this is all."""
    line.answer(206 if asked.ranged else 200, _some(asked, chance), asked.label())


def _longer(line: Line, asked: Asked, chance: random.Random) -> None:
    """Everything that was asked for; more comes after a while."""
    line.head(206 if asked.ranged else 200, {"Transfer-Encoding": "chunked", **asked.label()})
    line.body(b"%x\r\n%s\r\n" % (len(asked.part), asked.part))
    time.sleep(chance.choice([0, 0.02]))
    line.body(b"4\r\nmore\r\n0\r\n\r\n")


def _bad_chunks(line: Line, asked: Asked, chance: random.Random) -> None:
    line.head(206 if asked.ranged else 200, {"Transfer-Encoding": "chunked", **asked.label()})
    line.body(b"%x\r\n%s\r\nzz\r\n" % (len(asked.part), asked.part))
    raise Gone


def _deaf_to_ranges(line: Line, asked: Asked, chance: random.Random) -> None:
    line.answer(200, asked.whole)


def _deaf_and_cut(line: Line, asked: Asked, chance: random.Random) -> None:
    line.head(200, {"Content-Length": str(len(asked.whole))})
    line.body(asked.whole[: chance.randrange(len(asked.whole) + 1)])
    raise Gone


def _other_range(line: Line, asked: Asked, chance: random.Random) -> None:
    """Another range than was asked for, and the answer says so."""
    at = chance.randrange(len(asked.whole))
    other = Asked(asked.whole, at, min(len(asked.whole), at + len(asked.part)), ranged=True)
    line.answer(206, other.part, other.label())


def _wrong_label(line: Line, asked: Asked, chance: random.Random) -> None:
    line.answer(206, asked.part, asked.label(shift=chance.choice([-1, 1, 4096])))


def _no_label(line: Line, asked: Asked, chance: random.Random) -> None:
    line.answer(206, asked.part)


def _multipart(line: Line, asked: Asked, chance: random.Random) -> None:
    body = b"--x\r\n" + asked.part + b"\r\n--x--\r\n"
    line.answer(206, body, {"Content-Type": "multipart/byteranges; boundary=x"})


def _compressed(line: Line, asked: Asked, chance: random.Random) -> None:
    line.answer(206 if asked.ranged else 200, gzip.compress(asked.part), {"Content-Encoding": "gzip", **asked.label()})


def _loop(line: Line, asked: Asked, chance: random.Random) -> None:
    line.answer(307, headers={"Location": "?"})


def _status(code: int, headers: Mapping[str, str] = {}) -> Fault:
    def fault(line: Line, asked: Asked, chance: random.Random) -> None:
        line.answer(code, b"<Error/>", headers)

    return fault


# Those after which the client's bytes may be wrong without any sign of it until they are hashed.
SILENT: dict[str, Fault] = {
    "corrupt": instead(_flipped),
    "duplicate": instead(_repeated),
    "reorder": instead(_swapped),
    "other part": instead(_other_part),
    "compressed": _compressed,
}
LOUD: dict[str, Fault] = {
    "cut": instead(_some),
    "reset": _reset,
    "cut in the head": _cut_in_the_head,
    "nonsense": _nonsense,
    "no answer": _no_answer,
    "stall": _stalled,
    "shorter": _shorter,
    "longer": _longer,
    "bad chunks": _bad_chunks,
    "deaf to ranges": _deaf_to_ranges,
    "deaf and cut": _deaf_and_cut,
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
EXPIRED = "links expire"  # all links that were given out until now are refused from now on
FAULTS = SILENT | LOUD | {EXPIRED: _status(403)}
