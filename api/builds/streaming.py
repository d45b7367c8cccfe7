"""Watch a build: long polls, server-sent events and live logs, all by looking into the catalogue again and again.

All watchers of one process look at the same times, so those of one build share each read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from api.control import ControlPlane
from api.watchers import PAUSE, next_look
from enginefarm.wire.bodies import Build
from models.lifecycle import logs
from models.queries.builds import get_build

_READ = 1 << 18  # bytes of log that are read and sent at once
# Seconds. Proxies cut streams that are silent for longer, commonly after 30 or 60.
_KEEP_ALIVE = 15.0


@dataclass(frozen=True)
class SeenBuild:
    """A build as it was read, with its ETag: it changes with every field of the body but `eta_seconds`."""

    build: Build
    etag: str


async def read_build(control: ControlPlane, build_id: str) -> SeenBuild:
    """The build as it is now.

    Raises:
        NotFound: there is no such build.
    """
    seen: SeenBuild = await control.status_reads.read(build_id, partial(_read_build, control, build_id))
    return seen


async def _look(control: ControlPlane, build_id: str) -> SeenBuild:
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
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = await _look(control, build_id)
        changed = last_etag is not None and seen.etag != last_etag
        seconds_left = deadline - time.monotonic()
        if seen.build.state.ended or changed or seconds_left <= 0 or control.leaving.is_set():
            return seen
        # The last pause is cut to the deadline, so that a wait never lasts longer than the client asked for.
        await next_look(min(PAUSE, seconds_left))


async def events(control: ControlPlane, seen: SeenBuild) -> AsyncIterator[str]:
    """Server-sent events: one `build` event for each change, until the build or this process has ended."""
    last_etag = ""
    last_sent = time.monotonic()
    while True:
        if seen.etag != last_etag:
            # The id of an event is the ETag without its quotes.
            yield f"event: build\nid: {seen.etag.strip(chr(34))}\ndata: {seen.build.model_dump_json()}\n\n"
            last_etag = seen.etag
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent > _KEEP_ALIVE:
            # A line that begins with a colon is a comment: clients ignore it, proxies count it as traffic.
            yield ": still here\n\n"
            last_sent = time.monotonic()
        if seen.build.state.ended or control.leaving.is_set():
            return
        await next_look()
        seen = await _look(control, seen.build.id)


async def log_bytes(control: ControlPlane, build_id: str, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
    """The build's log from byte `offset`; with `follow`, until the build or this process has ended.

    A client that reads the end of a followed log asks whether the build has ended, and reads on from its offset.
    """
    while True:
        # Before the log: what the last program writes just before its build ends is then read below.
        seen = await _look(control, build_id)
        while True:
            # Those who follow a log are at its end, so they share this read, too.
            chunk = await control.log_reads.read((build_id, offset), partial(read_log, control, build_id, offset))
            if not chunk:
                break
            offset += len(chunk)
            yield chunk
        if seen.build.state.ended or not follow or control.leaving.is_set():
            return
        await next_look()


def read_log(control: ControlPlane, build_id: str, offset: int) -> bytes:
    """Up to _READ bytes at `offset` of the logs of all attempts, which count as one text; b"" at its end."""
    with control.database.read() as session:
        for segment in logs.segments(session, build_id):
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
