"""`hf:` calibration data against a hub on loopback: pinned to a commit, data files only, refused at submit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract.errors import IntegrityError, ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import HubReference, parse
from models.sources import AuxiliarySource, HubAuxiliarySource, MemoryDigestCache
from models.sources.hub import auxiliary
from tests.models.sources.models import Clock, read
from tests.servers.hub import Hub

NEWS = HubReference("org/news")
NAME = "datasets/org/news"
READER = "hf_readersecret"
ROWS = b'{"text": "a"}\n'


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.tokens.add(READER)
        yield server


def refusal(source: HubAuxiliarySource) -> tuple[str, str]:
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_files(NEWS)
    (problem,) = caught.value.problems
    assert problem.remedy
    return problem.code, problem.detail


@pytest.mark.parametrize(
    ("files", "fetched"),
    [
        ({"train.jsonl": ROWS, "data/more.jsonl": ROWS}, {"train.jsonl": ROWS}),
        ({"data/train-0.parquet": b"rows", "data/deeper/x.csv": b"x"}, {"data/train-0.parquet": b"rows"}),
    ],
)
def test_only_data_are_fetched_at_the_commit(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], fetched: dict[str, bytes]
) -> None:
    commit = hub.push(NAME, files | {"news.py": b"raise SystemExit", "README.md": b"# news"})
    source = HubAuxiliarySource(hub.url)
    resolved = source.resolve_files(NEWS)
    assert resolved.reference == f"hf:org/news@{commit}"
    assert resolved.identity == {"source": "hf_dataset", "repo": "org/news", "commit": commit}
    hub.push(NAME, {"train.jsonl": b"later"})
    source.fetch(resolved, tmp_path / "copy")
    assert read(tmp_path / "copy") == fetched


def test_a_model_is_no_data_set_of_the_same_name(hub: Hub) -> None:
    hub.push("org/news", {"train.jsonl": b"a model's"})
    assert refusal(HubAuxiliarySource(hub.url))[0] == "model_not_found"


def test_a_moved_branch_is_seen_when_the_answer_is_old(hub: Hub) -> None:
    clock = Clock()
    source = HubAuxiliarySource(hub.url, clock=clock)
    first = hub.push(NAME, {"a.txt": b"one"})
    assert source.resolve_files(NEWS).identity["commit"] == first
    second = hub.push(NAME, {"a.txt": b"two"})
    assert source.resolve_files(NEWS).identity["commit"] == first
    clock.now += 11
    assert source.resolve_files(NEWS).identity["commit"] == second


def test_a_data_set_without_data_files_is_refused(hub: Hub) -> None:
    hub.push(NAME, {"3.0.0/train.parquet": b"rows", "news.py": b"code"})
    assert refusal(HubAuxiliarySource(hub.url)) == (
        "data_missing",
        "there are no data at its top or in its folder data",
    )


def test_a_data_set_that_is_too_large_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary, "MAX_BYTES", 2)
    hub.push(NAME, {"a.txt": b"one"})
    assert refusal(HubAuxiliarySource(hub.url))[0] == "data_too_large"


def test_gated_data_are_refused_at_submit(hub: Hub) -> None:
    hub.push(NAME, {"a.txt": b"one"})
    hub.restrict(NAME, READER, gated=True)
    assert refusal(HubAuxiliarySource(hub.url)) == ("model_gated", "the data set is gated, and the farm has no token")
    assert HubAuxiliarySource(hub.url, READER).resolve_files(NEWS).files


def test_an_outage_of_the_hub_is_no_refusal(hub: Hub) -> None:
    hub.down = 503
    with pytest.raises(SourceUnavailable):
        HubAuxiliarySource(hub.url).resolve_files(NEWS)


def test_damaged_data_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, {"a.txt": b"one"})
    source = HubAuxiliarySource(hub.url)
    resolved = source.resolve_files(NEWS)
    hub.damaged["a.txt"] = b"longer"
    with pytest.raises(IntegrityError):
        source.fetch(resolved, tmp_path / "copy")


def test_the_scheme_of_calibration_picks_its_source(hub: Hub, tmp_path: Path) -> None:
    hub.push(NAME, {"a.txt": b"one"})
    source = AuxiliarySource([tmp_path], MemoryDigestCache(), HubAuxiliarySource(hub.url))
    source.fetch(source.resolve_files(parse("hf:org/news")), tmp_path / "copy")
    assert read(tmp_path / "copy") == {"a.txt": b"one"}
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_files(parse("s3://bucket/news"))
    assert caught.value.problems[0].code == "data_source_unknown"
