"""The promises, checked after every move: questions to the catalogue, and checks that only the simulation can make."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests import promises
from tests.simulation.clock import Clock, FaultyDatabase
from tests.simulation.doubles import MemoryStore

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
    """A promise was broken; the text names the promise and the keys."""


@dataclass
class Invariants:
    """Remembers what was published, so that it notices a second publication of a key that is still served."""

    database: FaultyDatabase
    store: MemoryStore
    clock: Clock
    cancelled: set[str] = field(default_factory=set)  # builds that the schedule cancelled
    pinned: set[str] = field(default_factory=set)  # keys of engines
    _links: dict[str, datetime] = field(default_factory=dict)  # blob → the time until which a link to it is valid
    _checked: tuple[int, int] | None = None  # change counters of database and store at the last good check
    _published: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def check(self) -> None:
        state = self.database.changes, self.store.changes
        if state == self._checked:
            return
        ask = self.database.ask
        broken = promises.describe(ask(promises.QUERY))
        broken += [
            f"I2, I5: {referrer} without its bytes: {blob}"
            for referrer, blob in ask(_REFERRED)
            if not self._stored(blob)
        ]
        broken += [f"I5: a valid link to a missing blob: {blob}" for blob in self._linked() if not self._stored(blob)]
        broken += [f"I5: a pinned engine was removed: {key}" for key in self.pinned - {key for (key,) in ask(_ENGINES)}]
        broken += self._published_twice(ask(_NAMED))
        cancelled = {row[0] for row in ask("SELECT id FROM builds WHERE state = 'cancelled'")}
        broken += [f"I6: nobody cancelled {build}" for build in cancelled - self.cancelled]
        if broken:
            raise Broken("; ".join(broken))
        self._checked = state

    def unreferenced_blobs(self) -> list[str]:
        """Blobs in the store or the catalogue that nothing refers to."""
        existing = self.store.blobs.keys() | {blob for (blob,) in self.database.ask("SELECT digest FROM blobs")}
        return sorted(existing - {blob for _, blob in self.database.ask(_REFERRED)})

    def link(self, blobs: set[str], *, seconds: float) -> None:
        """Give out links to `blobs` that are valid for `seconds`."""
        self._checked = None
        self._links |= dict.fromkeys(blobs, self.clock.time + timedelta(seconds=seconds))

    def _linked(self) -> list[str]:
        return [blob for blob, until in self._links.items() if until > self.clock.time]

    def _stored(self, blob: str) -> bool:
        """True if the store has the bytes, or had them before the simulation damaged them on purpose."""
        return self.store.intact(blob) or blob in self.store.rotten

    def _published_twice(self, named: list[tuple[Any, ...]]) -> list[str]:
        broken = []
        for key in self._published.keys() - {row[0] for row in named}:  # it was removed, so it may be built again
            self._published[key] = (self._published[key][0], True)
        for key, attempt, withdrawn, latest in named:
            published_attempt, replaceable = self._published.get(key, (None, True))
            is_new = published_attempt != attempt
            if is_new and not replaceable:
                broken.append(f"I1: {key} published by attempt {attempt} while that of {published_attempt} was served")
            if is_new and attempt != latest:
                broken.append(f"I3: {key} published by attempt {attempt} when {latest} had the lease")
            self._published[key] = (attempt, bool(withdrawn))
        return broken
