"""Two workers that see one GPU never run stages on it at the same time: on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import select, update

from enginefarm.contract.host import Fingerprint
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, BuildRow, GpuLockRow
from models.catalogue.states import Fenced
from models.fleet.registration import register
from models.fleet.roster import list_workers
from models.lifecycle.gpu_locks import GpuInUseError, lock_gpus, release_gpus
from models.lifecycle.leases import Claim, claim_action, expire, renew
from models.lifecycle.submission import Request, cancel
from models.queries.builds import get_build
from models.queries.outlook import Fleet, outlook
from tests.models.requests import CPU, HOST, new_request, submit_request
from tests.models.stage_runs import run_convert

CARD, OTHER_CARD = "GPU-5c3f9e1a", "GPU-77aa01d2"
SLICES = ("MIG-11", "MIG-22")


def add_gpu_worker(database: Database, name: str, *gpus: str) -> None:
    fingerprint = Fingerprint(platform=CPU, host=HOST.model_copy(update={"gpu_uuids": gpus}))
    with database.write() as session:
        register(session, name, name, fingerprint, [], ["convert.q", "build.q"])


def queued_builds(database: Database, count: int) -> list[Request]:
    requests = [new_request(limits=f"limits {number}") for number in range(count)]
    for request in requests:
        submit_request(database, request)
    run_convert(database, requests[0])
    return requests


def claim_with_gpus(
    database: Database, key: str, worker: str, gpus: Sequence[str] = (CARD,), *, lease: float = 30, lock: float = 35
) -> Claim:
    with database.write() as session:
        claim = claim_action(session, key, worker, lease_seconds=lease)
        assert claim is not None
        return lock_gpus(session, claim, gpus, seconds=lock)


@pytest.fixture
def builds(database: Database) -> list[Request]:
    """Three queued builds, for the workers w1 and w2 on one card, and w3 on another."""
    add_gpu_worker(database, "w1", CARD)
    add_gpu_worker(database, "w2", CARD)
    add_gpu_worker(database, "w3", OTHER_CARD)
    return queued_builds(database, 3)


def test_a_worker_whose_gpu_is_in_use_claims_nothing(database: Database, builds: list[Request]) -> None:
    first, second, third = (build.build.key for build in builds)
    claim = claim_with_gpus(database, first, "w1")
    with pytest.raises(GpuInUseError, match=rf"GPU {CARD} is in use by w1 \({first[:12]}\)"):
        claim_with_gpus(database, second, "w2")
    with database.read() as session:
        waiting = session.get_one(ActionRow, second)
        assert (waiting.state, waiting.attempt, waiting.tries) == ("queued", 0, 0)
    claim_with_gpus(database, third, "w3", [OTHER_CARD])
    with database.write() as session:
        release_gpus(session, claim)
    claim_with_gpus(database, second, "w2")
    with database.write() as session:
        renew(session, claim, lease_seconds=30)  # the first still uploads


@pytest.mark.parametrize(
    ("held", "needed", "free"),
    [
        ((CARD, OTHER_CARD), (OTHER_CARD,), False),
        ((OTHER_CARD,), (CARD, OTHER_CARD), False),
        (SLICES[:1], SLICES[1:], True),
        (SLICES[:1], SLICES, False),
    ],
    ids=["one of two", "two, one is taken", "two MIG devices", "the same MIG device"],
)
def test_sets_of_gpus_that_overlap_exclude_each_other(
    database: Database, builds: list[Request], held: Sequence[str], needed: Sequence[str], free: bool
) -> None:
    claim_with_gpus(database, builds[0].build.key, "w1", held)
    if free:
        claim_with_gpus(database, builds[1].build.key, "w2", needed)
        return
    with pytest.raises(GpuInUseError):
        claim_with_gpus(database, builds[1].build.key, "w2", needed)
    with database.read() as session:
        assert set(session.execute(select(GpuLockRow.gpu)).scalars()) == set(held), "nothing is locked in part"


def test_a_cancelled_stage_keeps_its_gpu_until_its_programs_had_time_to_end(
    database: Database, builds: list[Request]
) -> None:
    claim = claim_with_gpus(database, builds[0].build.key, "w1")
    with database.write() as session:
        cancel(session, session.execute(select(BuildRow.id).where(BuildRow.key == claim.key)).scalar_one())
    with database.write() as session, pytest.raises(Fenced):
        renew(session, claim, lease_seconds=30)
    with pytest.raises(GpuInUseError):
        claim_with_gpus(database, builds[1].build.key, "w2")
    let_locks_expire(database)
    claim_with_gpus(database, builds[1].build.key, "w2")


def let_locks_expire(database: Database) -> None:
    with database.write() as session:
        session.execute(update(GpuLockRow).values(expires_at=now(-1)))


def test_a_lock_goes_with_the_lease_of_a_dead_worker_and_not_before(database: Database, builds: list[Request]) -> None:
    first, second = (build.build.key for build in builds[:2])
    claim = claim_with_gpus(database, first, "w1", lease=-1, lock=-1)
    # Its lease is over, but nobody has taken it back: a late heartbeat may still renew both.
    with pytest.raises(GpuInUseError):
        claim_with_gpus(database, second, "w2")
    with database.write() as session:
        renew(session, claim, lease_seconds=-1)
    let_locks_expire(database)
    with database.write() as session:
        expire(session, max_tries=3)
    claim_with_gpus(database, second, "w2")
    with database.read() as session:
        assert session.get_one(GpuLockRow, CARD).worker_id == "w2"


def test_a_renewal_extends_the_lock(database: Database, builds: list[Request]) -> None:
    claim = claim_with_gpus(database, builds[0].build.key, "w1")
    let_locks_expire(database)
    with database.write() as session:
        renew(session, claim, lease_seconds=30)
    with database.read() as session:
        lock = session.get_one(GpuLockRow, CARD)
        assert lock.expires_at > session.execute(select(now(30))).scalar_one()


def test_of_workers_that_claim_at_once_one_gets_the_gpu(database: Database, builds: list[Request]) -> None:
    barrier = Barrier(2)

    def claim(number: int) -> bool:
        barrier.wait()
        try:
            claim_with_gpus(database, builds[number].build.key, f"w{number + 1}", [CARD, OTHER_CARD][:: 1 - 2 * number])
        except GpuInUseError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(claim, range(2))) == [False, True]


def test_a_build_and_the_fleet_say_for_whom_a_gpu_worker_waits(database: Database, builds: list[Request]) -> None:
    waiting = submit_request(database, builds[1]).id
    first = builds[0].build.key
    claim_with_gpus(database, first, "w1")
    in_use = f"GPU {CARD} is in use by w1 ({first[:12]})"
    with database.read() as session:
        assert get_build(session, waiting).waiting_for == f"next in line for 3 workers; w2 waits: {in_use}"
        assert {worker.name: worker.waits_for for worker in list_workers(session)} == {
            "w1": None, "w2": in_use, "w3": None,
        }  # fmt: skip
        assert outlook(session, Fleet(session), new_request(limits="another").build).waiting_for is not None
        # A conversion on the processor does not wait for a GPU.
        assert outlook(session, Fleet(session), new_request("another").convert).waiting_for is None
