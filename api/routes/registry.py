"""/v2: the read side of the OCI distribution protocol, so that registry clients fetch engines without ours.

Errors are in the form that the distribution specification asks for, not problem+json.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.routing import APIRoute

from api.auth import RegistryReader
from api.control import Control
from api.engines.pulls import note_pull
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import EnginefarmError, Forbidden, NotFound, Unauthenticated
from models.queries import oci
from models.queries import oci_registry as registry
from models.retention import pulls

_CODES: dict[type[EnginefarmError], str] = {
    Unauthenticated: "UNAUTHORIZED",
    Forbidden: "DENIED",
    NotFound: "MANIFEST_UNKNOWN",
}
_Name = str  # `{name:path}` takes the slashes of a repository's name


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except EnginefarmError as error:
                return _refusal(error)

        return handle


router = APIRouter(prefix="/v2", tags=["registry"], route_class=_Route, include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
def version(_: RegistryReader) -> Response:
    return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})


@router.get("/_catalog")
def catalog(control: Control, _: RegistryReader) -> dict[str, list[str]]:
    with control.database.read() as session:
        return {"repositories": registry.repositories(session)}


@router.get("/{name:path}/tags/list")
def tags(
    name: _Name,
    control: Control,
    _: RegistryReader,
    n: Annotated[int | None, Query(ge=0)] = None,
    last: str = "",
) -> Response:
    with control.database.read() as session:
        after = [tag for tag in registry.tags(session, name) if tag > last]
    page = after if n is None else after[:n]
    more = (
        {"Link": f'</v2/{name}/tags/list?n={n}&last={page[-1]}>; rel="next"'} if page and len(page) < len(after) else {}
    )
    return JSONResponse({"name": name, "tags": page}, headers=more)


@router.api_route("/{name:path}/manifests/{reference}", methods=["GET", "HEAD"])
def manifest(name: _Name, reference: str, control: Control, _: RegistryReader) -> Response:
    with control.database.read() as session:
        found = registry.find_artifact(session, name, reference)
    return _document(found.manifest, found.digest, oci.MANIFEST)


@router.api_route("/{name:path}/blobs/{digest}", methods=["GET", "HEAD"])
def blob(name: _Name, digest: Digest, request: Request, control: Control, _: RegistryReader) -> Response:
    """A file, by redirect to the store; or the configuration, which is made from the catalogue."""
    with control.database.read() as session:
        if not registry.holds_file(session, name, digest):
            document = registry.find_document(session, name, digest)
            if document is None:
                raise NotFound(f"no engine in {name!r} has the blob {digest}")
            return _document(document, digest, "application/octet-stream")
        engines = pulls.engines_with_file(session, digest)
    if request.method == "HEAD":
        return _head(digest, control.store.stat(digest))
    note_pull(control, engines)
    expires = timedelta(seconds=control.settings.link_seconds)
    link = control.store.link(digest, filename=digest.removeprefix("sha256:"), expires=expires)
    return RedirectResponse(control.public(link), headers={"Docker-Content-Digest": digest})


def _document(data: bytes, digest: Digest, media_type: str) -> Response:
    """For HEAD too: the server drops the body and keeps its length."""
    return Response(data, media_type=media_type, headers={"Docker-Content-Digest": digest, "ETag": f'"{digest}"'})


def _head(digest: Digest, size: int | None) -> Response:
    if size is None:
        raise NotFound(f"the store has lost the blob {digest}")
    return Response(
        headers={"Docker-Content-Digest": digest, "Content-Length": str(size), "Accept-Ranges": "bytes"},
        media_type="application/octet-stream",
    )


def _refusal(error: EnginefarmError) -> Response:
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), "UNAVAILABLE")
    ask = {"WWW-Authenticate": 'Basic realm="enginefarm"'} if isinstance(error, Unauthenticated) else {}
    body = {"errors": [{"code": code, "message": error.detail}]}
    return JSONResponse(body, status_code=error.status, headers=ask)
