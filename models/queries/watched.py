"""Look at all builds that a process watches: two statements, however many they are. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, LogChunkRow
from models.catalogue.states import ActionState, BuildRowState

_AT_ONCE = 1000  # builds of one statement: SQLite takes 32,766 parameters, PostgreSQL 65,535


@dataclass(frozen=True)
class BuildStatus:
    """What tells that a build has changed. If two are equal, nothing changed but perhaps its place in the queue."""

    key: str
    depends_on: str | None
    state: str
    own_state: str | None
    convert_state: str | None
    progress: tuple[Any, ...]  # of both actions: attempts, workers and what these report

    @property
    def ended(self) -> bool:
        return self.state != BuildRowState.OPEN

    @property
    def log_keys(self) -> tuple[str, ...]:
        """The actions whose logs are the build's log, in order."""
        if self.depends_on is None:
            return (self.key,)
        return (self.depends_on, self.key)

    @property
    def queued(self) -> bool:
        """Its place in the queue changes when other builds start, without a change of its own rows."""
        return not self.ended and ActionState.RUNNING not in (self.own_state, self.convert_state)


@dataclass(frozen=True)
class Look:
    """What was seen in one look. A build that is missing in `builds` does not exist.

    `logs` has, by the key of an action, a value that differs once the log of the action has grown.
    """

    builds: dict[str, BuildStatus] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)


def look_at(session: Session, build_ids: Collection[str], followed: Collection[str]) -> Look:
    """The statuses of builds, and how far the logs of the builds `followed` have grown."""
    look = Look()
    for some_ids in _batches(build_ids):
        look.builds.update(_statuses(session, some_ids))
    log_keys: set[str] = set()
    for build_id in followed:
        if build_id in look.builds:
            log_keys.update(look.builds[build_id].log_keys)
    for some_keys in _batches(log_keys):
        look.logs.update(_log_marks(session, some_keys))
    return look


def _statuses(session: Session, build_ids: Sequence[str]) -> dict[str, BuildStatus]:
    own = aliased(ActionRow)
    convert = aliased(ActionRow)
    progress = [
        getattr(action, column)
        for action in (own, convert)
        for column in ("attempt", "queue", "progress", "message", "not_before", "worker_id")
    ]
    rows = session.execute(
        select(BuildRow.id, BuildRow.key, own.depends_on, BuildRow.state, own.state, convert.state, *progress)
        .outerjoin(own, own.key == BuildRow.key)
        .outerjoin(convert, convert.key == own.depends_on)
        .where(BuildRow.id.in_(build_ids))
    )
    statuses = {}
    for build_id, key, depends_on, state, own_state, convert_state, *values in rows:
        statuses[build_id] = BuildStatus(key, depends_on, state, own_state, convert_state, tuple(values))
    return statuses


def _log_marks(session: Session, keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    # The last piece of each attempt, found in the primary key: a long log has thousands of pieces.
    last_piece = (
        select(func.max(LogChunkRow.start))
        .where(LogChunkRow.action_key == AttemptRow.action_key, LogChunkRow.attempt == AttemptRow.number)
        .scalar_subquery()
    )
    rows = session.execute(
        select(AttemptRow.action_key, AttemptRow.number, AttemptRow.log_size, last_piece)
        .where(AttemptRow.action_key.in_(keys))
        .order_by(AttemptRow.action_key, AttemptRow.number)
    )
    marks: dict[str, tuple[Any, ...]] = {}
    for action_key, *values in rows:
        marks[action_key] = (*marks.get(action_key, ()), *values)
    return marks


def _batches(values: Collection[str]) -> Iterator[list[str]]:
    iterator = iter(values)
    while batch := list(islice(iterator, _AT_ONCE)):
        yield batch
