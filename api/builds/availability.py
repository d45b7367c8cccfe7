"""Whether the live fleet could take a request at all."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.builds.capacity import too_small
from api.planning.completion import platform_text
from enginefarm.contract.errors import InvalidSpec, Problem
from enginefarm.contract.stage import Stage
from models.catalogue.rows import WorkerRow
from models.catalogue.visibility import checkpoint_of, engine_exists
from models.fleet.roster import has_toolchain, platform_of
from models.lifecycle.submission import NewAction, Request
from models.queries.outlook import no_worker_serves
from models.queue.names import converts_on_gpu


def why_unserved(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> str | None:
    return next((no_worker_serves(action.queue) for action in _unserved(session, request, fleet)), None)


def too_small_for(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> list[Problem]:
    """For each stage that is still to run, what every live worker that listens for it lacks. Mostly nothing."""
    found = {action.key: problem for action in _stages(request) if (problem := too_small(action, fleet))}
    remaining = _remaining(session, request, [action for action in _stages(request) if action.key in found])
    return [found[action.key] for action in remaining]


def require_worker(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> None:
    """Raises InvalidSpec, listing the candidates, if something is left to do that no live worker could take."""
    problems = [_no_worker(request, action, fleet) for action in _unserved(session, request, fleet)]
    if problems := [*problems, *too_small_for(session, request, fleet)]:
        raise InvalidSpec(problems)


def _unserved(session: Session, request: Request, fleet: Sequence[WorkerRow]) -> list[NewAction]:
    """The stages that are still to run and that no live worker listens for. Mostly none."""
    idle = [action for action in _stages(request) if not any(action.queue in worker.queues for worker in fleet)]
    return _remaining(session, request, idle)


def _stages(request: Request) -> tuple[NewAction, NewAction]:
    return request.convert, request.build


def _remaining(session: Session, request: Request, found: Sequence[NewAction]) -> list[NewAction]:
    """Those of `found` that are still to run. No query if there are none."""
    if not found or engine_exists(session, request.build.key):
        return []
    converted = checkpoint_of(session, request.convert.key) is not None
    return [action for action in found if action.stage is Stage.BUILD or not converted]


def _no_worker(request: Request, action: NewAction, fleet: Sequence[WorkerRow]) -> Problem:
    what = f"{request.toolchain} {request.version}"
    platforms = {
        worker.name: platform_text(platform_of(worker))
        for worker in fleet
        if has_toolchain(worker, request.toolchain, request.version, action.stage)
    }
    others = "; ".join(f"{name} {platform}" for name, platform in platforms.items())
    building = action.stage is Stage.BUILD
    on_what = f" for {request.platform_label}" if building else " on a GPU" if converts_on_gpu(action.queue) else ""
    return Problem(
        pointer="/platform" if building else "/toolchain/version",
        code="no_worker",
        detail=f"no live worker can {action.stage} with {what}{on_what}",
        value=request.platform_label if building else request.version,
        expected=f"one of: {others}" if others else f"no live worker can {action.stage} with {what} anywhere",
        remedy="start such a worker, ask for one of these, or leave require_worker out to wait",
    )
