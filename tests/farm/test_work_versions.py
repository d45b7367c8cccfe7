"""An API and workers of neighboring releases share a catalogue while a farm is upgraded.

The two JSON files beside this test were written by the last release whose work had no version: `work_without_version`
are the rows of a plain spec, with the digests of the model that these tests make; `reader_without_version` are the JSON
Schemas that its workers read rows with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from enginefarm.node.detection import cpu_isa
from models.catalogue.rows import ActionRow, AttemptRow
from models.lifecycle.leases import claim_action
from tests.doubles.weights import weights
from tests.farm.running_farm import RunningFarm, eventually
from tests.models.requests import add_worker

CPU_ISA = cpu_isa()  # this machine's, because its worker runs the build
HERE = Path(__file__).parent


def earlier_work(running_farm: RunningFarm) -> dict[str, dict[str, Any]]:
    """By stage, the JSON that the earlier release wrote for `submitted_build`."""
    template = (HERE / "work_without_version.json").read_text()
    filled_in = template.replace("MODEL_FOLDER", str(running_farm.models / "tiny")).replace("CPU_ISA", CPU_ISA)
    return dict(json.loads(filled_in))


def submit(running_farm: RunningFarm, model: str) -> dict[str, Any]:
    spec, toolchain = running_farm.spec(model), {"name": "quick", "version": "1.0"}
    return running_farm.submit(spec | {"toolchain": toolchain, "platform": {"arch": "x86_64", "cpu_isa": CPU_ISA}})


@pytest.fixture(scope="module")
def submitted_build(running_farm: RunningFarm) -> dict[str, Any]:
    """A build that waits for a worker."""
    return submit(running_farm, running_farm.add_model(content=weights()))


def actions(running_farm: RunningFarm, build: dict[str, Any]) -> dict[str, ActionRow]:
    """The actions of a build, by stage."""
    with running_farm.database.read() as session:
        action = session.get_one(ActionRow, build["key"])
        return {"convert": session.get_one(ActionRow, action.depends_on), "build": action}


def replace_work(running_farm: RunningFarm, action: ActionRow, work: dict[str, Any]) -> None:
    with running_farm.database.write() as session:
        session.execute(update(ActionRow).where(ActionRow.key == action.key).values(work=work))


def test_a_worker_of_the_earlier_release_reads_what_the_api_writes(
    running_farm: RunningFarm, submitted_build: dict[str, Any]
) -> None:
    # Imported here, because the import takes three seconds, and every process of pytest-xdist imports this file.
    import jsonschema

    schemas = json.loads((HERE / "reader_without_version.json").read_text())
    for stage, action in actions(running_farm, submitted_build).items():
        work = action.work
        assert work.pop("version") == 1
        assert work == earlier_work(running_farm)[stage]
        for name in work:  # the earlier worker looks for `job`, `model` and `inputs`, and at nothing else
            jsonschema.validate(work[name], schemas[name])


def test_an_action_in_flight_at_an_earlier_worker_is_finished_by_a_new_one(
    running_farm: RunningFarm, submitted_build: dict[str, Any]
) -> None:
    for stage, action in actions(running_farm, submitted_build).items():
        replace_work(running_farm, action, earlier_work(running_farm)[stage])
    convert = actions(running_farm, submitted_build)["convert"].key
    add_worker(running_farm.database, "earlier", queues=())
    with running_farm.database.write() as session:
        assert claim_action(session, convert, "earlier", lease_seconds=0.1) is not None
    running_farm.have_workers("w1")
    ended = running_farm.ended(submitted_build["id"])
    assert ended["state"] == "succeeded", ended["error"]
    assert running_farm.outcomes(submitted_build["key"]) == {
        ("convert", "lost"): 1, ("convert", "succeeded"): 1, ("build", "succeeded"): 1,
    }  # fmt: skip


def test_work_of_a_later_version_is_refused_by_name_and_left_to_other_workers(running_farm: RunningFarm) -> None:
    running_farm.have_workers()
    build = submit(running_farm, running_farm.add_model("later"))
    convert = actions(running_farm, build)["convert"]
    replace_work(running_farm, convert, convert.work | {"version": 3, "sharding": "new in version 3"})
    running_farm.have_workers("w1")

    def failed_attempt() -> dict[str, Any] | None:
        with running_farm.database.read() as session:
            query = select(AttemptRow.failure).where(AttemptRow.action_key == convert.key, AttemptRow.number == 1)
            failure: dict[str, Any] | None = session.execute(query).scalar_one_or_none()
            return failure

    failure = eventually(failed_attempt)
    assert failure is not None
    assert (failure["cause"], failure["fault"], failure["retryable"]) == ("unreadable_work", "farm", True)
    assert failure["detail"] == "this action's work is of version 3, and this program reads version 1, 2: upgrade it"
    assert "upgrade this worker" in failure["advice"]
    assert running_farm.build(build["id"])["state"] in {"queued", "running"}, "another worker may take it"
