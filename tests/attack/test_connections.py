"""Attacks without an API key, by raw sockets on a real API: endless headers, slow requests, many connections."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest

from api.http.connections import MAX_PIPELINED
from tests.attack import ROUNDS
from tests.attack.quick_limits import SECONDS
from tests.farm.conftest import run_farm
from tests.farm.running_farm import RunningFarm

_MIB = 1 << 20
_PER_PEER = 60
# Connections of an attacker come from another address of the loopback network than those of a good caller.
_ATTACKER = "127.0.0.2"
# Bytes by which the API's memory may grow: allocators keep some of what they once had.
_SMALL = 16 * _MIB
# What the API and the kernel's buffers take of an attacker's bytes before the connection is cut.
_READ = 32 * _MIB
# A good caller is answered in milliseconds. The bound is generous, because test machines are busy.
_PROMPT_SECONDS = 5.0


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """One API process on SQLite. No broker: nothing is submitted."""
    state = tmp_path_factory.mktemp("farm")
    settings = {
        "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "BROKER_URL": "redis://127.0.0.1:1/0",
        "STORE_URL": f"file://{state / 'store'}", "MAX_CONNECTIONS_PER_PEER": str(_PER_PEER),
    }  # fmt: skip
    for farm in run_farm(state, settings):
        farm.add_api("tests.attack.quick_limits")
        healthy(farm)
        yield farm


def connect(farm: RunningFarm, source: str = _ATTACKER) -> socket.socket:
    port = int(farm.urls[0].rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))


def addressed(farm: RunningFarm, request: bytes) -> bytes:
    """The request with the API's own name: a farm without API keys answers no other."""
    return request.replace(b"Host: farm", b"Host: " + farm.urls[0].removeprefix("http://").encode())


def healthy(farm: RunningFarm) -> None:
    """A good caller is answered at once."""
    begin = time.monotonic()
    assert httpx.get(f"{farm.urls[0]}/healthz", timeout=30).status_code == 200
    assert time.monotonic() - begin < _PROMPT_SECONDS


def memory(farm: RunningFarm) -> int:
    return psutil.Process(farm.processes[0].pid).memory_info().rss


def send_all(connection: socket.socket, chunk: bytes, size: int) -> int:
    """Send `chunk` again and again until `size` bytes are sent or the server hangs up; returns the bytes sent."""
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < size:
            sent += connection.send(chunk)
    return sent


