"""Bytes that come in over REST, on their way into the store: in pieces, in a thread, as the store wants them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator

from anyio import from_thread
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.control import ControlPlane
from enginefarm.contract.digest import Digest, verified
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from models.lifecycle.blobs import damaged_blobs, mark_rewritten


def missing(control: ControlPlane, sizes: dict[Digest, int]) -> list[Digest]:
    """Those of `sizes` (bytes by digest) that the store lacks, or holds damaged."""
    with control.database.read() as session:
        damaged = damaged_blobs(session, sizes)
    return [digest for digest, size in sizes.items() if digest in damaged or control.store.stat(digest) != size]


async def receive(control: ControlPlane, body: AsyncGenerator[bytes, None], digest: Digest, size: int) -> None:
    """
    Raises:
        InvalidRequest: these are not the bytes of `digest`; nothing is kept of them.
    """
    await run_in_threadpool(_store, control, body, digest, size)


def _store(control: ControlPlane, body: AsyncGenerator[bytes, None], digest: Digest, size: int) -> None:
    try:
        if missing(control, {digest: size}):
            control.store.put_stream(_chunks(body), digest, size)
        else:  # engines may have it: what is right is not written over
            deque(verified(_chunks(body), digest, size, what=f"blob {digest}"), maxlen=0)
    except IntegrityError as error:
        raise InvalidRequest(f"{error.detail}: send the file that has this digest") from error
    except ClientDisconnect as error:
        raise InvalidRequest(f"blob {digest}: the connection ended before its {size} bytes had come") from error
    with control.database.write() as session:
        mark_rewritten(session, [digest])


def _chunks(body: AsyncGenerator[bytes, None]) -> Iterator[bytes]:
    """For a thread, what the event loop receives."""
    while (chunk := from_thread.run(_next, body)) is not None:
        yield chunk


async def _next(body: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(body, None)
