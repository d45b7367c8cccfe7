"""The promises as questions to the catalogue, asked after every step. Each answers with the keys that break it."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.database import Database
from tests.simulation.parts import MemoryStore

_SERVED = """
    SELECT key, manifest FROM engines WHERE quarantined_at IS NULL
    UNION ALL SELECT key, manifest FROM checkpoints WHERE quarantined_at IS NULL"""
_IN_FLIGHT = "('waiting', 'queued', 'running')"
_QUESTIONS = {
    "I3: named by an attempt that did not succeed": """
        SELECT made.key FROM (SELECT key, attempt FROM engines UNION ALL SELECT key, attempt FROM checkpoints) made
        LEFT JOIN attempts a ON a.action_key = made.key AND a.number = made.attempt
        WHERE coalesce(a.outcome, '') <> 'succeeded'""",
    "I4: an open build whose action is not in flight": f"""
        SELECT b.id FROM builds b LEFT JOIN actions a ON a.key = b.key
        WHERE b.state = 'open' AND coalesce(a.state, '') NOT IN {_IN_FLIGHT}""",
    "I4: waits for a checkpoint that nobody makes": """
        SELECT w.key FROM actions w JOIN actions c ON c.key = w.depends_on
        WHERE w.state = 'waiting' AND c.state NOT IN ('queued', 'running')""",
    "I2: a build to be run without its checkpoint": """
        SELECT a.key FROM actions a WHERE a.stage = 'build' AND a.state IN ('queued', 'running') AND NOT EXISTS (
            SELECT 1 FROM checkpoints c WHERE c.key = a.depends_on AND c.quarantined_at IS NULL)""",
    "I2: a build that succeeded without an engine": """
        SELECT b.id FROM builds b LEFT JOIN engines e ON e.key = b.key
        WHERE b.state = 'succeeded' AND e.key IS NULL""",
    "I6: work that nobody waits for": f"""
        SELECT a.key FROM actions a WHERE a.state IN {_IN_FLIGHT} AND a.stage = 'build' AND NOT EXISTS (
            SELECT 1 FROM builds b WHERE b.key = a.key AND b.state = 'open')""",
    "I1: an action and its attempts disagree about who runs it": """
        SELECT a.key FROM actions a LEFT JOIN attempts t
            ON t.action_key = a.key AND t.number = a.attempt AND t.outcome = 'running'
        WHERE (a.state = 'running') <> (t.number IS NOT NULL)""",
}  # fmt: skip
_ALL = " UNION ALL ".join(f"SELECT '{what}' AS what, * FROM ({sql})" for what, sql in _QUESTIONS.items())
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
            broken = [f"{what}: {key}" for what, key in ask(_ALL)]
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
