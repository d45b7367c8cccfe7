"""An engine in the tree that a server reads: whole or not at all, and nothing of it on the farm's word alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, Conflict, IntegrityError, NotFound
from enginefarm.contract.serving import FILE, Layout, Serving
from enginefarm.transfer.triton_layout import pull_layout
from enginefarm.wire.bodies import Engine
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.pulling import held

LAYOUT = Layout(
    engine="model/1",
    files={"model/config": "engine={engine} all={layout} {other}", "pre/1/run.py": "pass"},
    folders=["ens/1"],
)
SERVING = Serving(world_size=1, ranks={"tp": 1}, launch={}, layouts={"triton": LAYOUT})


def publish(double: FarmDouble, serving: Serving | None = SERVING, said: object = None) -> Engine:
    """An engine with a layout; the farm's word on it may differ from what is in its files."""
    files = {"rank0.engine": b"plan"} | ({FILE: serving.model_dump_json().encode()} if serving else {})
    engine = double.publish(files)
    summary = SERVING.summary() if said is None else {"layouts": {"triton": {"engine": said}}}
    found = engine.model_copy(update={"provenance": {"serving": summary}})
    double.state.engines[engine.key] = found
    return found


def test_the_tree_is_whole_and_names_its_place(double: FarmDouble, farm: Farm, place: Path) -> None:
    engine = publish(double)
    for _ in range(2):  # the second time it is there, and only checked
        assert pull_layout(farm, engine, "triton", place) == place.resolve()
    found = held(place)
    assert set(found) == {"model/config", "pre/1/run.py", "model/1/rank0.engine", f"model/1/{FILE}"}
    assert found["model/config"].decode() == f"engine={place.resolve()}/model/1 all={place.resolve()} {{other}}"
    assert (place / "ens" / "1").is_dir()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("file", ["model/config", "model/1/rank0.engine"])
def test_a_tree_that_was_changed_is_refused(double: FarmDouble, farm: Farm, place: Path, file: str) -> None:
    engine = publish(double)
    pull_layout(farm, engine, "triton", place)
    (place / file).write_text("something else")
    with pytest.raises(Conflict):
        pull_layout(farm, engine, "triton", place)


def test_a_folder_that_is_there_is_left_alone(double: FarmDouble, farm: Farm, place: Path) -> None:
    place.mkdir(parents=True)
    with pytest.raises(Conflict):
        pull_layout(farm, publish(double), "triton", place)
    assert list(place.iterdir()) == []


def test_what_the_farm_says_must_be_in_the_engine(double: FarmDouble, farm: Farm, place: Path) -> None:
    for serving, said in ((None, None), (SERVING, "other/1"), (SERVING, "../outside"), (SERVING, "/etc")):
        with pytest.raises(IntegrityError):
            pull_layout(farm, publish(double, serving, said), "triton", place)
        assert not place.exists()
    assert not (place.parent / "outside").exists()


def test_what_cannot_be_laid_out(double: FarmDouble, farm: Farm, place: Path) -> None:
    with pytest.raises(NotFound, match="those that it has: triton"):
        pull_layout(farm, publish(double), "ollama", place)
    bare = Serving(world_size=1, ranks={"tp": 1}, launch={}, without={"triton": "it has two engines"})
    engine = publish(double, bare).model_copy(update={"provenance": {"serving": bare.summary()}})
    with pytest.raises(NotFound, match="has no layout 'triton': it has two engines"):
        pull_layout(farm, engine, "triton", place)
    with pytest.raises(CallerError, match="quotes"):
        pull_layout(farm, publish(double), "triton", place.with_name('a"b'))
