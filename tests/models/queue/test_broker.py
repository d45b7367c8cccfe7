"""What the farm says of a broker that refuses, and that no refusal fails a submit."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest
import redis

from enginefarm.contract.errors import BrokerUnavailable
from models.logging import SecretsFormatter
from models.queue.broker import Announcer, celery_app
from models.queue.names import Announcement
from tests.models.queue.conftest import StartValkey
from tests.servers.proxy import Proxy
from tests.servers.redis import Sentinel, Valkey
from tests.servers.server import free_port
from tests.servers.tls import TlsFront

ANNOUNCEMENT = Announcement("key-of-an-action", "convert.quick.1.0")
# As docs/operations.md has them.
FARM_USER = "~convert.* ~build.* ~unacked* ~_kombu.* +@read +@write +@connection +@transaction +@scripting -@dangerous"
Break = Callable[[redis.Redis], object]


def announcer(url: str) -> Announcer:
    return Announcer(celery_app(url))


def require_refusal(broker: Announcer, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The probe, a depth and an announcement meet the fault: two raise the one error, the third only logs it."""
    with pytest.raises(BrokerUnavailable) as refusal:
        broker.ping()
    assert reason in refusal.value.detail
    assert "\n" not in refusal.value.detail
    with caplog.at_level(logging.WARNING):
        broker.announce([ANNOUNCEMENT])
    assert reason in caplog.messages[-1]
    assert "the sweep will announce key-of-an-ac later" in caplog.messages[-1]
    assert "s3cret" not in caplog.text + refusal.value.detail


def restrict(*rules: str) -> Break:
    return lambda client: client.execute_command("ACL", "SETUSER", "default", *rules)


