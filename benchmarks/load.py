"""`python -m benchmarks.load PORTS PATH SECONDS CONNECTIONS < REQUESTS`: keep servers busy and count their answers.

PORTS are separated by commas; connections are shared out among them. Each connection sends the next request as soon as
the last is answered. REQUESTS is JSON: {"headers": {…}, "bodies": [text, …], "expect": text, "once": bool}; an answer
that is neither 200 nor 202, or without the expected text, ends the run. `once`: each body is sent once, and the run
ends when all are answered, or after SECONDS. It is a program of its own on a bare asyncio protocol: a real HTTP client
would use more CPU time than the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from statistics import quantiles
from typing import Any, cast

import uvloop

_WARM_UP = 2.0  # seconds that do not count: connections, pools and caches settle


class _Connection(asyncio.Protocol):
    def __init__(self, requests: Iterator[bytes], expect: bytes, ended: asyncio.Future[None]) -> None:
        self._requests = requests
        self._expect = expect
        self._ended = ended
        self._received = b""
        self._sent = 0.0
        self.is_idle = False
        self.answered: list[tuple[float, float]] = []  # (when, seconds since its request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods, not by its class

    def send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.is_idle = True
            return
        self._sent = time.perf_counter()
        self._transport.write(request)

    def data_received(self, chunk: bytes) -> None:
        self._received += chunk
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        # All servers state a length, so nothing else is parsed.
        if not separator or len(body) < int(length):
            return
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")) or self._expect not in body:
            self._fail(f"not the answer expected: {self._received[:600]!r}")
            return
        now = time.perf_counter()
        self.answered.append((now, now - self._sent))
        self._received = b""
        self.send()

    def connection_lost(self, _: Exception | None) -> None:
        self._fail("the server closed a connection")

    def _fail(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(RuntimeError(reason))


async def load(
    ports: list[int], path: str, seconds: float, connections: int, settings: dict[str, Any]
) -> dict[str, float]:
    """Answers a second and in all, and the median, 95th and 99th percentile of an answer's time in milliseconds."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    headers = {"Host": "127.0.0.1", "Content-Type": "application/json"} | settings["headers"]
    # Made before the clock starts: from then on a connection only writes bytes.
    requests = []
    for body in settings["bodies"]:
        payload = body.encode()
        lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(payload)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        requests.append("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)
    once = iter(requests)
    protocols: list[_Connection] = []
    for number in range(connections):
        # Each connection begins with another request, so that they do not all want the same engine at once.
        first = number % len(requests)
        own = once if settings["once"] else cycle(requests[first:] + requests[:first])
        factory = partial(_Connection, own, settings["expect"].encode(), ended)
        _, connection = await loop.create_connection(factory, "127.0.0.1", ports[number % len(ports)])
        protocols.append(connection)
    begin = time.perf_counter()
    for connection in protocols:
        connection.send()
    if settings["once"]:
        while not ended.done() and not all(connection.is_idle for connection in protocols):
            if time.perf_counter() - begin > seconds:
                raise RuntimeError(f"not all requests were answered within {seconds:.0f} s")
            await asyncio.sleep(0.01)
    else:
        begin += _WARM_UP
        await asyncio.wait([ended], timeout=_WARM_UP + seconds)
    if ended.done():
        ended.result()  # raises
    # Taken before anything is counted: a connection goes on while this function computes.
    end = time.perf_counter()
    ended.cancel()
    times = []
    for connection in protocols:
        times += [(at, latency) for at, latency in connection.answered if at >= begin]
    if settings["once"]:
        end = max(at for at, _ in times)
    cuts = quantiles([latency for _, latency in times], n=100)
    return {
        "per_second": len(times) / (end - begin),
        "answers": sum(len(connection.answered) for connection in protocols),
        "median_ms": cuts[49] * 1000,
        "p95_ms": cuts[94] * 1000,
        "p99_ms": cuts[98] * 1000,
    }


if __name__ == "__main__":
    ports, path, seconds, connections = sys.argv[1:]
    port_numbers = [int(port) for port in ports.split(",")]
    run = load(port_numbers, path, float(seconds), int(connections), json.load(sys.stdin))
    print(json.dumps(uvloop.run(run)))
