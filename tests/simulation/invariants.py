"""The promises, asked after every step: of the catalogue alone, and of what only the simulation can see."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.database import Database
from tests import promises
from tests.simulation.parts import MemoryStore

_SERVED = """
    SELECT key, manifest FROM engines WHERE quarantined_at IS NULL
    UNION ALL SELECT key, manifest FROM checkpoints WHERE quarantined_at IS NULL"""
_NAMED = """
    SELECT e.key, e.attempt, e.quarantined_at IS NOT NULL, a.attempt
    FROM (SELECT key, attempt, quarantined_at FROM engines
          UNION ALL SELECT key, attempt, quarantined_at FROM checkpoints) e JOIN actions a ON a.key = e.key"""
_BLOBS = f"SELECT DISTINCT f.blob FROM manifest_files f JOIN ({_SERVED}) s ON s.manifest = f.manifest"


class Broken(AssertionError):
    """A promise was broken; the text says which, and by which keys."""


@dataclass
class Invariants:
    """Remembers what was published, so that a second publication of what is still served is seen."""

    database: Database
    store: MemoryStore
    cancelled: set[str] = field(default_factory=set)  # builds that the schedule cancelled
    _published: dict[str, tuple[int, bool]] = field(default_factory=dict)

    def check(self) -> None:
        with self.database.read() as session:
            ask = session.connection().exec_driver_sql
            broken = promises.broken(session)
            broken += [f"I2: served without its bytes: {blob}" for (blob,) in ask(_BLOBS) if not self._there(blob)]
            broken += self._published_twice([tuple(row) for row in ask(_NAMED)])
            found = {row[0] for row in ask("SELECT id FROM builds WHERE state = 'cancelled'")}
            broken += [f"I6: nobody cancelled {build}" for build in found - self.cancelled]
        if broken:
            raise Broken("; ".join(broken))

    def _there(self, blob: str) -> bool:
        """Bytes that rot afterwards are not the catalogue's fault: finding them is another promise."""
        return self.store.intact(blob) or blob in self.store.rotten

    def _published_twice(self, named: list[tuple[str, int, bool, int]]) -> list[str]:
        broken = []
        for key, attempt, out, latest in named:
            before = self._published.get(key)
            if before is not None and before[0] != attempt and not before[1]:
                broken.append(f"I1: {key} published by attempt {attempt} while that of {before[0]} was served")
            if (before is None or before[0] != attempt) and attempt != latest:
                broken.append(f"I3: {key} published by attempt {attempt} when {latest} had the lease")
            self._published[key] = (attempt, bool(out))
        return broken
