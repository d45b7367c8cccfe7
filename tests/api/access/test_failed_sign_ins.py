"""Failed sign-ins are counted by network and in total, in bounded memory; what is logged shows no secret."""

from __future__ import annotations

import pytest

from api.access.failed_sign_ins import FailedSignIns
from enginefarm.contract.errors import TooManyFailedSignIns
from models.security.key_format import new_key, text_of


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def wait_of(failed: FailedSignIns, peer: str) -> int:
    """Seconds that the peer must wait; 0 if its sign-in was counted."""
    try:
        failed.count(peer)
    except TooManyFailedSignIns as error:
        return error.retry_after_seconds
    return 0


def test_a_peer_waits_after_ten_failures() -> None:
    clock = Clock()
    failed = FailedSignIns(clock)
    assert [wait_of(failed, "10.0.0.1") for _ in range(11)] == [0] * 10 + [6]
    clock.time += 5.5
    assert wait_of(failed, "10.0.0.1") == 1
    clock.time += 0.5
    assert [wait_of(failed, "10.0.0.1") for _ in range(2)] == [0, 6]
    clock.time += 3600
    assert [wait_of(failed, "10.0.0.1") for _ in range(11)] == [0] * 10 + [6]


def test_another_peer_does_not_wait() -> None:
    failed = FailedSignIns(Clock())
    for _ in range(20):
        wait_of(failed, "10.0.0.1")
    assert wait_of(failed, "10.0.0.2") == 0


def test_all_addresses_of_an_ipv6_network_are_one_peer() -> None:
    failed = FailedSignIns(Clock())
    assert [wait_of(failed, f"2001:db8::{number:x}") for number in range(11)] == [0] * 10 + [6]
    assert wait_of(failed, "2001:db8:0:1::1") == 0


def test_a_million_addresses_share_the_total_and_bounded_memory() -> None:
    clock = Clock()
    failed = FailedSignIns(clock)
    waits = [wait_of(failed, f"10.0.{number // 256}.{number % 256}") for number in range(5000)]
    assert (waits[:100], set(waits[100:])) == ([0] * 100, {1})
    assert len(failed._peers) <= 1024
    clock.time += 6
    assert [wait_of(failed, f"10.1.0.{number}") for number in range(11)] == [0] * 10 + [1]


def test_the_log_has_the_public_part_of_a_key_and_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedSignIns(Clock())
    key = new_key()
    failed.note("10.0.0.1", text_of(key), "this API key is unknown")
    failed.note("10.0.0.1", "my other password", "this is not a complete API key")
    first, second = caplog.messages
    assert first == f"failed sign-in from 10.0.0.1 with ef_{key.id}: this API key is unknown"
    assert key.secret not in caplog.text
    assert "password" not in second


def test_a_flood_leaves_one_line(caplog: pytest.LogCaptureFixture) -> None:
    failed = FailedSignIns(Clock())
    for _ in range(1000):
        wait_of(failed, "10.0.0.1")
    assert caplog.messages == ["too many failed sign-ins from 10.0.0.1: more of them are answered 429 and not logged"]
