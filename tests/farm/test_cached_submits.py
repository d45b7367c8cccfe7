"""Submits that come at once are answered together, and each gets its own answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from models.catalogue.rows import BuildRow
from tests.farm.running_farm import RunningFarm


def rows(farm: RunningFarm) -> int:
    with farm.database.read() as session:
        return session.scalar(select(func.count()).select_from(BuildRow)) or 0


def at_once(farm: RunningFarm, specs: list[dict[str, Any]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(specs)) as pool:
        return list(pool.map(lambda spec: httpx.post(f"{farm.urls[0]}/v1/builds", json=spec, timeout=60), specs))


def test_hits_misses_and_faults_that_come_together(shared_farm: RunningFarm) -> None:
    farm, model = shared_farm, shared_farm.add_model("together")
    there = [farm.spec(model, salt=f"there {number}") for number in range(3)]
    keys = [farm.ended(farm.submit(spec)["id"])["key"] for spec in there]
    new, bad = farm.spec(model, salt="new"), farm.spec(model + "-not-there")
    before = rows(farm)

    answers = at_once(farm, [*there, new, bad] * 8)

    for answer, key in zip(answers, [*keys, None, None] * 8, strict=True):
        if key:
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["disposition"], found["key"], found["engine"]["key"]) == ("cached", key, key)
            assert farm.build(found["id"])["key"] == key
    assert {answer.status_code for answer in answers[4::5]} == {422}
    misses = [answer.json() for answer in answers[3::5]]
    assert sorted(answer["disposition"] for answer in misses).count("created") == 1
    assert len({answer["key"] for answer in misses}) == 1
    accepted = [answer.json()["id"] for answer in answers if answer.is_success]
    assert len(set(accepted)) == 32
    assert rows(farm) == before + 32
    farm.ended(misses[0]["id"])


def test_a_model_that_changes_is_no_hit_any_more(shared_farm: RunningFarm) -> None:
    farm, model = shared_farm, shared_farm.add_model("changing")
    spec = farm.spec(model)
    first = farm.ended(farm.submit(spec)["id"])
    assert farm.submit(spec)["disposition"] == "cached"
    (Path(model.removeprefix("file:")) / "model.safetensors").write_bytes(b"other weights")
    again = farm.submit(spec)
    assert again["disposition"] == "created"
    assert again["key"] != first["key"]
    farm.ended(again["id"])
