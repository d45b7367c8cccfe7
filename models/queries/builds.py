"""The catalogue as the outside sees it: rows in, wire types out. Reads only."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import (
    Attempt,
    Build,
    BuildPage,
    BuildState,
    Failure,
    Fault,
)
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
        NotFound
    """
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one_or_none()
    if row is None:
        raise NotFound(
            f"there is no build {build_id!r}",
            problems=[
                Problem(
                    pointer="", code="not_found", detail="unknown build id", value=build_id,
                    remedy="`enginefarm status` or GET /v1/builds lists the builds",
                )
            ],
        )  # fmt: skip
    return _build(session, row, whole=True)


def build_state(session: Session, build_id: str) -> BuildState:
    """The state of a build that is there."""
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one()
    action = session.get(ActionRow, row.key) if row.state == BuildRowState.OPEN else None
    return _state(row, _current(session, action) if action is not None else None)


def list_builds(session: Session, *, limit: int, cursor: str | None, **filters: str | None) -> BuildPage:
    """Newest first. Filters: state, model, toolchain, platform (label or GPU name), requested_by, key."""
    query = select(BuildRow).where(*_filters(filters)).order_by(BuildRow.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(BuildRow.seq < from_cursor(cursor))
    rows = session.execute(query).scalars().all()
    items = [_build(session, row, whole=False) for row in rows[:limit]]
    return BuildPage(items=items, next_cursor=to_cursor(rows[limit - 1].seq) if len(rows) > limit else None)


def _filters(filters: dict[str, str | None]) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    for name, value in filters.items():
        if value is None:
            continue
        if name == "state":
            found.append(_state_is(BuildState(value)))
        elif name == "platform":
            found.append(or_(BuildRow.platform_label == value, BuildRow.platform["gpu"].as_string() == value))
        elif name == "model":
            found.append(or_(BuildRow.model == value, BuildRow.model.startswith(value + "@", autoescape=True)))
        else:
            found.append(getattr(BuildRow, name) == value)
    return found


def _state_is(state: BuildState) -> ColumnElement[bool]:
    """`queued` and `running` are states of the actions that an open build waits for."""
    if state.ended:
        return BuildRow.state == str(state)
    busy = select(ActionRow.key).where(ActionRow.state == ActionState.RUNNING)
    behind = select(ActionRow.key).where(ActionRow.depends_on.in_(busy), ActionRow.state == ActionState.WAITING)
    running = or_(BuildRow.key.in_(busy), BuildRow.key.in_(behind))
    return (BuildRow.state == BuildRowState.OPEN) & (running if state is BuildState.RUNNING else ~running)


def _build(session: Session, row: BuildRow, *, whole: bool) -> Build:
    action = session.get(ActionRow, row.key) if row.state == BuildRowState.OPEN or whole else None
    current = _current(session, action) if action is not None and row.state == BuildRowState.OPEN else None
    state = _state(row, current)
    engine = find_engine(session, row.key) if state is BuildState.SUCCEEDED else None
    return Build(
        id=row.id,
        key=row.key,
        disposition=row.disposition,
        state=state,
        stage=Stage(current.stage) if current is not None else None,
        progress=1.0 if state is BuildState.SUCCEEDED else _progress(current),
        message=current.message if current is not None else None,
        eta_seconds=eta_seconds(session, action, current) if action is not None and current is not None else None,
        queue_position=queue_position(session, current) if state is BuildState.QUEUED and current is not None else None,
        waiting_for=_waiting_for(session, state, action, current),
        model=row.model,
        toolchain=row.toolchain,
        version=row.version,
        platform=Platform.model_validate(row.platform),
        requested_by=row.requested_by,
        created_at=row.created_at,
        ended_at=row.ended_at,
        spec=row.spec,
        asked=row.spec_as_written,
        attempts=_attempts(session, action) if whole and action is not None else [],
        error=row.failure if engine is not None or state is not BuildState.SUCCEEDED else _taken_out(session, row.key),
        engine=engine,
    )


def _waiting_for(
    session: Session, state: BuildState, action: ActionRow | None, current: ActionRow | None
) -> str | None:
    if action is None or current is None:
        return None
    if state is BuildState.QUEUED:
        return why_waiting(session, current)
    return why_checkpoint_waits(session, action) if current is not action else None


def _taken_out(session: Session, key: str) -> Failure | None:
    """What became of the engine of a build that succeeded; None where the engine is there."""
    engine = session.get(EngineRow, key)
    why = engine.quarantine_reason if engine is not None else why_removed(session, key)
    if why is None:
        return None
    what = "removed" if engine is None else "taken_out"
    return Failure(
        cause=f"engine_{what}",
        fault=Fault.FARM,
        detail=f"its engine was {what.replace('_', ' ')}: {why}",
        advice="submit it again: it is built anew",
    )


def _current(session: Session, action: ActionRow) -> ActionRow:
    """The action that the build waits for right now: its own, or the convert before it."""
    if action.state == ActionState.WAITING and action.depends_on is not None:
        return session.get_one(ActionRow, action.depends_on)
    return action


def _state(row: BuildRow, current: ActionRow | None) -> BuildState:
    if current is None:
        return BuildState(row.state)
    return BuildState.RUNNING if current.state == ActionState.RUNNING else BuildState.QUEUED


def _progress(current: ActionRow | None) -> float:
    """Of the whole build: converting is the first fifth, building the rest."""
    if current is None:
        return 0.0
    share = (0.0, 0.2) if current.stage == Stage.CONVERT else (0.2, 0.8)
    return round(share[0] + share[1] * current.progress, 4)


def _attempts(session: Session, action: ActionRow) -> list[Attempt]:
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
