"""A store double behind signed links, and the wrong answers that it gives when a test asks for them."""

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
# From the right answer to one request and the whole blob to a wrong answer; None sends the right one.
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
        self.always: Fault | None = None  # for every request after `faults` are used up
        self.pace = 0.0  # seconds before each piece of 64 KiB
        self.valid = 0  # number of the links that are valid; a link with a smaller one has expired

    def put(self, content: bytes) -> str:
        """Store a blob; returns its digest."""
        name = digest.of_bytes(content)
        self.blobs[name] = content
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
    """The right headers, and `after` bytes of the body: then the connection breaks."""
    return lambda answer, blob: (answer[0], answer[1], answer[2][:after])


def short(answer: Answer, blob: bytes) -> Answer:
    """A complete answer with the first 1000 bytes of the blob only."""
    return 200, {"content-length": "1000"}, blob[:1000]


def corrupt(answer: Answer, blob: bytes) -> Answer:
    """The right answer with a wrong first byte."""
    return answer[0], answer[1], b"X" + answer[2][1:]


def too_long(answer: Answer, blob: bytes) -> Answer:
    """The blob and four bytes more, without a length."""
    return 200, {}, blob + b"more"


def ignores_ranges(answer: Answer, blob: bytes) -> Answer:
    """The whole blob, as servers answer that do not support ranges."""
    return 200, {"content-length": str(len(blob))}, blob


def ignores_ranges_and_cuts(answer: Answer, blob: bytes) -> Answer:
    """The whole blob instead of a range, and the connection breaks after 200,000 bytes."""
    return 200, {"content-length": str(len(blob))}, blob[:200_000]


def other_range(answer: Answer, blob: bytes) -> Answer:
    """A valid answer to another request: everything from byte 7."""
    return 206, {"content-range": f"bytes 7-{len(blob) - 1}/{len(blob)}"}, blob[7:]


def compressed(answer: Answer, blob: bytes) -> Answer:
    """The blob, compressed although the client asked for its bytes as they are."""
    return 200, {"content-encoding": "gzip"}, gzip.compress(blob)


def status(code: int) -> Fault:
    """An S3 error with this status."""
    return lambda answer, blob: (code, {}, b"<Error/>")
