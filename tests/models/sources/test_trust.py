"""Code and pickles of a model are used only if an administrator trusts the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.reference import FileReference, parse
from models.settings import Settings
from models.sources import FileSource, MemoryDigestCache
from models.sources.trust import Trust
from tests.doubles.weights import index
from tests.models.sources.models import COUNTING, tiny, write

COMMIT = "a" * 40
SETTINGS = {
    "ENGINEFARM_DATABASE_URL": "sqlite:////x", "ENGINEFARM_BROKER_URL": "redis://x/0", "ENGINEFARM_STORE_URL": "file:///x",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny", tiny(auto_map={"AutoModel": "modeling_tiny.Tiny"}))


def source(folder: Path, *trusted: Path) -> FileSource:
    return FileSource([folder.parent], MemoryDigestCache(), trust=Trust(f"file:{path}" for path in trusted))


def test_only_the_code_of_a_trusted_model_is_used(folder: Path) -> None:
    another = write(folder.parent / "other", tiny())
    plain = source(folder, another).resolve_model(FileReference(str(folder)))
    trusted = source(folder, folder).resolve_model(FileReference(str(folder)))
    assert {file.path for file in plain.files} == set(COUNTING)
    assert {file.path for file in trusted.files} == {*COUNTING, "modeling_tiny.py"}
    assert (plain.facts.remote_code, plain.facts.trusted, trusted.facts.trusted) == (True, False, True)
    assert plain.identity != trusted.identity, "what may run is part of what the model is"


@pytest.mark.parametrize(
    "names",
    [
        ("pytorch_model.bin",),
        ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_pickles_of_a_trusted_model_are_used_if_it_has_no_safetensors(folder: Path, names: tuple[str, ...]) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").unlink()
    write(folder, dict.fromkeys(names, b"pickle"))
    if len(names) > 1:
        write(folder, {names[-1]: index({"a": names[0], "b": names[1]})})
    with pytest.raises(ModelUnavailable, match="only pickle weights"):
        source(folder).resolve_model(FileReference(str(folder)))
    trusted = source(folder, folder).resolve_model(FileReference(str(folder)))
    assert set(names) <= {file.path for file in trusted.files}
    assert not trusted.facts.has_safetensors
    assert trusted.facts.weight_bytes == 6 * len([name for name in names if name.endswith(".bin")])


def test_a_hub_model_is_trusted_at_a_commit() -> None:
    trust = Trust([f"hf:org/name@{COMMIT}"])
    assert trust.allows(parse(f"hf:org/name@{COMMIT}"))
    assert not trust.allows(parse("hf:org/name@main"))
    assert not trust.allows(parse(f"hf:org/name@{'b' * 40}"))
    with pytest.raises(ValueError, match="full commit"):
        Trust(["hf:org/name@main"])


def test_the_setting_is_checked_at_the_start() -> None:
    settings = Settings.from_environment(
        SETTINGS | {"ENGINEFARM_TRUSTED_MODELS": f"hf:org/name@{COMMIT}, file:/models/grown"}
    )
    assert settings.trusted_models == (f"hf:org/name@{COMMIT}", "file:/models/grown")
    with pytest.raises(ValueError, match="full commit"):
        Settings.from_environment(SETTINGS | {"ENGINEFARM_TRUSTED_MODELS": "hf:org/name"})
