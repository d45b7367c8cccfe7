"""A real HTTP server in a thread, which remembers what it was asked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send


@dataclass
class Asked:
    """One request that a server saw."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]


class Served:
    """An app on a port of 127.0.0.1. It can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.app = FastAPI()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self, method: str = "GET") -> list[str]:
        return [asked.path for asked in self.asked if asked.method == method]

    def start(self) -> None:
        config = uvicorn.Config(
            self._serve, interface="asgi3", port=self.port, lifespan="off", log_config=None, timeout_graceful_shutdown=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server is not None and self._server.started)

    def reset(self) -> None:
        """As new, and running, whatever the last test did."""
        self.asked.clear()
        if not self._server:
            self.start()

    def stop(self) -> None:
        if self._server:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Request) -> Response | None:
        """An answer that comes before any route has a say."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Below the framework's own middleware, which would end a broken stream properly.
        request = Request(scope)
        self.asked.append(
            Asked(request.method, scope["raw_path"].decode(), dict(request.query_params), request.headers)
        )
        await (self.answer(request) or self.app)(scope, receive, send)


def until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Look again until `true`, and fail after `seconds`."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)
