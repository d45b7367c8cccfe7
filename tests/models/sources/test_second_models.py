"""Second models: the files that a program opens by name, pinned like a model, and never a pickle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.errors import ModelUnavailable
from enginefarm.model import HubReference, parse
from models.sources import DataSource, HubDataSource, MemoryDigestCache
from models.sources.selections import NamedFiles
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
def source(hub: Hub, tmp_path: Path) -> DataSource:
    return DataSource([tmp_path], MemoryDigestCache(), HubDataSource(hub.url))


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_hubs_are_pinned_to_the_commit_and_only_named_files_fetched(
    hub: Hub, source: DataSource, tmp_path: Path
) -> None:
    commit = hub.push("org/heads", FILES | BESIDE)
    resolved = source.resolve(REFERENCE, HEADS)
    assert resolved.reference == f"hf:org/heads@{commit}"
    assert resolved.identity == {"source": "hf", "repo": "org/heads", "commit": commit}
    hub.push("org/heads", {"config.json": b"later"})
    source.fetch(resolved, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_a_folders_are_what_is_in_the_named_files(source: DataSource, tmp_path: Path) -> None:
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
    hub: Hub, source: DataSource, tmp_path: Path, files: dict[str, bytes], code: str, says: str
) -> None:
    hub.push("org/heads", files)
    for reference in (REFERENCE, parse(f"file:{put(tmp_path / 'heads', files)}")):
        with pytest.raises(ModelUnavailable) as caught:
            source.resolve(reference, HEADS)
        (problem,) = caught.value.problems
        assert (problem.code, problem.value) == (code, str(reference))
        assert says in problem.detail
        assert problem.remedy


def test_a_bucket_has_none(source: DataSource) -> None:
    with pytest.raises(ModelUnavailable, match="from a hub and from folders"):
        source.resolve(parse("s3://bucket/heads"), HEADS)
