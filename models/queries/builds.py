"""Builds as REST bodies: one build with its attempts, and the listing. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select, union_all
from sqlalchemy.orm import Session, aliased, defer

from enginefarm.contract.errors import NotFound, Problem
from enginefarm.contract.platform import Platform
from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Attempt, Build, BuildPage, BuildState
from models.catalogue.expressions import gpu_of, is_of_model
from models.catalogue.pagination import from_cursor, next_cursor
from models.catalogue.rows import ActionRow, BuildRow
from models.catalogue.states import ActionState, BuildRowState
from models.queries.attempts import attempts_of
from models.queries.engines import find_engines
from models.queries.estimates import InFlight, build_progress, seconds_left
from models.queries.outlook import Fleet, queue_positions, why_checkpoints_wait
from models.queries.removals import why_engines_are_missing


def get_build(session: Session, build_id: str) -> Build:
    """One build with its attempts.

    Raises:
        NotFound: there is no such build.
    """
    row = session.execute(select(BuildRow).where(BuildRow.id == build_id)).scalar_one_or_none()
    if row is None:
        raise _not_found(build_id)
    action = session.get(ActionRow, row.key)
    attempts: list[Attempt] = []
    if action is not None:
        attempts = attempts_of(session, action)
    [build] = _bodies(session, [row], attempts)
    return build


def key_of_build(session: Session, build_id: str) -> str:
    """The key of the engine that a build is for. It never changes.

    Raises:
        NotFound: there is no such build.
    """
    key = session.execute(select(BuildRow.key).where(BuildRow.id == build_id)).scalar_one_or_none()
    if key is None:
        raise _not_found(build_id)
    return key


def _not_found(build_id: str) -> NotFound:
    return NotFound(
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
        if value is None or name == "platform":
            continue
        if name == "state":
            conditions.append(is_in_state(BuildState(value)))
        elif name == "model":
            conditions.append(is_of_model(BuildRow.model, value))
        else:
            conditions.append(getattr(BuildRow, name) == value)
    alternatives: list[list[ColumnElement[bool]]] = [conditions]
    platform = filters.get("platform")
    if platform is not None:
        # No index has both in the order of the page, so the page is made from those of the two alternatives.
        by_platform = [BuildRow.platform_label == platform, gpu_of(BuildRow.platform) == platform]
        alternatives = [[*conditions, alternative] for alternative in by_platform]
    selection: list[ColumnElement[bool]] = []
    if cursor is not None:
        selection.append(BuildRow.seq < from_cursor(cursor))
    if any(alternatives):
        # The sequence numbers alone, which the filter's index has. With whole rows, PostgreSQL may prefer the newest
        # rows of the table and read all those that the filter excludes.
        pages = [_newest(BuildRow.seq, *alternative, *selection, limit=limit) for alternative in alternatives]
        selection = [BuildRow.seq.in_(union_all(*(select(page.subquery()) for page in pages)))]
    rows = session.execute(_newest(BuildRow, *selection, limit=limit)).scalars().all()
    items = _bodies(session, rows[:limit])
    return BuildPage(items=items, next_cursor=next_cursor(rows, limit))


def _newest(selected: Any, *conditions: ColumnElement[bool], limit: int) -> Select[Any]:
    """The newest builds that meet the conditions, and one more: it shows whether a page follows."""
    # By the sequence number and not by time: builds of one instant must not change places between two pages.
    return select(selected).where(*conditions).order_by(BuildRow.seq.desc()).limit(limit + 1)


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
    if state is BuildState.QUEUED:
        running = or_(BuildRow.key.in_(running_actions), BuildRow.key.in_(waiting_for_these))
        return (BuildRow.state == BuildRowState.OPEN) & ~running
    # From the running actions to their builds: there are few, and a hundred thousand builds may be queued after them.
    build = aliased(BuildRow)
    keys = union_all(running_actions, waiting_for_these)
    running_builds = (
        select(build.seq).where(build.state == BuildRowState.OPEN, build.key.in_(keys)).cte("running_builds")
    )
    running_builds = running_builds.prefix_with("MATERIALIZED", dialect="postgresql")
    return BuildRow.seq.in_(select(running_builds.c.seq))


def _bodies(session: Session, rows: Sequence[BuildRow], attempts: Sequence[Attempt] = ()) -> list[Build]:
    """The bodies of these builds. The number of statements does not depend on the number of rows.

    `attempts` are those of the one build that is read alone.
    """
    # The action of an ended build may run again for another caller: its progress is not that of this build.
    in_flight = _in_flight(session, {row.key for row in rows if row.state == BuildRowState.OPEN})
    states: dict[str, BuildState] = {}
    for row in rows:
        current = in_flight[row.key].current if row.state == BuildRowState.OPEN else None
        states[row.id] = _state(row, current)
    succeeded = {row.key for row in rows if states[row.id] is BuildState.SUCCEEDED}
    engines = find_engines(session, succeeded)
    missing = why_engines_are_missing(session, succeeded - engines.keys())
    fleet = Fleet(session)
    seconds = seconds_left(session, in_flight.values())
    currents = [build.current for build in in_flight.values()]
    positions = queue_positions(session, {action.key for action in currents if action.state == ActionState.QUEUED})
    # A build is running while its conversion is: its own action still waits.
    converts = [build.current for build in in_flight.values() if build.current is not build.action]
    conversions = why_checkpoints_wait(session, converts)

    bodies: list[Build] = []
    for row in rows:
        fields: dict[str, Any] = {"error": row.failure, "progress": 0.0}
        if states[row.id] is BuildState.SUCCEEDED:
            engine = engines.get(row.key)
            fields |= {"progress": 1.0, "engine": engine}
            if engine is None:
                fields["error"] = missing.get(row.key)
        if row.state == BuildRowState.OPEN:
            build = in_flight[row.key]
            current = build.current
            fields["progress"] = build_progress(current)
            fields["stage"] = Stage(current.stage)
            fields["message"] = current.message
            fields["eta_seconds"] = seconds.get(row.key)
            if current.key in positions:
                fields["queue_position"] = positions[current.key]
                fields["waiting_for"] = fleet.why_waiting(current, positions[current.key])
            elif current is not build.action:
                fields["waiting_for"] = conversions.get(current.key)
        body = Build(
            id=row.id,
            key=row.key,
            disposition=row.disposition,
            state=states[row.id],
            model=row.model,
            toolchain=row.toolchain,
            version=row.version,
            platform=Platform.model_validate(row.platform),
            requested_by=row.requested_by,
            created_at=row.created_at,
            ended_at=row.ended_at,
            spec=row.spec,
            asked=row.spec_as_written,
            attempts=list(attempts),
            **fields,
        )
        bodies.append(body)
    return bodies


def _in_flight(session: Session, keys: Collection[str]) -> dict[str, InFlight]:
    """By key of the action, each with the action that its builds wait for now: itself, or the convert before it."""
    if not keys:
        return {}
    convert = aliased(ActionRow)
    waits = (convert.key == ActionRow.depends_on) & (ActionRow.state == ActionState.WAITING)
    query = select(ActionRow, convert).outerjoin(convert, waits).where(ActionRow.key.in_(keys))
    # Without the documents, which are most of a row and not part of a body.
    brief = [defer(row.document) for row in (ActionRow, convert)] + [defer(row.work) for row in (ActionRow, convert)]
    in_flight: dict[str, InFlight] = {}
    for action, convert_action in session.execute(query.options(*brief)):
        in_flight[action.key] = InFlight(action, convert_action or action)
    return in_flight


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
