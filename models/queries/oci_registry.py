"""The catalogue as a registry sees it: repositories, tags, and which engine a digest belongs to. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.wire.bodies import Engine
from models.catalogue.rows import EngineRow, ManifestFileRow
from models.catalogue.visibility import SERVED
from models.queries.engines import get_engine
from models.queries.oci import Artifact, artifact, repository


def repositories(session: Session) -> list[str]:
    found = session.execute(select(EngineRow.model, EngineRow.toolchain).where(SERVED).distinct())
    return sorted({repository(model, toolchain) for model, toolchain in found})


def tags(session: Session, name: str) -> list[str]:
    """The tags of a repository, in lexical order: every engine's key.

    Raises:
        NotFound: no engine was ever published under this name.
    """
    found = sorted(_keys(session, name))
    if not found:
        raise NotFound(f"there is no repository {name!r}; GET /v2/_catalog lists what there is")
    return found


def find_artifact(session: Session, name: str, reference: str) -> Artifact:
    """The engine that a tag, or the digest of its OCI manifest, names.

    Raises:
        NotFound
    """
    for engine in _candidates(session, name, reference):
        found = artifact(engine)
        if reference in {engine.key, found.digest}:
            return found
    raise NotFound(f"there is no {reference[:80]!r} in {name!r}; GET /v2/{name}/tags/list lists its tags")


def find_document(session: Session, name: str, digest: Digest) -> bytes | None:
    """The configuration with this digest. It is no blob of the store: it is made from the catalogue."""
    configs = (artifact(engine).config for engine in _engines(session, name))
    return next((config for config in configs if of_bytes(config) == digest), None)


def holds_file(session: Session, name: str, digest: Digest) -> bool:
    """Whether an engine of this repository has a file with this digest."""
    found = session.execute(
        select(EngineRow.model, EngineRow.toolchain)
        .join(ManifestFileRow, ManifestFileRow.manifest == EngineRow.manifest)
        .where(SERVED, ManifestFileRow.blob == digest)
        .distinct()
    )
    return any(repository(model, toolchain) == name for model, toolchain in found)


def _candidates(session: Session, name: str, reference: str) -> Iterator[Engine]:
    if reference.startswith("sha256:"):
        yield from _engines(session, name)
    elif reference in _keys(session, name):
        yield get_engine(session, reference)


def _engines(session: Session, name: str) -> Iterator[Engine]:
    """Newest first: what is asked for by digest was most often just asked for by tag."""
    for key in _keys(session, name):
        yield get_engine(session, key)


def _keys(session: Session, name: str) -> list[Key]:
    found = session.execute(
        select(EngineRow.key, EngineRow.model, EngineRow.toolchain).where(SERVED).order_by(EngineRow.created_at.desc())
    )
    return [row.key for row in found if repository(row.model, row.toolchain) == name]
