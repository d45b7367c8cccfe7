"""The promises, asked after every step: of the catalogue alone, and of what only the simulation can see."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from models.database import Database
from tests import promises
from tests.simulation.clock import Clock
from tests.simulation.parts import MemoryStore

_SERVED = """
    SELECT key, manifest FROM engines WHERE quarantined_at IS NULL
    UNION ALL SELECT key, manifest FROM checkpoints WHERE quarantined_at IS NULL"""
_NAMED = """
    SELECT e.key, e.attempt, e.quarantined_at IS NOT NULL, a.attempt
    FROM (SELECT key, attempt, quarantined_at FROM engines
          UNION ALL SELECT key, attempt, quarantined_at FROM checkpoints) e JOIN actions a ON a.key = e.key"""
_ENGINES = "SELECT key FROM engines"
_REFERRED = """
    SELECT 'a manifest', blob FROM manifest_files
    UNION SELECT 'a warm file', blob FROM warm_files
    UNION SELECT 'a log', log_digest FROM attempts WHERE log_digest IS NOT NULL"""
_BLOBS = f"SELECT DISTINCT f.blob FROM manifest_files f JOIN ({_SERVED}) s ON s.manifest = f.manifest"


class Broken(AssertionError):
    """A promise was broken; the text says which, and by which keys."""


@dataclass
class Invariants:
    """Remembers what was published, so that a second publication of what is still served is seen."""

    database: Database
    store: MemoryStore
    clock: Clock
    cancelled: set[str] = field(default_factory=set)  # builds that the schedule cancelled
    pinned: set[str] = field(default_factory=set)  # keys of engines
    _links: dict[str, datetime] = field(default_factory=dict)  # blobs that somebody may read, and until when
    _published: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def check(self) -> None:
        with self.database.read() as session:
            ask = session.connection().exec_driver_sql
            broken = promises.broken(session)
            broken += [f"I5: {who} without its bytes: {blob}" for who, blob in ask(_REFERRED) if not self._there(blob)]
            broken += [f"I5: a good link to nothing: {blob}" for blob in self._linked() if not self._there(blob)]
            broken += [f"I5: pinned, and gone: {key}" for key in self.pinned - {key for (key,) in ask(_ENGINES)}]
            broken += [f"I2: served without its bytes: {blob}" for (blob,) in ask(_BLOBS) if not self._there(blob)]
            broken += self._published_twice([tuple(row) for row in ask(_NAMED)])
            found = {row[0] for row in ask("SELECT id FROM builds WHERE state = 'cancelled'")}
            broken += [f"I6: nobody cancelled {build}" for build in found - self.cancelled]
        if broken:
            raise Broken("; ".join(broken))

    def check_nothing_left(self) -> None:
        """To be asked when nothing is under way, and all was collected."""
        with self.database.read() as session:
            ask = session.connection().exec_driver_sql
            referred = {blob for _, blob in ask(_REFERRED)}
            left = self.store.blobs.keys() | {blob for (blob,) in ask("SELECT digest FROM blobs")}
        if left != referred:
            raise Broken(f"I5: left in the store, and nothing refers to it: {sorted(left - referred)}")

    def link(self, blobs: set[str], *, seconds: float) -> None:
        """From now on, anybody may read them for so long."""
        self._links |= dict.fromkeys(blobs, self.clock.time + timedelta(seconds=seconds))

    def _linked(self) -> list[str]:
        return [blob for blob, until in self._links.items() if until >= self.clock.time]

    def _there(self, blob: str) -> bool:
        """Bytes that rot afterwards are not the catalogue's fault: finding them is another promise."""
        return self.store.intact(blob) or blob in self.store.rotten

    def _published_twice(self, named: list[tuple[str, int, bool, int]]) -> list[str]:
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
