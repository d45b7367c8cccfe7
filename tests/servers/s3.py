"""S3 servers: OpenStack Swift with its s3api, strict and on disk; moto, lax and in memory; SeaweedFS, with policies."""

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

from tests.deployment.compose import filled_example, interpolated
from tests.servers.server import CHECKOUT, Program, Server, free_port

DOMAIN = "s3.test"  # buckets are also served as hosts below it
_WEED = Path(sysconfig.get_path("scripts")) / "weed"
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
        self.check_others()
        httpx.get(f"http://127.0.0.1:{self.port}/healthcheck", timeout=5)

    def check_others(self) -> None:
        for port in self._ports.values():
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


class SeaweedFS(S3Server):
    """The S3 server of compose.yaml: its command and its accounts, with ports and a folder of this test.

    `access_key` is the API's account. It knows policies: an account may do what its policy allows, and nothing else.
    """

    access_key = "enginefarm-api"
    secret_key = "secret-of-the-api"
    worker = ("enginefarm-worker", "secret-of-the-worker")
    bucket = "enginefarm"

    def __init__(self, data: Path, *, internal_key: str = "key-of-its-own-parts") -> None:
        super().__init__(data)
        secrets_of_accounts = {"STORE_API_SECRET_KEY": self.secret_key, "STORE_WORKER_SECRET_KEY": self.worker[1]}
        compose = interpolated(filled_example() | secrets_of_accounts)
        self._service = compose["services"]["store"]
        self._bucket_script = compose["services"]["bucket"]["command"][0]
        self._accounts = compose["configs"]["store-accounts"]["content"]
        self._internal_key = internal_key
        parts = ("master", "volume", "filer")
        self._ports = {part: free_port() for part in parts} | {f"{part}.grpc": free_port() for part in (*parts, "s3")}

    @property
    def grpc_endpoint(self) -> str:
        """The gateway's port for its own parts, which other containers of Compose reach."""
        return f"127.0.0.1:{self._ports['s3.grpc']}"

    def programs(self) -> Sequence[Program]:
        (self.data / "s3.json").write_text(self._accounts)
        ours = {
            "-dir": self.data, "-s3.port": self.port, "-s3.config": self.data / "s3.json", "-s3.ip.bind": "127.0.0.1",
            "-master.port": self._ports["master"], "-volume.port": self._ports["volume"],
            "-filer.port": self._ports["filer"], "-s3.port.grpc": self._ports["s3.grpc"],
            "-master.port.grpc": self._ports["master.grpc"], "-volume.port.grpc": self._ports["volume.grpc"],
            "-filer.port.grpc": self._ports["filer.grpc"],
        }  # fmt: skip
        shipped = [argument for argument in self._service["command"] if argument.split("=")[0] not in ours]
        options = [f"{name}={value}" for name, value in ours.items()]
        argv = [str(_WEED), "-logtostderr=true", *shipped, *options]
        return [Program("weed", argv, env=self.environment())]

    def environment(self) -> dict[str, str]:
        keys = dict.fromkeys(self._service["environment"], self._internal_key)
        return super().environment() | {"GOMAXPROCS": "2"} | keys

    def check(self) -> None:
        httpx.get(f"http://{self.endpoint}/healthz", timeout=5).raise_for_status()

    def create_bucket(self) -> None:
        """Run the script of Compose's service `bucket`; it may be repeated."""
        master = f"127.0.0.1:{self._ports['master']}.{self._ports['master.grpc']}"
        filer = f"127.0.0.1:{self._ports['filer']}.{self._ports['filer.grpc']}"
        script = self._bucket_script.replace("weed shell", f"{_WEED} shell -master={master} -filer={filer}")
        subprocess.run(
            ["/bin/sh", "-c", script], check=True, capture_output=True, env=self.environment(), cwd=self.data
        )
