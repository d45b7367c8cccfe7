"""Compare a request with the live fleet: does a worker listen for each of its stages, and is one large enough?"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.planning.completion import platform_text
from api.submits.capacity import too_small
from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.catalogue.visibility import checkpoint_of, engine_exists
from models.fleet.roster import has_toolchain, platform_of
from models.lifecycle.submission import NewAction, Request
from models.queries.outlook import no_worker_serves
from models.queue.names import converts_on_gpu, sm_of_convert


def why_unserved(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> str | None:
    """The reason why the request waits for a worker; None if a live worker listens for each stage still to run."""
    unserved = _unserved(session, request, fleet)
    if not unserved:
        return None
    # The first stage alone: the second waits for its result anyway.
    return no_worker_serves(unserved[0].queue)


def too_small_for(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> list[Problem]:
    """A problem for each stage still to run for which every live worker that listens is too small. Mostly none."""
    problems = {}
    for action in (request.convert, request.build):
        problem = too_small(action, fleet)
        if problem is not None:
            problems[action.stage] = problem
    # No query for the usual case.
    if not problems:
        return []
    return [problems[action.stage] for action in _still_to_run(session, request) if action.stage in problems]


def require_worker(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> None:
    """
    Raises:
        InvalidSpec: no live worker could run a stage that is still to run; it lists the candidates.
    """
    problems = []
    toolchain = f"{request.toolchain} {request.version}"
    for action in _unserved(session, request, fleet):
        if action.stage is Stage.BUILD:
            pointer, value = "/platform", request.platform_label
            target = f" for {request.platform_label}"
        else:
            # Most checkpoints are bound to no platform: the toolchain's version is what no worker has then.
            pointer, value = "/toolchain/version", request.version
            target = ""
            sm = sm_of_convert(action.queue)
            if sm is not None:
                pointer, value = "/platform/sm", sm
                target = f" on a GPU of SM {sm}, which the weights of this precision are laid out for"
            elif converts_on_gpu(action.queue):
                target = " on a GPU"
        # By name: workers of one name are one entry of the list.
        platforms = {}
        for worker in fleet:
            if has_toolchain(worker, request.toolchain, request.version, action.stage):
                platforms[worker.name] = platform_text(platform_of(worker))
        expected = f"no live worker can {action.stage} with {toolchain} anywhere"
        if platforms:
            expected = "one of: " + "; ".join(f"{name} {platform}" for name, platform in platforms.items())
        problems.append(
            Problem(
                pointer=pointer,
                code="no_worker",
                detail=f"no live worker can {action.stage} with {toolchain}{target}",
                value=value,
                expected=expected,
                remedy="start such a worker, ask for one of these, or leave require_worker out to wait",
            )
        )
    problems += too_small_for(session, request, fleet)
    if problems:
        raise InvalidSpec(problems)


def _unserved(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> list[NewAction]:
    """The stages still to run that no live worker listens for, in their order. Mostly none."""
    queues = {queue for worker in fleet for queue in worker.queues}
    # The catalogue is asked only if a queue has no listener, which is rare: this runs at every submit.
    if request.convert.queue in queues and request.build.queue in queues:
        return []
    return [action for action in _still_to_run(session, request) if action.queue not in queues]


def _still_to_run(session: Session, request: Request) -> list[NewAction]:
    """The stages whose result is not in the catalogue, in the order in which they run."""
    if engine_exists(session, request.build.key):
        return []
    # Many engines share a checkpoint, so often only the build is left.
    if checkpoint_of(session, request.convert.key) is not None:
        return [request.build]
    return [request.convert, request.build]
