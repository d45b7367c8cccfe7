"""Two S3 servers: OpenStack Swift with its s3api, strict and on disk; moto, lax and in memory."""

from __future__ import annotations

import getpass
import secrets
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx

from tests.servers.server import CHECKOUT, Program, Server, free_port

DOMAIN = "s3.test"  # buckets are also served as hosts below it
_BACKENDS = ("account", "container", "object")

_COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {data}
devices = {data}/devices
mount_check = false
disable_fallocate = true
log_address = {data}/no-syslog
log_level = WARNING
"""

_BACKEND = """\
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
"""

# Long timeouts, because test machines are busy: Swift leaves an update of a listing that times out to a daemon that
# does not run here.
_OBJECT = "container_update_timeout = 20\nconn_timeout = 5\nnode_timeout = 20\n"

_PROXY = """\
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo versioned_writes \
symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 5
node_timeout = 20
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
storage_domain = {domain}
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true
"""

_PLAIN_FILTERS = (
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "copy",
    "slo",
    "dlo",
    "symlink",
)


class S3Server(Server):
    """A server of the S3 protocol at `endpoint` (host:port, without TLS)."""

    access_key: str
    secret_key: str
    region = "us-east-1"

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{quote(self.access_key, safe='')}:{self.secret_key}@{self.endpoint}"

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT), "HOME": str(self.data)}


class Swift(S3Server):
    """Proxy, account, container and object server. `data` must take user extended attributes.

    Checks signatures and checksums as AWS does; objects survive `kill`.
    """

    access_key = "test:tester"

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.secret_key = secrets.token_hex(16)
        self._ports = {name: free_port() for name in _BACKENDS}

    def programs(self) -> Sequence[Program]:
        if not (self.data / "swift.conf").exists():
            self._configure()
        return [self._program(name) for name in ("proxy", *_BACKENDS)]

    def check(self) -> None:
        """Any answer of each process is enough: a backend listens only after it has read its rings."""
        for port in (self.port, *self._ports.values()):
            httpx.get(f"http://127.0.0.1:{port}/healthcheck", timeout=5)

    def _program(self, name: str) -> Program:
        script = Path(sysconfig.get_path("scripts")) / f"swift-{name}-server"
        argv = [sys.executable, str(script), str(self.data / f"{name}.conf"), "--verbose"]
        return Program(name, argv, env=self.environment())

    def _configure(self) -> None:
        (self.data / "devices" / "d1").mkdir(parents=True)
        self._write("swift.conf", f"[swift-hash]\nswift_hash_path_suffix = {secrets.token_hex(8)}\n")
        filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in _PLAIN_FILTERS)
        self._write(
            "proxy.conf", self._common(self.port) + _PROXY.format(secret=self.secret_key, domain=DOMAIN) + filters
        )
        for name, port in self._ports.items():
            extra = _OBJECT if name == "object" else ""
            self._write(f"{name}.conf", self._common(port) + _BACKEND.format(name=name) + extra)
        self._write_rings()

    def _common(self, port: int) -> str:
        return _COMMON.format(port=port, user=getpass.getuser(), data=self.data)

    def _write(self, name: str, text: str) -> None:
        (self.data / name).write_text(text)

    def _write_rings(self) -> None:
        ports = [str(self._ports[name]) for name in _BACKENDS]
        argv = [sys.executable, "-m", "tests.servers.rings", str(self.data), *ports]
        subprocess.run(argv, check=True, capture_output=True, env=self.environment(), cwd=CHECKOUT)


class Moto(S3Server):
    """A second implementation of the protocol. It checks no signatures and loses its objects when it stops."""

    access_key = "testing"
    secret_key = "testing-secret-key"

    def programs(self) -> Sequence[Program]:
        script = Path(sysconfig.get_path("scripts")) / "moto_server"
        argv = [sys.executable, str(script), "--host", "127.0.0.1", "--port", str(self.port)]
        return [Program("moto", argv, env=self.environment())]

    def check(self) -> None:
        httpx.get(f"http://{self.endpoint}/", timeout=5)
