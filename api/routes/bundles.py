"""Import engines of other farms: clients send the bytes first, then one import request for each engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Request

from api.auth import Administrator
from api.control import Control
from api.engines.imports import take_in
from api.engines.uploads import missing, receive
from api.http.openapi import refuses
from api.http.routing import bounded_router
from api.lanes import in_lane
from enginefarm.contract.bounded import MAX_COUNT
from enginefarm.contract.digest import Digest
from enginefarm.wire.engine_record import BlobSizes, ImportRequest, ImportResult, MissingBlobs

router = bounded_router(prefix="/v1", tags=["moving"])


@router.post("/blobs:missing")
@in_lane("listings")
def missing_blobs(blobs: BlobSizes, control: Control, _: Administrator) -> MissingBlobs:
    """The blobs of the list that the farm does not have, so that a client sends only these."""
    return MissingBlobs(items=missing(control, blobs.blobs))


@router.put("/blobs/{digest}", status_code=204)
async def put_blob(
    digest: Digest,
    content_length: Annotated[int, Header(ge=0, le=MAX_COUNT, description="bytes of the blob")],
    request: Request,
    control: Control,
    caller: Administrator,
) -> None:
    """Send a blob. It is stored if its bytes have this digest; garbage collection deletes it if no import follows."""
    # As a stream: a blob may be larger than the memory of this process. `api.bodylimit` exempts this route.
    await receive(control, request.stream(), digest, content_length, caller.name)


@router.post("/engines:import", responses=refuses(409))
@in_lane("upkeep")
def import_engine(request: ImportRequest, control: Control, caller: Administrator) -> ImportResult:
    """Import an engine of another farm whose blobs were sent before. Builds that wait for this engine succeed."""
    return take_in(control, request, imported_by=caller.name)
