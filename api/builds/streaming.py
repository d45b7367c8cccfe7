"""Watch a build: long polls, server-sent events and live logs, all by polling the catalogue."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from api.control import ControlPlane
from enginefarm.wire.bodies import Build
from models.lifecycle import logs
from models.queries.builds import get_build

# Seconds between two polls: a person does not notice them, and a database serves hundreds of watchers.
_PAUSE = 0.3
_READ = 1 << 18  # bytes of log that are read and sent at once
# Seconds. Proxies cut streams that are silent for longer, commonly after 30 or 60.
_KEEP_ALIVE = 15.0


def etag(build: Build) -> str:
    """The ETag of a build: it changes with every field of the body but `eta_seconds`."""
    # The estimate changes with every second, so a long poll would return at once.
    body = build.model_dump_json(exclude={"eta_seconds"})
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


async def read_build(control: ControlPlane, build_id: str) -> Build:
    """
    Raises:
        NotFound: there is no such build.
    """

    def read() -> Build:
        with control.database.snapshot() as session:
            return get_build(session, build_id)

    return await run_in_threadpool(read)


async def wait_for_change(control: ControlPlane, build_id: str, *, seconds: float, last_etag: str | None) -> Build:
    """Return the build once it has ended, its ETag differs from `last_etag`, or `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while True:
        build = await read_build(control, build_id)
        changed = last_etag is not None and etag(build) != last_etag
        if build.state.ended or changed or time.monotonic() >= deadline:
            return build
        # The last pause is cut to the deadline, so that a wait never lasts longer than the client asked for.
        await asyncio.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))


async def events(control: ControlPlane, build: Build) -> AsyncIterator[str]:
    """Server-sent events: one `build` event for each change, until the build has ended."""
    last_etag = ""
    last_sent = time.monotonic()
    while True:
        current_etag = etag(build)
        if current_etag != last_etag:
            # The id of an event is the ETag without its quotes.
            yield f"event: build\nid: {current_etag.strip(chr(34))}\ndata: {build.model_dump_json()}\n\n"
            last_etag = current_etag
            last_sent = time.monotonic()
        elif time.monotonic() - last_sent > _KEEP_ALIVE:
            # A line that begins with a colon is a comment: clients ignore it, proxies count it as traffic.
            yield ": still here\n\n"
            last_sent = time.monotonic()
        if build.state.ended:
            return
        await asyncio.sleep(_PAUSE)
        build = await read_build(control, build.id)


async def log_bytes(control: ControlPlane, build_id: str, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
    """The build's log from byte `offset`; with `follow`, until the build has ended."""
    while True:
        # Before the log: what the last program writes just before its build ends is then read below.
        build = await read_build(control, build_id)
        while True:
            chunk = await run_in_threadpool(read_log, control, build_id, offset)
            if not chunk:
                break
            offset += len(chunk)
            yield chunk
        if build.state.ended or not follow:
            return
        await asyncio.sleep(_PAUSE)


def read_log(control: ControlPlane, build_id: str, offset: int) -> bytes:
    """Up to _READ bytes at `offset` of the logs of all attempts, which count as one text; b"" at its end."""
    with control.database.read() as session:
        for segment in logs.segments(session, build_id):
            if offset >= segment.size and segment.ended:
                offset -= segment.size
                continue
            if segment.digest is None:
                # A running attempt's log is in the database; it moves to the store when the attempt ends.
                return logs.read_live(session, segment.action_key, segment.attempt, offset)[:_READ]
            digest = segment.digest
            length = min(_READ, segment.size - offset)
            break
        else:
            return b""
    # Outside the transaction: a slow store must not keep a database connection.
    return b"".join(control.store.read(digest, start=offset, length=length))
