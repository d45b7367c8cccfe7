"""Builds as REST bodies: one build with its attempts, and the listing. Reads only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Attempt, Build, BuildPage, BuildState, Failure, Fault
from models.catalogue.pagination import from_cursor, to_cursor
from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, EngineRow, WorkerRow
from models.catalogue.states import ActionState, BuildRowState
from models.queries.engines import find_engine
from models.queries.estimates import eta_seconds
from models.queries.outlook import queue_position, why_checkpoint_waits, why_waiting
from models.queries.removals import why_removed


def get_build(session: Session, build_id: str) -> Build:
    """One build with its attempts.

    Raises:
        NotFound: there is no such build.
    """
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one_or_none()
    if row is None:
        raise NotFound(
            f"there is no build {build_id!r}",
            problems=[
                Problem(
                    pointer="",
                    code="not_found",
                    detail="unknown build id",
                    value=build_id,
                    remedy="`enginefarm status` or GET /v1/builds lists the builds",
                )
            ],
        )
    return _build(session, row, with_attempts=True)


def build_state(session: Session, build_id: str) -> BuildState:
    """The state of an existing build, cheaper than `get_build`."""
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one()
    action = session.get(ActionRow, row.key) if row.state == BuildRowState.OPEN else None
    current = _current_action(session, action) if action is not None else None
    return _state(row, current)


def list_builds(session: Session, *, limit: int, cursor: str | None, **filters: str | None) -> BuildPage:
    """The builds, newest first. Filters: state, model, toolchain, platform (label or GPU name), requested_by, key.

    Raises:
        InvalidRequest: the cursor is none of this farm.
    """
    conditions: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        if value is None:
            continue
        if name == "state":
            conditions.append(_state_is(BuildState(value)))
        elif name == "platform":
            conditions.append(or_(BuildRow.platform_label == value, BuildRow.platform["gpu"].as_string() == value))
        elif name == "model":
            conditions.append(or_(BuildRow.model == value, BuildRow.model.startswith(value + "@", autoescape=True)))
        else:
            conditions.append(getattr(BuildRow, name) == value)
    query = select(BuildRow).where(*conditions).order_by(BuildRow.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(BuildRow.seq < from_cursor(cursor))
    rows = session.execute(query).scalars().all()  # one more than `limit`, to see whether a page follows
    items = [_build(session, row, with_attempts=False) for row in rows[:limit]]
    return BuildPage(items=items, next_cursor=to_cursor(rows[limit - 1].seq) if len(rows) > limit else None)


def _state_is(state: BuildState) -> ColumnElement[bool]:
    """An open build is `queued` or `running` as the action is that it waits for: its own, or the convert before it."""
    if state.ended:
        return BuildRow.state == str(state)
    running_actions = select(ActionRow.key).where(ActionRow.state == ActionState.RUNNING)
    waiting_for_these = select(ActionRow.key).where(
        ActionRow.depends_on.in_(running_actions), ActionRow.state == ActionState.WAITING
    )
    running = or_(BuildRow.key.in_(running_actions), BuildRow.key.in_(waiting_for_these))
    if state is BuildState.RUNNING:
        return (BuildRow.state == BuildRowState.OPEN) & running
    return (BuildRow.state == BuildRowState.OPEN) & ~running


def _build(session: Session, row: BuildRow, *, with_attempts: bool) -> Build:
    is_open = row.state == BuildRowState.OPEN
    # A listing reads no action of an ended build: that would be one more query a row.
    action = session.get(ActionRow, row.key) if is_open or with_attempts else None
    current = _current_action(session, action) if is_open and action is not None else None
    state = _state(row, current)
    engine = find_engine(session, row.key) if state is BuildState.SUCCEEDED else None
    in_flight: dict[str, Any] = {}  # fields that an ended build does not have
    if action is not None and current is not None:
        in_flight["stage"] = Stage(current.stage)
        in_flight["message"] = current.message
        in_flight["eta_seconds"] = eta_seconds(session, action, current)
        # A build is running while its conversion is: its own action still waits.
        if state is BuildState.QUEUED:
            in_flight["queue_position"] = queue_position(session, current)
            in_flight["waiting_for"] = why_waiting(session, current)
        elif current is not action:
            in_flight["waiting_for"] = why_checkpoint_waits(session, action)
    failure: Failure | dict[str, Any] | None = row.failure
    if state is BuildState.SUCCEEDED and engine is None:
        failure = _why_engine_is_missing(session, row.key)
    return Build(
        id=row.id,
        key=row.key,
        disposition=row.disposition,
        state=state,
        progress=1.0 if state is BuildState.SUCCEEDED else _progress(current),
        model=row.model,
        toolchain=row.toolchain,
        version=row.version,
        platform=Platform.model_validate(row.platform),
        requested_by=row.requested_by,
        created_at=row.created_at,
        ended_at=row.ended_at,
        spec=row.spec,
        asked=row.spec_as_written,
        attempts=_attempts(session, action) if with_attempts and action is not None else [],
        error=failure,
        engine=engine,
        **in_flight,
    )


def _why_engine_is_missing(session: Session, key: str) -> Failure | None:
    """Why a build that succeeded has no engine now; None if no reason was recorded."""
    engine = session.get(EngineRow, key)
    if engine is not None:
        # The cause is read by programs and keeps its first name.
        cause, event, reason = "engine_taken_out", "withdrawn", engine.quarantine_reason
    else:
        cause, event, reason = "engine_removed", "removed", why_removed(session, key)
    if reason is None:
        return None
    return Failure(
        cause=cause,
        fault=Fault.FARM,
        detail=f"its engine was {event}: {reason}",
        advice="submit it again: it is built anew",
    )


def _current_action(session: Session, action: ActionRow) -> ActionRow:
    """The action that the build waits for now: its own, or the convert before it."""
    if action.state == ActionState.WAITING and action.depends_on is not None:
        return session.get_one(ActionRow, action.depends_on)
    return action


def _state(row: BuildRow, current: ActionRow | None) -> BuildState:
    if current is None:
        return BuildState(row.state)
    return BuildState.RUNNING if current.state == ActionState.RUNNING else BuildState.QUEUED


def _progress(current: ActionRow | None) -> float:
    """The progress of both stages together: a conversion counts as the first fifth."""
    if current is None:
        return 0.0
    if current.stage == Stage.CONVERT:
        return round(0.2 * current.progress, 4)
    return round(0.2 + 0.8 * current.progress, 4)


def _attempts(session: Session, action: ActionRow) -> list[Attempt]:
    # Those of the convert action too: the build waited for them as for its own.
    keys = [key for key in (action.depends_on, action.key) if key is not None]
    rows = session.execute(
        select(AttemptRow, ActionRow.stage, WorkerRow)
        .join(ActionRow, ActionRow.key == AttemptRow.action_key)
        .join(WorkerRow, WorkerRow.id == AttemptRow.worker_id)
        .where(AttemptRow.action_key.in_(keys))
        .order_by(AttemptRow.started_at, AttemptRow.number)
    )
    return [
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
            saved_seconds=(row.warmth or {}).get("saved_seconds"),
        )
        for row, stage, worker in rows
    ]
