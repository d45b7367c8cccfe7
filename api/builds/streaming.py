"""Answers that last while a build changes: long polls, server-sent events and followed logs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from functools import partial

from api.control import ControlPlane
from api.watching.watched_build import SeenBuild
from models.lifecycle import logs
from models.queries.builds import get_build, key_of_build

_READ = 1 << 18  # bytes of log that are read and sent at once
# Seconds. Proxies cut streams that are silent for longer, commonly after 30 or 60.
_KEEP_ALIVE = 15.0


async def read_build(control: ControlPlane, build_id: str) -> SeenBuild:
    """The build as it is now.

    Raises:
        NotFound: there is no such build.
    """
    seen: SeenBuild = await control.status_reads.read(build_id, partial(_read_build, control, build_id))
    return seen


async def read_key(control: ControlPlane, build_id: str) -> str:
    """The key of the engine that a build is for, cheaper than `read_build`.

    Raises:
        NotFound: there is no such build.
    """
    key: str = await control.status_reads.read((build_id, "key"), partial(_read_key, control, build_id))
    return key


def _read_key(control: ControlPlane, build_id: str) -> str:
    with control.database.read() as session:
        return key_of_build(session, build_id)


async def _read_watched(control: ControlPlane, build_id: str) -> SeenBuild:
    """`read_build` for a watcher: it may wait longer, because watchers are many."""
    seen: SeenBuild = await control.watched_reads.read(build_id, partial(_read_build, control, build_id))
    return seen


def _read_build(control: ControlPlane, build_id: str) -> SeenBuild:
    with control.database.snapshot() as session:
        build = get_build(session, build_id)
    # The estimate changes with every second, so a long poll would return at once.
    body = build.model_dump_json(exclude={"eta_seconds"})
    return SeenBuild(build, f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"')


async def wait_for_change(control: ControlPlane, build_id: str, *, seconds: float, last_etag: str | None) -> SeenBuild:
    """Return the build once it has ended, its ETag differs from `last_etag`, or `seconds` have passed.

    Sooner if this process ends: the client then asks the next one.

    Raises:
        NotFound: there is no such build.
        DatabaseUnavailable: whether it has changed is not known.
    """
    deadline = time.monotonic() + seconds
    with control.watch.of(build_id) as watched:
        await watched.ready()
        while True:
            # Counted before the build is read: what changes meanwhile is read again.
            count = watched.changes.count
            # A client that asks again after 304 has seen the build as it is.
            seen = watched.unchanged_since(last_etag) or await _read_watched(control, build_id)
            watched.remember(seen, count)
            changed = last_etag is not None and seen.etag != last_etag
            seconds_left = deadline - time.monotonic()
            if seen.build.state.ended or changed or seconds_left <= 0 or control.leaving.is_set():
                return seen
            changed = await watched.changed(count, seconds_left)
            # Without an ETag the answer has a body, and its estimate must be of now.
            if control.leaving.is_set() or (not changed and last_etag is not None):
                return seen


async def events(control: ControlPlane, build_id: str) -> AsyncIterator[str]:
    """Server-sent events: one `build` event for each change, until the build or this process has ended."""
    last_etag = ""
    with control.watch.of(build_id) as watched:
        await watched.ready()
        while not control.leaving.is_set():
            count = watched.changes.count
            seen = await _read_watched(control, build_id)
            if seen.etag != last_etag:
                last_etag = seen.etag
                yield seen.event
            if seen.build.state.ended:
                return
            while not await watched.changed(count, _KEEP_ALIVE):
                # A line that begins with a colon is a comment: clients ignore it, proxies count it as traffic.
                yield ": still here\n\n"


async def log_bytes(control: ControlPlane, key: str, offset: int) -> AsyncIterator[bytes]:
    """The log of the builds of this key from byte `offset` to its end as it is now."""
    # Those who follow the log are at its end, so they share the read.
    while chunk := await control.log_reads.read((key, offset), partial(_read_log, control, key, offset)):
        offset += len(chunk)
        yield chunk


async def followed_log(control: ControlPlane, build_id: str, key: str, offset: int) -> AsyncIterator[bytes]:
    """The log of a build until the build or this process has ended.

    A client that reads the end of a followed log asks whether the build has ended, and reads on from its offset.
    """
    with control.watch.of(build_id, log=True) as watched:
        await watched.ready()
        while not control.leaving.is_set():
            count = watched.log_changes.count
            # Before the log: what the last program writes just before its build ends is then read below.
            ended = watched.ended
            async for chunk in log_bytes(control, key, offset):
                offset += len(chunk)
                yield chunk
            if ended:
                return
            await watched.log_changed(count)


def _read_log(control: ControlPlane, key: str, offset: int) -> bytes:
    """Up to _READ bytes at `offset` of the logs of all attempts, which count as one text; b"" at its end."""
    with control.database.read() as session:
        for segment in logs.segments(session, key):
            if offset >= segment.size and segment.ended:
                offset -= segment.size
                continue
            if segment.digest is None:
                # A running attempt's log is in the database; it moves to the store when the attempt ends.
                return logs.read_live(session, segment.action_key, segment.attempt, offset, _READ)
            digest = segment.digest
            length = min(_READ, segment.size - offset)
            break
        else:
            return b""
    # Outside the transaction: a slow store must not keep a database connection.
    return b"".join(control.store.read(digest, start=offset, length=length))
