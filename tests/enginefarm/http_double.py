"""A real HTTP server in a thread, which records its requests."""

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
class ReceivedRequest:
    """One request that a server received."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]


class HttpDouble:
    """A FastAPI app on a port of 127.0.0.1. It can be stopped and started again on the same port."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self.app = FastAPI()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._server: uvicorn.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def paths(self, method: str = "GET") -> list[str]:
        return [request.path for request in self.requests if request.method == method]

    def start(self) -> None:
        config = uvicorn.Config(
            self._serve, interface="asgi3", port=self.port, lifespan="off", log_config=None, timeout_graceful_shutdown=0
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server is not None and self._server.started)

    def reset(self) -> None:
        """Forget all requests, and start again if the last test stopped the server."""
        self.requests.clear()
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
        """A response that is sent instead of any route's; None to let the route answer."""

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not a middleware of the framework: with one, a stream that breaks off would end properly.
        request = Request(scope)
        self.requests.append(
            ReceivedRequest(request.method, scope["raw_path"].decode(), dict(request.query_params), request.headers)
        )
        await (self.answer(request) or self.app)(scope, receive, send)


def wait_until(condition: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Return once `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition is not true after {seconds:g} s"
        time.sleep(0.01)
