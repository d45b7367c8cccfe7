"""The scheme of a reference picks its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.reference import parse
from models.sources import AuxiliarySource, FileSource, HubSource, MemoryDigestCache, Sources
from tests.models.sources.models import fetched, read, tiny, write
from tests.servers.hub import Hub


def test_the_scheme_picks_hub_or_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "models" / "tiny", tiny())
    with Hub() as hub:
        hub.push("org/tiny", tiny())
        sources = Sources(
            HubSource(hub.url),
            FileSource([tmp_path / "models"], MemoryDigestCache()),
            AuxiliarySource([], MemoryDigestCache()),
        )
        for text, kind in (("hf:org/tiny", "hf"), (f"file:{folder}", "files")):
            resolved = sources.resolve_model(parse(text))
            assert resolved.identity["source"] == kind
            sources.fetch(resolved, tmp_path / kind)
            assert read(tmp_path / kind) == fetched(tiny())


def test_a_farm_without_s3_says_so() -> None:
    sources = Sources(
        HubSource("http://127.0.0.1:9"), FileSource([], MemoryDigestCache()), AuxiliarySource([], MemoryDigestCache())
    )
    with pytest.raises(ModelUnavailable, match="reads no models from S3") as caught:
        sources.resolve_model(parse("s3://bucket/tiny"))
    assert caught.value.problems[0].code == "model_source_unknown"
