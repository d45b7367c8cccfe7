"""A request arrives: cached, joined or created. One transaction; nothing here commits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, inspect, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.key import Document, Key
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import ImportedWork, Work, is_imported, read_work
from enginefarm.wire.bodies import Disposition
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, BuildRow
from models.catalogue.states import CLOSED, IN_FLIGHT, ActionState, BuildRowState
from models.catalogue.upsert import insert_new
from models.catalogue.visibility import checkpoint_of, engine_exists
from models.lifecycle.transitions import cancel_if_unneeded, lock_action, move
from models.queue.names import Announcement


@dataclass(frozen=True)
class NewAction:
    """An action as the planner made it, not yet in the catalogue."""

    key: Key
    stage: Stage
    queue: str
    document: Document
    work: Work


@dataclass(frozen=True)
class Request:
    """A validated, resolved and keyed request."""

    convert: NewAction
    build: NewAction
    model: str
    toolchain: str
    version: str
    spec: dict[str, Any]  # normalised
    platform: dict[str, Any]
    platform_label: str
    requested_by: str | None
    asked: dict[str, Any] | None = None  # as the caller wrote it


@dataclass(frozen=True)
class Accepted:
    id: str
    disposition: Disposition
    announcements: list[Announcement] = field(default_factory=list)


def submit(session: Session, request: Request) -> Accepted:
    """Find the engine, join the action that makes it, or create that action."""
    if engine_exists(session, request.build.key):
        [id_] = record_builds(session, [request], Disposition.CACHED)
        return Accepted(id_, Disposition.CACHED)
    announcements = _ensure_convert(session, request.convert)
    # The checkpoint may have been published while we waited for the convert action's lock: look only now.
    ready = checkpoint_of(session, request.convert.key) is not None
    disposition = _ensure_build(session, request, ready=ready)
    if disposition is Disposition.CREATED and ready:
        announcements.append((request.build.key, request.build.queue))
    [id_] = record_builds(session, [request], disposition)
    return Accepted(id_, disposition, announcements)


def can_submit_again(session: Session, key: Key) -> bool:
    """Not what was imported and never asked for here: a key says what the model is, not where it can be fetched."""
    build = session.get_one(ActionRow, key)
    convert = session.get_one(ActionRow, build.depends_on)
    return not is_imported(build.work) and not is_imported(convert.work)


def submit_again(session: Session, key: Key, *, requested_by: str | None) -> Accepted:
    """Ask once more for what an earlier build asked for: its engine was taken out."""
    last = session.execute(
        select(BuildRow).where(BuildRow.key == key).order_by(BuildRow.seq.desc()).limit(1)
    ).scalar_one()
    build = session.get_one(ActionRow, key)
    assert build.depends_on is not None, "an engine is built from a checkpoint"
    return submit(
        session,
        Request(
            convert=_as_new(session.get_one(ActionRow, build.depends_on)),
            build=_as_new(build),
            model=last.model,
            toolchain=last.toolchain,
            version=last.version,
            spec=last.spec,
            platform=last.platform,
            platform_label=last.platform_label,
            requested_by=requested_by,
            asked=last.asked,
        ),
    )


def _as_new(row: ActionRow) -> NewAction:
    return NewAction(row.key, Stage(row.stage), row.queue, row.document, read_work(row.work))


def cancel(session: Session, build_id: str) -> bool:
    """Cancel one caller's build; its action too if nobody else waits for it. False if it had ended before."""
    key = session.execute(select(BuildRow.key).where(BuildRow.id == build_id)).scalar_one()
    depends_on = session.execute(select(ActionRow.depends_on).where(ActionRow.key == key)).scalar_one_or_none()
    for held in (depends_on, key):
        if held is not None:
            lock_action(session, held)
    done = session.execute(
        update(BuildRow)
        .where(BuildRow.id == build_id, BuildRow.state == BuildRowState.OPEN)
        .values(state=str(BuildRowState.CANCELLED), ended_at=now())
    )
    if done.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        return False
    cancel_if_unneeded(session, key)
    return True


def _ensure_convert(session: Session, action: NewAction) -> list[Announcement]:
    """The convert action in flight, unless its checkpoint is there. Holds its row."""
    if _insert(session, action, depends_on=None, state=ActionState.QUEUED):
        return [(action.key, action.queue)]
    row = lock_action(session, action.key)
    assert row is not None, "just inserted by us or by somebody else, and never deleted"
    if row.state in IN_FLIGHT or checkpoint_of(session, action.key) is not None:
        return []
    _reopen(session, action, ActionState.QUEUED)
    return [(action.key, action.queue)]


def _ensure_build(session: Session, request: Request, *, ready: bool) -> Disposition:
    """The build action in flight, or its engine there. Holds its row, so that it cannot end before we are recorded."""
    state = ActionState.QUEUED if ready else ActionState.WAITING
    if _insert(session, request.build, depends_on=request.convert.key, state=state):
        return Disposition.CREATED
    row = lock_action(session, request.build.key)
    assert row is not None, "just inserted by us or by somebody else, and never deleted"
    if row.state in IN_FLIGHT:
        return Disposition.JOINED
    if engine_exists(session, request.build.key):  # published while we waited for the lock
        return Disposition.CACHED
    _reopen(session, request.build, state)
    return Disposition.CREATED


def _insert(session: Session, action: NewAction, *, depends_on: Key | None, state: ActionState) -> bool:
    return insert_action(
        session, action.key, stage=action.stage, queue=action.queue, document=action.document, work=action.work,
        depends_on=depends_on, state=state,
    )  # fmt: skip


def insert_action(
    session: Session,
    key: Key,
    *,
    stage: Stage,
    queue: str,
    document: Document,
    work: Work | ImportedWork,
    depends_on: Key | None,
    state: ActionState,
) -> bool:
    """Insert the action's row. False if the key has a row already: that row stays as it is."""
    values = {
        "key": key, "stage": str(stage), "queue": queue, "document": document, "work": work.stored(),
        "depends_on": depends_on, "state": str(state), "announced_at": now(),
    }  # fmt: skip
    return insert_new(session, ActionRow, values) == 1


def _reopen(session: Session, action: NewAction, state: ActionState) -> None:
    """Try a closed action again. Its work is written again: a model may be fetched from another place by now."""
    move(
        session, action.key, state, among=CLOSED, work=action.work.stored(), queue=action.queue, tries=0, failure=None,
        progress=0.0, message=None, queued_at=now(), not_before=None, announced_at=now(),
        avoid_worker=None, avoid_until=None,
    )  # fmt: skip


_ADD = insert(inspect(BuildRow).local_table)  # type: ignore[arg-type]  # SQLAlchemy calls a table a FromClause here


def record_builds(session: Session, requests: Sequence[Request], disposition: Disposition) -> list[str]:
    """The builds' own rows; returns their ids."""
    cached = disposition is Disposition.CACHED
    adding = _ADD.values(ended_at=now()) if cached else _ADD
    rows: list[dict[str, Any]] = [
        {
            "id": secrets.token_hex(10),
            "key": request.build.key,
            "disposition": str(disposition),
            "state": str(BuildRowState.SUCCEEDED if cached else BuildRowState.OPEN),
            "spec": request.spec,
            "asked": request.asked,
            "model": request.model,
            "toolchain": request.toolchain,
            "version": request.version,
            "platform": request.platform,
            "platform_label": request.platform_label,
            "requested_by": request.requested_by,
        }
        for request in requests
    ]
    session.connection().execute(adding, rows)
    return [row["id"] for row in rows]
