"""Receive blobs over REST and write them to the store, chunk by chunk."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from functools import partial

from starlette.requests import ClientDisconnect

from api.control import ControlPlane
from enginefarm.contract.digest import Digest, verified
from enginefarm.contract.errors import IntegrityError, InvalidRequest
from models.lifecycle.blobs import damaged_blobs, mark_rewritten


def missing(control: ControlPlane, sizes: dict[Digest, int]) -> list[Digest]:
    """The blobs of `sizes` (bytes by digest) that are not in the store, have another size there, or are damaged."""
    with control.database.read() as session:
        damaged = damaged_blobs(session, sizes)
    return [digest for digest, size in sizes.items() if digest in damaged or control.store.stat(digest) != size]


async def receive(
    control: ControlPlane, body: AsyncGenerator[bytes, None], digest: Digest, size: int, caller: str | None
) -> None:
    """Write a request's body to the store as the blob `digest` of `size` bytes.

    Raises:
        InvalidRequest: the body is not the blob, or the client disconnected. The store keeps none of its bytes.
        HTTPException: the body stopped, or came too slowly. The store keeps none of its bytes.
        Busy: too many uploads of this caller wait already.
    """
    # In a thread: the store's interface blocks. The event loop receives each chunk.
    loop = asyncio.get_running_loop()
    chunks = _chunks(loop, body)
    await control.lanes.uploads.run(caller, partial(_store, control, chunks, digest, size))


def _store(control: ControlPlane, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
    try:
        if missing(control, {digest: size}):
            with control.upload_room.reserve(size):
                control.store.put_stream(chunks, digest, size)
        else:
            # Engines may refer to these bytes, so a blob that is intact is never written over. The body is still
            # checked: a client that sends wrong bytes learns of it.
            deque(verified(chunks, digest, size, what=f"blob {digest}"), maxlen=0)
    except IntegrityError as error:
        raise InvalidRequest(f"{error.detail}: send the file that has this digest") from error
    except ClientDisconnect as error:
        raise InvalidRequest(f"blob {digest}: the client disconnected before its {size} bytes were received") from error
    with control.database.write() as session:
        mark_rewritten(session, [digest])


def _chunks(loop: asyncio.AbstractEventLoop, body: AsyncGenerator[bytes, None]) -> Iterator[bytes]:
    """The chunks of the body, for a thread."""
    while True:
        chunk = asyncio.run_coroutine_threadsafe(_next_chunk(body), loop).result()
        if chunk is None:
            return
        yield chunk


async def _next_chunk(body: AsyncGenerator[bytes, None]) -> bytes | None:
    # None at the end: StopAsyncIteration cannot pass through the future that connects the loop and the thread.
    return await anext(body, None)
