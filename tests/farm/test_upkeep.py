"""Workers that are drained, a broker that is reset, a store that rots: through real processes."""

from __future__ import annotations

import httpx

from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.redis import Valkey


def worker(farm: RunningFarm, name: str) -> dict[str, object]:
    items = httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"]
    return next(item for item in items if item["name"] == name)


def test_a_drained_worker_finishes_and_a_released_one_goes_on(farm: RunningFarm) -> None:
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model()
    running = farm.submit(farm.spec(model, seconds=4))
    farm.running(running["id"], "build")
    httpx.post(f"{farm.urls[0]}/v1/workers/w1:drain").raise_for_status()
    eventually(lambda: worker(farm, "w1")["state"] == "draining")
    waiting = farm.submit(farm.spec(model, salt="next"))  # what the worker is still says for which platform
    assert farm.ended(running["id"])["state"] == "succeeded"
    assert worker(farm, "w1")["state"] == "draining"
    assert "no live worker serves" in farm.build(waiting["id"])["waiting_for"]
    httpx.post(f"{farm.urls[0]}/v1/workers/w1:release").raise_for_status()
    assert farm.ended(waiting["id"])["state"] == "succeeded"


def test_a_broker_that_was_killed_and_started_again(farm: RunningFarm, valkey: Valkey) -> None:
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model()
    valkey.kill()
    build = farm.submit(farm.spec(model))
    valkey.start()
    assert farm.ended(build["id"], seconds=120)["state"] == "succeeded"


def test_a_checkpoint_that_rotted_is_converted_anew(farm: RunningFarm) -> None:
    """The same bytes have the same name: they are written again although the store has something under it."""
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model(content=b"weights" * 1000)
    assert farm.ended(farm.submit(farm.spec(model))["id"])["state"] == "succeeded"
    shards = farm.state / "store" / "blobs" / "sha256"
    (blob,) = (path for path in shards.glob("??/*") if path.read_bytes() == b"weights" * 1000)
    blob.write_bytes(b"WEIGHTS" * 1000)
    ended = farm.ended(farm.submit(farm.spec(model, salt="other"))["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert [(attempt["stage"], attempt["outcome"]) for attempt in ended["attempts"]] == [
        ("convert", "succeeded"), ("build", "failed"), ("convert", "succeeded"), ("build", "succeeded"),
    ]  # fmt: skip
    assert blob.read_bytes() == b"weights" * 1000


def test_a_program_that_does_its_worst_leaves_nothing(farm: RunningFarm) -> None:
    farm.add_api()
    farm.add_worker("w1", {"ENGINEFARM_MAX_TRIES": "1"})
    model = farm.add_model()
    causes = {}
    for behave in ("refuse", "break", "lie", "truncate", "flood"):
        build = farm.ended(farm.submit(farm.spec(model, behave=behave))["id"])
        causes[behave] = build["error"] and build["error"]["cause"]
    assert causes == {
        "refuse": "refused", "break": "broke", "lie": "incomplete_output", "truncate": "incomplete_output",
        "flood": None,
    }  # fmt: skip
    scratch = farm.state / "scratch" / "w1"
    eventually(lambda: not list(scratch.iterdir()))
    assert worker(farm, "w1")["state"] == "live"
