"""The promises, asked after every step: of the catalogue alone, and of what only the simulation can see."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests import promises
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.parts import MemoryStore

_NAMED = """
    SELECT e.key, e.attempt, e.quarantined_at IS NOT NULL, a.attempt
    FROM (SELECT key, attempt, quarantined_at FROM engines
          UNION ALL SELECT key, attempt, quarantined_at FROM checkpoints) e JOIN actions a ON a.key = e.key"""
_ENGINES = "SELECT key FROM engines"
_REFERRED = """
    SELECT 'a manifest', blob FROM manifest_files
    UNION SELECT 'a warm file', blob FROM warm_files
    UNION SELECT 'a log', log_digest FROM attempts WHERE log_digest IS NOT NULL"""


class Broken(AssertionError):
    """A promise was broken; the text says which, and by which keys."""


@dataclass
class Invariants:
    """Remembers what was published, so that a second publication of what is still served is seen."""

    database: FaultyDatabase
    store: MemoryStore
    clock: Clock
    cancelled: set[str] = field(default_factory=set)  # builds that the schedule cancelled
    pinned: set[str] = field(default_factory=set)  # keys of engines
    _links: dict[str, datetime] = field(default_factory=dict)  # blobs that somebody may read, and until when
    _seen: tuple[int, int] | None = None  # what was changed when all was well
    _published: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def check(self) -> None:
        state = self.database.changes, self.store.changes
        if state == self._seen:
            return
        ask = self.database.ask
        broken = promises.told(ask(promises.QUESTION))
        broken += [f"I2, I5: {who} without its bytes: {blob}" for who, blob in ask(_REFERRED) if not self._there(blob)]
        broken += [f"I5: a good link to nothing: {blob}" for blob in self._linked() if not self._there(blob)]
        broken += [f"I5: pinned, and gone: {key}" for key in self.pinned - {key for (key,) in ask(_ENGINES)}]
        broken += self._published_twice(ask(_NAMED))
        found = {row[0] for row in ask("SELECT id FROM builds WHERE state = 'cancelled'")}
        broken += [f"I6: nobody cancelled {build}" for build in found - self.cancelled]
        if broken:
            raise Broken("; ".join(broken))
        self._seen = state

    def left(self) -> list[str]:
        """Blobs in the store or the catalogue that nothing refers to."""
        there = self.store.blobs.keys() | {blob for (blob,) in self.database.ask("SELECT digest FROM blobs")}
        return sorted(there - {blob for _, blob in self.database.ask(_REFERRED)})

    def link(self, blobs: set[str], *, seconds: float) -> None:
        """From now on, anybody may read them for so long."""
        self._seen = None
        self._links |= dict.fromkeys(blobs, self.clock.time + timedelta(seconds=seconds))

    def _linked(self) -> list[str]:
        return [blob for blob, until in self._links.items() if until > self.clock.time]

    def _there(self, blob: str) -> bool:
        """Bytes that rot afterwards are not the catalogue's fault: finding them is another promise."""
        return self.store.intact(blob) or blob in self.store.rotten

    def _published_twice(self, named: list[tuple[Any, ...]]) -> list[str]:
        broken = []
        for key in self._published.keys() - {row[0] for row in named}:  # removed: it may be made again
            self._published[key] = (self._published[key][0], True)
        for key, attempt, out, latest in named:
            before = self._published.get(key)
            if before is not None and before[0] != attempt and not before[1]:
                broken.append(f"I1: {key} published by attempt {attempt} while that of {before[0]} was served")
            if (before is None or before[0] != attempt) and attempt != latest:
                broken.append(f"I3: {key} published by attempt {attempt} when {latest} had the lease")
            self._published[key] = (attempt, bool(out))
        return broken
