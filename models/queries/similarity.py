"""Compare existing engines with a request, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session, aliased

from enginefarm.wire.bodies import Difference
from enginefarm.wire.explanation import NearEngine
from models.catalogue.rows import ActionRow, EngineRow
from models.catalogue.visibility import SERVED
from models.lifecycle.submission import Request
from models.queries.engines import find_engine

_ENGINES_EXAMINED = 200  # of one model, the newest: an explanation needs near engines, not the nearest of all
_SECTIONS = ("precision", "parallelism", "limits", "options")


def nearest(session: Session, request: Request, *, limit: int = 3) -> list[NearEngine]:
    """The engines of the same model and toolchain that differ in the fewest fields, the newest first among equals."""
    convert = aliased(ActionRow)
    rows = session.execute(
        select(EngineRow, convert.document)
        .join(ActionRow, ActionRow.key == EngineRow.key)
        .outerjoin(convert, convert.key == ActionRow.depends_on)
        .where(SERVED, EngineRow.toolchain == request.toolchain, any_revision_of(request.model))
        .where(EngineRow.key != request.build.key)
        .order_by(EngineRow.created_at.desc(), EngineRow.key)
        .limit(_ENGINES_EXAMINED)
    )
    compared: list[tuple[str, list[Difference]]] = []
    for row, document in rows:
        compared.append((row.key, differences(request, row, (document or {}).get("model"))))
    compared.sort(key=lambda pair: len(pair[1]))
    near = []
    for key, unlike in compared[:limit]:
        engine = find_engine(session, key)
        if engine is not None:  # None: withdrawn since the first query
            near.append(NearEngine(engine=engine, differences=unlike))
    return near


def any_revision_of(reference: str) -> ColumnElement[bool]:
    """For a WHERE clause: the engine is of this model, at any revision."""
    model = reference.partition("@")[0] if reference.startswith("hf:") else reference
    return or_(EngineRow.model == model, EngineRow.model.startswith(model + "@", autoescape=True))


def differences(request: Request, engine: EngineRow, identity: Mapping[str, str] | None) -> list[Difference]:
    """The fields in which an engine differs from the request, by JSON pointer.

    `identity` is that of the model that the engine was made from. It is compared instead of the reference, because the
    same weights may be fetched from two places.
    """
    requested = _fields(request.spec, request.version, request.build.document["platform"])
    actual = _fields(engine.spec, engine.version, engine.bound_to)
    requested_identity = request.convert.document["model"]
    if requested_identity != identity:
        # Two references are easier to read than two digests; equal references may still mean changed weights.
        if request.model != engine.model:
            requested["/model"], actual["/model"] = request.model, engine.model
        else:
            requested["/model"], actual["/model"] = requested_identity, identity
    return [
        Difference(pointer=pointer, wanted=requested.get(pointer), has=actual.get(pointer))
        for pointer in sorted(requested.keys() | actual.keys())
        if requested.get(pointer) != actual.get(pointer)
    ]


def _fields(spec: Mapping[str, Any], version: str, platform: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"/toolchain/version": version}
    for section in _SECTIONS:
        for name, value in spec.get(section, {}).items():
            fields[f"/{section}/{name}"] = value
    for name, value in platform.items():
        fields[f"/platform/{name}"] = value
    return fields
