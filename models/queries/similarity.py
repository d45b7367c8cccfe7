"""Compare existing engines with a request, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from enginefarm.wire.bodies import Difference
from enginefarm.wire.explanation import NearEngine
from models.catalogue.expressions import is_of_model
from models.catalogue.rows import EngineRow
from models.lifecycle.submission import Request
from models.queries.engines import find_engine, newest_engines

_ENGINES_EXAMINED = 200  # the newest of one model; bounds what one request reads and compares
_SECTIONS = ("precision", "parallelism", "limits", "options")


def nearest(session: Session, request: Request, *, limit: int = 3) -> list[NearEngine]:
    """The engines of the same model and toolchain that differ in the fewest fields, the newest first among equals."""
    comparable = (
        EngineRow.toolchain == request.toolchain,
        any_revision_of(request.model),
        EngineRow.key != request.build.key,
    )
    compared: list[tuple[str, list[Difference]]] = []
    for row, identity in newest_engines(session, *comparable, limit=_ENGINES_EXAMINED):
        compared.append((row.key, differences(request, row, identity)))
    # The sort is stable, so that the newest stays first among equals.
    compared.sort(key=lambda pair: len(pair[1]))
    near = []
    for key, unlike in compared[:limit]:
        engine = find_engine(session, key)
        if engine is not None:  # None: withdrawn since the first query
            near.append(NearEngine(engine=engine, differences=unlike))
    return near


def any_revision_of(reference: str) -> ColumnElement[bool]:
    """For a WHERE clause: the engine is of this model, at any revision."""
    model = reference
    # In the path of a folder or a bucket, `@` is a character like others.
    if reference.startswith("hf:"):
        model = reference.partition("@")[0]
    return is_of_model(EngineRow.model, model)


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
            requested["/model"] = request.model
            actual["/model"] = engine.model
        else:
            requested["/model"] = requested_identity
            actual["/model"] = identity
    unlike: list[Difference] = []
    for pointer in sorted(requested.keys() | actual.keys()):
        requested_value = requested.get(pointer)
        actual_value = actual.get(pointer)
        if requested_value != actual_value:
            unlike.append(Difference(pointer=pointer, wanted=requested_value, has=actual_value))
    return unlike


def _fields(spec: Mapping[str, Any], version: str, platform: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"/toolchain/version": version}
    for section in _SECTIONS:
        for name, value in spec.get(section, {}).items():
            fields[f"/{section}/{name}"] = value
    for name, value in platform.items():
        fields[f"/platform/{name}"] = value
    return fields
