"""A farm whose broker fails over and forbids, in the environment of another program that uses Celery."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
import redis

from models.exit_codes import ExitCode
from models.queue.broker import Announcer, celery_app
from models.queue.names import Announcement
from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.redis import Valkey

PASSWORD = "s3cr#et/pw"
OTHER_PROGRAM = {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0", "CELERY_LOADER": "other", "PICKLE_PROTOCOL": "text"}

Change = Callable[[redis.Redis], object]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("broker"), {"requirepass": PASSWORD}) as server:
        yield server


@pytest.fixture(scope="module")
def farm(broker: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    state = tmp_path_factory.mktemp("farm")
    settings = {
        "DATABASE_URL": f"sqlite:///{state}/catalogue.db",
        "STORE_URL": f"file://{state}/store",
        "BROKER_URL": f"redis://:s3cr%23et%2Fpw@127.0.0.1:{broker.port}/0",
    }
    farm = RunningFarm(state, settings)
    farm.environment.update(OTHER_PROGRAM)
    try:
        farm.add_api()
        farm.add_worker("w0")
        yield farm
    finally:
        farm.close()


def become_replica(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def become_primary(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")


def forbid(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-brpop", "-lpush", "-set")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def allow(client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "default", "+@all")


def test_a_fault_of_the_broker_ends_no_worker_and_fails_no_submit(farm: RunningFarm, broker: Valkey) -> None:
    running = farm.submit(farm.spec(farm.add_model("running"), convert_seconds=2))
    farm.running(running["id"], "convert")
    builds = [running]
    faults: list[tuple[str, Change, Change]] = [
        ("READONLY", become_replica, become_primary),
        ("NOPERM", forbid, allow),
    ]
    for reason, damage, mend in faults:
        with broker.client() as client:
            damage(client)
            try:
                builds.append(farm.submit(farm.spec(farm.add_model(reason))))
                answer = eventually(lambda: refusal(farm), seconds=20)
                assert reason in answer["parts"]["broker"]["detail"]
                assert "s3cr" not in str(answer)
                time.sleep(2)  # the first stage ends meanwhile, so that an idle worker meets the fault, too
            finally:
                mend(client)
    for build in builds:
        assert farm.ended(build["id"])["state"] == "succeeded"
    assert not farm.processes[1].ended()


def refusal(farm: RunningFarm) -> dict[str, dict[str, dict[str, str]]] | None:
    answer = httpx.get(f"{farm.urls[0]}/readyz", timeout=60)
    return None if answer.status_code == 200 else answer.json()


def test_a_message_of_another_farm_is_named(farm: RunningFarm) -> None:
    """Two farms share a database of one broker: each drops the messages of the other, and says so."""
    broker = Announcer(celery_app(farm.environment["ENGINEFARM_BROKER_URL"]))
    broker.announce([Announcement("f" * 64, "convert.quick.1.0")])
    log = farm.processes[1].log
    eventually(lambda: "ffffffffffff is no action of this farm" in log.read_text(), seconds=30)


def test_messages_that_no_farm_sent_are_dropped_in_one_line(farm: RunningFarm, broker: Valkey) -> None:
    delivery = {"delivery_tag": "1", "delivery_info": {"exchange": "", "routing_key": "x"}}
    plain: dict[str, object] = {"properties": delivery, "body": "[[],{},{}]"}
    plain |= {"content-type": "application/json", "content-encoding": "utf-8"}
    task = plain | {"headers": {"task": "os.system", "id": "1"}}
    pickled = task | {"content-type": "application/x-python-serialize"}
    messages = [b"no JSON", b"\xff", b"{}", b'{"properties": {}}', *map(json.dumps, (plain, task, pickled))]
    with broker.client() as client:
        client.lpush("convert.quick.1.0", *messages)
    started = time.monotonic()
    build = farm.submit(farm.spec(farm.add_model("foreign")))
    assert farm.ended(build["id"])["state"] == "succeeded"
    assert time.monotonic() < started + 15
    assert farm.processes[1].log.read_text().count("dropped a message that no farm sent") == 1


def test_no_log_has_a_part_of_the_password(farm: RunningFarm) -> None:
    for process in farm.processes:
        log = process.log.read_text()
        assert "s3cr" not in log
        assert "Traceback" not in log


@pytest.mark.parametrize("module", ["api", "workers"])
def test_a_wrong_url_ends_the_start_in_one_line(farm: RunningFarm, module: str) -> None:
    ended = start(farm, module, "redis://:s3cr#et@127.0.0.1:6379/0")
    assert ended.returncode == ExitCode.SETTINGS
    last = ended.stderr.splitlines()[-1]
    assert "ENGINEFARM_BROKER_URL: user, password or option has a character that must be escaped" in last
    assert "s3cr" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_worker_with_a_wrong_password_ends_at_its_start(farm: RunningFarm, broker: Valkey) -> None:
    ended = start(farm, "workers", f"redis://:wr0ngpass@127.0.0.1:{broker.port}/0")
    assert ended.returncode == ExitCode.SETTINGS
    assert "WRONGPASS" in ended.stderr.splitlines()[-1]
    assert "wr0ngpass" not in ended.stderr
    assert "Traceback" not in ended.stderr


def start(farm: RunningFarm, module: str, url: str) -> subprocess.CompletedProcess[str]:
    environment = {**farm.environment, "ENGINEFARM_BROKER_URL": url, "ENGINEFARM_WORKER_NAME": "w1"}
    return subprocess.run(
        [sys.executable, "-m", module], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
