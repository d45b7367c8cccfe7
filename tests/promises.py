"""The promises, as questions to the catalogue: each answers with the keys that break it, so an empty answer is good."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

_IN_FLIGHT = "('waiting', 'queued', 'running')"
_QUESTIONS = {
    "I1: an action and its attempts disagree about who runs it": """
        SELECT a.key FROM actions a LEFT JOIN attempts t
            ON t.action_key = a.key AND t.number = a.attempt AND t.outcome = 'running'
        WHERE (a.state = 'running') <> (t.number IS NOT NULL)""",
    "I1: an attempt runs that is not the latest of its action": """
        SELECT a.key FROM actions a JOIN attempts t ON t.action_key = a.key
        WHERE t.outcome = 'running' AND t.number <> a.attempt""",
    "I2: a name over damaged bytes": """
        SELECT n.key FROM (SELECT key, manifest, quarantined_at FROM engines
                           UNION ALL SELECT key, manifest, quarantined_at FROM checkpoints) n
        JOIN manifest_files f ON f.manifest = n.manifest JOIN blobs b ON b.digest = f.blob
        WHERE n.quarantined_at IS NULL AND b.damaged_at IS NOT NULL""",
    "I2: a manifest that is not whole": """
        SELECT m.digest FROM manifests m
        WHERE m.files <> (SELECT count(*) FROM manifest_files f WHERE f.manifest = m.digest)""",
    "I2: an action succeeded and left nothing": """
        SELECT a.key FROM actions a WHERE a.state = 'succeeded'
        AND NOT EXISTS (SELECT 1 FROM engines e WHERE e.key = a.key)
        AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.key = a.key)
        AND NOT EXISTS (SELECT 1 FROM removals r WHERE r.key = a.key)""",
    "I2: a build to be run without its checkpoint": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'build' AND a.state IN {_IN_FLIGHT} AND a.state <> 'waiting'
        AND NOT EXISTS (SELECT 1 FROM checkpoints c WHERE c.key = a.depends_on AND c.quarantined_at IS NULL)""",
    "I2: a build succeeded without an engine": """
        SELECT b.id FROM builds b WHERE b.state = 'succeeded'
        AND NOT EXISTS (SELECT 1 FROM engines e WHERE e.key = b.key)
        AND NOT EXISTS (SELECT 1 FROM removals r WHERE r.key = b.key)""",
    "I3: named by an attempt that did not succeed": """
        SELECT n.key FROM (SELECT key, attempt FROM engines UNION ALL SELECT key, attempt FROM checkpoints) n
        LEFT JOIN attempts t ON t.action_key = n.key AND t.number = n.attempt
        WHERE coalesce(t.outcome, '') <> 'succeeded'""",
    "I4: a build is open and nobody works for it": f"""
        SELECT b.id FROM builds b LEFT JOIN actions a ON a.key = b.key
        WHERE b.state = 'open' AND coalesce(a.state, '') NOT IN {_IN_FLIGHT}""",
    "I4: waits for a checkpoint that nobody makes": """
        SELECT w.key FROM actions w JOIN actions c ON c.key = w.depends_on
        WHERE w.state = 'waiting' AND c.state NOT IN ('queued', 'running')""",
    "I5: a log whose bytes were collected": """
        SELECT t.action_key FROM attempts t WHERE t.log_digest IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = t.log_digest)""",
    "I6: a build is run that nobody waits for": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'build' AND a.state IN {_IN_FLIGHT}
        AND NOT EXISTS (SELECT 1 FROM builds b WHERE b.key = a.key AND b.state = 'open')""",
    "I6: a convert is run that nobody waits for": f"""
        SELECT a.key FROM actions a WHERE a.stage = 'convert' AND a.state IN {_IN_FLIGHT}
        AND NOT EXISTS (SELECT 1 FROM actions w WHERE w.depends_on = a.key AND w.state = 'waiting')""",
}  # fmt: skip
QUESTION = " UNION ALL ".join(f"SELECT '{what}' AS what, * FROM ({sql}) AS q{n}" for n, (what, sql) in
                          enumerate(_QUESTIONS.items()))  # fmt: skip


def broken(session: Session) -> list[str]:
    """What is broken, and by which key; empty if all is well. True between any two transactions."""
    return told(session.execute(text(QUESTION)))


def told(answers: Iterable[Any]) -> list[str]:
    """In words, what came back on `QUESTION`."""
    return [f"{what}: {key[:12]}" for what, key in answers]
