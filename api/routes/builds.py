"""/v1/builds"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from api.auth import Reader, Submitter
from api.builds import streaming as following
from api.builds.submit import submit_spec
from api.control import Control
from api.planning.cached_submits import Submit
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import Build, BuildPage, BuildState, Submitted
from models.lifecycle.submission import cancel
from models.queries.builds import get_build, list_builds
from models.queries.engines import MAX_PAGE

router = APIRouter(prefix="/v1/builds", tags=["builds"])

MAX_WAIT = 60.0  # seconds: below the idle limits of common proxies

RequireWorker = Annotated[bool, Query(description="refuse what no live worker could take, instead of letting it wait")]


@router.post(
    "",
    status_code=202,
    response_model=Submitted,
    responses={200: {"model": Submitted, "description": "cached: the engine is there"}},
)
async def submit_build(
    spec: BuildSpec, control: Control, caller: Submitter, require_worker: RequireWorker = False
) -> Response:
    """Ask for an engine. 200: it exists. 202: somebody is building it already (joined), or now we are (created)."""
    submitted = await control.cached_submits.answer(Submit(spec, caller.name))
    if submitted is None:
        submitted = await run_in_threadpool(submit_spec, control, spec, caller, require_worker=require_worker)
    where = {"Location": control.public(f"/v1/builds/{submitted.id}")}
    # Written here, because FastAPI would validate our own words once more.
    return Response(submitted.model_dump_json(), submitted.status, where, "application/json")


@router.get("")
def builds(
    control: Control,
    _: Reader,
    state: BuildState | None = None,
    model: Annotated[str | None, Query(description="with or without the revision")] = None,
    toolchain: str | None = None,
    platform: Annotated[str | None, Query(description="GPU name or platform label")] = None,
    requested_by: str | None = None,
    key: str | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> BuildPage:
    """Builds, newest first."""
    with control.database.snapshot() as session:
        return list_builds(
            session,
            limit=limit,
            cursor=cursor,
            state=state,
            model=model,
            toolchain=toolchain,
            platform=platform,
            requested_by=requested_by,
            key=key,
        )


@router.get("/{build_id}", responses={304: {"description": "unchanged since the ETag in If-None-Match"}})
async def build(
    build_id: str,
    control: Control,
    _: Reader,
    response: Response,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the end, or for a change of the ETag given")
    ] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Build:
    """One build: state, stage, progress, what it waits for, attempts. `?wait=` makes it a long poll."""
    found = await following.wait_for_change(control, build_id, seconds=wait, known=if_none_match)
    tag = following.etag(found)
    response.headers["ETag"] = tag
    if tag == if_none_match:
        return Response(status_code=304, headers={"ETag": tag})  # type: ignore[return-value]  # FastAPI sends it as it is
    return found


@router.get("/{build_id}/logs", response_class=StreamingResponse)
async def logs(
    build_id: str,
    control: Control,
    _: Reader,
    follow: Annotated[bool, Query(description="stay until the build has ended")] = False,
    offset: Annotated[int, Query(ge=0, description="bytes to skip, to go on after a broken connection")] = 0,
) -> StreamingResponse:
    """The log of convert, then of build, as plain text."""
    await following.read_build(control, build_id)  # a 404 must come before the stream starts
    content = following.log_bytes(control, build_id, offset=offset, follow=follow)
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type="text/plain; charset=utf-8", headers=headers)


@router.get("/{build_id}/events", response_class=StreamingResponse)
async def events(build_id: str, control: Control, _: Reader) -> StreamingResponse:
    """Server-sent events: a `build` event with the build's JSON for each change."""
    first = await following.read_build(control, build_id)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(following.events(control, first), media_type="text/event-stream", headers=headers)


@router.delete("/{build_id}")
def cancel_build(build_id: str, control: Control, _: Submitter) -> Build:
    """Cancel this build. The work goes on while another build waits for it; a build that has ended stays as it is."""
    with control.database.snapshot() as session:
        get_build(session, build_id)
    with control.database.write() as session:
        cancel(session, build_id)
    with control.database.snapshot() as session:
        return get_build(session, build_id)
