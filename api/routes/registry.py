"""/v2: the pull side of the OCI distribution protocol, so that oras, skopeo and kubelets fetch engines.

Errors have the JSON form of the distribution specification, not problem+json: `api.http.problems` answers them so.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from api.auth import RegistryReader
from api.control import Control
from api.engines.pulls import note_pull
from api.lanes import in_lane
from enginefarm.contract.bounded import MAX_COUNT, Text
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import NotFound
from models.queries import oci
from models.queries import oci_registry as registry
from models.retention import pulls

_MAX_PAGE = 1000  # names in an answer, also for a client that asks for more
# Engines whose pull is noted for a file that many have: one of them keeps the file, and the manifest's own is noted.
_ENGINES_NOTED = 20

_Name = str  # declared as `{name:path}`: the name of a repository has slashes


router = APIRouter(prefix="/v2", tags=["registry"], include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
def version(_: RegistryReader) -> Response:
    # Clients ask this first, to learn whether this is a registry and how to authenticate.
    return JSONResponse({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})


@router.get("/_catalog")
@in_lane("listings")
def catalog(
    control: Control,
    _: RegistryReader,
    n: Annotated[int | None, Query(ge=0, le=MAX_COUNT)] = None,
    last: Text = "",
) -> Response:
    limit = _page_size(n)
    with control.database.read() as session:
        names = registry.repositories(session, after=last, limit=limit + 1)
    return _page("/v2/_catalog", {}, "repositories", names, limit)


@router.get("/{name:path}/tags/list")
@in_lane("listings")
def tags(
    name: _Name,
    control: Control,
    _: RegistryReader,
    n: Annotated[int | None, Query(ge=0, le=MAX_COUNT)] = None,
    last: Text = "",
) -> Response:
    limit = _page_size(n)
    with control.database.read() as session:
        keys = registry.tags(session, name, after=last, limit=limit + 1)
    return _page(f"/v2/{name}/tags/list", {"name": name}, "tags", keys, limit)


def _page_size(n: int | None) -> int:
    return _MAX_PAGE if n is None else min(n, _MAX_PAGE)


def _page(path: str, document: dict[str, object], field: str, names: list[str], limit: int) -> Response:
    """The first `limit` names, and a link to the next page if there are more. Clients of registries follow it."""
    page = names[:limit]
    headers = {}
    # An empty page (n=0) has no last name to go on from, so it gets no link.
    if page and len(names) > limit:
        headers["Link"] = f'<{path}?n={limit}&last={quote(page[-1], safe="")}>; rel="next"'
    return JSONResponse({**document, field: page}, headers=headers)


@router.api_route("/{name:path}/manifests/{reference}", methods=["GET", "HEAD"])
def manifest(name: _Name, reference: str, request: Request, control: Control, _: RegistryReader) -> Response:
    with control.database.read() as session:
        artifact = registry.find_artifact(session, name, reference)
    if request.method == "GET":
        # The client goes on with the files. A file may belong to thousands of engines: only here it is known for which
        # of them it asks.
        note_pull(control, [artifact.key])
    return _document(artifact.manifest, artifact.digest, oci.MANIFEST)


@router.api_route("/{name:path}/blobs/{digest}", methods=["GET", "HEAD"])
@in_lane("files")
def blob(name: _Name, digest: Digest, request: Request, control: Control, _: RegistryReader) -> Response:
    """Redirect to a file of an engine in the store, or answer an OCI configuration, which the catalogue makes."""
    with control.database.read() as session:
        if not registry.holds_file(session, name, digest):
            document = registry.find_document(session, name, digest)
            if document is None:
                raise NotFound(f"no engine in {name!r} has the blob {digest}")
            return _document(document, digest, "application/octet-stream")
        engines = pulls.engines_with_file(session, digest, limit=_ENGINES_NOTED)
    if request.method == "HEAD":
        # Answered here: a presigned S3 link is signed for GET alone, so a redirect would end in a 403.
        size = control.store.stat(digest)
        if size is None:
            raise NotFound(f"the store has lost the blob {digest}")
        return Response(
            headers={"Docker-Content-Digest": digest, "Content-Length": str(size), "Accept-Ranges": "bytes"},
            media_type="application/octet-stream",
        )
    # Before the link is made: garbage collection keeps these engines, and so the file, while the link is valid.
    note_pull(control, engines)
    expires = timedelta(seconds=control.settings.link_seconds)
    link = control.store.link(digest, filename=digest.removeprefix("sha256:"), expires=expires)
    return RedirectResponse(control.public(link), headers={"Docker-Content-Digest": digest})


def _document(content: bytes, digest: Digest, media_type: str) -> Response:
    """A document made from the catalogue. The answer to HEAD, too: the server drops the body and keeps its length."""
    return Response(content, media_type=media_type, headers={"Docker-Content-Digest": digest, "ETag": f'"{digest}"'})
