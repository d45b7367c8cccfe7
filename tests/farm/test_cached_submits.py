"""Submits that come at once are answered together, and each gets its own answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select

from models.catalogue.rows import BuildRow
from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm


def rows(running_farm: RunningFarm) -> int:
    with running_farm.database.read() as session:
        return session.scalar(select(func.count()).select_from(BuildRow)) or 0


def at_once(running_farm: RunningFarm, specs: list[dict[str, Any]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(specs)) as pool:
        return list(
            pool.map(lambda spec: httpx.post(f"{running_farm.urls[0]}/v1/builds", json=spec, timeout=60), specs)
        )


def test_cached_new_and_invalid_submits_at_once_get_their_own_answers(shared_farm: RunningFarm) -> None:
    running_farm, model = shared_farm, shared_farm.add_model("together")
    there = [running_farm.spec(model, salt=f"there {number}") for number in range(3)]
    keys = [running_farm.ended(running_farm.submit(spec)["id"])["key"] for spec in there]
    new, bad = running_farm.spec(model, salt="new"), running_farm.spec(model + "-not-there")
    before = rows(running_farm)

    answers = at_once(running_farm, [*there, new, bad] * 8)

    for answer, key in zip(answers, [*keys, None, None] * 8, strict=True):
        if key:
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert (found["disposition"], found["key"], found["engine"]["key"]) == ("cached", key, key)
            assert running_farm.build(found["id"])["key"] == key
    assert {answer.status_code for answer in answers[4::5]} == {422}
    misses = [answer.json() for answer in answers[3::5]]
    assert sorted(answer["disposition"] for answer in misses).count("created") == 1
    assert len({answer["key"] for answer in misses}) == 1
    accepted = [answer.json()["id"] for answer in answers if answer.is_success]
    assert len(set(accepted)) == 32
    assert rows(running_farm) == before + 32
    running_farm.ended(misses[0]["id"])


def test_a_changed_model_is_not_answered_from_the_cache(shared_farm: RunningFarm) -> None:
    running_farm, model = shared_farm, shared_farm.add_model("changing")
    spec = running_farm.spec(model)
    first = running_farm.ended(running_farm.submit(spec)["id"])
    assert running_farm.submit(spec)["disposition"] == "cached"
    (Path(model.removeprefix("file:")) / "model.safetensors").write_bytes(weights(b"other weights"))
    again = running_farm.submit(spec)
    assert again["disposition"] == "created"
    assert again["key"] != first["key"]
    running_farm.ended(again["id"])
