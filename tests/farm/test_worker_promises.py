"""A worker keeps its promises: it is listed again, has its scratch folder for itself, and says what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import delete

from models.catalogue.rows import WorkerRow
from models.exit_codes import ExitCode
from tests.farm.conftest import small_farm
from tests.farm.running_farm import RunningFarm, eventually


@pytest.fixture(scope="module")
def own_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Not the farm of other files: these tests remove workers and folders."""
    yield from small_farm(tmp_path_factory)


def test_a_worker_that_the_catalogue_forgot_is_listed_again(own_farm: RunningFarm) -> None:
    """A backup of the catalogue that is restored may be older than a worker."""
    with own_farm.database.write() as session:
        session.execute(delete(WorkerRow))
    eventually(lambda: "w1" in worker_names(own_farm), seconds=20)


def test_a_second_worker_of_one_name_is_refused_and_disturbs_nothing(own_farm: RunningFarm) -> None:
    build = own_farm.submit(own_farm.spec(own_farm.add_model("locked"), seconds=8))
    own_farm.running(build["id"], "build")
    second = own_farm.start("workers", "second", {"WORKER_NAME": "w1"})
    eventually(second.ended)
    line = second.log.read_text().splitlines()[-1]
    assert second.status == ExitCode.UNAVAILABLE
    assert line.startswith("enginefarm worker: another worker (process ")
    assert "Traceback" not in second.log.read_text()
    ended = own_farm.ended(build["id"])
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["succeeded", "succeeded"]


def test_a_worker_without_a_folder_for_its_stage_says_so(own_farm: RunningFarm) -> None:
    scratch = own_farm.state / "scratch" / "w1"
    scratch.rename(scratch.with_name("away"))
    scratch.touch()  # no folder can be made here
    try:
        build = own_farm.submit(own_farm.spec(own_farm.add_model("homeless")))

        def failed_attempt() -> str | None:
            for attempt in own_farm.build(build["id"])["attempts"]:
                if attempt["outcome"] == "failed":
                    return str(attempt)
            return None

        assert "the worker could not begin the stage: File exists" in eventually(failed_attempt)
    finally:
        scratch.unlink()
        scratch.with_name("away").rename(scratch)
    log = (own_farm.state / "logs" / "w1.log").read_text()
    assert "could not begin: FileExistsError" in log
    assert "Traceback" not in log


def worker_names(farm: RunningFarm) -> set[str]:
    """Of the workers that are present."""
    workers = httpx.get(f"{farm.urls[0]}/v1/workers").json()["items"]
    return {worker["name"] for worker in workers if worker["state"] != "gone"}
