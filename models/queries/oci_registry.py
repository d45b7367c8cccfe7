"""The catalogue as an OCI registry: repositories, tags, and the engine that a digest belongs to. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import ColumnElement, Integer, literal, select
from sqlalchemy.orm import Session

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.errors import NotFound
from models.catalogue.rows import EngineRow, ManifestFileRow
from models.catalogue.visibility import SERVED
from models.queries.oci import Artifact
from models.queries.registry_entries import REGISTERED, UNREGISTERED, artifacts_of, unnamed_engines


def repositories(session: Session, *, after: str, limit: int) -> list[str]:
    """The names of `limit` repositories with a served engine at most, in lexical order, after the name `after`."""
    served = select(EngineRow.repository).where(SERVED).order_by(EngineRow.repository).limit(1)
    # One look into the index for each name: DISTINCT would read every engine.
    names = select(
        served.where(EngineRow.repository > after).scalar_subquery().label("name"), literal(1, Integer).label("place")
    ).cte("names", recursive=True)
    names = names.union_all(
        select(served.where(EngineRow.repository > names.c.name).scalar_subquery(), names.c.place + 1).where(
            names.c.name.is_not(None), names.c.place < limit
        )
    )
    stored = session.execute(select(names.c.name).where(names.c.name.is_not(None))).scalars().all()
    unnamed = [name for name in unnamed_engines(session) if name > after]
    return sorted({*stored, *unnamed})[:limit]


def tags(session: Session, name: str, *, after: str, limit: int) -> list[str]:
    """`limit` tags of a repository at most, in lexical order, after the tag `after`: an engine's key each.

    Raises:
        NotFound: the repository has no served engine.
    """
    named = select(EngineRow.key).where(SERVED, EngineRow.repository == name).order_by(EngineRow.key)
    stored = session.execute(named.where(EngineRow.key > after).limit(limit)).scalars().all()
    unnamed = unnamed_engines(session).get(name, [])
    page = sorted({*stored, *(key for key in unnamed if key > after)})[:limit]
    if not page and not unnamed and session.execute(named.limit(1)).first() is None:
        raise NotFound(f"there is no repository {name!r}; GET /v2/_catalog lists the repositories")
    return page


def find_artifact(session: Session, name: str, reference: str) -> Artifact:
    """The engine that a tag, or the digest of its OCI manifest, names.

    Raises:
        NotFound: no engine of the repository has this tag or digest.
    """
    if reference.startswith("sha256:"):
        candidates = _candidates(session, name, EngineRow.oci_manifest == reference)
    else:
        candidates = artifacts_of(session, SERVED, EngineRow.key == reference)
    for candidate in candidates:
        if candidate.repository == name and reference in {candidate.key, candidate.digest}:
            return candidate
    raise NotFound(f"there is no {reference[:80]!r} in {name!r}; GET /v2/{name}/tags/list lists its tags")


def find_document(session: Session, name: str, digest: Digest) -> bytes | None:
    """The configuration with this digest; None if no engine of the repository has it.

    A configuration is no blob of the store: it is made from the catalogue each time.
    """
    for candidate in _candidates(session, name, EngineRow.oci_config == digest):
        if of_bytes(candidate.config) == digest:
            return candidate.config
    return None


def holds_file(session: Session, name: str, digest: Digest) -> bool:
    """True if an engine of this repository has a file with this digest."""
    has_file = (
        select(ManifestFileRow.path)
        .where(ManifestFileRow.manifest == EngineRow.manifest, ManifestFileRow.blob == digest)
        .exists()
    )
    named = select(EngineRow.key).where(SERVED, EngineRow.repository == name, has_file).limit(1)
    return session.execute(named).first() is not None or name in unnamed_engines(session, has_file)


def _candidates(session: Session, name: str, is_named: ColumnElement[bool]) -> Iterator[Artifact]:
    """The engines of a repository that meet a condition on stored digests, then those whose digests are not stored."""
    yield from artifacts_of(session, is_named, EngineRow.repository == name, REGISTERED, SERVED)
    for candidate in artifacts_of(session, UNREGISTERED, SERVED):
        if candidate.repository == name:
            yield candidate
