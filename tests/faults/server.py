"""The farm and its store in one server process. It makes every scenario from its seed, and answers accordingly."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socketserver
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from enginefarm.wire.bodies import Engine, PhysicalFile
from tests.enginefarm.farm_double import new_engine
from tests.faults.bad_responses import EXPIRED, FAULTS, ConnectionEnded, Line, RangeRequest, right
from tests.faults.scenario import Scenario

SIGNATURE = "c2VjcmV0"


@contextmanager
def served() -> Iterator[str]:
    """Yield the URL of a server in a process of its own: the caller stays free of threads, and may fork."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        pid = os.fork()
        if pid == 0:
            with suppress(KeyboardInterrupt):
                server.serve_forever()
            os._exit(0)
        url = server.url
    try:
        yield url
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def engine_of(scenario: Scenario, url: str, valid: int) -> Engine:
    contents = [
        PhysicalFile(
            **entry.model_dump(),
            url=f"{url}/blob/{scenario.seed}/{quote(entry.path)}?valid={valid}&X-Signature={SIGNATURE}",
        )
        for entry in scenario.manifest.files
    ]
    return new_engine(scenario.key, scenario.manifest, contents, document=scenario.document)


class _ScenarioState:
    """What happened so far in one scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.lifted = False
        self.valid = 0  # links of an older number are refused
        self.requested = 0  # bytes
        self._lock = threading.Lock()
        self._faults = {path: list(names) for path, names in scenario.faults.items()}
        self._away = scenario.farm_away

    def fault(self, path: str, valid: int, length: int) -> str:
        """The fault of the next request for `path`; "" if none."""
        with self._lock:
            if self.lifted:
                return ""
            if valid < self.valid:
                return "403"
            name = self._faults[path].pop(0) if self._faults[path] else self.scenario.lasting
            self.valid += name == EXPIRED
            self.requested += length
            return name

    def is_away(self) -> bool:
        with self._lock:
            self._away -= 1
            return self._away >= 0 and not self.lifted


@cache
def _state(seed: int) -> _ScenarioState:
    return _ScenarioState(Scenario.of(seed))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256
    # States are made under a lock: two threads that want the same one at once must get the same one.
    state_lock = threading.Lock()
    seeds: ClassVar[dict[str, int]] = {}  # by the key of the engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def state(self, seed: int) -> _ScenarioState:
        with self.state_lock:
            return _state(seed)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: a client that is killed ends its connections."""


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with suppress(ConnectionEnded):
            while line := self.rfile.readline():
                method, target, _ = line.decode().split(" ", 2)
                self._answer(method, target, self._headers())

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = defaultdict(str)
        while (line := self.rfile.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.rfile.read(int(headers["content-length"] or 0))
        return headers

    def _answer(self, method: str, target: str, headers: dict[str, str]) -> None:
        url = urlsplit(target)
        line = Line(self.connection, 0)
        match url.path.split("/")[1:]:
            case ["blob", seed, *path]:
                valid = int(parse_qs(url.query).get("valid", ["0"])[0])
                self._blob(self.server.state(int(seed)), unquote("/".join(path)), valid, headers["range"])
            case ["v1", "engines", key] if method == "GET":
                self._engine(line, self.server.state(self.server.seeds[key]))
            case ["begin", seed]:
                self.server.seeds[Scenario.of(int(seed)).key] = int(seed)
                line.answer(200)
            case ["lift", seed]:
                state = self.server.state(int(seed))
                state.lifted = True
                line.answer(200, json.dumps(state.requested).encode())
            case _:
                line.answer(404)

    def _engine(self, line: Line, state: _ScenarioState) -> None:
        if state.is_away():
            line.answer(503)
        else:
            body = engine_of(state.scenario, self.server.url, state.valid).model_dump_json().encode()
            line.answer(200, body, {"Content-Type": "application/json"})

    def _blob(self, state: _ScenarioState, path: str, valid: int, range_header: str) -> None:
        content = state.scenario.files[path]
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", range_header)
        start, end = (int(match[1]), int(match[2] or len(content) - 1) + 1) if match else (0, len(content))
        request = RangeRequest(content, start, end, ranged=bool(match))
        name = state.fault(path, valid, end - start)
        line = Line(self.connection, 0 if state.lifted else state.scenario.pace)
        fault = FAULTS[name] if name else right
        fault(line, request, random.Random(f"{state.scenario.seed} {path} {start}"))
