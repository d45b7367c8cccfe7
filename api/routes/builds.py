"""/v1/builds: submit, list, watch and cancel builds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api.auth import Reader, Submitter
from api.builds import streaming
from api.builds.submit import accepted, submit
from api.control import Control
from api.http.leaving import while_connected
from api.http.openapi import described_headers
from api.http.routing import bounded_router
from api.lanes import in_lane
from api.planning.cached_submits import Submit, ValidSpec
from enginefarm.contract.bounded import MAX_COUNT, Text
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import Build, BuildPage, BuildState, Submitted
from models.lifecycle.submission import cancel
from models.queries.builds import get_build, list_builds
from models.queries.engines import MAX_PAGE

router = bounded_router(prefix="/v1/builds", tags=["builds"])

# Seconds. Common proxies cut a connection that is idle for longer.
MAX_WAIT = 60.0

_LOCATION = described_headers(Location="the URL of the build")
_ETAG = described_headers(ETag="changes with every field of the body but `eta_seconds`")

RequireWorker = Annotated[bool, Query(description="refuse what no live worker could take, instead of letting it wait")]


async def _watching(control: Control, caller: Reader) -> AsyncIterator[None]:
    """Count a stream among its caller's watchers until it has ended, however it ends."""
    with control.watchers.place(caller.name):
        yield


Watcher = Annotated[None, Depends(_watching)]


@router.post(
    "",
    status_code=202,
    response_model=Submitted,
    responses={
        200: {"model": Submitted, "description": "cached: the engine is there", "headers": _LOCATION},
        202: {"description": "joined or created", "headers": _LOCATION},
    },
)
async def submit_build(
    spec: BuildSpec, control: Control, caller: Submitter, request: Request, require_worker: RequireWorker = False
) -> Response:
    """Ask for an engine. 200: it exists. 202: another build makes it already (joined), or this one does (created)."""
    # First without a thread for this request: most submits of a running farm ask for an engine that exists. For these
    # `require_worker` does not matter.
    valid = ValidSpec(spec)
    body = await request.body()
    # Before the answer: of many callers that send one body at once, all but the first take `api.builds.fast_submits`.
    control.cached_submits.remember(body, valid)
    answer = await control.cached_submits.answer(Submit(valid, caller.name))
    submitted = answer.submitted
    if answer.plan is None:
        control.cached_submits.forget(body)
    if submitted is None:
        full_path = submit(control, spec, caller, plan=answer.plan, require_worker=require_worker)
        submitted = await while_connected(request, full_path)
    return accepted(control, submitted)


@router.get("")
@in_lane("listings")
def builds(
    control: Control,
    _: Reader,
    state: BuildState | None = None,
    model: Annotated[Text | None, Query(description="with or without the revision")] = None,
    toolchain: Text | None = None,
    platform: Annotated[Text | None, Query(description="GPU name or platform label")] = None,
    requested_by: Text | None = None,
    key: Text | None = None,
    cursor: Text | None = None,
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


@router.get(
    "/{build_id}",
    responses={
        200: {"headers": _ETAG},
        304: {"description": "unchanged since the ETag in If-None-Match", "headers": _ETAG},
    },
)
async def build(
    build_id: str,
    control: Control,
    caller: Reader,
    request: Request,
    response: Response,
    wait: Annotated[
        float, Query(ge=0, le=MAX_WAIT, description="seconds to wait for the end, or for a change of the ETag given")
    ] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Build:
    """One build: state, stage, progress, what it waits for, attempts. `?wait=` makes it a long poll."""
    if wait:
        with control.watchers.place(caller.name):
            change = streaming.wait_for_change(control, build_id, seconds=wait, last_etag=if_none_match)
            seen = await while_connected(request, change)
    else:
        seen = await streaming.read_build(control, build_id)
    response.headers["ETag"] = seen.etag
    if seen.etag == if_none_match:
        # FastAPI sends it as it is.
        return Response(status_code=304, headers={"ETag": seen.etag})  # type: ignore[return-value]
    return seen.build


@router.get("/{build_id}/logs", response_class=StreamingResponse, responses={200: {"content": {"text/plain": {}}}})
async def logs(
    build_id: str,
    control: Control,
    _: Watcher,
    follow: Annotated[bool, Query(description="stay until the build has ended")] = False,
    offset: Annotated[int, Query(ge=0, le=MAX_COUNT, description="bytes to skip, after a broken connection")] = 0,
) -> StreamingResponse:
    """The log of convert, then of build, as plain text."""
    # Raises NotFound now: once the stream has started, its status is 200.
    key = await streaming.read_key(control, build_id)
    if follow:
        content = streaming.followed_log(control, build_id, key, offset)
    else:
        content = streaming.log_bytes(control, key, offset)
    # A browser must not take a program's output for HTML, nor a cache a log that grows for a complete one.
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type="text/plain; charset=utf-8", headers=headers)


@router.get(
    "/{build_id}/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}}
)
async def events(build_id: str, control: Control, _: Watcher) -> StreamingResponse:
    """Server-sent events: a `build` event with the build's JSON for each change."""
    await streaming.read_key(control, build_id)  # raises NotFound, as above
    # X-Accel-Buffering: nginx would collect events until its buffer is full.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(streaming.events(control, build_id), media_type="text/event-stream", headers=headers)


@router.delete("/{build_id}")
def cancel_build(build_id: str, control: Control, _: Submitter) -> Build:
    """Cancel this build. Its actions run on while another build waits for them. An ended build does not change."""
    with control.database.snapshot() as session:
        get_build(session, build_id)  # raises NotFound
    with control.database.write() as session:
        cancel(session, build_id)
    # After the commit: the answer shows what every other reader sees from now on.
    with control.database.snapshot() as session:
        return get_build(session, build_id)
