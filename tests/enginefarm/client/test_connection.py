"""Where requests go: proxies, certificates, redirects, and what of a URL an error shows."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import Response
from fastapi.responses import RedirectResponse

from enginefarm.client.farm import Farm
from enginefarm.client.http_pool import HttpPool
from enginefarm.client.urls import join, origin, origin_text
from enginefarm.contract.errors import FarmError, InvalidRequest
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.store_double import StoreDouble
from tests.servers.tls import TlsFront

WORKERS = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"items":[]}'


@contextmanager
def proxy_that_answers() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that answers every request itself; yields its port and the requests."""
    requests: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(1 << 16))
                connection.sendall(WORKERS)

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], requests
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_farm_elsewhere_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    with proxy_that_answers() as (port, requests):
        monkeypatch.setenv(variable, f"{scheme}us%40er:pa55@127.0.0.1:{port}")
        with Farm("http://farm.example", "key") as client:
            assert client.workers() == []

    assert requests[0].startswith(b"GET http://farm.example/v1/workers HTTP/1.1\r\n")
    password = base64.b64encode(b"us@er:pa55")
    assert b"proxy-authorization: basic " + password.lower() in requests[0].lower()


@pytest.mark.parametrize("no_proxy", ["farm.invalid", "*", ".invalid", "farm.invalid:80"])
def test_a_host_of_no_proxy_is_asked_directly(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    with Farm("http://farm.invalid:80") as client, pytest.raises(FarmError) as caught:
        client.workers()
    assert "proxy" not in caught.value.detail


def test_loopback_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, double: FarmDouble) -> None:
    for variable in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with Farm(double.url) as client:
        assert client.workers() == []


def test_an_unreachable_proxy_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://user:pa55@127.0.0.1:1")
    with Farm("http://farm.example") as client, pytest.raises(FarmError, match="through the proxy") as caught:
        client.workers()
    assert "pa55" not in caught.value.detail


def test_a_socks_proxy_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    with Farm("http://farm.example") as client, pytest.raises(InvalidRequest, match=r"'socks5'.*NO_PROXY"):
        client.workers()


def test_a_proxy_that_is_no_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://me:pa55@[x")
    with Farm("http://farm.example") as client, pytest.raises(InvalidRequest, match="no URL") as caught:
        client.workers()
    assert "pa55" not in caught.value.detail


def test_a_missing_certificate_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authority.pem")
    with Farm("https://farm.example") as client, pytest.raises(InvalidRequest, match="SSL_CERT_FILE=/nowhere"):
        client.workers()


def test_a_private_authority_is_trusted_for_calls_and_for_files(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, tmp_path: Path
) -> None:
    engine = double.publish({"a": b"a"})
    with TlsFront(double.port, tmp_path) as front:
        url = f"https://localhost:{front.port}"
        with Farm(url) as client, pytest.raises(FarmError, match=r"certificate.*SSL_CERT_FILE"):
            client.workers()
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        with Farm(url) as client:
            assert client.workers() == []
            with client.bytes(engine.contents[0].url, headers={}) as response:
                assert b"".join(response.chunks) == b"a"


def test_the_key_is_not_sent_again_after_a_redirect_left_the_farm(
    client: Farm, double: FarmDouble, store: StoreDouble
) -> None:
    def leave() -> RedirectResponse:
        return RedirectResponse(f"{store.url}/back")

    def come_back() -> RedirectResponse:
        return RedirectResponse(f"{double.url}/file")

    double.app.get("/leave")(leave)
    double.app.get("/file")(lambda: Response(b"bytes"))
    store.app.get("/back")(come_back)

    with client.bytes("/leave", headers={}) as response:
        assert b"".join(response.chunks) == b"bytes"

    assert [request.headers.get("authorization") for request in double.requests] == ["Bearer secret-key", None]
    assert store.requests[0].headers.get("authorization") is None


def test_a_store_that_redirects_to_the_farm_does_not_get_the_key_sent(
    client: Farm, double: FarmDouble, store: StoreDouble
) -> None:
    def to_the_farm() -> RedirectResponse:
        return RedirectResponse(f"{double.url}/v1/workers")

    store.app.get("/to-the-farm")(to_the_farm)
    with client.bytes(f"{store.url}/to-the-farm", headers={}) as response:
        assert b"".join(response.chunks) == b'{"items":[]}'
    assert [request.headers.get("authorization") for request in double.requests] == [None]


def test_redirects_end_in_an_error_that_shows_no_signature(client: Farm, double: FarmDouble) -> None:
    double.state.refuse = RedirectResponse("?X-Signature=pa55")
    with pytest.raises(FarmError, match="redirects more than 5 times") as caught, client.bytes("/a", headers={}):
        pass
    assert "pa55" not in caught.value.detail
    assert len(double.requests) == 6


@pytest.mark.parametrize("link", ["ftp://farm/a", "http://[", "http://a b/"])
def test_a_link_that_is_no_url_is_the_farms_failure(client: Farm, double: FarmDouble, link: str) -> None:
    with pytest.raises(FarmError, match="not an http or https URL"), client.bytes(link, headers={}):
        pass
    double.state.refuse = Response(status_code=307, headers={"Location": link})
    with pytest.raises(FarmError, match="not an http or https URL"), client.bytes("/a", headers={}):
        pass


def test_a_link_of_a_farm_below_a_path_stays_below_it(double: FarmDouble) -> None:
    with (
        Farm(f"{double.url}/prefix/") as client,
        pytest.raises(Exception, match="404"),
        client.bytes("/v1/a", headers={}),
    ):
        pass
    assert double.paths() == ["/prefix/v1/a"]


def test_connections_that_were_idle_for_long_are_not_used_again(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble
) -> None:
    pool = HttpPool(timeout=5)

    def port_of_a_request() -> int:
        response = pool.send("GET", f"{double.url}/v1/workers", headers={})
        connection = response.connection
        assert connection is not None
        port: int = connection.sock.getsockname()[1]  # type: ignore[attr-defined]  # an open connection has a socket
        response.read()
        response.release_conn()
        return port

    first = port_of_a_request()
    assert port_of_a_request() == first
    now = time.monotonic()
    monkeypatch.setattr("enginefarm.client.http_pool.time.monotonic", lambda: now + 60)
    pool.mark_used()  # the response of a long poll
    assert port_of_a_request() == first
    monkeypatch.setattr("enginefarm.client.http_pool._IDLE_SECONDS", -1.0)
    assert port_of_a_request() != first
    pool.close()


def test_origins_are_compared_as_they_are_connected_to() -> None:
    assert origin("HTTP://Farm") == origin("http://farm:80/a?b") != origin("https://farm")
    assert origin("http://farm@elsewhere/") == origin("http://elsewhere")
    assert origin_text("https://user:pa55@store:9000/a?X-Signature=pa55") == "https://store:9000"
    assert "pa55" not in origin_text("http://pa55 pa55/")
    assert join("http://farm/a", "b?c") == "http://farm/b?c"
