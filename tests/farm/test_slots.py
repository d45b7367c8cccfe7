"""One worker process runs a stage on each of its GPUs, and each GPU is drained and listed as a worker of its own."""

from __future__ import annotations

import os

import httpx
import psutil

from tests.farm.running_farm import CHECKOUT, QUICK, RunningFarm, eventually

CARDS = ("GPU-5c3f9e1a-1111", "GPU-77aa00bb-2222")
SLOTS = {"cards.GPU-5c3f9e1a", "cards.GPU-77aa00bb"}


def test_a_process_builds_on_each_of_its_gpus_and_a_drained_one_takes_no_more(running_farm: RunningFarm) -> None:
    path = os.pathsep.join([str(CHECKOUT), str(QUICK), str(CHECKOUT / "tests" / "doubles" / "nvml")])
    gpus = ",".join(["NVIDIA L4", "24", "8.9", *CARDS])
    running_farm.add_worker("cards", {"ENGINEFARM_SLOTS": "per-gpu", "NVML_DOUBLE": gpus, "PYTHONPATH": path})
    model = running_farm.add_model("on-cards")
    builds = [running_farm.submit(running_farm.spec(model, seconds=300, salt=salt)) for salt in ("a", "b", "c")]

    def busy() -> dict[str, str]:
        workers = httpx.get(f"{running_farm.urls[0]}/v1/workers").json()["items"]
        assert {worker["name"] for worker in workers} == SLOTS
        return {worker["name"]: worker["running"] for worker in workers if worker["running"]}

    eventually(lambda: set(busy()) == SLOTS and set(busy().values()) < {build["key"] for build in builds})
    # Heartbeats, presence and prefetch of all slots share these.
    connections = psutil.Process(running_farm.workers["cards"].pid).net_connections("tcp")
    to_database = [one for one in connections if one.raddr and one.raddr.port == running_farm.database.engine.url.port]
    assert len(to_database) in {1, 2}
    [queued] = [build for build in builds if build["key"] not in busy().values()]
    drained, working = sorted(SLOTS)
    httpx.post(f"{running_farm.urls[0]}/v1/workers/{drained}:drain").raise_for_status()
    for build in builds:
        if build is not queued:
            httpx.delete(f"{running_farm.urls[0]}/v1/builds/{build['id']}").raise_for_status()
    running_farm.running(queued["id"], "build")
    assert busy() == {working: queued["key"]}
    running_farm.workers["cards"].stop(seconds=15)
    assert running_farm.build(queued["id"])["attempts"][-1]["outcome"] == "handed_back"
