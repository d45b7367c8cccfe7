"""A trusted model's own code attacks the farm that converts it: other builds, the guard, the secrets, the network."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.attack import ROUNDS
from tests.doubles.weights import weights
from tests.farm.conftest import fresh_broker
from tests.farm.running_farm import RunningFarm
from tests.servers.redis import Valkey
from tests.workers.sandbox.real import sandbox

# Runs in the conversion. Its first process ends well, so that the conversion succeeds and is published; what it leaves
# behind goes on to poison the outputs of other stages, whose place it knows.
ATTACK = """
import os, signal, socket, subprocess, sys, time
from pathlib import Path

FARM = Path({state!r})

def fate(what, act):
    try:
        act()
        print("attack:", what, "SUCCEEDED", flush=True)
    except OSError as error:
        print("attack:", what, "failed", type(error).__name__, flush=True)

fate("read signing.pem", (FARM / "signing.pem").read_bytes)
fate("read the catalogue", (FARM / "catalogue.db").read_bytes)
fate("list the store", lambda: list((FARM / "store").iterdir()) or [][0])
fate("list the models", lambda: os.listdir(FARM / "models"))
fate("reach the API", lambda: socket.create_connection(("127.0.0.1", {port}), timeout=3))
for number in (signal.SIGSTOP, signal.SIGKILL):
    os.kill(os.getppid(), number)
print("attack: sent signals to the guard", flush=True)

POISON = '''
import os, time
from pathlib import Path
own = set(Path({scratch!r}).glob("*/*/output"))
Path("/tmp/poison-runs").touch()
end = time.monotonic() + 60
while time.monotonic() < end:
    for output in set(Path({scratch!r}).glob("*/*/output")) - own:
        for name in ("rank0.engine", "model.safetensors"):
            try:
                (output / name).write_bytes(b"poisoned")
            except OSError:
                pass
    time.sleep(0.01)
'''
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.execv(sys.executable, [sys.executable, "-I", "-c", POISON])
    os._exit(0)
os.wait()
while not Path("/tmp/poison-runs").exists():
    time.sleep(0.01)
print("attack: left a process behind", flush=True)
"""


@pytest.fixture(scope="module")
def farm(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """An API and a worker that requires the sandbox; the model of each test's name is trusted."""
    sandbox()
    state = tmp_path_factory.mktemp("farm")
    trusted = ",".join(f"file:{state / 'models' / f'evil-{number}'}" for number in range(ROUNDS + 1))
    running = RunningFarm(
        state,
        {
            "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "BROKER_URL": fresh_broker(valkey),
            "STORE_URL": f"file://{state / 'store'}", "SANDBOX": "required", "TRUSTED_MODELS": trusted,
            "MAX_TRIES": "1",
        },
    )  # fmt: skip
    (state / "signing.pem").write_text("the farm's key")
    running.add_api()
    running.add_worker("careful")
    yield running
    running.close()


def add_evil_model(farm: RunningFarm, number: int) -> str:
    """A model with code of its own, as `auto_map` names it."""
    reference = farm.add_model(f"evil-{number}", content=weights(b"weights of %d" % number))
    folder = farm.models / f"evil-{number}"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    port = int(farm.urls[0].rpartition(":")[2])
    code = ATTACK.replace("{state!r}", repr(str(farm.state))).replace("{port}", str(port))
    (folder / "modeling_evil.py").write_text(code.replace("{scratch!r}", repr(str(farm.state / "scratch"))))
    return reference


def test_a_models_own_code_reaches_nothing_of_the_farm(farm: RunningFarm) -> None:
    for number in range(ROUNDS):
        evil = farm.submit(farm.spec(add_evil_model(farm, number)))
        ended = farm.ended(evil["id"])
        log = httpx.get(f"{farm.urls[0]}/v1/builds/{evil['id']}/logs").text
        attacks = [line for line in log.splitlines() if line.startswith("attack: ")]
        assert len(attacks) == 7, log
        assert not [line for line in attacks if "SUCCEEDED" in line], log

        # Its orphan would write into this build's output again and again.
        honest = farm.submit(farm.spec(farm.add_model(f"honest-{number}"), seconds=0.5, salt=str(number)))
        assert farm.ended(honest["id"])["state"] == "succeeded"
        assert ended["state"] == "succeeded", ended
        for build in (evil, honest):
            key = farm.build(build["id"])["key"]
            engine = httpx.get(f"{farm.urls[0]}/v1/engines/{key}/files/rank0.engine", follow_redirects=True).content
            assert engine.startswith(b"engine of "), engine[:40]
            assert b"poisoned" not in engine


def test_an_engine_records_its_isolation(farm: RunningFarm) -> None:
    build = farm.submit(farm.spec(farm.add_model()))
    key = farm.ended(build["id"])["key"]
    provenance = httpx.get(f"{farm.urls[0]}/v1/engines/{key}").json()["provenance"]
    assert provenance["isolation"] == provenance["host"]["isolation"]
    assert provenance["isolation"][0] == "sandbox"
    assert {"mount", "pid", "network", "seccomp"} <= set(provenance["isolation"])


def test_a_worker_without_the_sandbox_refuses_foreign_code(farm: RunningFarm) -> None:
    farm.processes.pop().stop()
    farm.add_worker("careless", {"ENGINEFARM_SANDBOX": "off"})
    evil = farm.ended(farm.submit(farm.spec(add_evil_model(farm, ROUNDS)))["id"])
    assert (evil["state"], evil["error"]["cause"]) == ("failed", "sandbox_missing")
    assert "ENGINEFARM_SANDBOX is off" in evil["error"]["detail"]
    # A model without code of its own is converted.
    assert farm.ended(farm.submit(farm.spec(farm.add_model("plain")))["id"])["state"] == "succeeded"
