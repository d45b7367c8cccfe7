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
from collections.abc import Callable, Iterator
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
_CLIENTS = ("urllib3", "httpx")


def run(_: Ground | None = None) -> Table:
    with _serve() as url:
        rounds = [{client: _measure(client, url) for client in _CLIENTS} for _ in range(_ROUNDS)]
    lines = []
    for name, unit, aim in (
        ("import, CPU", "ms", "ratio < 1"),
        ("JSON call on a kept connection, CPU", "µs", "ratio < 1"),
        ("log line of a followed stream, CPU", "µs", "ratio < 1"),
        ("download, CPU", "s/GiB", "ratio < 1"),
    ):
        urllib3_cost, httpx_cost = (min(round_[client][name] for round_ in rounds) for client in _CLIENTS)
        lines.append(Line(name, unit, urllib3_cost, httpx_cost, aim))
    return Table("HTTP client of the wheel: urllib3 (first column) and httpx", "httpx", tuple(lines))


def _measure(client: str, url: str) -> dict[str, float]:
    """Each in a fresh process: the import counts, and neither client warms up the other."""
    import_program = f"import time; at = time.process_time(); import {client}; print(time.process_time() - at)"
    figures: dict[str, float] = {"import, CPU": float(_output("-c", import_program)) * 1e3}
    figures.update(json.loads(_output("-m", "benchmarks.http_clients", client, url)))
    return figures


def _output(*arguments: str) -> str:
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True, cwd=CHECKOUT).stdout


def _figures(client: str, url: str) -> dict[str, float]:
    call, stream = _urllib3_client(url) if client == "urllib3" else _httpx_client(url)
    call()  # the connection is open before the clock starts
    calls = _cpu_seconds(lambda: [call() for _ in range(_CALLS)])
    lines = _cpu_seconds(lambda: stream("/log"))
    download = _cpu_seconds(lambda: stream("/file"))
    return {
        "JSON call on a kept connection, CPU": calls / _CALLS * 1e6,
        "log line of a followed stream, CPU": lines / _LOG_LINES * 1e6,
        "download, CPU": download / (_DOWNLOAD / (1 << 30)),
    }


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _urllib3_client(url: str) -> tuple[Callable[[], object], Callable[[str], None]]:
    import urllib3

    pool = urllib3.PoolManager(retries=False)

    def call() -> object:
        return json.loads(pool.request("POST", f"{url}/json", body=_JSON).data)

    def stream(path: str) -> None:
        response = pool.request("GET", url + path, preload_content=False)
        while response.read1(1 << 16, decode_content=False):
            pass

    return call, stream


def _httpx_client(url: str) -> tuple[Callable[[], object], Callable[[str], None]]:
    import httpx

    pool = httpx.Client(trust_env=False)

    def call() -> object:
        return pool.post(f"{url}/json", content=_JSON).json()

    def stream(path: str) -> None:
        with pool.stream("GET", url + path) as response:
            for _ in response.iter_raw():
                pass

    return call, stream


@contextmanager
def _serve() -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
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
        print(json.dumps(_figures(*sys.argv[1:])))
