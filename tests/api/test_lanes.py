"""Lanes: bounded threads, bounded queues, turns between callers, and callers that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from api.lanes import Lane
from enginefarm.contract.errors import Busy


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Calls that wait for it end with the test."""
    event = threading.Event()
    yield event
    event.set()


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0.01)


def test_callers_take_turns_and_leave_threads_for_one_another(gate: threading.Event) -> None:
    async def scenario() -> None:
        lane = Lane("tests", threads=3, per_caller=2, waiting=10)
        started: list[str] = []

        def work(name: str) -> str:
            started.append(name)
            gate.wait(30)
            return name

        async with asyncio.TaskGroup() as tasks:
            for number in range(6):
                tasks.create_task(lane.run("many", lambda number=number: work(f"many {number}")))  # type: ignore[misc]
            await settle()
            assert started == ["many 0", "many 1"], "two threads are the share of one caller"
            one = tasks.create_task(lane.run("few", lambda: work("few")))
            await settle()
            assert started == ["many 0", "many 1", "few"]
            tasks.create_task(lane.run("other", lambda: work("other")))
            await settle()
            gate.set()
        assert one.result() == "few"
        # It came last, and waited for one turn of the caller with many.
        assert started.index("other") <= 4
        lane.close()

    asyncio.run(scenario())


def test_a_full_queue_refuses_its_caller_alone(gate: threading.Event) -> None:
    async def scenario() -> None:
        lane = Lane("tests", threads=1, per_caller=1, waiting=2)
        calls = [asyncio.create_task(lane.run("many", lambda: gate.wait(30))) for _ in range(3)]
        await settle()
        with pytest.raises(Busy, match="2 requests of this API key wait for tests already"):
            await lane.run("many", lambda: True)
        calls.append(asyncio.create_task(lane.run("few", lambda: True)))
        await settle()
        gate.set()
        assert await asyncio.gather(*calls) == [True] * 4
        lane.close()

    asyncio.run(scenario())


def test_a_caller_that_leaves_gives_its_place_up(gate: threading.Event) -> None:
    async def scenario() -> None:
        lane = Lane("tests", threads=1, per_caller=1, waiting=1)
        started: list[str] = []
        running = asyncio.create_task(lane.run("a", lambda: gate.wait(30)))
        await settle()
        for _ in range(50):
            waiting = asyncio.create_task(lane.run("a", lambda: started.append("left")))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        # A call that runs keeps its thread although nobody waits for it: the threads are as many as before.
        running.cancel()
        last = asyncio.create_task(lane.run("a", lambda: started.append("stayed")))
        await settle()
        assert not last.done()
        gate.set()
        await last
        assert started == ["stayed"]
        lane.close()

    asyncio.run(scenario())


def test_an_error_reaches_the_caller_and_frees_the_thread() -> None:
    async def scenario() -> None:
        lane = Lane("tests", threads=1, per_caller=1, waiting=1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await lane.run(None, lambda: 1 / 0)
        assert await lane.run(None, lambda: 1) == 1
        lane.close()

    asyncio.run(scenario())
