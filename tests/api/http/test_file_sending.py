"""A folder store's blobs leave by sendfile: the same bytes, ranges, HEAD and limits as any other answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.http import connections
from tests.api.published import Published, published
from tests.enginefarm.http_double import wait_until

SIZE = 24 << 20  # more than the buffers of both sockets
CONTENT = os.urandom(1 << 20) * (SIZE >> 20)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with published(tmp_path_factory.mktemp("farm"), files={"rank0.engine": CONTENT, "empty": b""}) as farm:
        yield farm


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each call of sendfile sent, in bytes."""
    sizes: list[int] = []
    sendfile = os.sendfile

    def counted(*arguments: Any) -> int:
        size = sendfile(*arguments)
        sizes.append(size)
        return size

    monkeypatch.setattr(os, "sendfile", counted)
    return sizes


def link(farm: Published, path: str = "rank0.engine") -> str:
    answer = httpx.get(f"{farm.url}/v1/engines/{farm.key}/files/{path}")
    return str(httpx.URL(farm.url).join(answer.headers["location"]))


@pytest.mark.parametrize(
    ("wanted", "status", "start", "end"),
    [
        (None, 200, 0, SIZE),
        ("bytes=0-", 206, 0, SIZE),
        ("bytes=5-9", 206, 5, 10),
        (f"bytes={SIZE - 3}-{SIZE + 50}", 206, SIZE - 3, SIZE),
        (f"bytes=1000-{SIZE - 2}", 206, 1000, SIZE - 1),
    ],
)
def test_the_kernel_sends_a_file_and_one_range_of_it(
    farm: Published, sent: list[int], wanted: str | None, status: int, start: int, end: int
) -> None:
    headers = {} if wanted is None else {"Range": wanted}
    answer = httpx.get(link(farm), headers=headers)
    assert (answer.status_code, answer.content) == (status, CONTENT[start:end])
    # The client may have all bytes before the thread that sent them has noted it.
    wait_until(lambda: sum(sent) >= end - start, seconds=5)
    assert sum(sent) == end - start
    if status == 206:
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.headers["accept-ranges"] == "bytes"
    assert "content-disposition" in answer.headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=0-1,5-6"}, 206),
        ({"Range": "bytes=-7"}, 206),
        ({"Range": f"bytes={SIZE}-"}, 416),
        ({"Range": "bytes=9-5"}, 400),
        ({"Range": "lines=1-2"}, 400),
        ({"Range": "bytes=0-1", "If-Range": '"another"'}, 200),
    ],
)
def test_other_ranges_are_answered_as_before(
    farm: Published, sent: list[int], headers: dict[str, str], status: int
) -> None:
    assert httpx.get(link(farm), headers=headers).status_code == status
    assert sent == []


def test_head_and_an_empty_file_have_no_body_and_the_connection_stays(farm: Published, sent: list[int]) -> None:
    with httpx.Client() as client:
        head = client.head(link(farm))
        assert (head.status_code, head.headers["content-length"], sent) == (200, str(SIZE), [])
        assert client.get(link(farm, "empty")).content == b""
        for _ in range(2):
            assert client.get(link(farm), headers={"Range": "bytes=7-8"}).content == CONTENT[7:9]


def test_pipelined_requests_are_answered_in_order(farm: Published) -> None:
    url = urlsplit(link(farm))
    request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nRange: bytes={{}}\r\n"
    with connected(farm) as client:
        client.sendall(
            (request.format("0-2999999") + "\r\n" + request.format("3-5") + "Connection: close\r\n\r\n").encode()
        )
        answers = b"".join(iter(lambda: client.recv(1 << 20), b""))
    first, _, rest = answers.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 206")
    assert rest[:3_000_000] == CONTENT[:3_000_000]
    assert rest[3_000_000:].startswith(b"HTTP/1.1 206")
    assert rest.endswith(CONTENT[3:6])


def connected(farm: Published) -> socket.socket:
    url = urlsplit(farm.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.settimeout(20)
    client.connect((url.hostname, url.port))
    return client


def test_a_client_that_reads_nothing_is_cut_and_a_slow_one_is_not(
    farm: Published, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 1.5)
    url = urlsplit(link(farm))
    request = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()
    with connected(farm) as stalled, connected(farm) as slow:
        stalled.sendall(request)
        slow.sendall(request)
        slowly_read = 0
        # Far less at a time than the third of the buffer that makes a socket writable.
        while "read nothing" not in caplog.text:
            slowly_read += len(slow.recv(1 << 14))
            time.sleep(0.05)
        received = 0
        with suppress(ConnectionResetError):
            while piece := stalled.recv(1 << 20):
                received += len(piece)
        assert received < SIZE
        left = SIZE - slowly_read
        while left > 0 and (piece := slow.recv(1 << 20)):
            left -= len(piece)
        assert left <= 0


def test_a_client_that_leaves_in_between_frees_its_place_without_a_traceback(
    farm: Published, caplog: pytest.LogCaptureFixture
) -> None:
    url = urlsplit(link(farm))
    before = len(list(Path("/proc/self/fd").iterdir()))  # the server runs in this process
    for number in range(6):
        with connected(farm) as client:
            client.sendall(f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())
            if number % 2:
                client.recv(1000)  # the others leave before the head is sent
    deadline = time.monotonic() + 10
    while len(list(Path("/proc/self/fd").iterdir())) > before:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]
