"""The log of a build: its convert attempts, then its build attempts, as one stream of bytes.

While an attempt runs, its output is in `log_chunks`; afterwards the store has it as one blob. The bytes at an offset
are the same in both, so that a reader can follow the log across the change.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.catalogue.rows import ActionRow, AttemptRow, LogChunkRow
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


def segments(session: Session, key: str) -> list[LogSegment]:
    """The attempts whose output is the log of a build action: those of its convert action first, each's in order."""
    depends_on = select(ActionRow.depends_on).where(ActionRow.key == key).scalar_subquery()
    # A worker sends its pieces in order, so the last one ends where the log does. It is found in the primary key.
    live_size = (
        select(LogChunkRow.start + func.length(LogChunkRow.chunk))
        .where(LogChunkRow.action_key == AttemptRow.action_key, LogChunkRow.attempt == AttemptRow.number)
        .order_by(LogChunkRow.start.desc())
        .limit(1)
        .scalar_subquery()
    )
    is_build = AttemptRow.action_key == key
    rows = session.execute(
        select(
            AttemptRow.action_key,
            AttemptRow.number,
            AttemptRow.log_digest,
            AttemptRow.log_size,
            AttemptRow.ended_at,
            live_size.label("live_size"),
        )
        .where(is_build | (AttemptRow.action_key == depends_on))
        .order_by(is_build, AttemptRow.number)
    )
    log_segments = []
    for row in rows:
        # The pieces are removed when the complete log is recorded, so only one of the two has a size.
        size = row.live_size or 0
        if row.log_digest is not None and row.log_size is not None:
            size = row.log_size
        ended = row.ended_at is not None
        log_segments.append(LogSegment(row.action_key, row.number, size, row.log_digest, ended))
    return log_segments


def read_live(session: Session, key: str, attempt: int, start: int, length: int) -> bytes:
    """What a running attempt wrote from offset `start` on, at most `length` bytes."""
    log = (LogChunkRow.action_key == key, LogChunkRow.attempt == attempt)
    # The piece that has the byte at `start`: a long log has thousands of pieces before it.
    first = select(func.max(LogChunkRow.start)).where(*log, LogChunkRow.start <= start).scalar_subquery()
    rows = session.execute(
        select(LogChunkRow.start, LogChunkRow.chunk)
        .where(*log, LogChunkRow.start >= first, LogChunkRow.start < start + length)
        .order_by(LogChunkRow.start)
    )
    output = bytearray()
    for row in rows:
        # The first piece may begin before `start`: a reader's offsets are not those of the worker's pieces.
        output += row.chunk[max(0, start - row.start) :]
    return bytes(output[:length])
