"""Where the hub's client connects, and whom it shows the token."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from models.sources.hub import http_client
from models.sources.hub.http_client import AnswerRefused, HubEndpoint

PUBLIC = "93.184.215.14"


def resolve_as(monkeypatch: pytest.MonkeyPatch, names: Mapping[str, list[str]]) -> list[str]:
    """Let each look-up of a name return the next of its addresses; returns the list of look-ups."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        addresses = names[host]
        address = addresses[min(asked.count(host), len(addresses)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_a_name_that_changes_its_address_after_the_check_leads_to_the_checked_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = resolve_as(monkeypatch, {"cdn.example": [PUBLIC, "127.0.0.1"]})
    connected: list[tuple[str, int]] = []

    def create_connection(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr("httpcore2._backends.sync.socket.create_connection", create_connection)
    hub = HubEndpoint("https://hub.example")
    with hub.answers(max_bytes=1, seconds=5), pytest.raises(httpx2.ConnectError):
        http_client._open_client().get("http://cdn.example/file")
    assert connected == [(PUBLIC, 80)]
    assert asked == ["cdn.example"]


@pytest.mark.parametrize(
    ("own_address", "target", "allowed"),
    [
        (PUBLIC, PUBLIC, True),
        (PUBLIC, "10.1.2.3", False),
        (PUBLIC, "127.0.0.1", False),
        (PUBLIC, "169.254.169.254", False),
        (PUBLIC, "100.64.0.1", False),
        (PUBLIC, "224.0.0.1", False),
        (PUBLIC, "::1", False),
        (PUBLIC, "fe80::1", False),
        (PUBLIC, "fd00::1", False),
        (PUBLIC, "::ffff:10.1.2.3", False),
        (PUBLIC, "2002:7f00:1::", False),
        (PUBLIC, "64:ff9b::a9fe:a9fe", False),
        (PUBLIC, "64:ff9b:1::a9fe:a9fe", False),
        (PUBLIC, "::10.1.2.3", False),
        (PUBLIC, "::ffff:0:10.1.2.3", False),
        (PUBLIC, "fec0::1", False),
        (PUBLIC, "192.0.0.192", False),
        (PUBLIC, "168.63.129.16", False),
        (PUBLIC, "2606:2800:21f::1", True),
        ("10.0.0.1", "10.1.2.3", True),
        ("10.0.0.1", "192.168.1.1", True),
        ("10.0.0.1", PUBLIC, True),
        ("10.0.0.1", "169.254.169.254", False),
        ("10.0.0.1", "127.0.0.1", False),
        ("127.0.0.1", "10.1.2.3", False),
        ("127.0.0.1", "127.0.0.1", False),
    ],
)
def test_only_a_mirror_on_the_site_may_lead_to_addresses_of_the_site(
    own_address: str, target: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_as(monkeypatch, {"hub.example": [own_address], "store.example": [target]})
    hub = HubEndpoint("https://hub.example")
    assert hub.addresses_of("hub.example", 443) == [own_address]
    if allowed:
        assert hub.addresses_of("store.example", 443) == [target]
        return
    with pytest.raises(AnswerRefused, match="not a public address"):
        hub.addresses_of("store.example", 443)


def test_the_operator_can_allow_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_as(monkeypatch, {"hub.example": [PUBLIC], "store.example": ["10.1.2.3"], "other.example": ["10.2.0.1"]})
    hub = HubEndpoint("https://hub.example", [ipaddress.ip_network("10.1.0.0/16")])
    assert hub.addresses_of("store.example", 443) == ["10.1.2.3"]
    with pytest.raises(AnswerRefused, match="not a public address"):
        hub.addresses_of("other.example", 443)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://hub.example/x", True),
        ("https://hub.example:443/x", True),
        ("https://HUB.example/x", True),
        ("http://hub.example/x", False),
        ("https://hub.example:8443/x", False),
        ("https://huggingface.co/x", False),
        ("https://hub.example.evil/x", False),
        ("https://hub.example@evil.example/x", False),
    ],
)
def test_the_token_goes_to_the_hubs_own_origin(url: str, allowed: bool) -> None:
    assert HubEndpoint("https://hub.example").may_have_token(url) is allowed


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("169.254.169.254", True), ("2852039166", True), ("0xa9fea9fe", True),
        ("127.1", True), ("127.0.0.1.", True), ("[::ffff:127.0.0.1]", True), ("127.0.0.1.example", False),
    ],
)  # fmt: skip
def test_behind_a_proxy_an_address_is_refused_however_it_is_written(
    monkeypatch: pytest.MonkeyPatch, host: str, refused: bool
) -> None:
    """The proxy resolves the host, and its C library reads more forms of an address than Python."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    hub = HubEndpoint("https://127.0.0.2")
    with hub.answers(max_bytes=1, seconds=5), pytest.raises(httpx2.TransportError) as failed:
        http_client._open_client().get(f"http://{host}/file")
    assert isinstance(failed.value, AnswerRefused) == refused
