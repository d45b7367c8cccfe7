"""Which action of a queue a worker takes next: by age, and the warm ones first within bounds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from sqlalchemy import insert, select, update

from enginefarm.contract.key import key_of
from models.catalogue.clock import now
from models.catalogue.database import Database
from models.catalogue.rows import ActionRow
from models.fleet.worker_control import drain
from models.lifecycle.leases import LeftInQueue, claim_next, left_in_queue
from models.queries.outlook import Fleet, queue_positions
from models.queue.names import Announcement
from models.queue.order import MOST_OVERTAKING, OVERTAKEN_SECONDS, next_turn
from tests.migrated import migrated_sqlite
from tests.models.requests import add_worker, new_request, submit_request

QUEUE = "convert.q"
ADAPTED, BASE = "a" * 64, "b" * 64  # two models, as `ActionRow.inputs` names them


def key(name: str) -> str:
    return key_of({"name": name})


def queued_row(name: str, inputs: str | None, queue: str) -> dict[str, object]:
    return {
        "key": key(name), "stage": "convert", "queue": queue, "document": {}, "work": {}, "state": "queued",
        "inputs": inputs,
    }  # fmt: skip


def queue_actions(database: Database, *names_and_inputs: tuple[str, str | None], queue: str = QUEUE) -> None:
    """Queue conversions, the first one first, a second apart and all in the past."""
    with database.write() as session:
        for position, (name, inputs) in enumerate(names_and_inputs):
            row = queued_row(name, inputs, queue)
            session.execute(insert(ActionRow).values(row | {"queued_at": now(position - 1000)}))


def claimed(database: Database, held: Sequence[str] = (), *, worker: str = "w1", queue: str = QUEUE) -> str | None:
    with database.write() as session:
        claim = claim_next(session, queue, worker, lease_seconds=60, held=held)
    return claim.key if claim is not None else None


def change(database: Database, name: str, **values: object) -> None:
    with database.write() as session:
        session.execute(update(ActionRow).where(ActionRow.key == key(name)).values(**values))


def test_the_oldest_goes_first_and_other_queues_are_left_alone(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("elsewhere", BASE), queue="convert.other")
    queue_actions(database, ("first", BASE), ("second", ADAPTED), ("third", None))
    order = [claimed(database) for _ in range(4)]
    assert order == [key("first"), key("second"), key("third"), None]


def test_the_oldest_warm_action_overtakes_a_cold_one(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("cold", BASE), ("unknown", None), ("warm", ADAPTED), ("warm, too", ADAPTED))
    assert claimed(database, [ADAPTED]) == key("warm")
    assert claimed(database, ["c" * 64]) == key("cold"), "a worker that holds other inputs goes by age"


def test_the_oldest_of_several_warm_ones_is_taken_whichever_was_used_last(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("cold", None), ("of the base", BASE), ("adapted", ADAPTED))
    assert claimed(database, [ADAPTED, BASE]) == key("of the base")


def test_an_action_is_overtaken_a_few_times_and_then_goes_first(database: Database) -> None:
    add_worker(database)
    warm = [(f"warm {number}", ADAPTED) for number in range(2 * MOST_OVERTAKING + 2)]
    queue_actions(database, ("cold", BASE), ("cold, too", BASE), *warm)
    order = [claimed(database, [ADAPTED]) for _ in range(len(warm))]
    assert [order.index(key(name)) for name in ("cold", "cold, too")] == [MOST_OVERTAKING, 2 * MOST_OVERTAKING + 1]


def test_an_action_is_overtaken_for_a_limited_time(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("cold", BASE), ("warm", ADAPTED), ("warm, too", ADAPTED), ("warm, last", ADAPTED))
    assert claimed(database, [ADAPTED]) == key("warm")
    change(database, "cold", overtaken_at=now(5 - OVERTAKEN_SECONDS))
    assert claimed(database, [ADAPTED]) == key("warm, too")
    change(database, "cold", overtaken_at=now(-OVERTAKEN_SECONDS))
    assert claimed(database, [ADAPTED]) == key("cold")


def test_the_position_counts_the_actions_that_go_first_and_the_reason_names_those_that_went(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("paused", BASE), ("cold", BASE), ("warm", ADAPTED), ("last", BASE))
    change(database, "paused", not_before=now(60))
    with database.read() as session:
        positions = queue_positions(session, [key("cold"), key("last")])
    assert positions == {key("cold"): 0, key("last"): 2}, "a paused action does not go first"
    assert claimed(database, [ADAPTED]) == key("warm")
    with database.read() as session:
        why = Fleet(session).why_waiting(session.get_one(ActionRow, key("cold")), position=0)
    assert why == "next in line for 1 worker; 1 went before it whose inputs a worker had, at most 4 do"


def test_a_claimed_action_is_counted_anew_when_it_is_queued_again(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("cold", BASE), ("warm", ADAPTED))
    claimed(database, [ADAPTED])
    claimed(database)
    with database.read() as session:
        row = session.get_one(ActionRow, key("cold"))
        assert (row.overtaken, row.overtaken_at) == (None, None)


def test_a_paused_and_an_avoided_action_neither_go_first_nor_are_overtaken(database: Database) -> None:
    for name in ("w1", "w2"):
        add_worker(database, name)
    queue_actions(database, ("paused", ADAPTED), ("avoided", ADAPTED), ("other", BASE))
    change(database, "paused", not_before=now(60))
    change(database, "avoided", avoid_worker="w1", avoid_until=now(60))
    assert claimed(database, [ADAPTED]) == key("other")
    with database.read() as session:
        assert session.get_one(ActionRow, key("avoided")).overtaken is None
        assert left_in_queue(session, QUEUE, "w1") == LeftInQueue(Announcement(key("avoided"), QUEUE), reserved=True)
    assert claimed(database, worker="w2") == key("avoided")
    with database.read() as session:
        assert left_in_queue(session, QUEUE, "w1") is None, "nothing is due: the sweep announces the paused one in time"


def test_a_drained_worker_claims_nothing_and_counts_nothing(database: Database) -> None:
    add_worker(database)
    queue_actions(database, ("cold", BASE), ("warm", ADAPTED))
    with database.write() as session:
        drain(session, "w1")
    assert claimed(database, [ADAPTED]) is None
    with database.read() as session:
        assert session.get_one(ActionRow, key("cold")).overtaken is None
        assert left_in_queue(session, QUEUE, "w1") == LeftInQueue(Announcement(key("cold"), QUEUE), reserved=True)


def test_the_stages_of_one_model_have_equal_inputs_and_a_build_has_those_of_its_checkpoint(database: Database) -> None:
    for limits in ("small", "large"):
        submit_request(database, new_request(limits=limits))
    with database.read() as session:
        builds = session.execute(select(ActionRow.inputs).where(ActionRow.stage == "build")).scalars().all()
    assert builds == [new_request().convert.key] * 2


def test_no_action_starves_whatever_workers_hold_and_callers_submit(tmp_path: Path) -> None:
    """While an action waits, at most five times as many claims succeed as there were actions in front of it and one for
    itself: the oldest of a queue is overtaken four times at most."""
    database = Database(migrated_sqlite(tmp_path / "catalogue.db"))
    models = [digit * 64 for digit in "abcd"]
    workers = [add_worker(database, f"w{number}") for number in range(3)]
    for seed in range(6):
        chance = random.Random(seed)
        queue = f"convert.{seed}"
        held = {worker: chance.sample(models, chance.choice([0, 1, 2])) for worker in workers}
        in_front: dict[str, int] = {}  # of each waiting action, when it was submitted
        claims_while_waiting: Counter[str] = Counter()
        with database.write() as session:
            for step in range(50):
                for number in range(chance.choice([0, 1, 1, 2])):
                    name = f"{seed} {step} {number}"
                    in_front[key(name)] = len(in_front)
                    # Mostly of one model, which most workers hold: the others would starve without a bound.
                    row = queued_row(name, chance.choice([models[0], models[0], models[0], *models]), queue)
                    session.execute(
                        insert(ActionRow).values(row | {"queued_at": now(0.01 * (3 * step + number) - 1000)})
                    )
                worker = chance.choice(workers)
                claim = claim_next(session, queue, worker, lease_seconds=60, held=held[worker])
                if claim is not None:
                    place = in_front.pop(claim.key)
                    bound = (place + 1) * (MOST_OVERTAKING + 1) - 1
                    assert claims_while_waiting.pop(claim.key, 0) <= bound, f"seed {seed}, step {step}"
                    claims_while_waiting.update(in_front.keys())
    database.close()


def test_of_many_claims_at_once_each_takes_another_action_and_none_is_left_without_a_message(
    database: Database,
) -> None:
    """As many messages as actions, and workers that hold one of two models."""
    names = [(f"action {number}", (ADAPTED, BASE)[number % 2]) for number in range(16)]
    queue_actions(database, *names)
    messages: SimpleQueue[str] = SimpleQueue()
    for _ in names:
        messages.put(QUEUE)
    workers = [add_worker(database, f"w{number}") for number in range(4)]

    def work(number: int) -> list[str]:
        taken: list[str] = []
        while True:
            try:
                queue = messages.get(timeout=0.5)
            except Empty:
                return taken
            claim = claimed(database, [(ADAPTED, BASE)[number % 2]], worker=workers[number], queue=queue)
            if claim is not None:
                taken.append(claim)
                continue
            with database.read() as session:
                if left_in_queue(session, queue, workers[number]) is not None:
                    messages.put(queue)

    with ThreadPoolExecutor(len(workers)) as threads:
        taken = [name for names in threads.map(work, range(len(workers))) for name in names]
    assert sorted(taken) == sorted(key(name) for name, _ in names)


def test_a_locked_action_is_announced_again_by_the_worker_that_passes_it(database: Database) -> None:
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    add_worker(database)
    queue_actions(database, ("locked", BASE))
    with database.write() as other:
        other.execute(select(ActionRow).where(ActionRow.key == key("locked")).with_for_update())
        assert claimed(database, [BASE]) is None
        with database.read() as session:
            assert left_in_queue(session, QUEUE, "w1") == LeftInQueue(
                Announcement(key("locked"), QUEUE), reserved=False
            )
            assert next_turn(session, QUEUE, "w1") is None
    assert claimed(database, [BASE]) == key("locked")
