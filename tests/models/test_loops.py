"""Loops survive every error, log each kind once, count all, and end their process if they end themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import pytest

from enginefarm.contract.errors import DatabaseUnavailable
from models.loops import ErrorLog, Loops


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_error_is_logged_once_for_each_kind_and_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    error_log = ErrorLog("the sweep", clock)
    for _ in range(25):
        for error in (DatabaseUnavailable("away"), ValueError("odd"), DatabaseUnavailable("full")):
            error_log.failed(error)
        clock.now += 25
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "the sweep failed and is tried again: away",
        "the sweep failed by a defect and is tried again: ValueError: odd",
        "the sweep failed and is tried again: full",
        "the sweep failed and is tried again: away (23 more like it since the last such line)",
        "the sweep failed by a defect and is tried again: ValueError: odd (23 more like it since the last such line)",
        "the sweep failed and is tried again: full (23 more like it since the last such line)",
    ]
    assert [bool(record.exc_info) for record in caplog.records[:3]] == [False, True, False]


def test_a_new_outage_is_logged_anew(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    error_log = ErrorLog("the sweep", clock)
    with caplog.at_level(logging.INFO):
        for pause in (1, 120):
            error_log.failed(DatabaseUnavailable("away"))
            error_log.succeeded()
            error_log.succeeded()
            clock.now += pause
        error_log.failed(DatabaseUnavailable("away"))
    lines = [record.getMessage() for record in caplog.records]
    failed, works = "the sweep failed and is tried again: away", "the sweep works again"
    assert lines == [failed, works, failed]


def fail_in_turn(errors: list[BaseException], done: Callable[[], None]) -> Callable[[], None]:
    def work() -> None:
        if errors:
            raise errors.pop(0)
        done()

    return work


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def odd_errors() -> list[BaseException]:
    return [ZeroDivisionError(), StopIteration(), MemoryError(), Unprintable(), DatabaseUnavailable("away")]


def test_a_thread_goes_on_after_every_error() -> None:
    loops, done = Loops(pytest.fail), threading.Event()
    thread = loops.thread("work", fail_in_turn(odd_errors(), done.set), every_seconds=0.001)
    thread.start()
    assert done.wait(20)
    thread.stop()
    thread.join(20)
    assert loops.counters["work"].failed == len(odd_errors())
    assert loops.counters["work"].succeeded > 0
    assert loops.exit_status == 0


def test_a_task_goes_on_after_every_error() -> None:
    async def run() -> Loops:
        loops, done = Loops(pytest.fail), asyncio.Event()
        # CancelledError: of something that the work waited for, while nobody cancels the loop.
        work = fail_in_turn([*odd_errors()[2:], asyncio.CancelledError()], done.set)

        async def await_work() -> None:
            work()

        loops.start_task("work", await_work, every_seconds=0.001)
        await asyncio.wait_for(done.wait(), 20)
        await loops.stop_tasks()
        return loops

    loops = asyncio.run(run())
    assert loops.counters["work"].failed == 4
    assert loops.exit_status == 0


@pytest.mark.parametrize("error", [SystemExit(0), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_loop_that_ends_by_itself_ends_the_process(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    loops = Loops(ended.set)
    loops.thread("the renewal", fail_in_turn([error], lambda: None), every_seconds=0.001).start()
    assert ended.wait(20)
    assert loops.ended == "the renewal"
    assert loops.exit_status == 70
    assert "the renewal has ended: this process ends with status 70" in caplog.text


def test_a_task_that_ends_by_itself_ends_the_process() -> None:
    async def run() -> Loops:
        ended = asyncio.Event()
        loops = Loops(ended.set)

        async def leave() -> None:
            raise SystemExit(0)

        loops.start_task("the sweep", leave, every_seconds=60)
        await asyncio.wait_for(ended.wait(), 20)
        return loops

    assert asyncio.run(run()).ended == "the sweep"
