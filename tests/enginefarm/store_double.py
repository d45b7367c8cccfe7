"""A store behind signed links, and the wrong responses that it can be told to give."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from enginefarm.contract import digest
from tests.enginefarm.http_double import HttpDouble

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
# Turns the right answer to one request, and the whole blob, into a wrong answer; None leaves it right.
Fault = Callable[[Answer, bytes], Answer | None]


class StoreDouble(HttpDouble):
    """Blobs behind signed links. Each request uses up one of `faults`, in order; then all answers are right."""

    SIGNATURE = "c2VjcmV0"

    def __init__(self) -> None:
        super().__init__()
        self.app.get("/bucket/{name}")(self._get)
        self._clear()

    def reset(self) -> None:
        super().reset()
        self._clear()

    def _clear(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None  # for every request after those
        self.pace = 0.0  # seconds before each piece of 64 KiB
        self.valid = 0  # links with a smaller number are refused, as if they had expired

    def put(self, data: bytes) -> str:
        name = digest.of_bytes(data)
        self.blobs[name] = data
        return name

    def link(self, name: str) -> str:
        return f"{self.url}/bucket/{quote(name)}?number={self.valid}&X-Signature={self.SIGNATURE}"

    async def _get(self, name: str, number: int, request: Request) -> Response:
        if number < self.valid:
            return Response("<Error><Code>AccessDenied</Code></Error>", status_code=403)
        blob = self.blobs[name]
        answer = _right_answer(blob, request.headers.get("range"))
        fault = self.faults.pop(0) if self.faults else self.always
        if fault:
            answer = fault(answer, blob) or answer
        status, headers, body = answer
        return StreamingResponse(self._pieces(body), status_code=status, headers=headers)

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            if self.pace:
                await asyncio.sleep(self.pace)
            yield body[start : start + (1 << 16)]


def _right_answer(blob: bytes, range_header: str | None) -> Answer:
    if not range_header:
        return 200, {"content-length": str(len(blob))}, blob
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", range_header)
    assert match, range_header
    start = int(match[1])
    end = int(match[2] or len(blob) - 1) + 1
    if start >= len(blob):
        return 416, {"content-range": f"bytes */{len(blob)}"}, b""
    part = blob[start:end]
    content_range = f"bytes {start}-{start + len(part) - 1}/{len(blob)}"
    return 206, {"content-length": str(len(part)), "content-range": content_range}, part


def cut(after: int) -> Fault:
    """The right headers, and the connection breaks off after that many bytes of the body."""
    return lambda answer, blob: (answer[0], answer[1], answer[2][:after])


def short(answer: Answer, blob: bytes) -> Answer:
    """The start of the blob, sent as if it were all of it."""
    return 200, {"content-length": "1000"}, blob[:1000]


def corrupt(answer: Answer, blob: bytes) -> Answer:
    return answer[0], answer[1], b"X" + answer[2][1:]


def too_long(answer: Answer, blob: bytes) -> Answer:
    return 200, {}, blob + b"more"


def ignores_ranges(answer: Answer, blob: bytes) -> Answer:
    return 200, {"content-length": str(len(blob))}, blob


def ignores_ranges_and_cuts(answer: Answer, blob: bytes) -> Answer:
    return 200, {"content-length": str(len(blob))}, blob[:200_000]


def other_range(answer: Answer, blob: bytes) -> Answer:
    return 206, {"content-range": f"bytes 7-{len(blob) - 1}/{len(blob)}"}, blob[7:]


def compressed(answer: Answer, blob: bytes) -> Answer:
    return 200, {"content-encoding": "gzip"}, gzip.compress(blob)


def status(code: int) -> Fault:
    return lambda answer, blob: (code, {}, b"<Error/>")
