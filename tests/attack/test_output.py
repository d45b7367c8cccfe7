"""What a stage's program leaves in its output cannot take a worker out, and no file of the worker is published.

The toolchain is one that opens what it finds without care, as a third party's may.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.attack import ROUNDS
from tests.farm.conftest import fresh_broker, run_farm
from tests.farm.running_farm import RunningFarm, eventually, left_in_scratch
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey

SECRET = b"-----BEGIN PRIVATE KEY-----"


@pytest.fixture(scope="module")
def farm(postgres: Databases, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """PostgreSQL, because it refuses texts that SQLite takes; one worker, so that an attack that stops it shows."""
    state = tmp_path_factory.mktemp("farm")
    url = postgres.create_migrated()
    settings = {"DATABASE_URL": url, "BROKER_URL": fresh_broker(valkey), "STORE_URL": f"file://{state / 'store'}"}
    for farm in run_farm(state, settings):
        (state / "signing.pem").write_bytes(SECRET)
        farm.add_api()
        farm.add_worker("w1")
        yield farm
    postgres.drop(url)


@pytest.fixture(scope="module")
def model(farm: RunningFarm) -> str:
    return farm.add_model()


def build_with(farm: RunningFarm, model: str, **options: object) -> dict[str, Any]:
    """The end of a build with these options; the worker must build another engine right after it."""
    build, other = farm.submit(farm.spec(model, **options)), farm.submit(farm.spec(model, salt=f"after {options}"))
    ended = farm.ended(build["id"])
    assert farm.ended(other["id"], seconds=30)["state"] == "succeeded"
    return ended


def assert_nothing_secret_is_stored(farm: RunningFarm) -> None:
    for blob in (farm.state / "store").rglob("*"):
        assert not blob.is_file() or SECRET not in blob.read_bytes(), f"{blob} was published"


TRAPS = {
    "pipe": "trap is a named pipe",
    "pipe-as-engine": r"rank0\.engine is a named pipe",
    "socket": "trap is a socket",
    "link": "trap is a link",
    "link-as-engine": r"rank0\.engine is a link",
    "folder-link": "trap is a link",
    "output-link": "is a link",
    "hard-link": "trap is (hard-linked to a file outside the folder|a link)",
    "sparse": "(bytes together|bytes of data)",
    f"many {10_100 * ROUNDS}": "there are more than 10000 files and folders",
    f"deep {1100 * ROUNDS}": "folders are nested more than 32 deep",
    "name": "trap",
    "not-utf8": "trap",
}
if os.geteuid() == 0:
    TRAPS["device"] = "trap is (a device|a named pipe)"


@pytest.fixture(scope="module")
def trapped(farm: RunningFarm, model: str) -> dict[str, dict[str, Any]]:
    """The end of a build with each trap. One worker runs all of them, and a build without a trap after each."""
    submitted = {}
    for trap in TRAPS:
        name, _, argument = trap.partition(" ")
        behave = f"trap {name} {argument or farm.state / 'signing.pem'}"
        submitted[trap] = farm.submit(farm.spec(model, behave=behave))["id"]
        submitted[f"after {trap}"] = farm.submit(farm.spec(model, salt=f"after {trap}"))["id"]
    return {trap: farm.ended(build_id, seconds=120) for trap, build_id in submitted.items()}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_in_the_output_fails_the_attempt_at_once(trapped: dict[str, dict[str, Any]], trap: str) -> None:
    ended = trapped[trap]
    assert ended["state"] == "failed"
    assert ended["error"]["cause"] == "output_refused"
    assert ended["error"]["fault"] == "toolchain"
    assert re.search(TRAPS[trap], ended["error"]["detail"])
    (build,) = (attempt for attempt in ended["attempts"] if attempt["stage"] == "build")  # no other try
    assert build["steps"].get("check", 0) < 20
    assert trapped[f"after {trap}"]["state"] == "succeeded"


def test_no_trap_publishes_or_leaves_anything(farm: RunningFarm, trapped: dict[str, dict[str, Any]]) -> None:
    assert_nothing_secret_is_stored(farm)
    eventually(lambda: not left_in_scratch(farm.state / "scratch" / "w1"), seconds=30)


def test_a_link_in_place_of_the_log_is_not_published_as_the_log(farm: RunningFarm, model: str) -> None:
    ended = build_with(farm, model, behave=f"trap log {farm.state / 'signing.pem'}")
    assert ended["state"] == "succeeded"
    assert "build ends" in httpx.get(f"{farm.urls[0]}/v1/builds/{ended['id']}/logs").text
    assert_nothing_secret_is_stored(farm)


def test_a_file_that_is_swapped_for_a_link_while_it_is_read_is_not_published(farm: RunningFarm, model: str) -> None:
    build_with(farm, model, behave=f"trap swapped {farm.state / 'signing.pem'}", salt="swapped")
    assert_nothing_secret_is_stored(farm)


def test_no_printed_line_ends_the_heartbeat(farm: RunningFarm, model: str) -> None:
    """PostgreSQL stores no NUL, and a heartbeat that fails to send one would let the lease expire."""
    ended = build_with(farm, model, behave="trap printed")
    assert ended["state"] == "succeeded"
    assert [attempt["outcome"] for attempt in ended["attempts"] if attempt["stage"] == "build"] == ["succeeded"]


@pytest.mark.parametrize(
    ("check", "cause", "text"),
    [
        ("nul", "incomplete_output", "not JSON that every reader takes"),
        ("nul-reason", "incomplete_output", "it has � and �"),
        ("memory", "incomplete_output", "MemoryError"),
        ("deep", "incomplete_output", "nested more than 32 deep"),
    ],
)
def test_a_check_that_a_program_led_astray_fails_the_attempt_with_its_cause(
    farm: RunningFarm, model: str, check: str, cause: str, text: str
) -> None:
    ended = build_with(farm, model, check=check)
    assert ended["state"] == "failed"
    assert ended["error"]["cause"] == cause
    assert text in ended["error"]["detail"]


def test_a_check_that_hangs_ends_with_a_cancel(farm: RunningFarm, model: str) -> None:
    build = farm.submit(farm.spec(model, check="hang"))
    eventually(lambda: farm.build(build["id"])["message"] == "checking the output" or None)
    began = time.monotonic()
    httpx.delete(f"{farm.urls[0]}/v1/builds/{build['id']}").raise_for_status()
    other = farm.ended(farm.submit(farm.spec(model, salt="after the cancel"))["id"], seconds=30)
    assert other["state"] == "succeeded"
    assert time.monotonic() - began < 20
