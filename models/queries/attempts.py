"""The attempts that a build waited for, as REST bodies. Reads only."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import Attempt
from models.catalogue.rows import ActionRow, AttemptRow, WorkerRow


def attempts_of(session: Session, action: ActionRow) -> list[Attempt]:
    """The attempts of a build action and of the convert action before it, in the order of their start."""
    # Those of the convert action too: the build waited for them as for its own.
    keys = [action.key]
    if action.depends_on is not None:
        keys.append(action.depends_on)
    rows = session.execute(
        select(AttemptRow, ActionRow.stage, WorkerRow)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key.in_(keys))
        .order_by(AttemptRow.started_at, AttemptRow.number)
    )
    attempts: list[Attempt] = []
    for row, stage, worker in rows:
        warmth = row.warmth or {}  # empty if the attempt started without a warm file
        attempts.append(
            Attempt(
                stage=stage,
                number=row.number,
                worker=worker.name,
                platform=worker.platform,
                host=worker.host,
                outcome=row.outcome,
                started_at=row.started_at,
                ended_at=row.ended_at,
                failure=row.failure,
                steps=row.steps,
                warm=row.warmth is not None,
                saved_seconds=warmth.get("saved_seconds"),
            )
        )
    return attempts
