"""Run schedules one after another on one database, each from an empty farm or from one that has built engines."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from enginefarm.contract.digest import Digest
from tests.simulation import tree
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.doubles import Broker, MemoryStore
from tests.simulation.schedule import Schedule
from tests.simulation.worker import World


@dataclass(frozen=True)
class Scene:
    """The state of the farm at the beginning of a schedule."""

    database: sqlite3.Connection
    time: datetime
    blobs: dict[Digest, bytes]


class Simulation:
    """Runs schedules one after another on one database."""

    def __init__(self, scratch: Path) -> None:
        self._clock = Clock()
        self._database = FaultyDatabase(self._clock)
        self._scratch = scratch
        self._empty = Scene(self._database.copy(), self._clock.time, {})
        self._built = self._after_builds()

    def run(self, seeds: range, tell: Callable[[str], None] = lambda _: None) -> int:
        """Run the schedules of one tree and return how many moves they made.

        Every other tree begins with a farm that has built engines.

        Raises:
            BrokenSchedule: at the first schedule that breaks a promise.
        """
        number = tree.number(seeds[0])
        schedule = self.schedule(number, tell, built=number % 2 == 1)
        tree.run(schedule, seeds)
        return schedule.moves_made

    def schedule(self, seed: int, tell: Callable[[str], None] = lambda _: None, *, built: bool = False) -> Schedule:
        """A schedule at its beginning, with no worker started."""
        scene = self._built if built else self._empty
        self._database.faults = 0
        self._database.restore(scene.database)
        self._clock.time = scene.time
        chance = random.Random(seed)
        world = World(chance, self._clock, self._database, Broker(), MemoryStore(), self._scratch)
        world.store.blobs = dict(scene.blobs)
        for part in (world.database, world.broker, world.store):
            part.random = chance
        return Schedule(world, tell)

    def _after_builds(self) -> Scene:
        schedule = self.schedule(0)
        worker = schedule.workers[-1]
        worker.start()
        schedule.submit()
        schedule.submit()
        while (message := schedule.world.broker.take(worker.queues)) is not None:
            attempt = worker.receive(message.queue)
            while attempt.steps is not None:
                attempt.step()
        return Scene(self._database.copy(), self._clock.time, schedule.world.store.blobs)
