"""Receive blobs over REST and write them to the store, chunk by chunk."""

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
    """The blobs of `sizes` (bytes by digest) that are not in the store, have another size there, or are damaged."""
    with control.database.read() as session:
        damaged = damaged_blobs(session, sizes)
    return [digest for digest, size in sizes.items() if digest in damaged or control.store.stat(digest) != size]


async def receive(control: ControlPlane, body: AsyncGenerator[bytes, None], digest: Digest, size: int) -> None:
    """Write a request's body to the store as the blob `digest` of `size` bytes.

    Raises:
        InvalidRequest: the body is not the blob, or the client disconnected. The store keeps none of its bytes.
    """
    # In a thread: the store's interface blocks.
    await run_in_threadpool(_store, control, body, digest, size)


def _store(control: ControlPlane, body: AsyncGenerator[bytes, None], digest: Digest, size: int) -> None:
    chunks = _chunks(body)
    try:
        if missing(control, {digest: size}):
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


def _chunks(body: AsyncGenerator[bytes, None]) -> Iterator[bytes]:
    """The chunks of the body, for a thread: the event loop receives each of them."""
    while True:
        chunk = from_thread.run(_next_chunk, body)
        if chunk is None:
            return
        yield chunk


async def _next_chunk(body: AsyncGenerator[bytes, None]) -> bytes | None:
    # None at the end: StopAsyncIteration cannot pass through the future that connects the loop and the thread.
    return await anext(body, None)
