"""The farm and its store for a campaign: they know every case by its seed, and answer as it says."""

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
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from enginefarm.wire.bodies import Engine, PhysicalFile
from tests.enginefarm.farm_double import an_engine
from tests.faults.case import Case
from tests.faults.wire import EXPIRED, FAULTS, Asked, Gone, Line, right

SIGNATURE = "c2VjcmV0"


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server in a process of its own, so that whoever asks stays free of threads and may fork."""
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


def engine_of(case: Case, url: str, valid: int) -> Engine:
    contents = [
        PhysicalFile(
            **entry.model_dump(),
            url=f"{url}/blob/{case.seed}/{quote(entry.path)}?valid={valid}&X-Signature={SIGNATURE}",
        )
        for entry in case.manifest.files
    ]
    return an_engine(case.key, case.manifest, contents)


class _Desk:
    """What happened so far in one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.lifted = False
        self.valid = 0  # links of an older number are refused
        self.asked = 0  # bytes
        self._lock = threading.Lock()
        self._faults = {path: list(names) for path, names in case.faults.items()}
        self._away = case.farm_away

    def fault(self, path: str, valid: int, length: int) -> str:
        """What happens to the next request for `path`; "" if nothing."""
        with self._lock:
            if self.lifted:
                return ""
            if valid < self.valid:
                return "403"
            name = self._faults[path].pop(0) if self._faults[path] else self.case.lasting
            self.valid += name == EXPIRED
            self.asked += length
            return name

    def is_away(self) -> bool:
        with self._lock:
            self._away -= 1
            return self._away >= 0 and not self.lifted


@cache
def _desk(seed: int) -> _Desk:
    return _Desk(Case.of(seed))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256
    # Desks are made under a lock: two threads that ask for the same one at once must get the same one.
    opening = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def desk(self, seed: int) -> _Desk:
        with self.opening:
            return _desk(seed)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed ends its connections: nothing to tell."""


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with suppress(Gone):
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
                self._blob(self.server.desk(int(seed)), unquote("/".join(path)), valid, headers["range"])
            case ["v1", "engines", key] if method == "GET":
                self._engine(line, self.server.desk(int(key, 16)))
            case ["lift", seed]:
                desk = self.server.desk(int(seed))
                desk.lifted = True
                line.answer(200, json.dumps(desk.asked).encode())
            case _:
                line.answer(404)

    def _engine(self, line: Line, desk: _Desk) -> None:
        if desk.is_away():
            line.answer(503)
        else:
            body = engine_of(desk.case, self.server.url, desk.valid).model_dump_json().encode()
            line.answer(200, body, {"Content-Type": "application/json"})

    def _blob(self, desk: _Desk, path: str, valid: int, asked_range: str) -> None:
        whole = desk.case.files[path]
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked_range)
        start, end = (int(found[1]), int(found[2] or len(whole) - 1) + 1) if found else (0, len(whole))
        asked = Asked(whole, start, end, ranged=bool(found))
        name = desk.fault(path, valid, end - start)
        line = Line(self.connection, 0 if desk.lifted else desk.case.pace)
        fault = FAULTS[name] if name else right
        fault(line, asked, random.Random(f"{desk.case.seed} {path} {start}"))
