"""Squid as a forward proxy on loopback: one port for everybody, one for a user with a password."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.servers.server import Program, Server, free_port
from tests.servers.system_programs import system_program

USER, PASSWORD = "node 7@site", "pa:55/wörd"

# Squid's own helpers are in another folder on every distribution. Squid escapes blanks and bytes that are not ASCII.
_HELPER = """#!/bin/sh
while read -r line; do
    [ "$line" = 'node%207@site pa:55/w%C3%B6rd' ] && echo OK || echo ERR
done
"""


class Squid(Server):
    """Resolves every name in `hosts` to 127.0.0.1, and refuses to connect to hosts below `.refused.test`."""

    hosts = ("farm.test", "store.test", "down.refused.test")

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.authenticated_port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def programs(self) -> Sequence[Program]:
        squid = system_program("squid")
        helper = self.data / "helper"
        helper.write_text(_HELPER)
        helper.chmod(0o755)
        hosts = self.data / "hosts"
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in self.hosts))
        configuration = self.data / "squid.conf"
        configuration.write_text(
            f"http_port 127.0.0.1:{self.port} name=open\n"
            f"http_port 127.0.0.1:{self.authenticated_port} name=authenticated\n"
            f"hosts_file {hosts}\n"
            f"auth_param basic program {helper}\n"
            "auth_param basic children 1 startup=1\n"
            "acl authenticated myportname authenticated\n"
            "acl user proxy_auth REQUIRED\n"
            "acl refused dstdomain .refused.test\n"
            "http_access deny refused\n"
            "http_access allow authenticated user\n"
            "http_access deny authenticated\n"
            "http_access allow all\n"
            "cache deny all\npid_filename none\nshutdown_lifetime 0 seconds\npinger_enable off\n"
            f"access_log stdio:{self.data}/access.log\ncache_log {self.data}/cache.log\ncoredump_dir {self.data}\n"
        )
        for name in ("access.log", "cache.log"):
            (self.data / name).touch()
        _give_to_squid(self.data)
        return [Program("squid", [squid, "-N", "-f", str(configuration)])]

    def check(self) -> None:
        for port in (self.port, self.authenticated_port):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()


def _give_to_squid(folder: Path) -> None:
    """Started by root, Squid works as the user `proxy`, which must be able to write its logs."""
    folder.chmod(0o755)
    for path in folder.iterdir():
        if path.suffix == ".log" and path.owner() == "root":
            shutil.chown(path, "proxy")
