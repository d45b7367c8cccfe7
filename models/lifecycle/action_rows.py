"""Insert rows of actions that may exist already, and lock those that do.

Each function belongs in one transaction of its caller; nothing here commits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.key import Document, Key
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import ImportedWork, Work
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow
from models.catalogue.states import ActionState
from models.catalogue.upsert import insert_new, insert_new_keys
from models.lifecycle.transitions import lock_action


def action_columns(
    key: Key, stage: Stage, queue: str, document: Document, work: Work | ImportedWork, depends_on: Key | None,
    state: ActionState, inputs: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Columns of a new action without `announced_at`: its caller announces it, so the sweep need not do it at once."""
    return {
        "key": key, "stage": str(stage), "queue": queue, "document": document, "work": work.stored(),
        "depends_on": depends_on, "state": str(state), "inputs": inputs,
    }  # fmt: skip


def insert_or_lock_all(session: Session, rows: Sequence[Mapping[str, Any]]) -> dict[Key, ActionState]:
    """Insert the actions that are new, and lock the others; returns the states of the others by key.

    `rows` are columns of `action_columns`.
    """
    if not rows:
        return {}
    # By key, as everywhere: two transactions that need the same actions wait for each other at the first of them.
    missing = sorted(rows, key=itemgetter("key"))
    locked: dict[Key, ActionState] = {}
    while missing:
        inserted = insert_new_keys(session, ActionRow, missing, announced_at=now())
        others = [row["key"] for row in missing if row["key"] not in inserted]
        if others:
            query = select(ActionRow.key, ActionRow.state).where(ActionRow.key.in_(others)).order_by(ActionRow.key)
            for key, state in session.execute(query.with_for_update(key_share=True)):
                locked[key] = ActionState(state)
        # models.retention.past_actions may remove an action between the two statements.
        missing = [row for row in missing if row["key"] not in inserted and row["key"] not in locked]
    return locked


def insert_or_lock(
    session: Session,
    key: Key,
    *,
    stage: Stage,
    queue: str,
    document: Document,
    work: Work | ImportedWork,
    depends_on: Key | None,
    state: ActionState,
    inputs: str | None = None,
) -> ActionRow | None:
    """Insert the action's row; returns None then. A row that the key has already stays as it is; it is locked and
    returned."""
    values = action_columns(key, stage, queue, document, work, depends_on, state, inputs) | {"announced_at": now()}
    while insert_new(session, ActionRow, values) == 0:
        row = lock_action(session, key)
        if row is not None:
            return row
        # models.retention.past_actions removed it between the two statements.
    return None
