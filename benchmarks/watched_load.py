"""`python -m benchmarks.watched_load PORT SECONDS < REQUESTS`: watch builds, and submit cached specs beside them.

REQUESTS is one line of JSON: {"headers": {…}, "bodies": [text, …], "paths": [text, …]}. Each path is watched by a
connection of its own, which asks again when it is answered. Once all are open, the program prints "open", waits for a
line, submits for SECONDS at a fixed rate, and prints the median of an answer's milliseconds. It is a program of its own
so that its clock does not wait for the benchmark's threads.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Mapping
from itertools import cycle
from statistics import median

_PER_SECOND = 40
_AT_ONCE = 50  # connections that are opened at once


async def watch(port: int, path: str, headers: str, opened: asyncio.Semaphore) -> None:
    """Watch until the end. A long poll sends the ETag of its last answer, as the client of the farm does."""
    etag = ""
    await opened.acquire()
    opening = True
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        wanted = f"If-None-Match: {etag}\r\n" if etag else ""
        writer.write(f"GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}{wanted}\r\n".encode())
        # A long poll has no head yet.
        if opening and "?wait" not in path:
            await _head(reader, path)
        if opening:
            opened.release()
            opening = False
        if "?wait" in path:
            head = await _head(reader, path)
            match = re.search("etag: (.*)\r", head, re.IGNORECASE)
            assert match is not None
            etag = match[1]
        while await reader.read(65536):
            pass
        writer.close()


async def _head(reader: asyncio.StreamReader, path: str) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    if " 200 " not in head and " 304 " not in head:
        raise RuntimeError(f"{path}: {head!r}")
    return head


async def submit(port: int, seconds: float, headers: str, bodies: list[str]) -> list[float]:
    """Milliseconds of each answer, at a fixed rate: a slow answer does not delay the next request."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    requests = cycle(
        [f"POST /v1/builds HTTP/1.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}" for body in bodies]
    )
    answers = []
    for number in range(int(seconds * _PER_SECOND)):
        await asyncio.sleep(begin + number / _PER_SECOND - loop.time())
        answers.append(asyncio.create_task(_answered(port, next(requests).encode())))
    return list(await asyncio.gather(*answers))


async def _answered(port: int, request: bytes) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.perf_counter()
    writer.write(request)
    answer = await reader.readuntil(b"\r\n\r\n")
    milliseconds = (time.perf_counter() - began) * 1000
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise RuntimeError(f"not the answer expected: {answer!r}")
    writer.close()
    return milliseconds


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


async def main(port: int, seconds: float) -> None:
    requests = json.loads(await asyncio.to_thread(sys.stdin.readline))
    headers = _lines({"Host": "127.0.0.1", "Content-Type": "application/json", **requests["headers"]})
    opened = asyncio.Semaphore(_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        watchers = [group.create_task(watch(port, path, headers, opened)) for path in requests["paths"]]
        # After all that wait for the semaphore.
        await asyncio.sleep(0)
        for _ in range(_AT_ONCE):
            await opened.acquire()
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        answers = await submit(port, seconds, headers, requests["bodies"])
        print(json.dumps({"median_ms": median(answers)}), flush=True)
        for watcher in watchers:
            watcher.cancel()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
