"""Resolution: the engine of exactly the requested limits, else the smallest that covers them."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import key_of
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.stage import Stage
from enginefarm.wire.resolution import EngineRequirements, Resolution
from models.catalogue.database import Database
from models.lifecycle.publication import publish_checkpoint, publish_engine
from models.lifecycle.submission import NewAction, Request, submit
from models.lifecycle.withdrawal import withdraw_engine
from models.queries.resolution import resolve
from models.queries.similarity import nearest
from tests.models.requests import CPU, add_worker, claim_now, new_work, one_file_manifest

MODEL = "hf:org/tiny"
FIRST, SECOND = "1" * 40, "2" * 40
NODE = {"cpu_isa": CPU.cpu_isa}


def publish(
    database: Database, commit: str = FIRST, *, platform: Any = None, own_limits: list[str] | None = None, **parts: Any
) -> str:
    """An engine of the tiny model; returns its key."""
    spec = BuildSpec.parse({"model": f"{MODEL}@{commit}", "toolchain": {"name": "aoti"}} | parts).model_dump()
    bound = platform or CPU.bound(frozenset({"os", "arch", "cpu_isa"}), "branch")
    identity = {"model": {"commit": commit}}
    convert = NewAction(key_of(identity), Stage.CONVERT, "convert.q", identity, new_work(Stage.CONVERT))
    document = {"spec": spec, "platform": bound}
    build = NewAction(key_of(document), Stage.BUILD, "build.q", document, new_work(Stage.BUILD))
    request = Request(convert, build, spec["model"], "aoti", "2.13.0", spec, CPU.model_dump(), CPU.label(), None)
    add_worker(database)
    with database.write() as session:
        ((first, _),) = submit(session, request).announcements
    if first == convert.key:
        claim = claim_now(database, convert.key)
        with database.write() as session:
            publish_checkpoint(session, claim, one_file_manifest(), facts={}, steps={})
    claim = claim_now(database, build.key)
    engine = {
        "model": spec["model"], "toolchain": "aoti", "version": "2.13.0", "platform": CPU.model_dump(),
        "bound_to": bound, "driver_binding": "branch", "spec": spec,
        "provenance": {"facts": {"own_limits": own_limits}} if own_limits else {},
    }  # fmt: skip
    with database.write() as session:
        publish_engine(session, claim, one_file_manifest(build.key), engine=engine, steps={})
    return build.key


def ask(database: Database, **parts: Any) -> Resolution:
    with database.read() as session:
        return resolve(session, EngineRequirements.parse({"model": MODEL, "platform": NODE} | parts))


def limits(batch: int, start: int = 128, out: int = 128, **more: int) -> dict[str, int]:
    return {"max_batch_size": batch, "max_input_len": start, "max_output_len": out, **more}


def test_the_exact_engine_is_resolved_then_the_smallest_that_covers(database: Database) -> None:
    keys = {batch: publish(database, limits=limits(batch)) for batch in (16, 4, 8)}
    exact = ask(database, limits=limits(8))
    assert (exact.engine.key, exact.exact, exact.differences) == (keys[8], True, [])
    covering = ask(database, limits=limits(5))
    assert (covering.engine.key, covering.exact) == (keys[8], False)
    assert [(difference.pointer, difference.wanted, difference.has) for difference in covering.differences] == [
        ("/limits/max_batch_size", 5, 8)
    ]
    assert ask(database, limits=limits(9)).engine.key == keys[16]


@pytest.mark.parametrize(("own", "serves"), [(None, True), (["max_output_len"], False)])
def test_an_independent_input_limit_leaves_no_room_for_output(
    database: Database, own: list[str] | None, serves: bool
) -> None:
    key = publish(database, limits=limits(4, 128, 64), own_limits=own)
    if serves:
        assert ask(database, limits=limits(4, 64, 128)).engine.key == key
    else:
        with pytest.raises(NotFound) as refused:
            ask(database, limits=limits(4, 64, 128))
        (problem,) = refused.value.problems
        assert (problem.pointer, problem.value, problem.expected) == ("/limits/max_output_len", 128, "64")
    assert ask(database, limits=limits(4, 128, 64)).exact
    assert not ask(database, limits=limits(4, 128, 63)).exact


def test_requirements_that_no_engine_meets_are_refused_with_the_reasons(database: Database) -> None:
    publish(database, limits=limits(4))
    with pytest.raises(NotFound) as refused:
        ask(database, limits=limits(5, 256), platform={"cpu_isa": "x86-64-v2"})
    assert {problem.pointer for problem in refused.value.problems} == {
        "/platform/cpu_isa", "/limits/max_batch_size", "/limits/max_input_len", "/limits/max_seq_len",
    }  # fmt: skip
    with pytest.raises(NotFound, match="no engine of hf:org/other"):
        ask(database, model="hf:org/other")


@pytest.mark.parametrize(
    "parts",
    [
        {"precision": {"dtype": "float16"}},
        {"parallelism": {"tp": 2}},
        {"options": {"salt": "x"}},
        {"toolchain": {"name": "trtllm"}},
        {"toolchain": {"name": "aoti", "version": "2.0"}},
    ],
)
def test_a_requested_field_must_be_equal_and_an_absent_one_may_be_anything(
    database: Database, parts: dict[str, Any]
) -> None:
    key = publish(database, limits=limits(4), precision={"dtype": "float32"}, options={"salt": "y"})
    assert ask(database, limits=limits(4)).engine.key == key
    assert ask(database, limits=limits(4), precision={"dtype": "auto"}, options={"salt": "y"}).engine.key == key
    with pytest.raises(NotFound):
        ask(database, limits=limits(4), **parts)


def test_only_engines_of_the_newest_weights_count_without_a_revision(database: Database) -> None:
    old = publish(database, FIRST, limits=limits(8))
    new = publish(database, SECOND, limits=limits(16))
    assert ask(database, limits=limits(8)).engine.key == new
    assert ask(database, model=f"{MODEL}@{FIRST}", limits=limits(8)).engine.key == old
    with pytest.raises(NotFound):
        ask(database, model=f"{MODEL}@{'3' * 40}", limits=limits(8))


def test_a_withdrawn_engine_is_neither_resolved_nor_near(database: Database) -> None:
    small, large = (publish(database, limits=limits(batch)) for batch in (8, 16))
    assert near(database) == {small, large}
    with database.write() as session:
        assert withdraw_engine(session, small, "a sick host")
    assert near(database) == {large}
    assert ask(database, limits=limits(8)).engine.key == large
    with database.write() as session:
        assert withdraw_engine(session, large, "a sick host")
    assert near(database) == set()
    with pytest.raises(NotFound, match="no engine of"):
        ask(database, limits=limits(8))


def near(database: Database) -> set[str]:
    """The engines that are nearest to one that is not there."""
    asked = {"model": f"{MODEL}@{FIRST}", "toolchain": {"name": "aoti"}, "limits": limits(4)}
    spec = BuildSpec.parse(asked).model_dump()
    convert = NewAction(
        key_of({"convert": 0}), Stage.CONVERT, "convert.q", {"model": {"commit": FIRST}}, new_work(Stage.CONVERT)
    )
    build = NewAction(key_of({"build": 0}), Stage.BUILD, "build.q", {"platform": {}}, new_work(Stage.BUILD))
    build_request = Request(
        convert, build, spec["model"], "aoti", "2.13.0", spec, CPU.model_dump(), CPU.label(), None
    )  # fmt: skip
    with database.read() as session:
        return {near.engine.key for near in nearest(session, build_request)}


def test_unchecked_platform_fields_are_listed(database: Database) -> None:
    key = publish(database, limits=limits(4))
    resolution = ask(database, limits=limits(4), platform={})
    assert (resolution.engine.key, resolution.unchecked) == (key, ["arch", "cpu_isa", "os"])
