"""A store behind signed links, and the ways in which it can be told to answer wrongly."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from enginefarm.contract import digest
from tests.enginefarm.served import Served

# What a store can do wrong with one request: (the right answer's status, headers, body) to a wrong answer.
Answer = tuple[int, dict[str, str], bytes]
Fault = Callable[[Answer, bytes], Answer | None]


class StoreDouble(Served):
    """Blobs behind signed links. `faults` are used up one a request, in order; then it behaves."""

    SIGNATURE = "c2VjcmV0"

    def __init__(self) -> None:
        super().__init__()
        self.app.get("/bucket/{name}")(self._get)
        self._forget()

    def reset(self) -> None:
        super().reset()
        self._forget()

    def _forget(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.pace = 0.0  # seconds a piece
        self.valid = 0  # links of an older number are refused

    def put(self, data: bytes) -> str:
        name = digest.of_bytes(data)
        self.blobs[name] = data
        return name

    def link(self, name: str) -> str:
        return f"{self.url}/bucket/{quote(name)}?number={self.valid}&X-Signature={self.SIGNATURE}"

    async def _get(self, name: str, number: int, request: Request) -> Response:
        if number < self.valid:
            return Response("<Error><Code>AccessDenied</Code></Error>", status_code=403)
        whole = self.blobs[name]
        answer = _ranged(whole, request.headers.get("range"))
        fault = self.faults.pop(0) if self.faults else self.always
        changed = fault(answer, whole) if fault else answer
        status, headers, body = changed or answer
        return StreamingResponse(self._pieces(body), status_code=status, headers=headers)

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            if self.pace:
                await asyncio.sleep(self.pace)
            yield body[start : start + (1 << 16)]


def _ranged(whole: bytes, asked: str | None) -> Answer:
    if not asked:
        return 200, {"content-length": str(len(whole))}, whole
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    assert found, asked
    start, end = int(found[1]), int(found[2] or len(whole) - 1) + 1
    if start >= len(whole):
        return 416, {"content-range": f"bytes */{len(whole)}"}, b""
    part = whole[start:end]
    return (
        206,
        {"content-length": str(len(part)), "content-range": f"bytes {start}-{start + len(part) - 1}/{len(whole)}"},
        part,
    )


def cut(after: int) -> Fault:
    """The right headers, and the connection breaks off."""
    return lambda answer, whole: (answer[0], answer[1], answer[2][:after])


def short(answer: Answer, whole: bytes) -> Answer:
    """A part, called the whole."""
    return 200, {"content-length": "1000"}, whole[:1000]


def corrupt(answer: Answer, whole: bytes) -> Answer:
    return answer[0], answer[1], b"X" + answer[2][1:]


def too_long(answer: Answer, whole: bytes) -> Answer:
    return 200, {}, whole + b"more"


def deaf_to_ranges(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-length": str(len(whole))}, whole


def deaf_and_cut(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-length": str(len(whole))}, whole[:200_000]


def other_range(answer: Answer, whole: bytes) -> Answer:
    return 206, {"content-range": f"bytes 7-{len(whole) - 1}/{len(whole)}"}, whole[7:]


def compressed(answer: Answer, whole: bytes) -> Answer:
    return 200, {"content-encoding": "gzip"}, gzip.compress(whole)


def status(code: int) -> Fault:
    return lambda answer, whole: (code, {}, b"<Error/>")
