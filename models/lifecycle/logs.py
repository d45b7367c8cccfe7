"""The log of a build: its convert attempts, then its build attempts, as one stream of bytes.

While an attempt runs, its output is in `log_chunks`; afterwards the store has it as one blob. The bytes at an offset
are the same in both, so that a reader can follow the log across the change.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.catalogue.rows import ActionRow, AttemptRow, BuildRow, LogChunkRow
from models.catalogue.upsert import insert_new


@dataclass(frozen=True)
class LogSegment:
    """One attempt's part of the stream."""

    action_key: str
    attempt: int
    size: int  # bytes so far
    digest: str | None  # of the blob, once it is in the store
    ended: bool


def append(session: Session, key: str, attempt: int, start: int, chunk: bytes) -> None:
    """Add bytes at offset `start` of a running attempt's log. A repeated call changes nothing."""
    # A worker whose commit was not answered sends the piece again.
    insert_new(session, LogChunkRow, {"action_key": key, "attempt": attempt, "start": start, "chunk": chunk})


def segments(session: Session, build_id: str) -> list[LogSegment]:
    """The attempts whose output belongs to this build: those of the convert action first, each action's in order."""
    key = session.execute(select(BuildRow.key).where(BuildRow.id == build_id)).scalar_one()
    depends_on = session.execute(select(ActionRow.depends_on).where(ActionRow.key == key)).scalar_one_or_none()
    keys = [key]
    if depends_on is not None:
        keys.insert(0, depends_on)
    live = (
        select(
            LogChunkRow.action_key,
            LogChunkRow.attempt,
            func.sum(func.length(LogChunkRow.chunk)).label("size"),
        )
        .where(LogChunkRow.action_key.in_(keys))
        .group_by(LogChunkRow.action_key, LogChunkRow.attempt)
        .subquery()
    )
    rows = session.execute(
        select(AttemptRow, live.c.size)
        .outerjoin(live, (live.c.action_key == AttemptRow.action_key) & (live.c.attempt == AttemptRow.number))
        .where(AttemptRow.action_key.in_(keys))
    ).all()
    log_segments = []
    for attempt, live_size in rows:
        # The pieces are removed when the complete log is recorded, so only one of the two has a size.
        size = int(live_size or 0)
        if attempt.log_digest is not None and attempt.log_size is not None:
            size = attempt.log_size
        log_segments.append(
            LogSegment(
                action_key=attempt.action_key,
                attempt=attempt.number,
                size=size,
                digest=attempt.log_digest,
                ended=attempt.ended_at is not None,
            )
        )
    return sorted(log_segments, key=lambda segment: (keys.index(segment.action_key), segment.attempt))


def read_live(session: Session, key: str, attempt: int, start: int, length: int) -> bytes:
    """What a running attempt wrote from offset `start` on, at most `length` bytes."""
    rows = session.execute(
        select(LogChunkRow.start, LogChunkRow.chunk)
        .where(LogChunkRow.action_key == key, LogChunkRow.attempt == attempt)
        .where(LogChunkRow.start + func.length(LogChunkRow.chunk) > start)
        .where(LogChunkRow.start < start + length)
        .order_by(LogChunkRow.start)
    )
    output = bytearray()
    for row in rows:
        # The first piece may begin before `start`: a reader's offsets are not those of the worker's pieces.
        output += row.chunk[max(0, start - row.start) :]
    return bytes(output[:length])
