"""Send files with sendfile(2): the kernel copies from its cache to the socket, and no byte passes through Python.

uvicorn has no extension of ASGI for that, and uvloop no `loop.sendfile`. So the connection offers a call of its own in
the scope of each GET; a response falls back to Starlette's where it is missing, as in another server.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import struct
import termios
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

EXTENSION = "enginefarm.sendfile"  # in scope["extensions"]: a SendFile

# Sends `count` bytes of a file's descriptor from `offset`, after the head of the answer.
SendFile = Callable[[int, int, int], Awaitable[None]]

_MOST_BYTES = 8 << 20  # of one call: a disk may be slow, and the process must be able to end
_ONE_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class BlobResponse(FileResponse):
    """A file, or one range of it, by sendfile where the connection can. Several ranges and HEAD are Starlette's."""

    # Bytes. Starlette hands each chunk to a thread and back; with its 64 KiB the hand-over costs more than the read.
    chunk_size = 1 << 20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send_file: SendFile | None = scope.get("extensions", {}).get(EXTENSION)
        headers = Headers(scope=scope)
        wanted = headers.get("range")
        match = None if wanted is None else _ONE_RANGE.fullmatch(wanted)
        if send_file is None or "if-range" in headers or (wanted is not None and match is None):
            return await super().__call__(scope, receive, send)
        try:
            descriptor = await asyncio.to_thread(os.open, self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # deleted since the link was checked
            return await super().__call__(scope, receive, send)
        try:
            self.stat_result = os.fstat(descriptor)
            size = self.stat_result.st_size
            self.set_stat_headers(self.stat_result)
            start, end = 0, size
            if match is not None:
                start = int(match[1])
                if match[2]:
                    end = min(int(match[2]) + 1, size)
                if start >= end:
                    return await super().__call__(scope, receive, send)
                self.status_code = 206
                self.headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
                self.headers["content-length"] = str(end - start)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send_file(descriptor, start, end - start)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(descriptor)


class FileSender:
    """Sends parts of files on one connection.

    Args:
        stall_seconds: in which the client must take some of what it is sent.
        on_stall: cuts the connection of a client that did not.
    """

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, stall_seconds: float, on_stall: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._stall_seconds = stall_seconds
        self._on_stall = on_stall
        self._writable: asyncio.Future[None] | None = None  # while the client's buffers are full

    async def send(self, cycle: RequestResponseCycle, file: int, offset: int, count: int) -> None:
        """Send bytes of a file as the body of an answer whose head was sent. Returns early if the client leaves."""
        try:
            await self._send(file, offset, count, cycle)
        finally:
            if self._transport.is_closing():
                # uvicorn learns it from the transport a moment later, and would complain of a body that is too short.
                cycle.disconnected = True

    async def _send(self, file: int, offset: int, count: int, cycle: RequestResponseCycle) -> None:
        if self._transport.is_closing():
            return
        # The head goes first: wait until the transport has nothing left to send.
        self._transport.set_write_buffer_limits(high=0)
        await self._flow.drain()
        if self._transport.is_closing():  # it refuses every other call then
            return
        self._transport.set_write_buffer_limits()
        # A descriptor of its own, because the loop lets nobody else wait for that of a transport.
        socket = os.dup(self._transport.get_extra_info("socket").fileno())
        try:
            while count and not self._transport.is_closing():
                try:
                    sent = await _sendfile(socket, file, offset, min(count, _MOST_BYTES))
                except BlockingIOError:
                    await self._until_writable(socket)
                    continue
                except OSError:  # the client left
                    self._transport.abort()
                    return
                if not sent:
                    return  # the file became shorter: uvicorn sees that the body is too short, and closes
                offset += sent
                count -= sent
                cycle.expected_content_length -= sent
        finally:
            os.close(socket)

    def wake(self) -> None:
        """The connection is lost, or takes more."""
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    async def _until_writable(self, socket: int) -> None:
        loop = asyncio.get_running_loop()
        self._writable = loop.create_future()
        loop.add_writer(socket, self.wake)
        try:
            unsent = _unsent_bytes(socket)
            while not (await asyncio.wait({self._writable}, timeout=self._stall_seconds))[0]:
                # The kernel calls a socket writable only after its client took a third of the buffer.
                unsent_before, unsent = unsent, _unsent_bytes(socket)
                if unsent >= unsent_before:
                    self._on_stall()
                    return
        finally:
            loop.remove_writer(socket)
            self._writable = None


async def _sendfile(socket: int, file: int, offset: int, count: int) -> int:
    # In a thread: a file that is not in the kernel's cache is read from the disk meanwhile.
    call = asyncio.get_running_loop().run_in_executor(None, os.sendfile, socket, file, offset, count)
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        # Its descriptors may be closed only after the call: their numbers would be those of other files.
        await asyncio.wait({call})
        raise


def _unsent_bytes(socket: int) -> int:
    """Bytes that the kernel has for the client and the client has not acknowledged."""
    unsent: int = struct.unpack("i", fcntl.ioctl(socket, termios.TIOCOUTQ, b"\0" * 4))[0]
    return unsent
