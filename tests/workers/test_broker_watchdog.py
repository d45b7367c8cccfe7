"""A worker that hears nothing although messages wait starts anew; a busy one, or one without a broker, does not."""

from __future__ import annotations

import redis

from models.queue.broker import Announcer, celery_app
from tests.servers.redis import Valkey
from workers.broker_watchdog import Pulse, Watch


def watch(valkey: Valkey, pulse: Pulse) -> tuple[Watch, list[str]]:
    restarts: list[str] = []
    announcer = Announcer(celery_app(valkey.url))
    return Watch(pulse, ["deaf.q"], announcer.depth, lambda: restarts.append("again"), every_seconds=60), restarts


def test_messages_wait_and_none_arrives(valkey: Valkey) -> None:
    pulse = Pulse()
    watched, restarts = watch(valkey, pulse)
    with redis.Redis.from_url(valkey.url) as client:
        client.delete("deaf.q")
        for _ in range(5):
            watched.look()
        assert restarts == []  # nothing waits
        client.lpush("deaf.q", "message")
        watched.look()
        watched.look()
        with pulse.beat():
            watched.look()
        watched.look()
        watched.look()
        assert restarts == []  # one arrived in between
        watched.look()
        client.delete("deaf.q")
    assert restarts == ["again"]


def test_a_busy_worker_is_not_deaf(valkey: Valkey) -> None:
    pulse = Pulse()
    watched, restarts = watch(valkey, pulse)
    with redis.Redis.from_url(valkey.url) as client, pulse.beat():
        client.lpush("deaf.q", "message")
        for _ in range(5):
            watched.look()
        client.delete("deaf.q")
    assert restarts == []


def test_a_broker_that_is_away_says_nothing() -> None:
    announcer, restarts = Announcer(celery_app("redis://127.0.0.1:1/0")), []
    watched = Watch(Pulse(), ["q"], announcer.depth, lambda: restarts.append("again"), every_seconds=60)
    for _ in range(4):
        watched.look()
    assert restarts == []
