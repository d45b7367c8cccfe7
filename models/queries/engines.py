"""Engines as REST bodies: lookups and the listing. Reads only."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Row, literal, select, tuple_
from sqlalchemy.orm import Session, aliased, defer

from enginefarm.contract.errors import Gone, NotFound
from enginefarm.wire.bodies import Engine, EnginePage, EngineSummary, PhysicalFile
from models.catalogue.clock import UtcDateTime
from models.catalogue.expressions import is_of_model
from models.catalogue.pagination import from_time_cursor, to_time_cursor
from models.catalogue.rows import ActionRow, EngineRow, ManifestRow
from models.catalogue.visibility import SERVED
from models.lifecycle.publication import read_manifest
from models.queries.removals import why_removed

log = logging.getLogger(__name__)

MAX_PAGE = 200
_FIRST_READ = 50  # engines of a model: most callers find among the newest what they look for

_NEWEST_FIRST = (EngineRow.created_at.desc(), EngineRow.key.desc())


def find_engine(session: Session, key: str) -> EngineSummary | None:
    """The served engine of this key; None if there is none."""
    return find_engines(session, [key]).get(key)


def find_engines(session: Session, keys: Collection[str]) -> dict[str, EngineSummary]:
    """The served engines of these keys, by key."""
    # An IN without values selects nothing: save the round trip.
    if not keys:
        return {}
    rows = session.execute(_SUMMARIES.where(SERVED, EngineRow.key.in_(keys)))
    return {summary.key: summary for summary in readable_summaries(rows)}


def get_engine(session: Session, key: str) -> Engine:
    """An engine with its manifest.

    Raises:
        NotFound: there never was such an engine.
        Gone: it was withdrawn or removed; the text says why.
    """
    summary = session.execute(_SUMMARIES.where(EngineRow.key == key)).one_or_none()
    row = session.get(EngineRow, key)
    if row is None or summary is None:
        removal_reason = why_removed(session, key)
        if removal_reason is not None:
            raise Gone(f"engine {key[:12]} was removed: {removal_reason}; submit its spec again to build it anew")
        raise NotFound(f"there is no engine {key!r}; GET /v1/engines lists the engines")
    if row.quarantined_at is not None:
        raise Gone(f"engine {key[:12]} was withdrawn: {row.quarantine_reason}; submit its spec again to build it anew")
    facts = row.provenance.get("facts", {})
    action = session.get_one(ActionRow, key)
    # The convert action stays after its checkpoint is removed, and its document is part of the engine's provenance.
    checkpoint_document: dict[str, Any] = {}
    if action.depends_on is not None:
        checkpoint_document = session.get_one(ActionRow, action.depends_on).document
    contents = [
        PhysicalFile(**entry.model_dump(), url=f"/v1/engines/{key}/files/{entry.path}")
        for entry in read_manifest(session, row.manifest).files
    ]
    return Engine(
        **summary._mapping,
        spec=row.spec,
        document=action.document,
        checkpoint_document=checkpoint_document,
        bound_to=row.bound_to,
        driver_binding=row.driver_binding,
        provenance=row.provenance,
        effective=facts.get("effective", {}),
        differences=facts.get("differences", []),
        contents=contents,
    )


def list_engines(session: Session, *, limit: int, cursor: str | None, model: str | None = None) -> EnginePage:
    """The served engines, newest first; of `model` at any revision if it has none.

    Raises:
        InvalidRequest: the cursor is none of this farm.
    """
    # By key as well: engines of one time would otherwise change places between two pages. One row more than the page
    # shows whether another one follows.
    query = _SUMMARIES.where(SERVED).order_by(*_NEWEST_FIRST).limit(limit + 1)
    if model is not None:
        query = query.where(is_of_model(EngineRow.model, model))
    if cursor is not None:
        query = query.where(_comes_after(*from_time_cursor(cursor)))
    rows = session.execute(query).all()
    following = None
    if len(rows) > limit:
        following = to_time_cursor(rows[limit - 1].created_at, rows[limit - 1].key)
    return EnginePage(items=list(readable_summaries(rows[:limit])), next_cursor=following)


def _comes_after(time: datetime, key: str) -> ColumnElement[bool]:
    """For a WHERE clause: the engine comes after the one of this time and key, in a listing of the newest first."""
    return tuple_(EngineRow.created_at, EngineRow.key) < tuple_(literal(time, UtcDateTime()), literal(key))


def readable_summaries(rows: Iterable[Row[*tuple[Any, ...]]]) -> Iterator[EngineSummary]:
    """The summaries without those that cannot be read: a worker that was taken over may publish any platform."""
    for row in rows:
        try:
            yield EngineSummary(**row._mapping)
        except ValidationError as error:
            log.warning("engine %s is left out: its row cannot be read at %s", row.key, error.errors()[0]["loc"])


def newest_engines(
    session: Session, *conditions: ColumnElement[bool], limit: int
) -> Iterator[tuple[EngineRow, dict[str, str] | None]]:
    """At most `limit` served engines that meet the conditions, the newest first.

    Each comes with the identity of the model that its checkpoint was converted from, which is the same for the same
    weights from two places; None if its convert action does not name one.

    The first of them are read alone, for a caller that needs no more.
    """
    convert = aliased(ActionRow)
    query = (
        select(EngineRow, convert.document["model"])
        .join(ActionRow, ActionRow.key == EngineRow.key)
        .outerjoin(convert, convert.key == ActionRow.depends_on)
        .where(SERVED, *conditions)
        .order_by(*_NEWEST_FIRST)
        .options(defer(EngineRow.platform))
    )
    first = query.limit(min(limit, _FIRST_READ))
    rows = session.execute(first).all()
    for row, identity in rows:
        yield row, identity
    if len(rows) == _FIRST_READ < limit:
        last = rows[-1][0]
        older = query.where(_comes_after(last.created_at, last.key)).limit(limit - _FIRST_READ)
        for row, identity in session.execute(older):
            yield row, identity


# The columns of a summary and no more: an engine's spec and provenance are large, and most readers want neither.
_SUMMARIES = select(
    EngineRow.key, EngineRow.model, EngineRow.toolchain, EngineRow.version, EngineRow.platform, EngineRow.manifest,
    ManifestRow.size, ManifestRow.files, EngineRow.created_at, EngineRow.pinned,
).join(ManifestRow, ManifestRow.digest == EngineRow.manifest)  # fmt: skip
