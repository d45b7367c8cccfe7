"""Builds from submit to download through real processes, some of which are killed on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import redis

from enginefarm.contract import digest
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.node.detection import cpu_isa
from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm, eventually
from tests.servers.redis import Valkey
from tests.workers.sandbox.real import sandbox


def require_downloadable(running_farm: RunningFarm, key: str) -> None:
    """Download the engine and check every byte against its manifest."""
    engine = httpx.get(f"{running_farm.urls[0]}/v1/engines/{key}").json()
    entries = []
    for file in engine["contents"]:
        data = httpx.get(f"{running_farm.urls[0]}{file['url']}", follow_redirects=True).raise_for_status().content
        assert digest.of_bytes(data) == file["digest"]
        entries.append(FileEntry(path=file["path"], digest=file["digest"], size=file["size"]))
    assert Manifest.of(entries).digest == engine["manifest"]
    assert "tokenizer.json" in {entry.path for entry in entries}


def cancel(farm: RunningFarm, build: dict[str, Any]) -> dict[str, Any]:
    return dict(httpx.delete(f"{farm.urls[0]}/v1/builds/{build['id']}").raise_for_status().json())


def listed(farm: RunningFarm) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"]
    return workers


def listed_workers(farm: RunningFarm) -> list[str]:
    return [worker["name"] for worker in listed(farm)]


def test_a_build_runs_from_submit_to_download_on_s3(s3_farm: RunningFarm) -> None:
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
    require_downloadable(s3_farm, first["key"])
    log = httpx.get(f"{s3_farm.urls[0]}/v1/builds/{first['id']}/logs").text
    assert "convert ends" in log
    assert "build ends" in log
    ready = httpx.get(f"{s3_farm.urls[0]}/readyz").json()
    assert ready["ok"], ready


def test_a_build_without_a_worker_waits_and_says_why(running_farm: RunningFarm) -> None:
    running_farm.have_workers()
    spec = running_farm.spec(running_farm.add_model("waiting")) | {"platform": {"cpu_isa": "x86-64-v4"}}
    build = running_farm.submit(spec)
    assert build["disposition"] == "created"
    assert "no live worker serves convert.quick.1.0" in running_farm.build(build["id"])["waiting_for"]
    cancel(running_farm, build)


def test_a_model_that_changed_after_submit_is_refused(running_farm: RunningFarm) -> None:
    running_farm.have_workers()
    model = running_farm.add_model("changed")
    build = running_farm.submit(running_farm.spec(model) | {"platform": {"cpu_isa": cpu_isa()}})
    (running_farm.models / "changed" / "model.safetensors").write_bytes(weights(b"other weights"))
    running_farm.have_workers("w1")
    ended = running_farm.ended(build["id"])
    assert ended["error"]["cause"] == "model_unavailable"
    assert "changed" in ended["error"]["detail"]


def test_a_failed_build_says_what_happened(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w1")
    model = running_farm.add_model("failing")
    refused = running_farm.ended(running_farm.submit(running_farm.spec(model, behave="refuse"))["id"])
    assert (refused["state"], refused["error"]["cause"]) == ("failed", "refused")
    assert len(refused["attempts"]) == 2  # convert, and one build: another try could not help
    lied = running_farm.ended(running_farm.submit(running_farm.spec(model, behave="lie"))["id"])
    assert lied["error"]["cause"] == "incomplete_output"
    assert "rank0.engine is missing" in lied["error"]["detail"]
    broken = running_farm.submit(running_farm.spec(model, behave="break"))
    # Before its first try it waits for another reason: its place in the queue.
    eventually(lambda: "next try is at" in (running_farm.build(broken["id"])["waiting_for"] or ""))
    cancel(running_farm, broken)


def test_cancelling_a_build_kills_its_program(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w1")
    model = running_farm.add_model("cancelled")
    build = running_farm.submit(running_farm.spec(model, seconds=300))
    running_farm.running(build["id"], "build")
    assert cancel(running_farm, build)["state"] == "cancelled"
    # The worker is free again long before those 300 seconds are over.
    other = running_farm.submit(running_farm.spec(model, salt="next"))
    assert running_farm.ended(other["id"], seconds=30)["state"] == "succeeded"
    assert running_farm.outcomes(build["key"])[("build", "cancelled")] == 1


def test_a_queued_build_survives_an_emptied_broker(running_farm: RunningFarm, valkey: Valkey) -> None:
    """The sweep announces a queued build again after its message was lost."""
    running_farm.have_workers("w1")
    model = running_farm.add_model("queued")
    running = running_farm.submit(running_farm.spec(model, seconds=3))
    running_farm.running(running["id"], "build")
    queued = running_farm.submit(running_farm.spec(model, salt="other"))
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    assert running_farm.ended(running["id"])["state"] == "succeeded"
    assert running_farm.ended(queued["id"])["state"] == "succeeded"
    outcomes = running_farm.outcomes(running["key"], queued["key"])
    assert outcomes == {("convert", "succeeded"): 1, ("build", "succeeded"): 2}


def test_a_worker_told_to_stop_hands_its_stage_back(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w1")
    build = running_farm.submit(running_farm.spec(running_farm.add_model("handed-back"), seconds=4))
    running_farm.running(build["id"], "build")
    running_farm.workers["w1"].stop(seconds=15)
    attempts = running_farm.build(build["id"])["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["succeeded", "handed_back"]
    running_farm.have_workers("w2")
    assert running_farm.ended(build["id"])["state"] == "succeeded"


def test_a_worker_builds_while_it_finishes_the_build_before(running_farm: RunningFarm) -> None:
    sandbox()  # without it the next stage waits, because its programs could change the output before
    running_farm.have_workers("w2")
    model = running_farm.add_model("finished-beside")
    cancelled = running_farm.submit(running_farm.spec(model, check="hang"))
    eventually(lambda: running_farm.build(cancelled["id"])["message"] == "checking the output")
    quick = running_farm.submit(running_farm.spec(model, salt="quick"))
    assert running_farm.ended(quick["id"], seconds=30)["state"] == "succeeded"
    assert cancel(running_farm, cancelled)["state"] == "cancelled"

    finishing = running_farm.submit(running_farm.spec(model, check="hang", salt="again"))
    eventually(lambda: running_farm.build(finishing["id"])["message"] == "checking the output")
    computing = running_farm.submit(running_farm.spec(model, seconds=300))
    running_farm.running(computing["id"], "build")
    [worker] = [worker for worker in listed(running_farm) if worker["name"] == "w2"]
    assert (worker["running"], worker["finishing"]) == (computing["key"], [finishing["key"]])
    running_farm.workers["w2"].stop(seconds=15)
    for build in (finishing, computing):
        assert running_farm.build(build["id"])["attempts"][-1]["outcome"] == "handed_back"
        cancel(running_farm, build)


def test_a_build_succeeds_although_workers_are_killed_in_convert_and_in_build(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w2")
    spec = running_farm.spec(running_farm.add_model("killed"), convert_seconds=3, seconds=3)
    build = running_farm.submit(spec)
    running_farm.running(build["id"], "convert")
    running_farm.workers["w2"].kill()
    running_farm.have_workers("w3")
    running_farm.running(build["id"], "build")
    running_farm.workers["w3"].kill()
    running_farm.have_workers("w4")
    ended = running_farm.ended(build["id"])
    assert ended["state"] == "succeeded", ended["error"]
    outcomes = running_farm.outcomes(build["key"])
    assert outcomes[("convert", "succeeded")] == outcomes[("build", "succeeded")] == 1
    assert outcomes[("convert", "lost")] == outcomes[("build", "lost")] == 1
    require_downloadable(running_farm, build["key"])


def test_a_build_succeeds_although_the_api_is_killed_after_accepting_it(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w4")
    build = running_farm.submit(running_farm.spec(running_farm.add_model("orphaned"), seconds=2))
    running_farm.running(build["id"], "build")
    running_farm.kill_apis()
    running_farm.add_api()
    assert running_farm.ended(build["id"])["state"] == "succeeded"
    assert running_farm.outcomes(build["key"])[("build", "succeeded")] == 1


def test_two_hundred_identical_submits_run_one_convert_and_one_build(running_farm: RunningFarm) -> None:
    """One convert, one build, two hundred correct answers."""
    running_farm.add_api()
    running_farm.have_workers("w4", "w5")
    spec = running_farm.spec(running_farm.add_model("identical"), seconds=1)
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda number: running_farm.submit(spec, api=number % 2), range(200)))
    assert [answer["disposition"] for answer in answers].count("created") == 1
    (key,) = {answer["key"] for answer in answers}
    assert {running_farm.ended(answer["id"])["state"] for answer in answers} == {"succeeded"}
    assert running_farm.outcomes(key) == {("convert", "succeeded"): 1, ("build", "succeeded"): 1}


def programs_of(pid: int) -> str:
    """The command lines of the processes that this one started."""
    return "\n".join(" ".join(child.cmdline()) for child in psutil.Process(pid).children())


def test_a_terminated_worker_is_gone_from_the_list(running_farm: RunningFarm) -> None:
    running_farm.have_workers("w5")
    eventually(lambda: listed_workers(running_farm) == ["w5"])
    # Before its first attempt, which would wait for it.
    eventually(lambda: "workers.programs.output_check" in programs_of(running_farm.workers["w5"].pid))
    running_farm.workers["w5"].kill()
    eventually(lambda: listed_workers(running_farm) == [])
    assert running_farm.workers["w5"].ended()