def read_all(connection: socket.socket) -> bytes:
    """What the server answers until it closes the connection."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


@pytest.mark.parametrize(
    ("start", "chunk"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\nX-Long: ", b"x" * 65536),
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\n", b"X-Short: 1\r\n" * 5000),
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\n", b"X" * 65536),
        (b"GET /", b"x" * 65536),
        # Bytes around a body: extensions of chunks, and trailers after the last one.
        (b"POST /v1/builds HTTP/1.1\r\nHost: farm\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536),
        (b"POST /v1/builds HTTP/1.1\r\nHost: farm\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n" * 9000),
    ],
    ids=["a header", "header lines", "a header's name", "a URL", "a chunk's extension", "trailers"],
)
def test_endless_bytes_before_a_body_cost_nothing(farm: RunningFarm, start: bytes, chunk: bytes) -> None:
    before = memory(farm)
    with connect(farm) as connection:
        connection.sendall(addressed(farm, start))
        sent = send_all(connection, chunk, ROUNDS * 300 * _MIB)
        healthy(farm)
    assert sent < _READ, "the server went on reading"
    assert memory(farm) - before < _SMALL


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\nX-Long: " + b"x" * 40_000, 431),
        (b"GET /healthz HTTP/1.1\r\nHost: farm\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: farm\r\n\r\n", 414),
        (b"GET /" + b"x" * 40_000, 414),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (
            b"POST /v1/builds HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
            400,
        ),
    ],
    ids=["a header", "an unfinished header", "header lines", "a URL", "an unfinished URL", "TLS", "an upgrade"],
)  # fmt: skip
def test_a_refusal_is_a_problem_document(farm: RunningFarm, request_bytes: bytes, status: int) -> None:
    with connect(farm) as connection:
        connection.sendall(request_bytes)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"application/problem+json" in head
    assert httpx.Response(status, content=body).json()["status"] == status


def test_large_requests_that_are_allowed_are_answered(farm: RunningFarm) -> None:
    headers = {"Cookie": "c" * 16_000} | {f"X-{number}": "1" for number in range(80)}
    assert httpx.get(f"{farm.urls[0]}/healthz", headers=headers, timeout=30).status_code == 200
    assert httpx.get(f"{farm.urls[0]}/healthz?{'q' * 8000}", timeout=30).status_code == 200
    # A body in chunks of one byte, which has five bytes of framing for each of them.
    body = b'{"model": "%s"}' % (b"x" * 20_000)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with connect(farm) as connection:
        head = (
            b"POST /v1/builds HTTP/1.1\r\nHost: farm\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(addressed(farm, head) + chunks)
        assert read_all(connection).startswith(b"HTTP/1.1 422 ")


def test_slow_requests_end_after_seconds(farm: RunningFarm) -> None:
    begin = time.monotonic()
    with connect(farm) as slow, connect(farm) as silent:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: farm\r\n")
        slow.settimeout(1.0)
        answer = b""
        while not answer:
            with contextlib.suppress(TimeoutError):
                slow.sendall(b"X")
                answer = slow.recv(65536)
            assert time.monotonic() - begin < SECONDS + 20
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - begin >= SECONDS - 1
        # A connection that sends nothing asked nothing: it is closed without an answer.
        assert silent.recv(65536) == b""


def test_one_address_has_no_more_than_its_connections(farm: RunningFarm) -> None:
    with ExitStack() as stack:
        attack = [stack.enter_context(connect(farm)) for _ in range(ROUNDS * 500)]
        healthy(farm)
        # Those above the limit are told why, as long as few of them wait to be closed. The others wait for a request.
        assert read_all(attack[_PER_PEER]).startswith(b"HTTP/1.1 503 ")
        api = psutil.Process(farm.processes[0].pid)
        deadline = time.monotonic() + 30
        while sum(one.status == psutil.CONN_ESTABLISHED for one in api.net_connections("tcp")) > _PER_PEER + 10:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    log = (farm.state / "logs" / "api-0.log").read_text()
    assert f"closed a connection of {_ATTACKER}: more than ENGINEFARM_MAX_CONNECTIONS_PER_PEER={_PER_PEER}" in log
    assert log.count("MAX_CONNECTIONS_PER_PEER") < 50, "one line for each refusal would fill the disk"


def test_pipelined_requests_are_few(farm: RunningFarm) -> None:
    before = memory(farm)
    request = addressed(farm, b"GET /healthz HTTP/1.1\r\nHost: farm\r\n\r\n")
    with connect(farm) as connection:
        connection.sendall(request * MAX_PIPELINED)
        received = b""
        while received.count(b'{"ok":true}') < MAX_PIPELINED:
            chunk = connection.recv(65536)
            assert chunk, received
            received += chunk
    with connect(farm) as connection:
        assert send_all(connection, request * 1000, ROUNDS * 100 * _MIB) < _READ
        healthy(farm)
    assert memory(farm) - before < _SMALL


def test_a_client_that_does_not_read_its_answers_is_cut(farm: RunningFarm) -> None:
    with connect(farm) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Each answer is larger than its request, so the kernel's buffers fill soon.
        connection.settimeout(0.5)
        deadline = time.monotonic() + 30
        request = addressed(farm, b"GET /openapi.json HTTP/1.1\r\nHost: farm\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                with contextlib.suppress(TimeoutError):
                    connection.sendall(request * MAX_PIPELINED)
                time.sleep(0.1)
        assert time.monotonic() < deadline, "it was never cut"
