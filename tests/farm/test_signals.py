"""SIGTERM, SIGINT and SIGHUP end an API and a worker quickly and without a traceback, whatever they are doing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from local.process import Process
from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm, eventually

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
MIB = 1 << 20


@pytest.fixture(scope="module")
def engine_link(shared_farm: RunningFarm) -> str:
    """The path of a file of 24 MiB, which no socket buffers whole."""
    model = shared_farm.add_model("transferred", weights(os.urandom(24 * MIB)))
    key = shared_farm.ended(shared_farm.submit(shared_farm.spec(model))["id"])["key"]
    redirect = httpx.get(f"{shared_farm.urls[0]}/v1/engines/{key}/files/model.safetensors")
    return httpx.URL(redirect.headers["location"]).raw_path.decode()


@pytest.fixture(scope="module")
def build(shared_farm: RunningFarm, engine_link: str) -> Iterator[dict[str, Any]]:
    """A build that does not end during these tests."""
    submitted = shared_farm.submit(shared_farm.spec(shared_farm.add_model("endless"), seconds=600))
    yield shared_farm.running(submitted["id"], "build")
    httpx.delete(f"{shared_farm.urls[0]}/v1/builds/{submitted['id']}").raise_for_status()


def send_signals(process: Process, numbers: Sequence[int]) -> float:
    """Returns when they were sent."""
    for number in numbers:
        os.kill(process.pid, number)
    return time.monotonic()


def require_clean_end(process: Process, told_at: float, *, seconds: float) -> None:
    """The process must end within `seconds` of its signal, with status 0 and without a traceback."""
    eventually(process.ended, seconds=60)
    log = process.log.read_text()
    assert time.monotonic() - told_at < seconds, log[-3000:]
    assert process.status == 0, log[-3000:]
    for word in ("Traceback", "CancelledError", "waits for nothing more", "ERROR"):
        assert word not in log, log[-3000:]


@contextlib.contextmanager
def sent(url: str, request: str, after_host: str = "\n") -> Iterator[socket.socket]:
    """Send a request, or its beginning, on a connection that takes little at once."""
    address = httpx.URL(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((address.host, address.port or 0))
        text = f"{request} HTTP/1.1\nHost: {address.netloc.decode()}\n{after_host}"
        client.sendall(text.replace("\n", "\r\n").encode())
        yield client


def rest(client: socket.socket) -> bytes:
    """What is left to read until the server closes or cuts the connection."""
    content = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(1 << 16):
            content += piece
    return bytes(content)


@pytest.mark.parametrize(("numbers", "seconds"), [([TERM], 14.0), ([HUP, TERM], 10.0)], ids=str)
def test_an_api_ends_quickly_with_streams_and_transfers_open(
    shared_farm: RunningFarm, build: dict[str, Any], engine_link: str, numbers: list[int], seconds: float
) -> None:
    """Streams and long polls end at once, so that their clients ask the next API; slow clients get a moment.

    A second signal takes that moment from them.
    """
    url = shared_farm.add_api()
    process = shared_farm.processes[-1]
    path = f"/v1/builds/{build['id']}"
    with (
        sent(url, f"GET {path}/logs?follow=1") as log,
        sent(url, f"GET {path}/events") as events,
        sent(url, f"GET {path}?wait=60") as long_poll,
        sent(url, "GET /healthz") as idle,
        sent(url, "GET /healthz", "") as unfinished_head,
        sent(url, f"GET {engine_link}") as download,
        sent(url, f"PUT /v1/blobs/sha256:{'0' * 64}", "Content-Length: 99999\n\nbytes") as upload,
        sent(url, "POST /v1/builds", "Content-Type: application/json\nContent-Length: 99\n\n{") as submit,
    ):
        for client in (log, events, idle, download):
            assert b"200 OK" in client.recv(1000)
        time.sleep(0.5)  # the server has read what came of the others
        told_at = send_signals(process, numbers)
        assert rest(log).endswith(b"0\r\n\r\n")
        assert rest(events).endswith(b"0\r\n\r\n")
        assert b'"state":"running"' in rest(long_poll)
        require_clean_end(process, told_at, seconds=seconds)
        assert rest(idle) == b""
        assert len(rest(download)) < 24 * MIB
        for client in (unfinished_head, upload, submit):
            assert b"HTTP/1.1 2" not in rest(client)
