"""/v1/engines, and the links under which a folder store's blobs are served."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import FileResponse, RedirectResponse

from api.auth import Reader
from api.control import Control
from enginefarm.digest import Digest
from enginefarm.errors import NotFound
from enginefarm.key import Key
from enginefarm.wire import Engine, EnginePage
from models.listing import MAX_PAGE, get_engine, list_engines
from models.store import DirectoryStore

router = APIRouter(tags=["engines"])


@router.get("/v1/engines")
def engines(
    control: Control,
    _: Reader,
    model: Annotated[str | None, Query(description="with or without the revision")] = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> EnginePage:
    """Published engines, newest first."""
    with control.database.read() as session:
        return list_engines(session, limit=limit, cursor=cursor, model=model)


@router.get("/v1/engines/{key}")
def engine(key: Key, control: Control, _: Reader) -> Engine:
    """An engine with its manifest: every file's digest, size and link."""
    with control.database.read() as session:
        return get_engine(session, key)


@router.get("/v1/engines/{key}/files/{path:path}", status_code=307, response_class=RedirectResponse)
def engine_file(
    key: Key, path: Annotated[str, Path(description="as in the manifest")], control: Control, _: Reader
) -> RedirectResponse:
    """307 to an expiring link that serves the bytes, ranges included."""
    with control.database.read() as session:
        found = get_engine(session, key)
    entry = next((file for file in found.contents if file.path == path), None)
    if entry is None:
        raise NotFound(f"engine {key[:12]} has no file {path!r}; GET /v1/engines/{key} lists its files")
    expires = timedelta(seconds=control.settings.link_seconds)
    return RedirectResponse(control.store.link(entry.digest, filename=PurePosixPath(path).name, expires=expires))


@router.get("/v1/blobs/{digest}", include_in_schema=False)
def blob(digest: Digest, filename: str, expires: int, signature: str, control: Control) -> FileResponse:
    """Bytes of a folder store, for whoever holds a link that `engine_file` signed."""
    if not isinstance(control.store, DirectoryStore):
        raise NotFound("this farm's store serves its blobs itself")
    path = control.store.check_link(digest, filename=filename, expires=expires, signature=signature)
    return FileResponse(path, filename=filename, media_type="application/octet-stream")
