"""The promises of DESIGN.md as SQL queries. Each selects the keys of rows that break a promise; no row is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.queue.order import MOST_OVERTAKING

_IN_FLIGHT = "('waiting', 'queued', 'running')"
_QUERIES = {  # by what a selected row breaks
    "I1: an action and its attempts disagree about who runs it": """
        SELECT a.key FROM actions a LEFT JOIN attempts t
            ON t.action_key = a.key AND t.number = a.attempt AND t.outcome = 'running'
        WHERE (a.state = 'running') <> (t.number IS NOT NULL)""",
    "I1: an attempt runs that is not the latest of its action": """
        SELECT a.key FROM actions a JOIN attempts t ON t.action_key = a.key
        WHERE t.outcome = 'running' AND t.number <> a.attempt""",
    "I2: an engine or checkpoint is served although a blob of it is damaged": """
        SELECT n.key FROM (SELECT key, manifest, quarantined_at FROM engines
                           UNION ALL SELECT key, manifest, quarantined_at FROM checkpoints) n
        JOIN manifest_files f ON f.manifest = n.manifest JOIN blobs b ON b.digest = f.blob
        WHERE n.quarantined_at IS NULL AND b.damaged_at IS NOT NULL""",
    "I2: a manifest lacks files": """
        SELECT m.digest FROM manifests m
        WHERE m.files <> (SELECT count(*) FROM manifest_files f WHERE f.manifest = m.digest)""",
    "I2: an action succeeded without an engine, a checkpoint or a removal": """
        SELECT a.key FROM actions a WHERE a.state = 'succeeded'
        AND NOT EXISTS (SELECT 1 FROM engines e WHERE e.key = a.key)
        AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.key = a.key)
        AND NOT EXISTS (SELECT 1 FROM removals r WHERE r.key = a.key)""",
    "I2: a build stage is queued or running without its checkpoint": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'build' AND a.state IN {_IN_FLIGHT} AND a.state <> 'waiting'
        AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.key = a.depends_on AND c.quarantined_at IS NULL)""",
    "I2: a build succeeded without an engine or a removal": """
        SELECT b.id FROM builds b WHERE b.state = 'succeeded'
        AND NOT EXISTS (SELECT 1 FROM engines e WHERE e.key = b.key)
        AND NOT EXISTS (SELECT 1 FROM removals r WHERE r.key = b.key)""",
    "I3: an engine or checkpoint is published by an attempt that did not succeed": """
        SELECT n.key FROM (SELECT key, attempt FROM engines UNION ALL SELECT key, attempt FROM checkpoints) n
        LEFT JOIN attempts t ON t.action_key = n.key AND t.number = n.attempt
        WHERE coalesce(t.outcome, '') <> 'succeeded'""",
    "I4: a build is open and its action is not in flight": f"""
        SELECT b.id FROM builds b LEFT JOIN actions a ON a.key = b.key
        WHERE b.state = 'open' AND coalesce(a.state, '') NOT IN {_IN_FLIGHT}""",
    "I4: an action waits for a checkpoint whose convert is not in flight": """
        SELECT w.key FROM actions w JOIN actions c ON c.key = w.depends_on
        WHERE w.state = 'waiting' AND c.state NOT IN ('queued', 'running')""",
    "I5: the blob of a referenced log was collected": """
        SELECT t.action_key FROM attempts t WHERE t.log_digest IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = t.log_digest)""",
    "I4: an action was overtaken more often than any may be": f"""
        SELECT a.key FROM actions a WHERE a.overtaken > {MOST_OVERTAKING}""",
    "I6: a build stage is in flight without an open build": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'build' AND a.state IN {_IN_FLIGHT}
        AND NOT EXISTS (SELECT 1 FROM builds b WHERE b.key = a.key AND b.state = 'open')""",
    "I6: a convert is in flight without an action that waits for it": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'convert' AND a.state IN {_IN_FLIGHT}
        AND NOT EXISTS (SELECT 1 FROM actions w WHERE w.depends_on = a.key AND w.state = 'waiting')""",
}  # fmt: skip
# One statement, so that all promises are checked on the same snapshot of the database.
QUERY = " UNION ALL ".join(
    f"SELECT '{violation}' AS violation, * FROM ({sql}) AS q{number}"
    for number, (violation, sql) in enumerate(_QUERIES.items())
)


def broken_promises(session: Session) -> list[str]:
    """A line for each row that breaks a promise. Empty between any two transactions of a right farm."""
    return describe(session.execute(text(QUERY)))


def describe(rows: Iterable[Any]) -> list[str]:
    """The rows that `QUERY` selected, as lines of text."""
    return [f"{violation}: {key[:12]}" for violation, key in rows]
