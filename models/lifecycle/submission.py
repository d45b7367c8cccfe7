"""Submit and cancel builds. A request finds an engine (cached), an action in flight (joined), or creates one.

Each function belongs in one transaction of its caller; nothing here commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Table, insert, inspect, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.key import Document, Key, key_of
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Work, is_imported, read_work
from enginefarm.wire.bodies import BuildState, Disposition
from models.catalogue.clock import now
from models.catalogue.rows import ActionRow, BuildRow
from models.catalogue.states import CLOSED, IN_FLIGHT, ActionState, BuildRowState
from models.catalogue.visibility import served_engines, usable_checkpoints
from models.lifecycle.action_rows import action_columns, insert_or_lock_all
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

    def build_columns(self) -> dict[str, Any]:
        """The columns of a build that say what was asked for, by name."""
        return {
            "key": self.build.key,
            "spec": self.spec,
            "asked": self.spec_as_written,
            "model": self.model,
            "toolchain": self.toolchain,
            "version": self.version,
            "platform": self.platform,
            "platform_label": self.platform_label,
        }


@dataclass(frozen=True)
class Accepted:
    """A recorded build, its state at the end of this transaction, and the actions to announce after the commit."""

    id: str
    disposition: Disposition
    state: BuildState
    announcements: list[Announcement] = field(default_factory=list)


@dataclass(frozen=True)
class _Ensured:
    """An action that is in flight, or whose result exists. Its row is locked."""

    state: ActionState
    is_opened: bool  # created, or opened again, by this transaction


def submit(session: Session, request: Request) -> Accepted:
    """Find the engine, join the action that makes it, or create that action; record the caller's build."""
    return submit_all(session, [request])[0]


def submit_all(session: Session, requests: Sequence[Request]) -> list[Accepted]:
    """As `submit` for each request, with the statements of one. Of two requests for one engine the second one joins.

    Returns the results in the order of `requests`.
    """
    # No lock yet: an engine that exists answers most submits, and they must not wait for each other.
    served = served_engines(session, {request.build.key for request in requests})
    missing = {request.build.key: request for request in requests if request.build.key not in served}
    converts, checkpoints = _ensure_converts(session, missing.values())
    builds = _ensure_builds(session, missing.values(), checkpoints)

    actions = converts | builds
    opened = {key for key, action in actions.items() if action.is_opened}
    dispositions = []
    states = []
    announcements = []
    for request in requests:
        # The first request that needs an action opens it, and announces it.
        opened_here = [action for action in (request.convert, request.build) if action.key in opened]
        opened -= {action.key for action in opened_here}
        queued = [action for action in opened_here if actions[action.key].state is ActionState.QUEUED]
        announcements.append([Announcement(action.key, action.queue) for action in queued])
        build = builds.get(request.build.key)
        if build is None:
            dispositions.append(Disposition.CACHED)
            states.append(BuildState.SUCCEEDED)
            continue
        dispositions.append(Disposition.CREATED if request.build in opened_here else Disposition.JOINED)
        current = build
        if build.state is ActionState.WAITING:
            current = converts[request.convert.key]
        states.append(BuildState.RUNNING if current.state is ActionState.RUNNING else BuildState.QUEUED)
    ids = record_builds(session, requests, dispositions)
    return [Accepted(*columns) for columns in zip(ids, dispositions, states, announcements, strict=True)]


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


def _ensure_converts(session: Session, requests: Collection[Request]) -> tuple[dict[Key, _Ensured], set[Key]]:
    """Make sure that each convert action is in flight or its checkpoint exists, and lock its row.

    Returns the actions and the checkpoints that exist, by key.
    """
    actions = {request.convert.key: request.convert for request in requests}
    rows = [_new_row(action, None, ActionState.QUEUED) for action in actions.values()]
    # The insert waits for a concurrent one, so one of two submits creates the action and the other joins it.
    locked = insert_or_lock_all(session, rows)
    # Only now: a checkpoint may have been published while we waited for a lock. A new action has none.
    checkpoints = usable_checkpoints(session, locked)
    ensured = {}
    for key, action in actions.items():
        state = locked.get(key)
        if state is not None and (state in IN_FLIGHT or key in checkpoints):
            ensured[key] = _Ensured(state, is_opened=False)
            continue
        if state is not None:
            _reopen(session, action, ActionState.QUEUED, depends_on=None)
        ensured[key] = _Ensured(ActionState.QUEUED, is_opened=True)
    return ensured, checkpoints


