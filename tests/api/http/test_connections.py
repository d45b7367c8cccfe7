"""Connections are counted by address, and refusals are logged. The attacks are in tests/attack/test_connections.py."""

from __future__ import annotations

import ipaddress

import pytest

from api.http.connections import MOST_LINGERING, Connections


def test_connections_are_limited_in_all_and_for_each_address() -> None:
    connections = Connections(most=3, most_per_peer=2)
    assert connections.enter("a") is None
    assert connections.enter("a") is None
    refusal = connections.enter("a")
    assert refusal is not None
    assert "MAX_CONNECTIONS_PER_PEER=2" in refusal
    # A refused connection takes no place of others.
    assert connections.enter("b") is None
    refusal = connections.enter("c")
    assert refusal is not None
    assert "MAX_CONNECTIONS=3" in refusal
    for peer in ("a", "a", "b"):
        connections.leave(peer)
    assert connections.enter("a") is None


def test_refused_connections_that_linger_are_few() -> None:
    connections = Connections(most=1, most_per_peer=1)
    assert [connections.begin_linger() for _ in range(MOST_LINGERING + 1)] == [True] * MOST_LINGERING + [False]
    connections.end_linger()
    assert connections.begin_linger()


def test_a_proxy_has_as_many_connections_as_all_addresses_together() -> None:
    connections = Connections(most=4, most_per_peer=1, proxies=[ipaddress.ip_network("10.0.0.0/24")])
    assert [connections.enter("10.0.0.7") for _ in range(4)] == [None] * 4
    assert connections.enter("10.0.0.7") is not None
    connections = Connections(most=4, most_per_peer=1, proxies=[ipaddress.ip_network("10.0.0.0/24")])
    assert connections.enter("10.0.1.7") is None
    assert connections.enter("10.0.1.7") is not None
    connections.enter("no address")
    assert connections.enter("no address") is not None


def test_an_attack_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    connections = Connections(most=1, most_per_peer=1, clock=lambda: now)
    for _ in range(1000):
        connections.note_refusal("203.0.113.9", "the URL is too long")
    connections.note_refusal("203.0.113.9", "another reason")
    now = 60.0
    connections.note_refusal("203.0.113.10", "the URL is too long")
    assert caplog.messages == [
        "closed a connection of 203.0.113.9: the URL is too long",
        "closed a connection of 203.0.113.9: another reason",
        "closed a connection of 203.0.113.10: the URL is too long (999 more since the last such line)",
    ]
