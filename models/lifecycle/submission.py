"""Submit and cancel builds. A request finds an engine (cached), an action in flight (joined), or creates one.

Each function belongs in one transaction of its caller; nothing here commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, inspect, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.key import Document, Key, key_of
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

_INPUTS_DOCUMENT = "enginefarm.inputs/1"  # in the hash of a model's identity; another number makes every node cold


@dataclass(frozen=True)
class NewAction:
    """An action as the planner made it; it may be new to the catalogue."""

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
    spec: dict[str, Any]  # normalized
    platform: dict[str, Any]
    platform_label: str
    requested_by: str | None
    spec_as_written: dict[str, Any] | None = None


@dataclass(frozen=True)
class Accepted:
    """A recorded build, and the actions to announce after the commit."""

    id: str
    disposition: Disposition
    announcements: list[Announcement] = field(default_factory=list)


def submit(session: Session, request: Request) -> Accepted:
    """Find the engine, join the action that makes it, or create that action; record the caller's build."""
    # No lock yet: an engine that exists answers most submits, and they must not wait for each other.
    if engine_exists(session, request.build.key):
        [build_id] = record_builds(session, [request], Disposition.CACHED)
        return Accepted(build_id, Disposition.CACHED)
    announcements = _ensure_convert(session, request.convert)
    # Only now: the checkpoint may have been published while we waited for the convert action's lock.
    checkpoint_exists = checkpoint_of(session, request.convert.key) is not None
    disposition = _ensure_build(session, request, checkpoint_exists=checkpoint_exists)
    if disposition is Disposition.CREATED and checkpoint_exists:
        announcements.append(Announcement(request.build.key, request.build.queue))
    [build_id] = record_builds(session, [request], disposition)
    return Accepted(build_id, disposition, announcements)


def can_submit_again(session: Session, key: Key) -> bool:
    """False for an engine that was imported and never submitted here: its key says what the model is, but not where it
    can be fetched."""
    build = session.get_one(ActionRow, key)
    convert = session.get_one(ActionRow, build.depends_on)
    return not is_imported(build.work) and not is_imported(convert.work)


def submit_again(session: Session, key: Key, *, requested_by: str | None) -> Accepted:
    """Submit the last request for this key again, because its engine was withdrawn.

    Raises:
        UnreadableWork: its work is of a release that this program does not know.
    """
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
            spec_as_written=last.spec_as_written,
        ),
    )


def _as_new(row: ActionRow) -> NewAction:
    return NewAction(row.key, Stage(row.stage), row.queue, row.document, read_work(row.work))


def cancel(session: Session, build_id: str) -> bool:
    """Cancel one caller's build, and its action if no other build waits for it. False if the build had ended before."""
    key = session.execute(select(BuildRow.key).where(BuildRow.id == build_id)).scalar_one()
    depends_on = session.execute(select(ActionRow.depends_on).where(ActionRow.key == key)).scalar_one_or_none()
    for action_key in (depends_on, key):  # the convert action first: the lock order
        if action_key is not None:
            lock_action(session, action_key)
    # Conditional: the action may have ended the build while we waited for the locks.
    result = session.execute(
        update(BuildRow)
        .where(BuildRow.id == build_id, BuildRow.state == BuildRowState.OPEN)
        .values(state=str(BuildRowState.CANCELLED), ended_at=now())
    )
    if result.rowcount != 1:  # type: ignore[attr-defined]  # an UPDATE returns a CursorResult
        return False
    cancel_if_unneeded(session, key)
    return True


def _ensure_convert(session: Session, action: NewAction) -> list[Announcement]:
    """Make sure that the convert action is in flight or its checkpoint exists, and lock its row.

    Returns the action if it must be announced.
    """
    # The insert waits for a concurrent one, so one of two submits creates the action and the other joins it.
    row = _insert_or_lock(session, action, depends_on=None, state=ActionState.QUEUED)
    if row is None:
        return [Announcement(action.key, action.queue)]
    if row.state in IN_FLIGHT or checkpoint_of(session, action.key) is not None:
        return []
    _reopen(session, action, ActionState.QUEUED, depends_on=None)
    return [Announcement(action.key, action.queue)]


