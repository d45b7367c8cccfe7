"""/v1/engines, and /v1/blobs, which serves the signed links of a directory store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import Path, Query
from fastapi.responses import RedirectResponse

from api.auth import Reader, Submitter
from api.control import Control, ControlPlane
from api.engines.pulls import note_pull
from api.http.file_sending import BlobResponse
from api.http.openapi import PROBLEM, PROBLEM_CONTENT, PROBLEMS, described_headers, refuses
from api.http.routing import bounded_router
from api.lanes import in_lane
from api.planning.inputs import without_second_models
from enginefarm.contract.bounded import MAX_COUNT, Text
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.wire.bodies import Engine, EnginePage, EngineSummary
from enginefarm.wire.resolution import EngineRequirements, Resolution
from models.queries.engines import MAX_PAGE, get_engine, list_engines
from models.queries.resolution import resolve
from models.retention.pins import set_pin
from models.store import DirectoryStore

router = bounded_router(tags=["engines"])


_Seconds = Annotated[int, Query(ge=0, le=MAX_COUNT, description="since 1970")]
_BYTES: dict[str, Any] = {"application/octet-stream": {}}


@router.get("/v1/engines")
@in_lane("listings")
def engines(
    control: Control,
    _: Reader,
    model: Annotated[Text | None, Query(description="with or without the revision")] = None,
    cursor: Text | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> EnginePage:
    """Published engines, newest first."""
    with control.database.read() as session:
        return list_engines(session, limit=limit, cursor=cursor, model=model)


@router.post("/v1/engines:resolve", responses=refuses(404))
def resolve_engine(requirements: EngineRequirements, control: Control, _: Reader) -> Resolution:
    """The best engine that runs on a platform: one of exactly these limits, else the smallest that covers them.

    An engine with adapters or draft heads is returned only if the request names the options for them.
    """
    # A null excludes engines built with a second model: a node that names none could not serve its adapters.
    options = without_second_models(requirements.options)
    with control.database.read() as session:
        return resolve(session, requirements.model_copy(update={"options": options}))


@router.put("/v1/engines/{key:key}/pin", responses=refuses(410))
def pin(key: Key, control: Control, _: Submitter) -> EngineSummary:
    """Pin this engine: garbage collection skips pinned engines."""
    return _set_pin(control, key, pinned=True)


@router.delete("/v1/engines/{key:key}/pin", responses=refuses(410))
def unpin(key: Key, control: Control, _: Submitter) -> EngineSummary:
    """Unpin this engine: retention policies decide about it again."""
    return _set_pin(control, key, pinned=False)


def _set_pin(control: ControlPlane, key: str, *, pinned: bool) -> EngineSummary:
    with control.database.write() as session:
        set_pin(session, key, pinned=pinned)
        # Raises NotFound for an engine that is not served, which rolls the pin back.
        engine = get_engine(session, key)
    return EngineSummary(**engine.model_dump(include=set(EngineSummary.model_fields)))


@router.get("/v1/engines/{key:key}", responses=refuses(410))
def engine(key: Key, control: Control, _: Reader) -> Engine:
    """An engine with its manifest: every file's digest, size and link."""
    with control.database.read() as session:
        return get_engine(session, key)


@router.get(
    "/v1/engines/{key:key}/files/{path:path}",
    status_code=307,
    response_class=RedirectResponse,
    responses={**refuses(410), 307: {"headers": described_headers(Location="an expiring link to the bytes")}},
)
@in_lane("files")
def engine_file(
    key: Key, path: Annotated[str, Path(description="as in the manifest")], control: Control, _: Reader
) -> RedirectResponse:
    """307 to an expiring link that serves the bytes, ranges included."""
    with control.database.read() as session:
        engine = get_engine(session, key)
    digests = {file.path: file.digest for file in engine.contents}
    if path not in digests:
        raise NotFound(f"engine {key[:12]} has no file {path!r}; GET /v1/engines/{key} lists its files")
    # Before the link is made: from here on garbage collection keeps the engine for as long as the link is valid.
    note_pull(control, [key])
    expires = timedelta(seconds=control.settings.link_seconds)
    link = control.store.link(digests[path], filename=PurePosixPath(path).name, expires=expires)
    return RedirectResponse(control.public(link))


@router.get(
    "/v1/blobs/{digest}",
    response_class=BlobResponse,
    responses={
        **refuses(410),
        # Starlette answers these itself, and a malformed range, too.
        400: {"description": PROBLEMS[400], "content": {PROBLEM: PROBLEM_CONTENT, "text/plain": {}}},
        206: {"description": "the requested ranges", "content": _BYTES},
        416: {"description": "a range begins after the last byte", "content": {"text/plain": {}}},
        200: {"content": _BYTES},
    },
)
def blob(digest: Digest, filename: Text, expires: _Seconds, signature: Text, control: Control) -> BlobResponse:
    """The bytes of a blob in a directory store. The link's signature stands for an API key."""
    # An S3 server signs and serves its own links; only a directory store has them served here.
    if not isinstance(control.store, DirectoryStore):
        raise NotFound("this farm's store serves its blobs itself")
    path = control.store.check_link(digest, filename=filename, expires=expires, signature=signature)
    return BlobResponse(path, filename=filename, media_type="application/octet-stream")
