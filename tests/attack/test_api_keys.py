"""Guessed keys: they are slowed down, logged without their secrets, and lock nobody out who has a key."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from models.security import api_keys as access
from models.security.api_keys import Scope
from models.security.key_format import new_key, text_of
from tests.attack import ROUNDS
from tests.farm.running_farm import RunningFarm


@pytest.fixture(scope="module")
def keyed_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    state = tmp_path_factory.mktemp("keyed")
    settings = {
        "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "STORE_URL": f"file://{state / 'store'}",
        "BROKER_URL": "redis://127.0.0.1:1/0", "SWEEP_SECONDS": "3600",
    }  # fmt: skip
    with closing(RunningFarm(state, settings)) as farm:
        create(farm, "first")
        farm.add_api()
        yield farm


def create(farm: RunningFarm, name: str) -> str:
    with farm.database.write() as session:
        return access.create(session, name, [Scope.READ])


def test_guesses_are_slowed_down_and_lock_nobody_out(keyed_farm: RunningFarm) -> None:
    owner = create(keyed_farm, "owner")
    guesses = [text_of(new_key()) for _ in range(40 * ROUNDS)]
    guesses.append(owner.rpartition("_")[0] + "_" + "A" * 43)  # the public part is known, from a log
    with httpx.Client(base_url=keyed_farm.urls[0], timeout=30) as client, ThreadPoolExecutor(8) as pool:

        def ask(key: str) -> httpx.Response:
            return client.get("/v1/builds", headers={"Authorization": f"Bearer {key}"})

        attack = [pool.submit(ask, guess) for guess in guesses]
        # From the same address, while the guesses come.
        for _ in range(20):
            assert ask(owner).status_code == 200
        answers = [future.result() for future in attack]
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {401, 429}
        assert 10 <= statuses.count(401) <= 10 + ROUNDS * 5, "ten at once, one more in six seconds"
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 6
        assert refused.json()["code"] == "too_many_failed_sign_ins"
        assert ask(owner).status_code == 200

        # A key that is made during the attack works within a second, too.
        newcomer = create(keyed_farm, "newcomer")
        time.sleep(1.1)
        assert ask(newcomer).status_code == 200
        registry = client.get("/v2/_catalog", auth=("any", guesses[0]))
        assert (registry.status_code, registry.json()["errors"][0]["code"]) == (429, "TOOMANYREQUESTS")
        assert "retry-after" in registry.headers

    log = Path(keyed_farm.processes[0].log).read_text()
    assert log.count("failed sign-in from 127.0.0.1 with ef_") == statuses.count(401)
    assert "too many failed sign-ins from 127.0.0.1" in log
    for key in (*guesses, owner, newcomer):
        assert key.rpartition("_")[2] not in log
