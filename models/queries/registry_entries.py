"""What the registry names engines by: the name of the repository, and the digests of the two OCI documents.

They are computed from an engine's row. So that no request computes them for many engines, the API stores them some
time after a publication: a worker of any release publishes without them. An engine is registered while `registered_at`
is its `created_at`; a publication over the row ends that. Readers compute the entries of the few engines that are not.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Row, or_, select, update
from sqlalchemy.orm import Session

from enginefarm.contract.digest import of_bytes
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.platform import Platform
from models.catalogue.ranges import lock_free_rows
from models.catalogue.rows import BlobRow, EngineRow, ManifestFileRow
from models.catalogue.visibility import SERVED
from models.queries.oci import Artifact, PackagedEngine, artifact, repository

log = logging.getLogger(__name__)

_PAGE = 500  # engines whose rows are read at once

REGISTERED = EngineRow.registered_at == EngineRow.created_at
UNREGISTERED = or_(EngineRow.registered_at.is_(None), EngineRow.registered_at != EngineRow.created_at)


def has_unregistered(session: Session) -> bool:
    """True if an engine has no stored entries."""
    return session.execute(select(EngineRow.key).where(UNREGISTERED).limit(1)).first() is not None


def register_engines(session: Session, *, limit: int = _PAGE) -> int:
    """Store the entries of `limit` engines that have none; returns of how many it stored them.

    Engines that others have locked are left for the next call.
    """
    unregistered = session.execute(select(EngineRow.key).where(UNREGISTERED).order_by(EngineRow.key).limit(limit))
    keys = lock_free_rows(session, EngineRow.key, unregistered.scalars().all())
    artifacts = {computed.key: computed for computed in artifacts_of(session, EngineRow.key.in_(keys))}
    names = select(EngineRow.key, EngineRow.model, EngineRow.toolchain).where(EngineRow.key.in_(keys))
    for row in session.execute(names).all():
        # None: its row cannot be read. It has a name, so that the next call does not find it again.
        computed = artifacts.get(row.key)
        session.execute(
            update(EngineRow)
            .where(EngineRow.key == row.key)
            .values(
                repository=repository(row.model, row.toolchain),
                oci_manifest=computed.digest if computed is not None else None,
                oci_config=of_bytes(computed.config) if computed is not None else None,
                registered_at=EngineRow.created_at,
            )
            .execution_options(synchronize_session=False)
        )
    return len(keys)


def artifacts_of(session: Session, *conditions: ColumnElement[bool]) -> Iterator[Artifact]:
    """The artifacts of the engines that meet the conditions, without those whose row cannot be read."""
    last_key = ""
    while True:
        # Not the whole rows: an engine's spec and provenance are large.
        query = select(
            EngineRow.key, EngineRow.model, EngineRow.toolchain, EngineRow.version, EngineRow.manifest,
            EngineRow.platform, EngineRow.bound_to, EngineRow.created_at,
        )  # fmt: skip
        query = query.where(*conditions, EngineRow.key > last_key).order_by(EngineRow.key).limit(_PAGE)
        engines = session.execute(query).all()
        if not engines:
            return
        last_key = engines[-1].key
        files = _files(session, {engine.manifest for engine in engines})
        for engine in engines:
            packaged = _packaged(engine, files[engine.manifest])
            if packaged is not None:
                yield artifact(packaged)


def unnamed_engines(session: Session, *conditions: ColumnElement[bool]) -> dict[str, list[str]]:
    """The keys of the served engines that have no stored name of a repository yet, by that name."""
    rows = session.execute(
        select(EngineRow.key, EngineRow.model, EngineRow.toolchain)
        .where(SERVED, UNREGISTERED, EngineRow.repository.is_(None), *conditions)
        .order_by(EngineRow.key)
    )
    keys: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        keys[repository(row.model, row.toolchain)].append(row.key)
    return keys


def _files(session: Session, manifests: set[str]) -> dict[str, list[FileEntry]]:
    """The files of each manifest."""
    rows = session.execute(
        select(ManifestFileRow.manifest, ManifestFileRow.path, BlobRow.digest, BlobRow.size)
        .join(BlobRow, BlobRow.digest == ManifestFileRow.blob)
        .where(ManifestFileRow.manifest.in_(manifests))
    )
    files: defaultdict[str, list[FileEntry]] = defaultdict(list)
    for row in rows:
        files[row.manifest].append(FileEntry(path=row.path, digest=row.digest, size=row.size))
    return files


def _packaged(engine: Row[*tuple[Any, ...]], files: Sequence[FileEntry]) -> PackagedEngine | None:
    """None if the row cannot be read: a worker that was taken over may publish any platform."""
    try:
        platform = Platform.model_validate(engine.platform)
    except ValidationError as error:
        log.warning("engine %s is left out: its row cannot be read at %s", engine.key, error.errors()[0]["loc"])
        return None
    return PackagedEngine(
        key=engine.key,
        model=engine.model,
        toolchain=engine.toolchain,
        version=engine.version,
        manifest=engine.manifest,
        platform=platform,
        bound_to=engine.bound_to,
        created_at=engine.created_at,
        files=Manifest.of(files).files,
    )
