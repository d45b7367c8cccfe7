"""A slot computes while its last attempt finishes, one at most; several slots work at once, and none stops another."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from workers.broker_watchdog import MessageActivity
from workers.slots import Slots
from workers.turn import Slot, Turn

SECONDS = 30.0


class HeldRunner:
    """In place of a runner. Its attempts pass their turn on and end when the test says so."""

    def __init__(self) -> None:
        self.activity = MessageActivity()
        self.began: dict[str, threading.Event] = {}
        self.may_pass_on = threading.Event()
        self.may_end = threading.Event()
        self.ended: list[str] = []
        self.turns: list[weakref.ref[Turn]] = []
        self._ends = threading.Condition()

    def run(self, key: str, queue: str, turn: Turn) -> None:
        self.began.setdefault(key, threading.Event()).set()
        self.turns.append(weakref.ref(turn))
        if key == "defect":
            raise ZeroDivisionError
        with self.activity.attempt():
            assert self.may_pass_on.wait(SECONDS)
            turn.pass_on()
            assert self.may_end.wait(SECONDS)
        with self._ends:
            self.ended.append(key)
            self._ends.notify_all()

    def has_ended(self, key: str) -> bool:
        with self._ends:
            return self._ends.wait_for(lambda: key in self.ended, SECONDS)

    def has_begun(self, key: str) -> bool:
        return self.began.setdefault(key, threading.Event()).wait(SECONDS)


@pytest.fixture
def runners() -> Iterator[list[HeldRunner]]:
    runners = [HeldRunner(), HeldRunner()]
    yield runners
    for runner in runners:
        runner.may_pass_on.set()
        runner.may_end.set()


def received(slots: Slots, key: str) -> threading.Thread:
    """A thread of Celery's pool that hands the message to the slots."""
    thread = threading.Thread(target=slots.receive, args=(key, "build.q"))
    thread.start()
    return thread


def slots_of(*runners: HeldRunner) -> Slots:
    activity = MessageActivity(len(runners))
    for runner in runners:
        runner.activity = activity
    return Slots(cast(Any, runners), activity)


def test_a_slot_takes_its_next_message_while_one_attempt_finishes(runners: list[HeldRunner]) -> None:
    runner = runners[0]
    slots = slots_of(runner)
    runner.may_pass_on.set()
    received(slots, "first").join(SECONDS)
    assert runner.activity.busy, "the watchdog may not restart the worker now"
    second = received(slots, "second")
    assert runner.has_begun("second")
    second.join(0.2)
    assert second.is_alive(), "one attempt finishes already: the second keeps its turn until its end"
    runner.may_end.set()
    second.join(SECONDS)
    slots.close()
    assert sorted(runner.ended) == ["first", "second"]
    assert runner.activity.at_rest


def test_no_slot_keeps_an_attempt_that_ended(runners: list[HeldRunner]) -> None:
    runner = runners[0]
    slots = slots_of(runner)
    runner.may_pass_on.set()
    runner.may_end.set()
    for number in range(20):
        slots.receive(f"attempt {number}", "build.q")
    slots.close()
    gc.collect()
    assert len(runner.turns) == 20
    assert not [turn for turn in runner.turns if turn() is not None]


def test_an_attempt_that_ends_lets_the_next_one_pass_its_turn_on() -> None:
    slot = Slot()
    turns = first, second, third = Turn(slot), Turn(slot), Turn(slot)
    first.pass_on()
    first.pass_on()
    second.pass_on()
    assert [turn.is_over for turn in turns] == [True, False, False]
    first.end()
    assert [turn.is_over for turn in turns] == [True, True, False], "its output is alone on the disk now"
    third.pass_on()
    third.end()
    assert slot.finishing is second
    assert slot.waiting is None


def test_a_slot_that_hangs_stops_no_other(runners: list[HeldRunner]) -> None:
    slots = slots_of(*runners)
    hanging = received(slots, "first")
    assert runners[0].has_begun("first"), "the slot that was free for the longest time"
    other = runners[1]
    other.may_pass_on.set()
    other.may_end.set()
    for key in ("second", "third"):
        received(slots, key).join(SECONDS)
        assert other.has_ended(key)
    assert hanging.is_alive()


def test_a_defect_of_an_attempt_is_logged_and_frees_its_slot(
    runners: list[HeldRunner], caplog: pytest.LogCaptureFixture
) -> None:
    runner = runners[0]
    slots = slots_of(runner)
    received(slots, "defect").join(SECONDS)
    slots.close()
    assert runner.activity.at_rest
    assert "ZeroDivisionError" in caplog.text
