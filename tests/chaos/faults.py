"""The table of faults, and the deck that deals them in their proportions."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import psutil
import redis

from enginefarm.contract.errors import DatabaseUnavailable
from tests.chaos.backing_server import BackingServer
from tests.chaos.farm import Farm, Loss
from tests.chaos.supervised_process import SupervisedProcess
from workers.sandbox import supervisor

_PROGRAM = "quick_program.py"
_SUPERVISOR = Path(supervisor.__file__).name
# Programs are killed only in the first two tries of an action: the pause before the next try grows threefold each time,
# and the run would spend its minutes waiting.
_MAX_TRIES = 2


@dataclass(frozen=True)
class Fault:
    name: str
    cards: int  # how many of it are in one deck
    strike: Callable[[Farm, Random], bool]  # returns False if the fault cannot happen now
    is_rare: bool = False  # a run of a minute may never have the moment that it needs


def _kill_worker(farm: Farm, random: Random) -> bool:
    return _lose(farm, random, "killed", lambda worker: worker.kill())


def _freeze_worker(farm: Farm, random: Random) -> bool:
    """Freeze it past the end of its lease. When it thaws, it continues its attempt and must publish nothing."""
    lease = float(farm.base.environment["ENGINEFARM_LEASE_SECONDS"])
    return _lose(farm, random, "frozen", lambda worker: worker.freeze(1.5 * lease))


def _kill_worker_with_two_attempts(farm: Farm, random: Random) -> bool:
    """Kill it while it checks or uploads the output of one attempt and computes another."""
    return _lose(farm, random, "killed", lambda worker: worker.kill(), lambda worker: len(farm.attempts_of(worker)) > 1)


def _kill_worker_that_fetches_ahead(farm: Farm, random: Random) -> bool:
    return _lose(farm, random, "killed", lambda worker: worker.kill(), farm.fetches_ahead)


def _lose(
    farm: Farm,
    random: Random,
    fault: str,
    strike: Callable[[SupervisedProcess], None],
    matches: Callable[[SupervisedProcess], bool] | None = None,
) -> bool:
    """Strike a worker, one that runs an attempt if there is one, and record the attempts that it loses.

    Args:
        matches: chooses the workers that may be struck; any worker if None.
    """
    workers = [worker for worker in farm.workers if worker.calm]
    random.shuffle(workers)
    try:
        if matches is not None:
            workers = [worker for worker in workers if matches(worker)]
        workers.sort(key=lambda worker: not farm.attempts_of(worker))
    except DatabaseUnavailable:
        if matches is not None:
            return False
    if not workers:
        return False
    lost_at = None
    with suppress(DatabaseUnavailable):
        lost_at = farm.clock()
    strike(workers[0])
    with suppress(DatabaseUnavailable):
        if lost_at is not None:
            lost = farm.attempts_of(workers[0])
            farm.losses += [Loss(attempt, fault, lost_at, time.monotonic()) for attempt in lost]
    return True


def _tell_worker_to_stop(farm: Farm, random: Random) -> bool:
    calm = [worker for worker in farm.workers if worker.calm]
    if calm:
        random.choice(calm).request_stop()
    return bool(calm)


def _kill_program(farm: Farm, random: Random) -> bool:
    return _kill_child(farm, random, lambda argv: _ends_in(argv[3:4], _PROGRAM))


def _kill_supervisor(farm: Farm, random: Random) -> bool:
    return _kill_child(farm, random, lambda argv: _ends_in(argv[3:4], _SUPERVISOR))


def _kill_child(farm: Farm, random: Random, matches: Callable[[list[str]], bool]) -> bool:
    for worker in random.sample(farm.workers, len(farm.workers)):
        with suppress(DatabaseUnavailable, psutil.NoSuchProcess):
            attempts = farm.attempts_of(worker)
            if attempts and all(attempt.tries <= _MAX_TRIES for attempt in attempts):
                # Of two supervisors one waits for the next attempt.
                children = [child for child in worker.descendants() if matches(child.cmdline())]
                if children:
                    random.choice(children).kill()
                    return True
    return False


def _ends_in(arguments: list[str], name: str) -> bool:
    return any(argument.endswith(f"/{name}") for argument in arguments)


def _kill_api(farm: Farm, random: Random) -> bool:
    """Kill one of the two API processes only while both work, so that the other one answers."""
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


def _fail_broker_over(farm: Farm, random: Random) -> bool:
    """Make the broker a replica of an address where nothing listens, and a primary again after a while.

    As in a failover, clients that wait get the error UNBLOCKED, and later writes READONLY, on open connections. Coming
    back, the server still has its data.
    """
    if not farm.broker.calm:
        return False
    farm.broker.interrupt(
        random.uniform(1, 6), lambda: _replicate(farm, "127.0.0.1 1"), lambda: _replicate(farm, "NO ONE")
    )
    return True


def _replicate(farm: Farm, primary: str) -> None:
    with redis.Redis.from_url(farm.broker.server.url) as client:
        client.execute_command("REPLICAOF", *primary.split())


def _stop_database(farm: Farm, random: Random) -> bool:
    return _take_away(farm.database, random, kill=False)


def _kill_database(farm: Farm, random: Random) -> bool:
    return _take_away(farm.database, random, kill=True)


def _kill_pooler(farm: Farm, random: Random) -> bool:
    return farm.pooler is not None and _take_away(farm.pooler, random, kill=True)


def _kill_store(farm: Farm, random: Random) -> bool:
    return _take_away(farm.store, random, kill=True)


def _stall_store(farm: Farm, random: Random) -> bool:
    """Freeze the store: connections stay open and nothing is answered, unlike with a closed port."""
    if not farm.store.calm:
        return False
    pid = farm.store.server.pid
    farm.store.interrupt(
        random.uniform(1, 4), lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)
    )
    return True


def _damage_cached_file(farm: Farm, random: Random) -> bool:
    """Change a byte of a cached input as a broken disk does: time of modification and permissions stay."""
    files = [path for path in _cache(farm).glob("sha256/??/*") if not path.name.startswith(".")]
    if not files:
        return False
    with suppress(FileNotFoundError):  # pruned, or removed by the other fault
        path = random.choice(files)
        before = path.stat()
        path.chmod(0o644)
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:] if content else b"")
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def _remove_cache(farm: Farm, random: Random) -> bool:
    """Remove the folder while workers fetch into it and read from it."""
    if not _cache(farm).exists():
        return False
    shutil.rmtree(_cache(farm), ignore_errors=True)
    return True


def _cache(farm: Farm) -> Path:
    return Path(farm.base.environment["ENGINEFARM_CACHE"])


def _take_away(server: BackingServer, random: Random, *, kill: bool) -> bool:
    if not server.calm:
        return False
    server.take_away(random.uniform(0.5, 6), kill=kill)
    return True


POOLER_KILLED = "pooler killed"

FAULTS = (
    Fault("worker killed", 5, _kill_worker),
    Fault("worker killed with two attempts", 2, _kill_worker_with_two_attempts, is_rare=True),
    Fault("worker killed that fetches ahead", 2, _kill_worker_that_fetches_ahead, is_rare=True),
    Fault("worker frozen past its lease", 1, _freeze_worker),
    Fault("worker told to stop", 1, _tell_worker_to_stop),
    Fault("toolchain's program killed", 2, _kill_program),
    Fault("program's supervisor killed", 1, _kill_supervisor),
    Fault("API killed", 2, _kill_api),
    Fault("broker killed", 1, _kill_broker),
    Fault("broker emptied", 2, _empty_broker),
    Fault("broker failed over", 1, _fail_broker_over),
    Fault("database stopped", 1, _stop_database),
    Fault("database killed", 1, _kill_database),
    Fault(POOLER_KILLED, 1, _kill_pooler),
    Fault("store killed", 1, _kill_store),
    Fault("store stalled", 1, _stall_store),
    Fault("cached file damaged", 1, _damage_cached_file),
    Fault("cache removed", 1, _remove_cache),
)


def possible_faults(farm: Farm) -> Sequence[Fault]:
    """All faults but those of a server that this farm does not have."""
    return [fault for fault in FAULTS if fault.name != POOLER_KILLED or farm.pooler is not None]


class Deck:
    """Deals every fault in its proportion, in an order that the seed decides. A fault that cannot happen now stays in
    hand and is tried again; `once`: it is waited for if it is not rare, and no fault happens twice."""

    def __init__(self, random: Random, faults: Sequence[Fault], *, once: bool) -> None:
        self.faults = [replace(fault, cards=1) for fault in faults] if once else faults
        self.struck: Counter[str] = Counter()
        self._random = random
        self._once = once
        self._hand: list[Fault] = []

    @property
    def dealt_once(self) -> bool:
        return all(self.struck[fault.name] or fault.is_rare for fault in self.faults)

    def strike(self, farm: Farm) -> Fault | None:
        """Cause the next fault that can happen now, and return it; None if none can."""
        if len(self._hand) < len(self.faults) and not (self._once and self.struck):
            cards = [fault for fault in self.faults for _ in range(fault.cards)]
            self._hand += self._random.sample(cards, len(cards))
        for fault in dict.fromkeys(self._hand):
            if fault.strike(farm, self._random):
                self._hand.remove(fault)
                self.struck[fault.name] += 1
                return fault
        return None
