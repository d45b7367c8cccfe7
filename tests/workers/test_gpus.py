"""A worker locks its GPUs with the claim of a stage that uses them, and waits without a lease while they are in use."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import select

from enginefarm.contract.host import Fingerprint
from migrations.upgrade import upgrade
from models.catalogue.database import Database
from models.catalogue.rows import GpuLockRow
from models.fleet.gpu_use import GpuUse
from models.lifecycle.gpu_locks import GpuInUseError
from models.loops import Loops
from models.queue.names import Announcement
from models.settings import Settings
from tests.models.requests import CPU, HOST, add_worker, new_request, submit_request
from tests.models.stage_runs import run_convert
from workers.gpus import HeldGpus
from workers.inputs.node_inputs import NodeInputs
from workers.presence import Identity
from workers.runner import Runner
from workers.stage.tools import Tools

CARD = "GPU-5c3f9e1a"


class Messages:
    """In place of the announcer."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def announce(self, announcements: list[Any]) -> None:
        self.sent += announcements


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    catalogue = Database(f"sqlite:///{tmp_path / 'catalogue.db'}")
    upgrade(catalogue.engine)
    yield catalogue
    catalogue.close()


def runner(database: Database, name: str, *gpus: str) -> Runner:
    add_worker(database, name)
    fingerprint = Fingerprint(platform=CPU, host=HOST.model_copy(update={"gpu_uuids": gpus}))
    nothing = cast(Any, None)
    tools = Tools(
        database,
        nothing,
        nothing,
        Identity(name, name, fingerprint, [], []),
        nothing,
        "branch",
        nothing,
        nothing,
        NodeInputs(nothing, None, may_link=False),
    )
    settings = cast(Settings, SimpleNamespace(lease_seconds=30.0, kill_seconds=5.0, scratch=Path("/nonexistent")))
    return Runner(settings, tools, cast(Any, Messages()), threading.Event(), Loops())


def queued_build(database: Database, limits: str) -> str:
    request = new_request(limits=limits)
    submit_request(database, request)
    return request.build.key


def locked_gpus(database: Database) -> dict[str, str]:
    with database.read() as session:
        return {row.gpu: row.worker_id for row in session.execute(select(GpuLockRow)).scalars()}


def test_the_second_worker_waits_without_a_lease_until_the_programs_of_the_first_are_dead(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runner.claim_uses_gpu", lambda claim: True)
    monkeypatch.setattr("workers.runner._GPU_POLL_SECONDS", 0.05)
    first, second = runner(database, "w1", CARD), runner(database, "w2", CARD)
    keys = [queued_build(database, limits) for limits in ("a", "b")]
    run_convert(database, new_request(limits="a"))
    claim = first.claim("build.q")
    assert claim is not None
    assert locked_gpus(database) == {CARD: "w1"}
    with pytest.raises(GpuInUseError) as in_use:
        second.claim("build.q")

    waiting = threading.Thread(target=second.wait_for_gpu, args=(in_use.value,))
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    [other] = set(keys) - {claim.key}
    assert cast(Messages, second.announcer).sent == [(other, "build.q")], "a worker with another GPU may take it"
    held = HeldGpus(database, claim, programs_may_live=True)
    held.release()
    assert locked_gpus(database) == {CARD: "w1"}, "a program that the kernel did not end may use the GPU still"
    held.programs_may_live = False
    held.release()
    waiting.join(10)
    assert not waiting.is_alive()
    assert second.claim("build.q") is not None


def test_a_stage_on_the_processor_locks_no_gpu(database: Database) -> None:
    worker = runner(database, "w1", CARD)
    submit_request(database, new_request())
    assert worker.claim("convert.q") is not None
    assert locked_gpus(database) == {}


def test_a_worker_that_is_told_to_stop_waits_no_longer(database: Database) -> None:
    worker = runner(database, "w1", CARD)
    worker.leaving.set()
    worker.wait_for_gpu(GpuInUseError(GpuUse(CARD, "w2"), Announcement("0" * 64, "build.q")))
