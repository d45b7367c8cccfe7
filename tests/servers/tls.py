"""Terminate TLS in front of a server on loopback, with a certificate of a private authority."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from datetime import datetime
from pathlib import Path
from typing import Self

import trustme


class TlsFront:
    """https://localhost:`port`, also called farm.test, for the server on port `target` of 127.0.0.1.

    `authority` is the CA's PEM file. The certificate has expired if `not_after` is in the past.
    """

    def __init__(self, target: int, folder: Path, *, not_after: datetime | None = None) -> None:
        self.authority = folder / "authority.pem"
        self._target = target
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost", "farm.test", not_after=not_after).configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        # The runner cancels the tasks of connections that are still open when `_serve` returns.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._forward, sock=self._listener, ssl=self._tls):
            await self._stop.wait()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer), return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(1 << 16):
            target.write(chunk)
            await target.drain()
    finally:
        target.close()
