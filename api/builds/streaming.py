"""Waiting for a build to change: long polls, server-sent events and live logs. The catalogue is asked, gently."""

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

_PAUSE = 0.3  # seconds between two looks: below what a person notices, cheap enough for hundreds of waiters
_READ = 1 << 18  # bytes of log a piece
_KEEP_ALIVE = 15.0  # seconds; proxies cut streams that are silent for longer


def etag(build: Build) -> str:
    """Changes with anything a reader could see but the estimate, which moves all the time."""
    body = build.model_dump_json(exclude={"eta_seconds"})
    return f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


async def read_build(control: ControlPlane, build_id: str) -> Build:
    def read() -> Build:
        with control.database.snapshot() as session:
            return get_build(session, build_id)

    return await run_in_threadpool(read)


async def wait_for_change(control: ControlPlane, build_id: str, *, seconds: float, known: str | None) -> Build:
    """The build as soon as it differs from `known` (an ETag), or has ended, or after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        build = await read_build(control, build_id)
        changed = known is not None and etag(build) != known
        if build.state.ended or changed or time.monotonic() >= deadline:
            return build
        await asyncio.sleep(min(_PAUSE, max(0.0, deadline - time.monotonic())))


async def events(control: ControlPlane, first: Build) -> AsyncIterator[str]:
    """Server-sent events: one `build` event for each change, until the build has ended."""
    build, last = first, ""
    quiet_since = time.monotonic()
    while True:
        if (tag := etag(build)) != last:
            yield f"event: build\nid: {tag.strip(chr(34))}\ndata: {build.model_dump_json()}\n\n"
            last, quiet_since = tag, time.monotonic()
        elif time.monotonic() - quiet_since > _KEEP_ALIVE:
            yield ": still here\n\n"
            quiet_since = time.monotonic()
        if build.state.ended:
            return
        await asyncio.sleep(_PAUSE)
        build = await read_build(control, first.id)


async def log_bytes(control: ControlPlane, build_id: str, *, offset: int, follow: bool) -> AsyncIterator[bytes]:
    """The build's log from byte `offset`; with `follow`, until the build has ended."""
    while True:
        # Looked at before reading: what is written between the two is read, never missed.
        ended = (await read_build(control, build_id)).state.ended
        while data := await run_in_threadpool(_read_log, control, build_id, offset):
            offset += len(data)
            yield data
        if ended or not follow:
            return
        await asyncio.sleep(_PAUSE)


def _read_log(control: ControlPlane, build_id: str, offset: int) -> bytes:
    """Up to _READ bytes at `offset` of the attempts' logs, end to end."""
    with control.database.read() as session:
        for piece in logs.segments(session, build_id):
            if offset >= piece.size and piece.ended:
                offset -= piece.size
                continue
            if piece.digest is None:
                return logs.read_live(session, piece.action_key, piece.attempt, offset)[:_READ]
            digest = piece.digest
            break
        else:
            return b""
    return b"".join(control.store.read(digest, start=offset, length=min(_READ, piece.size - offset)))
