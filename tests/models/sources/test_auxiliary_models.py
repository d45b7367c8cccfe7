"""Second models: the files that a program opens by name, pinned like a model, and never a pickle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable
from enginefarm.contract.model_reference import HubReference, parse
from models.sources import AuxiliarySource, HubAuxiliarySource, MemoryDigestCache
from models.sources.auxiliary_selection import NamedFiles
from tests.models.sources.models import read
from tests.servers.hub import Hub

HEADS = NamedFiles(("config.json", "medusa_lm_head.safetensors"))
FILES = {"config.json": b"{}", "medusa_lm_head.safetensors": b"weights"}
BESIDE = {"medusa_lm_head.pt": b"a pickle", "code.py": b"raise SystemExit", "README.md": b"# heads"}
REFERENCE = HubReference("org/heads")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def source(hub: Hub, tmp_path: Path) -> AuxiliarySource:
    return AuxiliarySource([tmp_path], MemoryDigestCache(), HubAuxiliarySource(hub.url))


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_hubs_are_pinned_to_the_commit_and_only_named_files_fetched(
    hub: Hub, source: AuxiliarySource, tmp_path: Path
) -> None:
    commit = hub.push("org/heads", FILES | BESIDE)
    resolved = source.resolve(REFERENCE, HEADS)
    assert resolved.reference == f"hf:org/heads@{commit}"
    assert resolved.identity == {"source": "hf", "repo": "org/heads", "commit": commit}
    hub.push("org/heads", {"config.json": b"later"})
    source.fetch(resolved, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_a_folders_are_what_is_in_the_named_files(source: AuxiliarySource, tmp_path: Path) -> None:
    one, same, other = (
        source.resolve(parse(f"file:{put(tmp_path / name, files)}"), HEADS)
        for name, files in (("a", FILES), ("b", FILES | BESIDE), ("c", FILES | {"config.json": b"[]"}))
    )
    assert one.identity == same.identity != other.identity
    source.fetch(same, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


@pytest.mark.parametrize(
    ("files", "code", "says"),
    [
        ({"config.json": b"{}"} | BESIDE, "model_only_pickle", "medusa_lm_head.pt"),
        ({"config.json": b"{}", "model.safetensors": b""}, "model_file_missing", "no medusa_lm_head.safetensors"),
        ({"README.md": b""}, "model_file_missing", "no config.json and no medusa_lm_head.safetensors"),
    ],
)
def test_what_has_not_the_files_is_refused(
    hub: Hub, source: AuxiliarySource, tmp_path: Path, files: dict[str, bytes], code: str, says: str
) -> None:
    hub.push("org/heads", files)
    for reference in (REFERENCE, parse(f"file:{put(tmp_path / 'heads', files)}")):
        with pytest.raises(ModelUnavailable) as caught:
            source.resolve(reference, HEADS)
        (problem,) = caught.value.problems
        assert (problem.code, problem.value) == (code, str(reference))
        assert says in problem.detail
        assert problem.remedy


SAID = {"config.json": b'{"r": 8}', "medusa_lm_head.safetensors": b"weights"}


def test_what_one_says_of_itself_is_read_at_its_commit_and_once(hub: Hub, source: AuxiliarySource) -> None:
    commit = hub.push("org/heads", SAID)
    resolved = source.resolve(REFERENCE, HEADS)
    hub.push("org/heads", {"config.json": b"{}"})
    assert source.config(resolved) == {"r": 8}
    asked = len(hub.requests)
    assert source.config(resolved) == {"r": 8}
    assert len(hub.requests) == asked
    assert hub.asked_for(f"resolve/{commit}/config.json")
    assert not hub.asked_for("medusa_lm_head.safetensors")


def test_a_folder_that_changes_says_something_else(source: AuxiliarySource, tmp_path: Path) -> None:
    folder = put(tmp_path / "heads", SAID)
    reference = parse(f"file:{folder}")
    assert source.config(source.resolve(reference, HEADS)) == {"r": 8}
    (folder / "config.json").write_bytes(b'{"r": 16}')
    assert source.config(source.resolve(reference, HEADS)) == {"r": 16}


@pytest.mark.parametrize(
    ("said", "says"), [(b"{", "is not JSON"), (b"[]", "is not a JSON object"), (b" " * (5 << 20), "has more than")]
)
def test_what_says_nothing_sensible_is_refused(
    hub: Hub, source: AuxiliarySource, tmp_path: Path, said: bytes, says: str
) -> None:
    files = SAID | {"config.json": said}
    hub.push("org/heads", files)
    for reference in (REFERENCE, parse(f"file:{put(tmp_path / 'heads', files)}")):
        with pytest.raises(ModelUnavailable, match=says) as caught:
            source.config(source.resolve(reference, HEADS))
        (problem,) = caught.value.problems
        assert (problem.code, problem.value) == ("model_config_invalid", source.resolve(reference, HEADS).reference)


def test_a_hub_that_is_away_meanwhile_is_tried_again_later(hub: Hub, source: AuxiliarySource) -> None:
    hub.push("org/heads", SAID)
    resolved = source.resolve(REFERENCE, HEADS)
    hub.down = 503
    with pytest.raises(SourceUnavailable):
        source.config(resolved)
    hub.down = None
    assert source.config(resolved) == {"r": 8}


def test_settings_that_arrive_damaged_are_refused(hub: Hub, source: AuxiliarySource) -> None:
    hub.push("org/heads", SAID)
    resolved = source.resolve(REFERENCE, HEADS)
    hub.damaged["config.json"] = b'{"r": 4096}'
    with pytest.raises(ModelUnavailable, match="did not arrive whole"):
        source.config(resolved)


def test_a_bucket_has_none(source: AuxiliarySource) -> None:
    with pytest.raises(ModelUnavailable, match="from a hub and from folders"):
        source.resolve(parse("s3://bucket/heads"), HEADS)