def _ensure_build(session: Session, request: Request, *, checkpoint_exists: bool) -> Disposition:
    """Make sure that the build action is in flight or its engine exists.

    Locks its row, so that the action cannot end before the caller's build is recorded.
    """
    state = ActionState.WAITING
    if checkpoint_exists:
        state = ActionState.QUEUED
    row = _insert_or_lock(session, request.build, depends_on=request.convert.key, state=state)
    if row is None:
        return Disposition.CREATED
    if row.state in IN_FLIGHT:
        return Disposition.JOINED
    if engine_exists(session, request.build.key):  # published while we waited for the lock
        return Disposition.CACHED
    _reopen(session, request.build, state, depends_on=request.convert.key)
    return Disposition.CREATED


def _insert_or_lock(
    session: Session, action: NewAction, *, depends_on: Key | None, state: ActionState
) -> ActionRow | None:
    return insert_or_lock(
        session, action.key, stage=action.stage, queue=action.queue, document=action.document, work=action.work,
        depends_on=depends_on, state=state, inputs=_inputs_of(action, depends_on),
    )  # fmt: skip


def _inputs_of(action: NewAction, depends_on: Key | None) -> str | None:
    """See `ActionRow.inputs`."""
    if depends_on is not None or action.work.model is None:
        return depends_on
    # Conversions of one model in several precisions fetch the same files.
    return key_of({"document": _INPUTS_DOCUMENT, "model": action.work.model.identity})


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
    # announced_at: the caller announces the action after its commit, so the sweep need not do it at once.
    values = {
        "key": key, "stage": str(stage), "queue": queue, "document": document, "work": work.stored(),
        "depends_on": depends_on, "state": str(state), "announced_at": now(), "inputs": inputs,
    }  # fmt: skip
    while insert_new(session, ActionRow, values) == 0:
        row = lock_action(session, key)
        if row is not None:
            return row
        # models.retention.past_actions removed it between the two statements.
    return None


def _reopen(session: Session, action: NewAction, state: ActionState, *, depends_on: Key | None) -> None:
    """Try a closed action again. Its work is written again: a model may be fetched from another place by now."""
    # The tries begin anew; `attempt` goes on, so that attempts of before stay fenced.
    move(
        session, action.key, state, among=CLOSED, work=action.work.stored(), queue=action.queue, tries=0, failure=None,
        progress=0.0, message=None, queued_at=now(), not_before=None, announced_at=now(),
        avoid_worker=None, avoid_until=None, overtaken=None, overtaken_at=None, inputs=_inputs_of(action, depends_on),
    )  # fmt: skip


_INSERT_BUILDS = insert(inspect(BuildRow).local_table)  # type: ignore[arg-type]  # typed as a FromClause, is a table


def record_builds(session: Session, requests: Sequence[Request], disposition: Disposition) -> list[str]:
    """Insert a row for each build; returns their ids, in the order of `requests`."""
    state = BuildRowState.OPEN
    insert_builds = _INSERT_BUILDS
    if disposition is Disposition.CACHED:
        # No action will end it: its engine exists.
        state = BuildRowState.SUCCEEDED
        insert_builds = _INSERT_BUILDS.values(ended_at=now())
    ids: list[str] = []
    rows: list[dict[str, Any]] = []
    for request in requests:
        build_id = secrets.token_hex(10)
        ids.append(build_id)
        row = {
            "id": build_id,
            "key": request.build.key,
            "disposition": str(disposition),
            "state": str(state),
            "spec": request.spec,
            "asked": request.spec_as_written,
            "model": request.model,
            "toolchain": request.toolchain,
            "version": request.version,
            "platform": request.platform,
            "platform_label": request.platform_label,
            "requested_by": request.requested_by,
        }
        rows.append(row)
    # By the table instead of the ORM: cached submits record many builds at once, and unit-of-work costs more than SQL.
    session.connection().execute(insert_builds, rows)
    return ids
