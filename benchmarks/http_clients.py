"""What one request, one log line and one byte cost with urllib3, which the client uses, and with httpx.

The server runs in a process of its own and does the least that HTTP allows, so that the client's CPU time is what
differs. `python -m benchmarks.http_clients` runs this comparison without starting a farm.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.ground import Ground
from benchmarks.table import Line, Table
from tests.farm.running_farm import CHECKOUT

_CALLS = 2000
_LOG_LINES = 20_000
_DOWNLOAD = 1 << 30  # bytes
_PIECE = bytes(1 << 20)
_LOG_LINE = b"compiling layer 17 of 32\n"
_JSON = json.dumps({"id": "b1", "state": "queued", "progress": 0.0}).encode()
_ROUNDS = 3  # alternated, because a shared machine changes from minute to minute; the cheapest round counts
_UNITS = {
    "import, CPU": "ms",
    "JSON call on a kept connection, CPU": "µs",
    "log line of a followed stream, CPU": "µs",
    "download, CPU": "s/GiB",
}


class _Urllib3Client:
    # Imported here, as in the other class: a process loads the client that it measures and no other.
    def __init__(self, url: str) -> None:
        import urllib3

        self._url = url
        self._pool = urllib3.PoolManager(retries=False)

    def call(self) -> object:
        return json.loads(self._pool.request("POST", f"{self._url}/json", body=_JSON).data)

    def stream(self, path: str) -> None:
        response = self._pool.request("GET", self._url + path, preload_content=False)
        # As the client reads: what has arrived, at most 64 KiB at once.
        while response.read1(1 << 16, decode_content=False):
            pass


class _HttpxClient:
    def __init__(self, url: str) -> None:
        import httpx

        self._url = url
        self._pool = httpx.Client(trust_env=False)

    def call(self) -> object:
        return self._pool.post(f"{self._url}/json", content=_JSON).json()

    def stream(self, path: str) -> None:
        with self._pool.stream("GET", self._url + path) as response:
            for _ in response.iter_raw():
                pass


_CLIENTS: dict[str, type[_Urllib3Client] | type[_HttpxClient]] = {"urllib3": _Urllib3Client, "httpx": _HttpxClient}


def run(_: Ground | None = None) -> Table:
    cheapest: dict[tuple[str, str], float] = {}  # by client and figure
    with _serve() as url:
        for _round in range(_ROUNDS):
            for client in _CLIENTS:
                # Each in a fresh process: the import counts, and neither client warms up the other.
                program = f"import time; at = time.process_time(); import {client}; print(time.process_time() - at)"
                figures = {"import, CPU": float(_output("-c", program)) * 1e3}
                figures.update(json.loads(_output("-m", "benchmarks.http_clients", client, url)))
                for name, cost in figures.items():
                    cheapest[client, name] = min(cost, cheapest.get((client, name), cost))
    lines = []
    for name, unit in _UNITS.items():
        lines.append(Line(name, unit, cheapest["urllib3", name], cheapest["httpx", name], aim="ratio < 1"))
    return Table("HTTP client of the wheel: urllib3 (first column) and httpx", "httpx", tuple(lines))


def _output(*arguments: str) -> str:
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout


def measure(name: str, url: str) -> dict[str, float]:
    """The figures of one client in this process, except its import's; the keys and units of `_UNITS`."""
    client = _CLIENTS[name](url)
    client.call()  # the connection is open before the clock starts
    at_start = time.process_time()
    for _ in range(_CALLS):
        client.call()
    after_calls = time.process_time()
    client.stream("/log")
    after_log = time.process_time()
    client.stream("/file")
    after_download = time.process_time()
    return {
        "JSON call on a kept connection, CPU": (after_calls - at_start) / _CALLS * 1e6,
        "log line of a followed stream, CPU": (after_log - after_calls) / _LOG_LINES * 1e6,
        "download, CPU": (after_download - after_log) / (_DOWNLOAD / (1 << 30)),
    }


@contextmanager
def _serve() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    # A fork, not a thread: the server's CPU time must not count as the client's.
    pid = os.fork()
    if pid == 0:
        while True:
            # One connection at a time: neither client opens a second one while it can reuse the first.
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as requests:
                _answer_requests(connection, requests)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        listener.close()


def _answer_requests(connection: socket.socket, requests: Iterator[bytes]) -> None:
    for request_line in requests:
        path = request_line.split()[1].decode()
        body_length = 0
        for header in requests:
            if header.lower().startswith(b"content-length:"):
                body_length = int(header.partition(b":")[2])
            if header == b"\r\n":
                break
        requests.read(body_length)  # type: ignore[attr-defined]  # it is a buffered reader
        if path == "/json":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_JSON), _JSON))
        elif path == "/log":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            # One chunk a line, as the farm sends the lines of a running build.
            for _ in range(_LOG_LINES):
                connection.sendall(b"%x\r\n%s\r\n" % (len(_LOG_LINE), _LOG_LINE))
            connection.sendall(b"0\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _DOWNLOAD)
            for _ in range(_DOWNLOAD // len(_PIECE)):
                connection.sendall(_PIECE)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(run())
    else:
        print(json.dumps(measure(*sys.argv[1:])))
