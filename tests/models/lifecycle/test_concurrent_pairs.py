"""Every pair of operations at the same instant, on PostgreSQL: no deadlock, and no broken promise.

A scene is a situation that a request can be in. An act is what a route, worker, sweep or collector does in one
transaction. Of two acts that end the same attempt, build or engine, exactly one succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations_with_replacement
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import Table, delete, insert, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import Manifest
from enginefarm.wire.bodies import Disposition, Failure, Fault
from enginefarm.wire.recall import Recall
from enginefarm.wire.retention import RemovalCandidate
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, CheckpointRow, EngineRow, Row
from models.catalogue.states import Fenced
from models.incidents.recall import recall
from models.incidents.repair import withdraw_damaged, withdraw_damaged_checkpoint
from models.lifecycle.leases import Claim, claim_action, expire, fail_attempt, hand_back, renew
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.recovery import mark_announced, queue_released_builds
from models.lifecycle.submission import Request, cancel, submit
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.retention import removal
from models.retention.policies import Batch
from tests.models.collection import remove_unused_manifests
from tests.models.requests import ENGINE, add_worker, claim_now, new_request, one_file_manifest, submit_request
from tests.promises import broken_promises
from tests.servers.postgres import Databases


@dataclass
class Scene:
    """A request, its build, and the claim of the worker that runs its action."""

    build_request: Request
    build: str
    claim: Claim | None = None

    @property
    def active_claim(self) -> Claim:
        assert self.claim is not None
        return self.claim

    @property
    def removal_candidates(self) -> tuple[RemovalCandidate, RemovalCandidate]:
        """The checkpoint's and the engine's."""
        about = {"size": 1, "reason": "old"}
        return (
            RemovalCandidate.model_validate({"kind": "checkpoint", "key": self.build_request.convert.key, **about}),
            RemovalCandidate.model_validate({"kind": "engine", "key": self.build_request.build.key, **about}),
        )

    def contents(self, stage: str) -> Manifest:
        """Two files, one of which checkpoint and engine have in common."""
        (of_stage,) = one_file_manifest(stage).files
        (shared,) = one_file_manifest("shared").files
        return Manifest.of([of_stage, shared.model_copy(update={"path": "tokenizer.json"})])


Act = Callable[[Session, Scene], bool]  # returns whether it changed what it is named for


def submits(session: Session, scene: Scene) -> bool:
    return submit(session, scene.build_request).disposition is Disposition.CREATED


def submits_sibling(session: Session, scene: Scene) -> bool:
    """Submit another engine from the same checkpoint."""
    return submit(session, new_request(scene.build_request.model, "sibling")).disposition is Disposition.CREATED


def cancels(session: Session, scene: Scene) -> bool:
    return cancel(session, scene.build)


def claims_convert(session: Session, scene: Scene) -> bool:
    return claim_action(session, scene.build_request.convert.key, "well", lease_seconds=60) is not None


def claims_build(session: Session, scene: Scene) -> bool:
    return claim_action(session, scene.build_request.build.key, "well", lease_seconds=60) is not None


def renews(session: Session, scene: Scene) -> bool:
    renew(session, scene.active_claim, lease_seconds=60, progress=0.5)
    return True


def publishes(session: Session, scene: Scene) -> bool:
    contents = scene.contents(scene.active_claim.stage)
    if scene.active_claim.stage == "convert":
        publish_checkpoint(session, scene.active_claim, contents, facts={}, steps={})
    else:
        publish_engine(session, scene.active_claim, contents, engine=ENGINE, steps={})
    return True


def fails(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="refused", fault=Fault.CALLER, detail="your model")
    fail_attempt(session, scene.active_claim, failure, max_tries=3, steps={})
    return True


def fails_retryably(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="broke", fault=Fault.WORKER, detail="it did", retryable=True)
    fail_attempt(session, scene.active_claim, failure, max_tries=3, steps={})
    return True


def hands_back(session: Session, scene: Scene) -> bool:
    hand_back(session, scene.active_claim)
    return True


def sweeps(session: Session, scene: Scene) -> bool:
    requeued = expire(session, max_tries=3)
    queue_released_builds(session)
    return scene.claim is not None and scene.claim.key in [key for key, _queue in requeued]


def withdraws_checkpoint(session: Session, scene: Scene) -> bool:
    withdraw_checkpoint(session, scene.build_request.convert.key, "bad weights")
    return True


def withdraws_engine(session: Session, scene: Scene) -> bool:
    return withdraw_engine(session, scene.build_request.build.key, "a bad day")


def withdraws_damaged_blobs(session: Session, scene: Scene) -> bool:
    withdraw_damaged(session, {file.digest for stage in ("convert", "build") for file in scene.contents(stage).files})
    return True


def recalls(session: Session, _scene: Scene) -> bool:
    recall(session, Recall(worker="sick", reason="bad memory"))
    return True


def announces(session: Session, _scene: Scene) -> bool:
    return bool(mark_announced(session, "convert.q", 9)) or bool(mark_announced(session, "build.q", 9))


def reports_damaged_checkpoint(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="checkpoint_damaged", fault=Fault.FARM, detail="wrong bytes")
    withdraw_damaged_checkpoint(
        session, scene.active_claim, scene.contents("convert").files[0].digest, failure, max_tries=1, steps={}
    )
    return True


def removes_checkpoint(session: Session, scene: Scene) -> bool:
    return bool(removal.remove(session, scene.removal_candidates[:1], grace_seconds=0, removed_by=None))


def removes_engine(session: Session, scene: Scene) -> bool:
    return bool(removal.remove(session, scene.removal_candidates[1:], grace_seconds=0, removed_by=None))


def removes_manifests(session: Session, _scene: Scene) -> bool:
    remove_unused_manifests(session)
    return True


CALLERS: tuple[Act, ...] = (submits, submits_sibling, withdraws_checkpoint, withdraws_damaged_blobs, recalls)
WATCHERS: tuple[Act, ...] = (cancels, sweeps, announces)
HOLDERS: tuple[Act, ...] = (renews, publishes, fails, fails_retryably, hands_back)
COLLECTORS: tuple[Act, ...] = (removes_checkpoint, removes_engine, removes_manifests, withdraws_engine)
ACTS: dict[str, tuple[Act, ...]] = {
    "converting is due": (*CALLERS, *WATCHERS, claims_convert),
    "converting": (*CALLERS, *WATCHERS, *HOLDERS),
    "building is due": (*CALLERS, *WATCHERS, claims_build, removes_checkpoint),
    "building": (*CALLERS, *WATCHERS, *HOLDERS, reports_damaged_checkpoint, removes_checkpoint, removes_manifests),
    "published": (*CALLERS, *COLLECTORS),
    "withdrawn": (*CALLERS, *COLLECTORS),
    "failed": (*CALLERS, removes_checkpoint),
}
# Of two acts in one group, exactly one succeeds: the second changes nothing, or is fenced.
ONCE: dict[str, tuple[tuple[Act, ...], ...]] = {
    "converting is due": ((claims_convert,), (cancels,)),
    "converting": ((publishes, fails, fails_retryably, hands_back, sweeps), (cancels,)),
    "building is due": ((claims_build,), (cancels,)),
    "building": ((publishes, fails, fails_retryably, hands_back, sweeps), (publishes, cancels), (fails, cancels)),
    "published": ((withdraws_engine,), (removes_engine,)),
    "withdrawn": ((submits,), (removes_engine,)),
    "failed": ((submits,),),
}
PAIRS = [(situation, *pair) for situation, acts in ACTS.items() for pair in combinations_with_replacement(acts, 2)]


@pytest.fixture(scope="module")
def stage(postgres: Databases) -> Iterator[Stage]:
    url = postgres.create_migrated()
    database = Database(url)
    yield Stage(database)
    database.close()
    postgres.drop(url)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


Rows = dict[Table, list[dict[str, Any]]]


@dataclass
class Stage:
    """Reaches each scene once, and restores its rows for every pair of acts."""

    catalogue: Database
    _played: dict[str, tuple[Scene, Rows]] = field(default_factory=dict)

    def set_up(self, situation: str) -> Scene:
        if situation not in self._played:
            self._restore({})
            scene = reach(self.catalogue, situation)
            self._age(scene)
            self._played[situation] = (scene, self._rows())
        scene, rows = self._played[situation]
        self._restore(rows)
        return scene

    def _age(self, scene: Scene) -> None:
        """Announcements are long ago, and the grace of marked engines and checkpoints is over."""
        with self.catalogue.write() as session:
            session.execute(update(ActionRow).values(announced_at=None))
            decided_at = session.execute(select(now())).scalar_one()
            checkpoint, engine = scene.removal_candidates
            removal.mark(session, Batch(CheckpointRow, decided_at, [checkpoint]))
            removal.mark(session, Batch(EngineRow, decided_at, [engine]))

    def _rows(self) -> Rows:
        order = {ActionRow.__table__: ActionRow.stage.desc()}  # the action that another depends on comes first
        with self.catalogue.read() as session:
            rows_by_table = {
                table: session.execute(select(table).order_by(order.get(table))).mappings().all()
                for table in Row.metadata.sorted_tables
            }
        return {table: [dict(row) for row in rows] for table, rows in rows_by_table.items() if rows}

    def _restore(self, rows: Rows) -> None:
        with self.catalogue.write() as session:
            for table in reversed(Row.metadata.sorted_tables):
                session.execute(delete(table))
            for table, values in rows.items():
                session.execute(insert(table), values)


def reach(catalogue: Database, situation: str) -> Scene:
    """Bring a new request into the situation."""
    for worker in ("sick", "well"):
        add_worker(catalogue, worker)
    build_request = new_request()
    scene = Scene(build_request, submit_request(catalogue, build_request).id)
    if situation == "converting is due":
        return scene
    _claim(catalogue, scene, build_request.convert.key)
    if situation == "converting":
        return scene
    _performs(catalogue, scene, publishes)
    scene.claim = None
    if situation == "building is due":
        return scene
    _claim(catalogue, scene, build_request.build.key)
    if situation == "building":
        return scene
    _performs(catalogue, scene, fails if situation == "failed" else publishes)
    if situation == "withdrawn":
        _performs(catalogue, scene, withdraws_engine)
    return scene


def _claim(catalogue: Database, scene: Scene, key: str) -> None:
    """Claim for a worker that will not renew: its lease has expired, which only a sweep acts on."""
    scene.claim = claim_now(catalogue, key, "sick", lease=-1)


def _performs(catalogue: Database, scene: Scene, act: Act) -> bool:
    """Perform the act in a transaction of its own. A refusal that callers handle counts as False."""
    try:
        with catalogue.write() as session:
            return act(session, scene)
    except Fenced:
        return False
    except IntegrityError:
        if act is publishes:  # its bytes were marked as damaged meanwhile: the worker uploads them again
            return False
        raise


@pytest.mark.parametrize(("situation", "first", "second"), PAIRS, ids=lambda it: getattr(it, "__name__", it))
def test_two_concurrent_operations(
    stage: Stage, pool: ThreadPoolExecutor, situation: str, first: Act, second: Act
) -> None:
    scene = stage.set_up(situation)
    succeeded = at_once(stage.catalogue, pool, scene, (first, second))
    with stage.catalogue.read() as session:
        assert broken_promises(session) == []
    if any(first in group and second in group for group in ONCE[situation]):
        assert sum(succeeded) == 1, succeeded


def at_once(catalogue: Database, pool: ThreadPoolExecutor, scene: Scene, acts: Sequence[Act]) -> list[bool]:
    start = Barrier(len(acts))

    def run(act: Act) -> bool:
        start.wait(60)
        return _performs(catalogue, scene, act)

    return list(pool.map(run, acts))
