"""A worker that receives nothing although messages wait restarts; a busy one, or one without a broker, does not."""

from __future__ import annotations

import redis

from models.loops import Loops
from models.queue.broker import Announcer, celery_app
from tests.servers.redis import Valkey
from workers.broker_watchdog import BrokerWatchdog, MessageActivity


def watchdog_of(valkey: Valkey, activity: MessageActivity) -> tuple[BrokerWatchdog, list[str]]:
    restarts: list[str] = []
    announcer = Announcer(celery_app(valkey.url))
    return BrokerWatchdog(
        activity, ["deaf.q"], announcer.depth, lambda: restarts.append("again"), Loops(), every_seconds=60
    ), restarts


def test_an_idle_worker_restarts_when_messages_wait_at_three_checks_in_a_row(valkey: Valkey) -> None:
    activity = MessageActivity()
    watchdog, restarts = watchdog_of(valkey, activity)
    with redis.Redis.from_url(valkey.url) as client:
        client.delete("deaf.q")
        for _ in range(5):
            watchdog.check()
        assert restarts == []  # nothing waits
        client.lpush("deaf.q", "message")
        watchdog.check()
        watchdog.check()
        with activity.message():
            watchdog.check()
        watchdog.check()
        watchdog.check()
        assert restarts == []  # one arrived in between
        watchdog.check()
        client.delete("deaf.q")
    assert restarts == ["again"]


def test_a_busy_worker_does_not_restart(valkey: Valkey) -> None:
    activity = MessageActivity()
    watchdog, restarts = watchdog_of(valkey, activity)
    with redis.Redis.from_url(valkey.url) as client, activity.message():
        client.lpush("deaf.q", "message")
        for _ in range(5):
            watchdog.check()
        client.delete("deaf.q")
    assert restarts == []


def test_a_worker_without_a_broker_does_not_restart() -> None:
    announcer, restarts = Announcer(celery_app("redis://127.0.0.1:1/0")), []
    watchdog = BrokerWatchdog(
        MessageActivity(), ["q"], announcer.depth, lambda: restarts.append("again"), Loops(), every_seconds=60
    )
    for _ in range(4):
        watchdog.check()
    assert restarts == []
