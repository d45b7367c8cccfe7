"""How far the engines that are there are from what is wanted, field by field."""

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

_LOOKED_AT = 200  # engines of one model, the newest
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
        .limit(_LOOKED_AT)
    )
    found = [(row.key, differences(request, row, (document or {}).get("model"))) for row, document in rows]
    return [
        NearEngine(engine=engine, differences=unlike)
        for key, unlike in sorted(found, key=lambda pair: len(pair[1]))[:limit]
        if (engine := find_engine(session, key)) is not None
    ]


def any_revision_of(reference: str) -> ColumnElement[bool]:
    """Engines of this model at any revision."""
    model = reference.partition("@")[0] if reference.startswith("hf:") else reference
    return or_(EngineRow.model == model, EngineRow.model.startswith(model + "@", autoescape=True))


def differences(request: Request, engine: EngineRow, identity: Mapping[str, str] | None) -> list[Difference]:
    """`identity` is that of the model that the engine was made from; bytes count, not where they came from."""
    wanted = _fields(request.spec, request.version, request.build.document["platform"])
    has = _fields(engine.spec, engine.version, engine.bound_to)
    if (ours := request.convert.document["model"]) != identity:
        moved = request.model != engine.model
        wanted["/model"], has["/model"] = (request.model, engine.model) if moved else (ours, identity)
    return [
        Difference(pointer=pointer, wanted=wanted.get(pointer), has=has.get(pointer))
        for pointer in sorted(wanted.keys() | has.keys())
        if wanted.get(pointer) != has.get(pointer)
    ]


def _fields(spec: Mapping[str, Any], version: str, platform: Mapping[str, Any]) -> dict[str, Any]:
    flat = {f"/{part}/{name}": value for part in _SECTIONS for name, value in spec.get(part, {}).items()}
    return flat | {"/toolchain/version": version} | {f"/platform/{name}": value for name, value in platform.items()}
