"""Second models: only the named files are pinned and fetched, and pickles are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import HubReference, parse
from models.sources import AuxiliarySource, HubAuxiliarySource, MemoryDigestCache
from models.sources.inspection.selection import NamedFiles
from tests.doubles.weights import weights
from tests.models.sources.models import read
from tests.servers.hub import Hub

HEADS = NamedFiles(("config.json", "medusa_lm_head.safetensors"))
FILES = {"config.json": b"{}", "medusa_lm_head.safetensors": weights()}
IGNORED_FILES = {"medusa_lm_head.pt": b"a pickle", "code.py": b"raise SystemExit", "README.md": b"# heads"}
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


def test_a_hub_model_is_pinned_and_only_its_named_files_are_fetched(
    hub: Hub, source: AuxiliarySource, tmp_path: Path
) -> None:
    commit = hub.push("org/heads", FILES | IGNORED_FILES)
    resolved = source.resolve_files(REFERENCE, HEADS)
    assert resolved.reference == f"hf:org/heads@{commit}"
    assert resolved.identity == {"source": "hf", "repo": "org/heads", "commit": commit}
    hub.push("org/heads", {"config.json": b"later"})
    source.fetch(resolved, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


def test_a_folder_is_identified_by_the_content_of_its_named_files(source: AuxiliarySource, tmp_path: Path) -> None:
    first, copy, changed = (
        source.resolve_files(parse(f"file:{put(tmp_path / name, files)}"), HEADS)
        for name, files in (("a", FILES), ("b", FILES | IGNORED_FILES), ("c", FILES | {"config.json": b"[]"}))
    )
    assert first.identity == copy.identity != changed.identity
    source.fetch(copy, tmp_path / "copy")
    assert read(tmp_path / "copy") == FILES


@pytest.mark.parametrize(
    ("files", "code", "detail"),
    [
        ({"config.json": b"{}"} | IGNORED_FILES, "model_only_pickle", "medusa_lm_head.pt"),
        ({"config.json": b"{}", "model.safetensors": b""}, "model_file_missing", "no medusa_lm_head.safetensors"),
        ({"README.md": b""}, "model_file_missing", "no config.json and no medusa_lm_head.safetensors"),
    ],
)
def test_a_model_without_the_named_files_is_refused(
    hub: Hub, source: AuxiliarySource, tmp_path: Path, files: dict[str, bytes], code: str, detail: str
) -> None:
    hub.push("org/heads", files)
    for reference in (REFERENCE, parse(f"file:{put(tmp_path / 'heads', files)}")):
        with pytest.raises(ModelUnavailable) as caught:
            source.resolve_files(reference, HEADS)
        (problem,) = caught.value.problems
        assert (problem.code, problem.value) == (code, str(reference))
        assert detail in problem.detail
        assert problem.remedy


CONFIGURED = {"config.json": b'{"r": 8}', "medusa_lm_head.safetensors": weights()}


def test_a_config_is_read_once_at_its_commit(hub: Hub, source: AuxiliarySource) -> None:
    commit = hub.push("org/heads", CONFIGURED)
    resolved = source.resolve_files(REFERENCE, HEADS)
    hub.push("org/heads", {"config.json": b"{}"})
    assert source.config(resolved) == {"r": 8}
    requests = len(hub.requests)
    assert source.config(resolved) == {"r": 8}
    assert len(hub.requests) == requests
    assert hub.asked_for(f"resolve/{commit}/config.json")
    assert hub.asked_for("medusa_lm_head.safetensors") == 1  # its first bytes


def test_a_changed_config_in_a_folder_is_read_again(source: AuxiliarySource, tmp_path: Path) -> None:
    folder = put(tmp_path / "heads", CONFIGURED)
    reference = parse(f"file:{folder}")
    assert source.config(source.resolve_files(reference, HEADS)) == {"r": 8}
    (folder / "config.json").write_bytes(b'{"r": 16}')
    assert source.config(source.resolve_files(reference, HEADS)) == {"r": 16}


@pytest.mark.parametrize(
    ("config", "defect"), [(b"{", "is not JSON"), (b"[]", "is not a JSON object"), (b" " * (5 << 20), "has more than")]
)
def test_a_config_that_is_no_json_object_or_too_large_is_refused(
    hub: Hub, source: AuxiliarySource, tmp_path: Path, config: bytes, defect: str
) -> None:
    files = CONFIGURED | {"config.json": config}
    hub.push("org/heads", files)
    for reference in (REFERENCE, parse(f"file:{put(tmp_path / 'heads', files)}")):
        with pytest.raises(ModelUnavailable, match=defect) as caught:
            source.config(source.resolve_files(reference, HEADS))
        (problem,) = caught.value.problems
        assert (problem.code, problem.value) == (
            "model_config_invalid",
            source.resolve_files(reference, HEADS).reference,
        )


def test_an_outage_of_the_hub_is_not_remembered(
    hub: Hub, source: AuxiliarySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The hub's library pauses for 23 s in all between its own tries.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    hub.push("org/heads", CONFIGURED)
    resolved = source.resolve_files(REFERENCE, HEADS)
    hub.down = 503
    with pytest.raises(SourceUnavailable):
        source.config(resolved)
    hub.down = None
    assert source.config(resolved) == {"r": 8}


def test_a_damaged_config_is_refused(hub: Hub, source: AuxiliarySource) -> None:
    hub.push("org/heads", CONFIGURED)
    resolved = source.resolve_files(REFERENCE, HEADS)
    hub.damaged["config.json"] = b'{"r": 4096}'
    with pytest.raises(ModelUnavailable, match="did not arrive complete"):
        source.config(resolved)


def test_a_second_model_in_a_bucket_is_refused(source: AuxiliarySource) -> None:
    with pytest.raises(ModelUnavailable, match="from a hub and from folders"):
        source.resolve_files(parse("s3://bucket/heads"), HEADS)
