"""Any two things that can happen to a request at the same instant, on PostgreSQL: no deadlock, no torn promise.

The scenes are where a request can stand; the acts are what routes, workers, sweeps and collectors do in one
transaction. Of two acts that end the same thing, exactly one does.
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
from migrations.upgrade import upgrade
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow, Row
from models.catalogue.states import Fenced
from models.incidents.recall import recall
from models.incidents.repair import withdraw_damaged, withdraw_damaged_checkpoint
from models.lifecycle.leases import Claim, claim_action, expire, fail_attempt, hand_back, renew
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.recovery import mark_announced, queue_released_builds
from models.lifecycle.submission import Request, cancel, submit
from models.lifecycle.withdrawal import withdraw_checkpoint, withdraw_engine
from models.retention import removal
from tests.models.requests import ENGINE, add_worker, claim_now, manifest, request, submit_request
from tests.promises import broken
from tests.servers.postgres import Databases


@dataclass
class Scene:
    """A request, and the worker that has hold of it."""

    wanted: Request
    build: str
    held: Claim | None = None

    @property
    def ours(self) -> Claim:
        assert self.held is not None
        return self.held

    @property
    def doomed(self) -> tuple[RemovalCandidate, RemovalCandidate]:
        """Checkpoint and engine."""
        about = {"size": 1, "reason": "old"}
        return (
            RemovalCandidate.model_validate({"kind": "checkpoint", "key": self.wanted.convert.key, **about}),
            RemovalCandidate.model_validate({"kind": "engine", "key": self.wanted.build.key, **about}),
        )

    def contents(self, stage: str) -> Manifest:
        """Two files, one of which checkpoint and engine have in common."""
        (of_stage,) = manifest(stage).files
        (shared,) = manifest("shared").files
        return Manifest.of([of_stage, shared.model_copy(update={"path": "tokenizer.json"})])


Act = Callable[[Session, Scene], bool]  # whether it did what it came for


def asks(session: Session, scene: Scene) -> bool:
    return submit(session, scene.wanted).disposition is Disposition.CREATED


def asks_for_a_sibling(session: Session, scene: Scene) -> bool:
    """Another engine from the same checkpoint."""
    return submit(session, request(scene.wanted.model, "sibling")).disposition is Disposition.CREATED


def cancels(session: Session, scene: Scene) -> bool:
    return cancel(session, scene.build)


def claims_convert(session: Session, scene: Scene) -> bool:
    return claim_action(session, scene.wanted.convert.key, "well", lease_seconds=60) is not None


def claims_build(session: Session, scene: Scene) -> bool:
    return claim_action(session, scene.wanted.build.key, "well", lease_seconds=60) is not None


def renews(session: Session, scene: Scene) -> bool:
    renew(session, scene.ours, lease_seconds=60, progress=0.5)
    return True


def publishes(session: Session, scene: Scene) -> bool:
    contents = scene.contents(scene.ours.stage)
    if scene.ours.stage == "convert":
        publish_checkpoint(session, scene.ours, contents, facts={}, steps={})
    else:
        publish_engine(session, scene.ours, contents, engine=ENGINE, steps={})
    return True


def fails(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="refused", fault=Fault.CALLER, detail="your model")
    fail_attempt(session, scene.ours, failure, max_tries=3, steps={})
    return True


def fails_for_now(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="broke", fault=Fault.WORKER, detail="it did", retryable=True)
    fail_attempt(session, scene.ours, failure, max_tries=3, steps={})
    return True


def hands_back(session: Session, scene: Scene) -> bool:
    hand_back(session, scene.ours)
    return True


def sweeps(session: Session, scene: Scene) -> bool:
    taken_back = expire(session, max_tries=3)
    queue_released_builds(session)
    return scene.held is not None and scene.held.key in [key for key, _queue in taken_back]


def takes_out_checkpoint(session: Session, scene: Scene) -> bool:
    withdraw_checkpoint(session, scene.wanted.convert.key, "bad weights")
    return True


def takes_out_engine(session: Session, scene: Scene) -> bool:
    return withdraw_engine(session, scene.wanted.build.key, "a bad day")


def finds_damage(session: Session, scene: Scene) -> bool:
    withdraw_damaged(session, {file.digest for stage in ("convert", "build") for file in scene.contents(stage).files})
    return True


def recalls(session: Session, _scene: Scene) -> bool:
    recall(session, Recall(worker="sick", reason="bad memory"))
    return True


def announces(session: Session, _scene: Scene) -> bool:
    return bool(mark_announced(session, "convert.q", 9)) or bool(mark_announced(session, "build.q", 9))


def finds_its_start_damaged(session: Session, scene: Scene) -> bool:
    failure = Failure(cause="checkpoint_damaged", fault=Fault.FARM, detail="wrong bytes")
    withdraw_damaged_checkpoint(
        session, scene.ours, scene.contents("convert").files[0].digest, failure, max_tries=1, steps={}
    )
    return True


def removes_checkpoint(session: Session, scene: Scene) -> bool:
    return removal.remove(session, scene.doomed[0], grace_seconds=0, removed_by=None)


def removes_engine(session: Session, scene: Scene) -> bool:
    return removal.remove(session, scene.doomed[1], grace_seconds=0, removed_by=None)


def removes_manifests(session: Session, _scene: Scene) -> bool:
    removal.remove_manifests(session)
    return True


CALLERS: tuple[Act, ...] = (asks, asks_for_a_sibling, takes_out_checkpoint, finds_damage, recalls)
WATCHERS: tuple[Act, ...] = (cancels, sweeps, announces)
HOLDERS: tuple[Act, ...] = (renews, publishes, fails, fails_for_now, hands_back)
COLLECTORS: tuple[Act, ...] = (removes_checkpoint, removes_engine, removes_manifests, takes_out_engine)
ACTS: dict[str, tuple[Act, ...]] = {
    "converting is due": (*CALLERS, *WATCHERS, claims_convert),
    "converting": (*CALLERS, *WATCHERS, *HOLDERS),
    "building is due": (*CALLERS, *WATCHERS, claims_build, removes_checkpoint),
    "building": (*CALLERS, *WATCHERS, *HOLDERS, finds_its_start_damaged, removes_checkpoint, removes_manifests),
    "made": (*CALLERS, *COLLECTORS),
    "taken out": (*CALLERS, *COLLECTORS),
    "failed": (*CALLERS, removes_checkpoint),
}
# Of these, two at once are one: whichever comes second finds nothing left to do, or is fenced.
ONCE: dict[str, tuple[tuple[Act, ...], ...]] = {
    "converting is due": ((claims_convert,), (cancels,)),
    "converting": ((publishes, fails, fails_for_now, hands_back, sweeps), (cancels,)),
    "building is due": ((claims_build,), (cancels,)),
    "building": ((publishes, fails, fails_for_now, hands_back, sweeps), (publishes, cancels), (fails, cancels)),
    "made": ((takes_out_engine,), (removes_engine,)),
    "taken out": ((asks,), (removes_engine,)),
    "failed": ((asks,),),
}
RIVALS = [(scene, *two) for scene, acts in ACTS.items() for two in combinations_with_replacement(acts, 2)]


@pytest.fixture(scope="module")
def stage(postgres: Databases) -> Iterator[Stage]:
    url = postgres.create()
    made = Database(url)
    upgrade(made.engine)
    yield Stage(made)
    made.close()
    postgres.drop(url)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made


Rows = dict[Table, list[dict[str, Any]]]


@dataclass
class Stage:
    """Scenes are played once, and put up again from their rows for every pair of rivals."""

    catalogue: Database
    _played: dict[str, tuple[Scene, Rows]] = field(default_factory=dict)

    def set_up(self, stands: str) -> Scene:
        if stands not in self._played:
            self._put_up({})
            scene = play(self.catalogue, stands)
            self._age(scene)
            self._played[stands] = (scene, self._rows())
        scene, rows = self._played[stands]
        self._put_up(rows)
        return scene

    def _age(self, scene: Scene) -> None:
        """What was announced was so long ago, and what is doomed has had its grace."""
        with self.catalogue.write() as session:
            session.execute(update(ActionRow).values(announced_at=None))
            removal.mark(session, scene.doomed)

    def _rows(self) -> Rows:
        order = {ActionRow.__table__: ActionRow.stage.desc()}  # what is depended on comes first
        with self.catalogue.read() as session:
            found = {
                table: session.execute(select(table).order_by(order.get(table))).mappings().all()
                for table in Row.metadata.sorted_tables
            }
        return {table: [dict(row) for row in rows] for table, rows in found.items() if rows}

    def _put_up(self, rows: Rows) -> None:
        with self.catalogue.write() as session:
            for table in reversed(Row.metadata.sorted_tables):
                session.execute(delete(table))
            for table, values in rows.items():
                session.execute(insert(table), values)


def play(catalogue: Database, stands: str) -> Scene:
    """How the scene comes about."""
    for worker in ("sick", "well"):
        add_worker(catalogue, worker)
    wanted = request()
    scene = Scene(wanted, submit_request(catalogue, wanted).id)
    if stands == "converting is due":
        return scene
    _claim(catalogue, scene, wanted.convert.key)
    if stands == "converting":
        return scene
    _does(catalogue, scene, publishes)
    scene.held = None
    if stands == "building is due":
        return scene
    _claim(catalogue, scene, wanted.build.key)
    if stands == "building":
        return scene
    _does(catalogue, scene, fails if stands == "failed" else publishes)
    if stands == "taken out":
        _does(catalogue, scene, takes_out_engine)
    return scene


def _claim(catalogue: Database, scene: Scene, key: str) -> None:
    """By a worker that will not renew: its lease has run out, which only a sweep looks at."""
    scene.held = claim_now(catalogue, key, "sick", lease=-1)


def _does(catalogue: Database, scene: Scene, act: Act) -> bool:
    """In a transaction of its own; the refusals that its caller provides for count as "did not"."""
    try:
        with catalogue.write() as session:
            return act(session, scene)
    except Fenced:
        return False
    except IntegrityError:
        if act is publishes:  # its bytes were found damaged meanwhile: the worker sends them again
            return False
        raise


@pytest.mark.parametrize(("stands", "one", "other"), RIVALS, ids=lambda it: getattr(it, "__name__", it))
def test_two_concurrent_operations(stage: Stage, pool: ThreadPoolExecutor, stands: str, one: Act, other: Act) -> None:
    scene = stage.set_up(stands)
    did = at_once(stage.catalogue, pool, scene, (one, other))
    with stage.catalogue.read() as session:
        assert broken(session) == []
    if any(one in alike and other in alike for alike in ONCE[stands]):
        assert sum(did) == 1, did


def at_once(catalogue: Database, pool: ThreadPoolExecutor, scene: Scene, acts: Sequence[Act]) -> list[bool]:
    start = Barrier(len(acts))

    def run(act: Act) -> bool:
        start.wait(60)
        return _does(catalogue, scene, act)

    return list(pool.map(run, acts))
