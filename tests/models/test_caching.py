"""Work shared between threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from enginefarm.contract.errors import SourceUnavailable
from models.caching import SingleFlight, TimedCache
from tests.models.sources.models import Clock


class Work:
    """Fails or answers when released; counts how often it was started."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.started = threading.Event()
        self.released = threading.Event()
        self.runs = 0

    def __call__(self) -> str:
        self.runs += 1
        self.started.set()
        assert self.released.wait(10)
        if self.error:
            raise self.error
        return "value"


@dataclass(frozen=True)
class Key:
    """Says when it is looked up, which a flight does while it holds its lock: from then on its caller joins."""

    name: str
    looked_up: threading.Event = field(default_factory=threading.Event, compare=False)

    def __hash__(self) -> int:
        self.looked_up.set()
        return hash(self.name)


def test_the_outcome_is_shared_an_error_too() -> None:
    flight: SingleFlight[Key, str] = SingleFlight()
    work, joining = Work(SourceUnavailable("the hub is down")), Key("key")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(flight.run, Key("key"), work)
        assert work.started.wait(10)
        second = pool.submit(flight.run, joining, lambda: "joined work must not run")
        assert joining.looked_up.wait(10)
        work.released.set()
        assert isinstance(first.exception(10), SourceUnavailable)
        assert second.exception(10) is first.exception(10)
    assert flight.run(Key("key"), lambda: "again") == "again"


def test_keys_do_not_wait_for_each_other() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    work = Work()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(flight.run, "slow", work)
        assert work.started.wait(10)
        assert flight.run("quick", lambda: "quick") == "quick"
        work.released.set()
        assert slow.result(10) == "value"


def test_an_entry_lives_as_long_as_it_was_told() -> None:
    clock = Clock()
    cache: TimedCache[str, str] = TimedCache(clock=clock)
    cache.put("key", "value", 10)
    clock.now += 9.9
    assert cache.get("key") == "value"
    clock.now += 0.1
    assert cache.get("key") is None


def test_a_full_cache_forgets_the_oldest() -> None:
    cache: TimedCache[int, int] = TimedCache(capacity=2)
    for number in (1, 2, 1, 3):
        cache.put(number, number, 10)
    assert [cache.get(number) for number in (1, 2, 3)] == [1, None, 3]
