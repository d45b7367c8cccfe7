"""The catalogue as an OCI registry: repositories, tags, and the engine that a digest belongs to. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
    """The names of all repositories with a served engine, in lexical order."""
    rows = session.execute(select(EngineRow.model, EngineRow.toolchain).where(SERVED).distinct())
    names: set[str] = set()
    for model, toolchain in rows:
        names.add(repository(model, toolchain))
    return sorted(names)


def tags(session: Session, name: str) -> list[str]:
    """The tags of a repository, in lexical order: every engine's key.

    Raises:
        NotFound: the repository has no served engine.
    """
    keys = sorted(_keys(session, name))
    if not keys:
        raise NotFound(f"there is no repository {name!r}; GET /v2/_catalog lists the repositories")
    return keys


def find_artifact(session: Session, name: str, reference: str) -> Artifact:
    """The engine that a tag, or the digest of its OCI manifest, names.

    Raises:
        NotFound: no engine of the repository has this tag or digest.
    """
    candidates: Iterable[Engine] = ()
    # The catalogue does not store digests of OCI manifests: they are computed until one fits.
    if reference.startswith("sha256:"):
        candidates = _engines(session, name)
    elif reference in _keys(session, name):
        candidates = [get_engine(session, reference)]
    for engine in candidates:
        candidate = artifact(engine)
        if reference in {engine.key, candidate.digest}:
            return candidate
    raise NotFound(f"there is no {reference[:80]!r} in {name!r}; GET /v2/{name}/tags/list lists its tags")


def find_document(session: Session, name: str, digest: Digest) -> bytes | None:
    """The configuration with this digest; None if no engine of the repository has it.

    A configuration is no blob of the store: it is made from the catalogue each time.
    """
    for engine in _engines(session, name):
        config = artifact(engine).config
        if of_bytes(config) == digest:
            return config
    return None


def holds_file(session: Session, name: str, digest: Digest) -> bool:
    """True if an engine of this repository has a file with this digest."""
    rows = session.execute(
        select(EngineRow.model, EngineRow.toolchain)
        .join(ManifestFileRow, ManifestFileRow.manifest == EngineRow.manifest)
        .where(SERVED, ManifestFileRow.blob == digest)
        .distinct()
    )
    return any(repository(model, toolchain) == name for model, toolchain in rows)


def _engines(session: Session, name: str) -> Iterator[Engine]:
    """Newest first: a client that asks by digest has mostly just asked by the tag of a new engine."""
    for key in _keys(session, name):
        yield get_engine(session, key)


def _keys(session: Session, name: str) -> list[Key]:
    # The name of a repository is computed from model and toolchain, so the database cannot select by it.
    rows = session.execute(
        select(EngineRow.key, EngineRow.model, EngineRow.toolchain).where(SERVED).order_by(EngineRow.created_at.desc())
    )
    return [row.key for row in rows if repository(row.model, row.toolchain) == name]
