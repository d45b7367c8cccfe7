"""Where requests go: redirects, idle connections, and what of a URL an error shows."""

from __future__ import annotations

import time

import pytest
from fastapi import Response
from fastapi.responses import RedirectResponse

from enginefarm.client.farm import Farm
from enginefarm.client.http_pool import HttpPool
from enginefarm.client.urls import join, origin, origin_text
from enginefarm.contract.errors import FarmError
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.store_double import StoreDouble


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
