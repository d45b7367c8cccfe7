"""Workers that are drained, a broker that is reset, a store that rots: through real processes."""

from __future__ import annotations

import httpx

from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm, eventually, left_in_scratch
from tests.servers.redis import Valkey


def worker(running_farm: RunningFarm, name: str) -> dict[str, object]:
    items = httpx.get(f"{running_farm.urls[0]}/v1/workers").json()["items"]
    return next(item for item in items if item["name"] == name)


def test_a_drained_worker_finishes_its_stage_and_works_again_when_released(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w1")
    model = running_farm.add_model("drained")
    running = running_farm.submit(running_farm.spec(model, seconds=2))
    running_farm.running(running["id"], "build")
    httpx.post(f"{running_farm.urls[0]}/v1/workers/w1:drain").raise_for_status()
    eventually(lambda: worker(running_farm, "w1")["state"] == "draining")
    # What the worker is still says for which platform.
    waiting = running_farm.submit(running_farm.spec(model, salt="next"))
    assert running_farm.ended(running["id"])["state"] == "succeeded"
    assert worker(running_farm, "w1")["state"] == "draining"
    assert "no live worker serves" in running_farm.build(waiting["id"])["waiting_for"]
    httpx.post(f"{running_farm.urls[0]}/v1/workers/w1:release").raise_for_status()
    assert running_farm.ended(waiting["id"])["state"] == "succeeded"


def test_a_restarted_broker_gets_its_messages_again(running_farm: RunningFarm, valkey: Valkey) -> None:
    running_farm.have_workers("w1")
    model = running_farm.add_model("announced-again")
    valkey.kill()
    build = running_farm.submit(running_farm.spec(model))
    valkey.start()
    assert running_farm.ended(build["id"], seconds=120)["state"] == "succeeded"


def test_a_damaged_checkpoint_is_converted_again(running_farm: RunningFarm) -> None:
    """The converted bytes have the digest of the damaged blob: the store writes them again under that name."""
    running_farm.have_workers()
    running_farm.add_worker("w1", {"ENGINEFARM_WORKER_CACHE": "off"})  # the cache has the right bytes
    content = weights(b"weights" * 1000)
    model = running_farm.add_model("damaged", content)
    assert running_farm.ended(running_farm.submit(running_farm.spec(model))["id"])["state"] == "succeeded"
    shards = running_farm.state / "store" / "blobs" / "sha256"
    (blob,) = (path for path in shards.glob("??/*") if path.read_bytes() == content)
    blob.write_bytes(b"WEIGHTS" * 1000)
    ended = running_farm.ended(running_farm.submit(running_farm.spec(model, salt="other"))["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert [(attempt["stage"], attempt["outcome"]) for attempt in ended["attempts"]] == [
        ("convert", "succeeded"), ("build", "failed"), ("convert", "succeeded"), ("build", "succeeded"),
    ]  # fmt: skip
    assert blob.read_bytes() == content


def test_a_misbehaving_program_leaves_nothing_behind(running_farm: RunningFarm) -> None:
    running_farm.have_workers()
    running_farm.add_worker("w1", {"ENGINEFARM_MAX_TRIES": "1"})
    model = running_farm.add_model("misbehaving")
    causes = {}
    for behave in ("refuse", "break", "lie", "truncate", "flood"):
        build = running_farm.ended(running_farm.submit(running_farm.spec(model, behave=behave))["id"])
        causes[behave] = build["error"] and build["error"]["cause"]
    assert causes == {
        "refuse": "refused", "break": "broke", "lie": "incomplete_output", "truncate": "incomplete_output",
        "flood": None,
    }  # fmt: skip
    scratch = running_farm.state / "scratch" / "w1"
    eventually(lambda: not left_in_scratch(scratch))
    assert worker(running_farm, "w1")["state"] == "live"
