"""Read the body of an answer with limits: a broken or hostile farm, store or proxy must not fill this node's memory."""

from __future__ import annotations

import time

import urllib3

from enginefarm.contract.errors import FarmError

MAX_BYTES = 16 << 20  # of an answer that is parsed; the largest are records of engines with ten thousand files
MAX_ERROR_BYTES = 1 << 20  # of an answer that explains a refusal
MAX_REDIRECT_BYTES = 1 << 16  # of a redirect, which is read only to use its connection again
_CHUNK = 1 << 16
# urllib3 unpacks these two piece by piece. Others, and compression that is compressed again, were not asked for.
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})


def read_body(
    response: urllib3.BaseHTTPResponse, where: str, *, max_bytes: int, seconds: float, cut: bool = False
) -> bytes:
    """Return the body, decompressed.

    Args:
        where: the server, as the subject of an error text.
        cut: return the first `max_bytes` of a longer body, as much as came of a slow one, and nothing of one that
            cannot be decompressed. For refusals: their status says what failed, so their length is no failure.

    Raises:
        FarmError: it has more than `max_bytes`, is compressed in a way that was not asked for, or takes longer than
            `seconds`.
    """
    if response.headers.get("Content-Encoding", "").lower() not in _ENCODINGS:
        response.close()
        if cut:
            return b""
        raise FarmError(f"{where} compressed its answer in a way that was not asked for: check any proxy on the way")
    deadline = time.monotonic() + seconds
    body = bytearray()
    while piece := response.read1(_CHUNK, decode_content=True):
        body += piece
        is_late = time.monotonic() > deadline
        if cut and (is_late or len(body) > max_bytes):
            response.close()
            return bytes(body[:max_bytes])
        if len(body) > max_bytes:
            response.close()
            raise FarmError(f"{where} sent more than {max_bytes} bytes where a short answer was expected")
        if is_late:
            response.close()
            raise FarmError(f"{where} did not complete its answer within {seconds:.0f} s")
    return bytes(body)
