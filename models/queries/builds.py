"""Builds as REST bodies: one build with its attempts, and the listing. Reads only."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Attempt, Build, BuildPage, BuildState, Failure
from models.catalogue.pagination import from_cursor, next_cursor
from models.catalogue.rows import ActionRow, BuildRow
from models.catalogue.states import ActionState, BuildRowState
from models.queries.attempts import attempts_of
from models.queries.engines import find_engine
from models.queries.estimates import build_progress, eta_seconds
from models.queries.outlook import queue_position, why_checkpoint_waits, why_waiting
from models.queries.removals import why_engine_is_missing


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
    action = session.get(ActionRow, row.key)
    attempts: list[Attempt] = []
    if action is not None:
        attempts = attempts_of(session, action)
    return _build(session, row, action, attempts)


def build_state(session: Session, build_id: str) -> BuildState:
    """The state of an existing build, cheaper than `get_build`."""
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one()
    if row.state != BuildRowState.OPEN:
        return BuildState(row.state)  # an ended build does not depend on its action any more
    action = session.get_one(ActionRow, row.key)
    return _state(row, _current_action(session, action))


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
            conditions.append(is_in_state(BuildState(value)))
        elif name == "platform":
            conditions.append(or_(BuildRow.platform_label == value, BuildRow.platform["gpu"].as_string() == value))
        elif name == "model":
            # autoescape: `_` is a wildcard of LIKE and stands in many names of models.
            conditions.append(or_(BuildRow.model == value, BuildRow.model.startswith(value + "@", autoescape=True)))
        else:
            conditions.append(getattr(BuildRow, name) == value)
    # By the sequence number and not by time: builds of one instant must not change places between two pages.
    query = select(BuildRow).where(*conditions).order_by(BuildRow.seq.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(BuildRow.seq < from_cursor(cursor))
    rows = session.execute(query).scalars().all()
    items: list[Build] = []
    for row in rows[:limit]:
        action = None
        # No action of an ended build is read: that would be one more query a row.
        if row.state == BuildRowState.OPEN:
            action = session.get(ActionRow, row.key)
        items.append(_build(session, row, action, attempts=[]))
    return BuildPage(items=items, next_cursor=next_cursor(rows, limit))


def is_in_state(state: BuildState) -> ColumnElement[bool]:
    """For a WHERE clause: the build is in this state.

    An open build is `queued` or `running` as the action is that it waits for: its own, or the convert before it.
    """
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


def _build(session: Session, row: BuildRow, action: ActionRow | None, attempts: list[Attempt]) -> Build:
    current = None
    # The action of an ended build may run again for another caller: its progress is not that of this build.
    if row.state == BuildRowState.OPEN and action is not None:
        current = _current_action(session, action)
    state = _state(row, current)
    progress = build_progress(current)
    engine = None
    failure: Failure | dict[str, Any] | None = row.failure
    if state is BuildState.SUCCEEDED:
        progress = 1.0
        engine = find_engine(session, row.key)
        if engine is None:
            failure = why_engine_is_missing(session, row.key)
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
    return Build(
        id=row.id,
        key=row.key,
        disposition=row.disposition,
        state=state,
        progress=progress,
        model=row.model,
        toolchain=row.toolchain,
        version=row.version,
        platform=Platform.model_validate(row.platform),
        requested_by=row.requested_by,
        created_at=row.created_at,
        ended_at=row.ended_at,
        spec=row.spec,
        asked=row.spec_as_written,
        attempts=attempts,
        error=failure,
        engine=engine,
        **in_flight,
    )


def _current_action(session: Session, action: ActionRow) -> ActionRow:
    """The action that the build waits for now: its own, or the convert before it."""
    if action.state == ActionState.WAITING and action.depends_on is not None:
        return session.get_one(ActionRow, action.depends_on)
    return action


def _state(row: BuildRow, current: ActionRow | None) -> BuildState:
    if current is None:
        return BuildState(row.state)
    if current.state == ActionState.RUNNING:
        return BuildState.RUNNING
    return BuildState.QUEUED
