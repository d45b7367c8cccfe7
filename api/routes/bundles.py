"""How engines of other farms come in: bytes first, then one transaction for each engine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Request

from api.auth import Administrator
from api.control import Control
from api.engines.imports import take_in
from api.engines.uploads import missing, receive
from enginefarm.contract.digest import Digest
from enginefarm.wire.engine_record import BlobSizes, ImportRequest, ImportResult, MissingBlobs

router = APIRouter(prefix="/v1", tags=["moving"])


@router.post("/blobs:missing")
def missing_blobs(asked: BlobSizes, control: Control, _: Administrator) -> MissingBlobs:
    """Which of these blobs the farm does not have."""
    return MissingBlobs(items=missing(control, asked.blobs))


@router.put("/blobs/{digest}", status_code=204)
async def put_blob(
    digest: Digest,
    content_length: Annotated[int, Header(ge=0, description="bytes of the blob")],
    request: Request,
    control: Control,
    _: Administrator,
) -> None:
    """Send a blob. It is stored if its bytes have this digest; a clean-up removes what nothing refers to."""
    await receive(control, request.stream(), digest, content_length)


@router.post("/engines:import")
def import_engine(arrival: ImportRequest, control: Control, caller: Administrator) -> ImportResult:
    """Take in an engine of another farm whose bytes were sent before. Builds that wait for it succeed."""
    return take_in(control, arrival, imported_by=caller.name)
