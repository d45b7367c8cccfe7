"""The table of faults, and the deck from which they are dealt."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import psutil
import redis

from enginefarm.contract.errors import DatabaseUnavailable
from tests.chaos.backing_server import Part
from tests.chaos.farm import Farm, Loss
from tests.chaos.supervised_process import Kept

_PROGRAM, _GUARD = "quick_program.py", "guard.py"
_TRIES = 2  # of an action whose programs are killed: the pause before its next try grows threefold each time


@dataclass(frozen=True)
class Fault:
    what: str
    times: int  # in a deck
    strike: Callable[[Farm, Random], bool]  # False: not now


def _kill_worker(farm: Farm, random: Random) -> bool:
    return _lose(farm, random, "killed", lambda worker: worker.kill())


def _freeze_worker(farm: Farm, random: Random) -> bool:
    """For longer than its lease; then it goes on as if nothing had been, and must publish nothing."""
    lease = float(farm.base.environment["ENGINEFARM_LEASE_SECONDS"])
    return _lose(farm, random, "frozen", lambda worker: worker.freeze(1.5 * lease))


def _lose(farm: Farm, random: Random, how: str, deed: Callable[[Kept], None]) -> bool:
    """One that has an attempt rather than one that has none."""
    calm = [worker for worker in farm.workers if worker.calm]
    random.shuffle(calm)
    with suppress(DatabaseUnavailable):
        calm.sort(key=lambda worker: farm.held_by(worker) is None)
    if not calm:
        return False
    at = None
    with suppress(DatabaseUnavailable):
        at = farm.clock()
    deed(calm[0])
    with suppress(DatabaseUnavailable):
        held = farm.held_by(calm[0])
        if held is not None and at is not None:
            farm.losses.append(Loss(held, how, at, time.monotonic()))
    return True


def _tell_worker_to_stop(farm: Farm, random: Random) -> bool:
    calm = [worker for worker in farm.workers if worker.calm]
    if calm:
        random.choice(calm).tell_to_stop()
    return bool(calm)


def _kill_program(farm: Farm, random: Random) -> bool:
    return _kill_child(farm, random, lambda argv: _ends_in(argv[2:3], _PROGRAM))


def _kill_guard(farm: Farm, random: Random) -> bool:
    return _kill_child(farm, random, lambda argv: _ends_in(argv[3:4], _GUARD))


def _kill_child(farm: Farm, random: Random, wanted: Callable[[list[str]], bool]) -> bool:
    for worker in random.sample(farm.workers, len(farm.workers)):
        with suppress(DatabaseUnavailable, psutil.NoSuchProcess):
            held = farm.held_by(worker)
            if held is not None and held.tries <= _TRIES:
                for child in worker.descendants():
                    if wanted(child.cmdline()):
                        child.kill()
                        return True
    return False


def _ends_in(arguments: list[str], name: str) -> bool:
    return any(argument.endswith(f"/{name}") for argument in arguments)


def _kill_api(farm: Farm, random: Random) -> bool:
    """One of two, so that the other answers."""
    if not all(api.calm for api in farm.apis):
        return False
    random.choice(farm.apis).kill()
    return True


def _kill_broker(farm: Farm, random: Random) -> bool:
    return _take_away(farm.broker, random, kill=True)


def _empty_broker(farm: Farm, random: Random) -> bool:
    if not farm.broker.calm:
        return False
    with redis.Redis.from_url(farm.broker.server.url) as client:
        client.flushall()
    return True


def _stop_database(farm: Farm, random: Random) -> bool:
    return _take_away(farm.database, random, kill=False)


def _kill_database(farm: Farm, random: Random) -> bool:
    return _take_away(farm.database, random, kill=True)


def _kill_store(farm: Farm, random: Random) -> bool:
    return _take_away(farm.store, random, kill=True)


def _stall_store(farm: Farm, random: Random) -> bool:
    """Connected and silent for a while: the fault that a closed port does not show."""
    if not farm.store.calm:
        return False
    pid = farm.store.server.pid
    farm.store.stall(random.uniform(1, 4), lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT))
    return True


def _take_away(part: Part, random: Random, *, kill: bool) -> bool:
    if not part.calm:
        return False
    part.take_away(random.uniform(0.5, 6), kill=kill)
    return True


FAULTS = (
    Fault("worker killed", 5, _kill_worker),
    Fault("worker frozen past its lease", 1, _freeze_worker),
    Fault("worker told to stop", 1, _tell_worker_to_stop),
    Fault("toolchain's program killed", 2, _kill_program),
    Fault("program's guard killed", 1, _kill_guard),
    Fault("API killed", 2, _kill_api),
    Fault("broker killed", 1, _kill_broker),
    Fault("broker emptied", 2, _empty_broker),
    Fault("database stopped", 1, _stop_database),
    Fault("database killed", 1, _kill_database),
    Fault("store killed", 1, _kill_store),
    Fault("store stalled", 1, _stall_store),
)


class Deck:
    """Every fault in its proportion, in an order that the seed decides; one whose time is not now stays in hand."""

    def __init__(self, random: Random) -> None:
        self.struck: Counter[str] = Counter()
        self._random = random
        self._hand: list[Fault] = []

    @property
    def dealt_once(self) -> bool:
        return all(self.struck[fault.what] for fault in FAULTS)

    def strike(self, farm: Farm) -> Fault | None:
        """The next fault that can happen now; None if none can."""
        if len(self._hand) < len(FAULTS):
            more = [fault for fault in FAULTS for _ in range(fault.times)]
            self._hand += self._random.sample(more, len(more))
        for fault in dict.fromkeys(self._hand):
            if fault.strike(farm, self._random):
                self._hand.remove(fault)
                self.struck[fault.what] += 1
                return fault
        return None