def configure(name: str, value: str) -> Break:
    return lambda client: client.config_set(name, value)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda client: client.execute_command("REPLICAOF", "127.0.0.1", "1"), "READONLY"),
        (configure("maxmemory", "100kb"), "OOM"),
        (configure("min-replicas-to-write", "1"), "NOREPLICAS"),
        (restrict("resetkeys", "~other:*"), "NOPERM"),
        (restrict("-set", "-lpush"), "NOPERM"),
        (configure("requirepass", "s3cret"), "NOAUTH"),
        (configure("maxclients", "1"), "maxclients"),
        (restrict("-ping"), "NOPERM"),
    ],
)
def test_a_broker_that_refuses_is_named_and_fails_no_submit(
    own_valkey: Valkey, damage: Break, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with own_valkey.client() as client:
        damage(client)
        require_refusal(announcer(own_valkey.url), reason, caplog)


def test_a_replica_without_its_primary_is_named(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    with own_valkey.client() as client:
        client.config_set("replica-serve-stale-data", "no")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        require_refusal(announcer(own_valkey.url), "MASTERDOWN", caplog)


def test_a_broker_that_stalls_delays_a_submit_by_seconds_only(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    broker = announcer(own_valkey.url)
    with own_valkey.client() as client:
        client.execute_command("CLIENT", "PAUSE", "60000")
    begun = time.monotonic()
    broker.announce([ANNOUNCEMENT, ANNOUNCEMENT])
    assert time.monotonic() - begun < 15
    assert "does not answer in time" in caplog.text


def test_a_key_of_another_program_with_the_name_of_a_queue_fails_no_submit(
    own_valkey: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    with own_valkey.client() as client:
        client.set(ANNOUNCEMENT.queue, "text")
    broker = announcer(own_valkey.url)
    broker.announce([ANNOUNCEMENT])
    assert "WRONGTYPE" in caplog.text
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        broker.depth(ANNOUNCEMENT.queue)


@pytest.mark.parametrize("credentials", [":s3cret-wrong", "farm:s3cret"])
def test_a_wrong_password_is_named(
    start_valkey: StartValkey, credentials: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_valkey({"requirepass": "right"})
    require_refusal(announcer(f"redis://{credentials}@127.0.0.1:{server.port}/0"), "WRONGPASS", caplog)


def test_a_cluster_is_named(start_valkey: StartValkey, caplog: pytest.LogCaptureFixture) -> None:
    server = start_valkey({"cluster-enabled": "yes"})
    require_refusal(announcer(server.url), "Redis Cluster (CLUSTERDOWN)", caplog)
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", "1")
    with pytest.raises(BrokerUnavailable, match=r"Redis Cluster \((CROSSSLOT|CLUSTERDOWN)\)"):
        announcer(server.url).ping()


def test_a_database_that_the_server_has_not_is_named(own_valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    require_refusal(announcer(own_valkey.url.replace("/0", "/99")), "no database of the number", caplog)


def test_a_socket_of_the_file_system_and_an_acl_user_serve_as_broker(start_valkey: StartValkey, tmp_path: Path) -> None:
    socket = tmp_path / "v.sock"
    server = start_valkey({"unixsocket": str(socket), "unixsocketperm": "700"})
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "farm", "on", ">pa/ss", *FARM_USER.split())
    broker = announcer(f"unix://farm:pa%2Fss@{socket}?db=1")
    broker.ping()
    broker.announce([ANNOUNCEMENT])
    assert broker.depth(ANNOUNCEMENT.queue) == 1


def test_an_acl_user_needs_no_more_than_the_documented_rules(own_valkey: Valkey) -> None:
    with own_valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "farm", "on", ">s3cret", *FARM_USER.split())
    broker = announcer(f"redis://farm:s3cret@127.0.0.1:{own_valkey.port}/0")
    broker.ping()
    broker.announce([ANNOUNCEMENT])
    assert broker.depth(ANNOUNCEMENT.queue) == 1


def test_sentinel_finds_the_primary(own_valkey: Valkey, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Sentinel(tmp_path, own_valkey) as sentinel:
        broker = announcer(sentinel.url.replace("//", f"//127.0.0.1:{free_port()},"))
        broker.ping()
        broker.announce([ANNOUNCEMENT])
        assert broker.depth(ANNOUNCEMENT.queue) == 1
        require_refusal(announcer(sentinel.url.replace("=farm", "=other")), "no sentinel answers", caplog)


def test_an_announcement_follows_the_address_to_the_new_primary(start_valkey: StartValkey) -> None:
    former, new = start_valkey({}), start_valkey({})
    with Proxy(former.port) as address, former.client() as client:
        broker = announcer(f"redis://127.0.0.1:{address.port}/0")
        broker.announce([ANNOUNCEMENT])
        client.execute_command("REPLICAOF", "127.0.0.1", "1")  # leaves open connections as they are
        address.target = new.port
        broker.announce([ANNOUNCEMENT, ANNOUNCEMENT])
        assert broker.depth(ANNOUNCEMENT.queue) == 0
        broker.announce([ANNOUNCEMENT])
        assert broker.depth(ANNOUNCEMENT.queue) == 1


def test_tls_needs_a_certificate_of_a_trusted_authority(
    own_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with TlsFront(own_valkey.port, tmp_path) as front:
        url = f"rediss://localhost:{front.port}/0"
        require_refusal(announcer(url), "the broker's certificate is not accepted", caplog)
        announcer(f"{url}?ssl_ca_certs={front.authority}").ping()
        by_address = url.replace("localhost", "127.0.0.1")
        require_refusal(announcer(f"{by_address}?ssl_ca_certs={front.authority}"), "IP address mismatch", caplog)
        announcer(f"{url}?ssl_cert_reqs=none").ping()
        assert "anybody in the network can pass for the broker" in caplog.text
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        announcer(url).ping()


def test_a_defect_while_announcing_fails_no_submit_and_is_logged_with_its_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = celery_app("redis://127.0.0.1/0")

    def send_task(*_: object, **__: object) -> None:
        raise KeyError("missing")

    monkeypatch.setattr(app, "send_task", send_task)
    Announcer(app).announce([ANNOUNCEMENT])
    (record,) = caplog.records
    assert record.exc_info
    assert "a defect of this program (KeyError); the sweep will announce key-of-an-ac later" in record.message


class HttpAnswer(BaseRequestHandler):
    def handle(self) -> None:
        while self.request.recv(4096):
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_a_server_of_another_protocol_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), HttpAnswer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        broker = announcer(f"redis://127.0.0.1:{server.server_address[1]}/0")
        require_refusal(broker, "does not speak the Redis protocol", caplog)
        server.shutdown()


def test_a_server_that_repeats_the_password_puts_it_into_no_log_line() -> None:
    """Servers that do not know AUTH name its arguments in their answer, and Celery logs the answer."""
    celery_app("redis://:s3cr%23et-pw@127.0.0.1/0")
    answer = "unknown command 'AUTH', with args beginning with: 's3cr#et-pw'"
    try:
        raise redis.ResponseError(answer)
    except redis.ResponseError as error:
        record = logging.LogRecord(
            "celery", logging.ERROR, "", 1, "redis://:s3cr%%23et-pw@broker: %s", (error,), sys.exc_info()
        )
    line = SecretsFormatter("%(message)s").format(record)
    assert "***" in line
    assert "s3cr" not in line
