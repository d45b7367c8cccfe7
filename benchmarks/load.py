"""`python -m benchmarks.load PORT PATH SECONDS CONNECTIONS < REQUESTS`: keep a server busy and count its answers.

Each connection sends the next request as soon as the last is answered. REQUESTS is JSON: {"headers": {…},
"bodies": [text, …], "expect": text}; an answer that is not 200, or without the expected text, ends the run. It is a
program of its own on a bare asyncio protocol: a real HTTP client would use more CPU time than the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from itertools import cycle
from statistics import quantiles
from typing import Any, cast

import uvloop

_WARM_UP = 2.0  # seconds that do not count: connections, pools and prepared statements settle


class _Connection(asyncio.Protocol):
    def __init__(self, requests: list[bytes], expect: bytes, failed: asyncio.Future[None]) -> None:
        self._requests = cycle(requests)
        self._expect = expect
        self._failed = failed
        self._received = b""
        self._sent = 0.0
        self.answered: list[tuple[float, float]] = []  # (when, seconds since its request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, chunk: bytes) -> None:
        self._received += chunk
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        # Both servers state a length, so nothing else is parsed.
        if not separator or len(body) < int(length):
            return
        if not head.startswith(b"HTTP/1.1 200") or self._expect not in body:
            self._fail(f"not the answer expected: {self._received[:600]!r}")
            return
        now = time.perf_counter()
        self.answered.append((now, now - self._sent))
        self._received = b""
        self._send()

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("the server closed a connection")

    def _fail(self, reason: str) -> None:
        if not self._failed.done():
            self._failed.set_exception(RuntimeError(reason))


async def load(port: int, path: str, seconds: float, connections: int, settings: dict[str, Any]) -> dict[str, float]:
    """Answers a second, and the median and 95th percentile of an answer's time in milliseconds."""
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json"} | settings["headers"]
    # Made before the clock starts: from then on a connection only writes bytes.
    requests = []
    for body in settings["bodies"]:
        payload = body.encode()
        lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        requests.append("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
    protocols = []
    for number in range(connections):
        # Each connection begins with another request, so that they do not all want the same engine at once.
        first = number % len(requests)
        factory = partial(_Connection, requests[first:] + requests[:first], settings["expect"].encode(), failed)
        _, connection = await loop.create_connection(factory, "127.0.0.1", port)
        protocols.append(connection)
    begin = time.perf_counter() + _WARM_UP
    await asyncio.wait([failed], timeout=_WARM_UP + seconds)
    if failed.done():
        failed.result()  # raises
    # Taken before anything is counted: a connection goes on while this function computes.
    end = time.perf_counter()
    failed.cancel()
    latencies = []
    for connection in protocols:
        latencies += [seconds for at, seconds in connection.answered if at >= begin]
    cuts = quantiles(latencies, n=20)
    return {"per_second": len(latencies) / (end - begin), "median_ms": cuts[9] * 1000, "p95_ms": cuts[18] * 1000}


if __name__ == "__main__":
    port, path, seconds, connections = sys.argv[1:]
    run = load(int(port), path, float(seconds), int(connections), json.load(sys.stdin))
    print(json.dumps(uvloop.run(run)))