def _ensure_builds(session: Session, requests: Collection[Request], checkpoints: Container[Key]) -> dict[Key, _Ensured]:
    """Make sure that each build action is in flight; the actions by key, without those whose engine exists by now.

    Locks their rows, so that no action can end before the builds of the callers are recorded.
    """
    first_states = {}
    rows = []
    for request in requests:
        first_state = ActionState.QUEUED if request.convert.key in checkpoints else ActionState.WAITING
        first_states[request.build.key] = first_state
        rows.append(_new_row(request.build, request.convert.key, first_state))
    locked = insert_or_lock_all(session, rows)
    closed = [key for key, state in locked.items() if state not in IN_FLIGHT]
    published = served_engines(session, closed)  # while we waited for the lock
    ensured = {}
    for request in requests:
        key = request.build.key
        state = locked.get(key)
        if key in published:
            continue
        if state is not None and state in IN_FLIGHT:
            ensured[key] = _Ensured(state, is_opened=False)
            continue
        if state is not None:
            _reopen(session, request.build, first_states[key], depends_on=request.convert.key)
        ensured[key] = _Ensured(first_states[key], is_opened=True)
    return ensured


def _new_row(action: NewAction, depends_on: Key | None, state: ActionState) -> dict[str, Any]:
    inputs = _inputs_of(action, depends_on)
    return action_columns(
        action.key, action.stage, action.queue, action.document, action.work, depends_on, state, inputs
    )  # fmt: skip


def _inputs_of(action: NewAction, depends_on: Key | None) -> str | None:
    """See `ActionRow.inputs`."""
    if depends_on is not None or action.work.model is None:
        return depends_on
    # Conversions of one model in several precisions fetch the same files.
    return key_of({"document": _INPUTS_DOCUMENT, "model": action.work.model.identity})


def _reopen(session: Session, action: NewAction, state: ActionState, *, depends_on: Key | None) -> None:
    """Try a closed action again. Its work is written again: a model may be fetched from another place by now."""
    # The tries begin anew; `attempt` goes on, so that attempts of before stay fenced.
    move(
        session, action.key, state, among=CLOSED, work=action.work.stored(), queue=action.queue, tries=0, failure=None,
        progress=0.0, message=None, queued_at=now(), not_before=None, announced_at=now(),
        avoid_worker=None, avoid_until=None, overtaken=None, overtaken_at=None, inputs=_inputs_of(action, depends_on),
    )  # fmt: skip


_BUILDS: Table = inspect(BuildRow).local_table  # type: ignore[assignment]  # typed as a FromClause, is a table
# With RETURNING, SQLAlchemy sends many rows in one statement.
_INSERT_OPEN = insert(_BUILDS).values(state=str(BuildRowState.OPEN)).returning(_BUILDS.c.seq)
# No action will end it: its engine exists.
_INSERT_CACHED = insert(_BUILDS).values(state=str(BuildRowState.SUCCEEDED), ended_at=now()).returning(_BUILDS.c.seq)


def record_builds(session: Session, requests: Sequence[Request], dispositions: Sequence[Disposition]) -> list[str]:
    """Insert a row for each build; returns their ids, in the order of `requests`."""
    ids: list[str] = []
    open_rows: list[dict[str, Any]] = []
    cached_rows: list[dict[str, Any]] = []
    for request, disposition in zip(requests, dispositions, strict=True):
        build_id = secrets.token_hex(10)
        ids.append(build_id)
        row = request.build_columns()
        row |= {"id": build_id, "disposition": str(disposition), "requested_by": request.requested_by}
        rows = cached_rows if disposition is Disposition.CACHED else open_rows
        rows.append(row)
    # By the table instead of the ORM: unit-of-work costs more than SQL.
    for statement, rows in ((_INSERT_OPEN, open_rows), (_INSERT_CACHED, cached_rows)):
        if rows:
            session.connection().execute(statement, rows)
    return ids
