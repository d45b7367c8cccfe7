"""An engine in the directory tree that a server reads: complete or absent, and verified in every part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, Conflict, IntegrityError, NotFound
from enginefarm.contract.serving import FILE, Layout, Serving
from enginefarm.transfer.triton_layout import pull_layout
from enginefarm.wire.bodies import Engine
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.pulling import files_in

LAYOUT = Layout(
    engine="model/1",
    files={"model/config": "engine={engine} all={layout} {other}", "pre/1/run.py": "pass"},
    folders=["ens/1"],
)
SERVING = Serving(world_size=1, ranks={"tp": 1}, launch={}, layouts={"triton": LAYOUT})


def publish(double: FarmDouble, serving: Serving | None = SERVING, stated_path: object = None) -> Engine:
    """An engine with a layout; the farm's summary of it may differ from what is in its files."""
    files = {"rank0.engine": b"plan"} | ({FILE: serving.model_dump_json().encode()} if serving else {})
    engine = double.publish(files)
    summary = SERVING.summary() if stated_path is None else {"layouts": {"triton": {"engine": stated_path}}}
    engine = engine.model_copy(update={"provenance": {"serving": summary}})
    double.state.engines[engine.key] = engine
    return engine


def test_a_layout_is_complete_and_names_its_own_path(double: FarmDouble, client: Farm, destination: Path) -> None:
    engine = publish(double)
    for _ in range(2):  # the second time it exists, and is only checked
        assert pull_layout(client, engine, "triton", destination) == destination.resolve()
    files = files_in(destination)
    assert set(files) == {"model/config", "pre/1/run.py", "model/1/rank0.engine", f"model/1/{FILE}"}
    assert (
        files["model/config"].decode()
        == f"engine={destination.resolve()}/model/1 all={destination.resolve()} {{other}}"
    )
    assert (destination / "ens" / "1").is_dir()
    assert [path.name for path in destination.parent.iterdir()] == [destination.name]


@pytest.mark.parametrize("file", ["model/config", "model/1/rank0.engine"])
def test_a_tree_that_was_changed_is_refused(double: FarmDouble, client: Farm, destination: Path, file: str) -> None:
    engine = publish(double)
    pull_layout(client, engine, "triton", destination)
    (destination / file).write_text("something else")
    with pytest.raises(Conflict):
        pull_layout(client, engine, "triton", destination)


def test_an_existing_folder_is_left_alone(double: FarmDouble, client: Farm, destination: Path) -> None:
    destination.mkdir(parents=True)
    with pytest.raises(Conflict):
        pull_layout(client, publish(double), "triton", destination)
    assert list(destination.iterdir()) == []


def test_the_farms_summary_must_agree_with_the_engines_file(
    double: FarmDouble, client: Farm, destination: Path
) -> None:
    for serving, stated_path in ((None, None), (SERVING, "other/1"), (SERVING, "../outside"), (SERVING, "/etc")):
        with pytest.raises(IntegrityError):
            pull_layout(client, publish(double, serving, stated_path), "triton", destination)
        assert not destination.exists()
    assert not (destination.parent / "outside").exists()


def test_an_impossible_layout_is_refused_with_its_reason(double: FarmDouble, client: Farm, destination: Path) -> None:
    with pytest.raises(NotFound, match="those that it has: triton"):
        pull_layout(client, publish(double), "ollama", destination)
    bare = Serving(world_size=1, ranks={"tp": 1}, launch={}, without={"triton": "it has two engines"})
    engine = publish(double, bare).model_copy(update={"provenance": {"serving": bare.summary()}})
    with pytest.raises(NotFound, match="has no layout 'triton': it has two engines"):
        pull_layout(client, engine, "triton", destination)
    with pytest.raises(CallerError, match="quotes"):
        pull_layout(client, publish(double), "triton", destination.with_name('a"b'))


@pytest.mark.parametrize(
    "fields",
    [
        {"files": {"model/1/rank0.engine": "other bytes"}},
        {"files": {"model/1/new": "x"}},
        {"files": {"model/1": "x"}},
        {"files": {"model": "x"}},
        {"files": {"a": "x", "a/b": "x"}},
        {"files": {}, "folders": ["model/1/sub"]},
    ],
)
def test_a_layout_cannot_write_into_the_engine(
    double: FarmDouble, client: Farm, destination: Path, fields: dict[str, Any]
) -> None:
    layout = Layout(**{"engine": "model/1", "folders": [], **fields})
    engine = publish(double, SERVING.model_copy(update={"layouts": {"triton": layout}}))
    with pytest.raises(IntegrityError, match="outside the engine"):
        pull_layout(client, engine, "triton", destination)
    assert not destination.exists()


@pytest.mark.parametrize("planted", ["", "model", "pre", "pre/1", "pre/1/run.py", "model/config", "ens"])
def test_links_in_what_an_interrupted_pull_left_are_not_followed(
    double: FarmDouble, client: Farm, destination: Path, tmp_path: Path, planted: str
) -> None:
    engine = publish(double)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("precious")
    is_file = planted in {"pre/1/run.py", "model/config"}
    destination.parent.mkdir(parents=True)
    left = destination.with_name(f".{destination.name}.layout-{engine.manifest.removeprefix('sha256:')[:12]}")
    link = left / planted if planted else left
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(foreign / "file" if is_file else foreign)

    if is_file:  # the link is replaced, what it leads to is not touched
        pull_layout(client, engine, "triton", destination)
        assert not (destination / planted).is_symlink()
    else:
        with pytest.raises(Conflict, match="is not a directory of this user"):
            pull_layout(client, engine, "triton", destination)
    assert files_in(foreign) == {"file": b"precious"}
