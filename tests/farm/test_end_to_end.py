"""The whole road through real processes, and what happens when some of them are killed on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import httpx
import redis

from enginefarm.contract import digest
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.node.detection import cpu_isa
from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.redis import Valkey


def pulled(farm: RunningFarm, key: str) -> None:
    """Every byte of the engine, checked against its manifest."""
    engine = httpx.get(f"{farm.urls[0]}/v1/engines/{key}").json()
    entries = []
    for file in engine["contents"]:
        data = httpx.get(f"{farm.urls[0]}{file['url']}", follow_redirects=True).raise_for_status().content
        assert digest.of_bytes(data) == file["digest"]
        entries.append(FileEntry(path=file["path"], digest=file["digest"], size=file["size"]))
    assert Manifest.of(entries).digest == engine["manifest"]
    assert "tokenizer.json" in {entry.path for entry in entries}


def test_the_whole_road_on_s3(s3_farm: RunningFarm) -> None:
    s3_farm.add_api()
    s3_farm.add_worker("w1")
    spec = s3_farm.spec(s3_farm.add_model())
    first = s3_farm.submit(spec)
    assert first["disposition"] == "created"
    ended = s3_farm.ended(first["id"])
    assert ended["state"] == "succeeded", ended["error"]
    again = s3_farm.submit(spec)
    assert again["disposition"] == "cached"
    assert again["engine"]["key"] == first["key"]
    pulled(s3_farm, first["key"])
    log = httpx.get(f"{s3_farm.urls[0]}/v1/builds/{first['id']}/logs").text
    assert "convert ends" in log
    assert "build ends" in log
    ready = httpx.get(f"{s3_farm.urls[0]}/readyz").json()
    assert ready["ok"], ready


def test_two_hundred_at_once_on_two_apis(farm: RunningFarm) -> None:
    """One convert, one build, two hundred correct answers."""
    farm.add_api()
    farm.add_api()
    farm.add_worker("w1")
    farm.add_worker("w2")
    spec = farm.spec(farm.add_model(), seconds=1)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: farm.submit(spec, api=number % 2), range(200)))
    assert [answer["disposition"] for answer in answers].count("created") == 1
    assert len({answer["key"] for answer in answers}) == 1
    assert {farm.ended(answer["id"])["state"] for answer in answers} == {"succeeded"}
    assert farm.outcomes() == {("convert", "succeeded"): 1, ("build", "succeeded"): 1}


def test_a_worker_killed_in_convert_and_in_build(farm: RunningFarm) -> None:
    farm.add_api()
    first, second = farm.add_worker("w1"), None
    spec = farm.spec(farm.add_model(), convert_seconds=3, seconds=3)
    build = farm.submit(spec)
    farm.running(build["id"], "convert")
    first.kill()
    second = farm.add_worker("w2")
    farm.running(build["id"], "build")
    second.kill()
    farm.add_worker("w3")
    ended = farm.ended(build["id"])
    assert ended["state"] == "succeeded", ended["error"]
    outcomes = farm.outcomes()
    assert outcomes[("convert", "succeeded")] == outcomes[("build", "succeeded")] == 1
    assert outcomes[("convert", "lost")] == outcomes[("build", "lost")] == 1
    pulled(farm, build["key"])


def test_the_api_killed_after_accepting(farm: RunningFarm) -> None:
    farm.add_api()
    farm.add_worker("w1")
    build = farm.submit(farm.spec(farm.add_model(), seconds=2))
    farm.running(build["id"], "build")
    farm.processes[0].kill()
    farm.urls.clear()
    farm.add_api()
    assert farm.ended(build["id"])["state"] == "succeeded"
    assert farm.outcomes()[("build", "succeeded")] == 1


def test_the_broker_emptied(farm: RunningFarm, valkey: Valkey) -> None:
    """A queued build whose message is gone is announced again."""
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model()
    running = farm.submit(farm.spec(model, seconds=3))
    farm.running(running["id"], "build")
    queued = farm.submit(farm.spec(model, salt="other"))
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    assert farm.ended(running["id"])["state"] == "succeeded"
    assert farm.ended(queued["id"])["state"] == "succeeded"
    assert farm.outcomes() == {("convert", "succeeded"): 1, ("build", "succeeded"): 2}


def test_cancel_kills_the_program(farm: RunningFarm) -> None:
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model()
    build = farm.submit(farm.spec(model, seconds=300))
    farm.running(build["id"], "build")
    answer = httpx.delete(f"{farm.urls[0]}/v1/builds/{build['id']}")
    assert answer.json()["state"] == "cancelled"
    # The worker is free again long before those 300 seconds are over.
    other = farm.submit(farm.spec(model, salt="next"))
    assert farm.ended(other["id"], seconds=30)["state"] == "succeeded"
    assert farm.outcomes()[("build", "cancelled")] == 1


def test_a_worker_told_to_stop_hands_its_stage_back(farm: RunningFarm) -> None:
    farm.add_api()
    worker = farm.add_worker("w1")
    build = farm.submit(farm.spec(farm.add_model(), seconds=4))
    farm.running(build["id"], "build")
    worker.stop(seconds=15)
    attempts = farm.build(build["id"])["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["succeeded", "handed_back"]
    farm.add_worker("w2")
    assert farm.ended(build["id"])["state"] == "succeeded"


def test_failures_say_what_happened(farm: RunningFarm) -> None:
    farm.add_api()
    farm.add_worker("w1")
    model = farm.add_model()
    refused = farm.ended(farm.submit(farm.spec(model, behave="refuse"))["id"])
    assert (refused["state"], refused["error"]["cause"]) == ("failed", "refused")
    assert len(refused["attempts"]) == 2  # convert, and one build: another try could not help
    lied = farm.ended(farm.submit(farm.spec(model, behave="lie"))["id"])
    assert lied["error"]["cause"] == "incomplete_output"
    assert "rank0.engine is missing" in lied["error"]["detail"]
    broken = farm.submit(farm.spec(model, behave="break"))
    # Before its first try it waits for another reason: its place in the queue.
    eventually(lambda: "next try is at" in (farm.build(broken["id"])["waiting_for"] or ""))


def test_a_model_that_changed_after_submit_is_refused(farm: RunningFarm) -> None:
    farm.add_api()
    model = farm.add_model()
    build = farm.submit(farm.spec(model) | {"platform": {"cpu_isa": cpu_isa()}})
    (farm.models / "tiny" / "model.safetensors").write_bytes(b"other weights")
    farm.add_worker("w1")
    ended = farm.ended(build["id"])
    assert ended["error"]["cause"] == "model_unavailable"
    assert "changed" in ended["error"]["detail"]


def test_no_worker_waits_with_a_reason(farm: RunningFarm) -> None:
    farm.add_api()
    spec = farm.spec(farm.add_model()) | {"platform": {"cpu_isa": "x86-64-v4"}}
    build = farm.submit(spec)
    assert build["disposition"] == "created"
    assert "no live worker serves convert.quick.1.0" in farm.build(build["id"])["waiting_for"]


def test_a_terminated_worker_is_gone_from_the_list(farm: RunningFarm) -> None:
    farm.add_api()
    worker = farm.add_worker("w1")
    listed = httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"]
    assert [found["name"] for found in listed] == ["w1"]
    worker.kill()
    eventually(lambda: httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"] == [])
    assert worker.ended()
