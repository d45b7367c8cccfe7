"""/v1/workers and /v1/toolchains: the fleet, and the toolchains that it offers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.auth import Administrator, Reader
from api.control import Control, ControlPlane
from api.http.routing import bounded_router
from enginefarm.wire.bodies import Toolchain, ToolchainList, ToolchainVersion, WorkerList
from models.fleet import worker_control
from models.fleet.roster import MOST_GONE, has_toolchain, list_workers
from toolchains.registry import all_toolchains

router = bounded_router(prefix="/v1", tags=["fleet"])


@router.get("/workers")
def workers(
    control: Control,
    _: Reader,
    gone: Annotated[bool, Query(description=f"list the {MOST_GONE} that left last, too")] = False,
) -> WorkerList:
    """The workers that are alive; with `gone`, those that left last, too."""
    with control.database.read() as session:
        return WorkerList(items=list_workers(session, include_gone=gone))


@router.post("/workers/{name}:drain")
def drain_worker(name: str, control: Control, _: Administrator) -> WorkerList:
    """Drain every worker of this name (or id): it finishes its attempt and claims no new action."""
    with control.database.write() as session:
        ids = worker_control.drain(session, name)
    return _workers_with(control, ids)


@router.post("/workers/{name}:release")
def release_worker(name: str, control: Control, _: Administrator) -> WorkerList:
    """Release every worker of this name (or id) from draining and from quarantine: it claims actions again."""
    with control.database.write() as session:
        ids = worker_control.release(session, name)
    return _workers_with(control, ids)


def _workers_with(control: ControlPlane, ids: list[str]) -> WorkerList:
    with control.database.read() as session:
        # Also those that left: a drained worker may end between the two transactions.
        return WorkerList(items=list_workers(session, include_gone=True, ids=ids))


@router.get("/toolchains")
def toolchains(control: Control, _: Reader) -> ToolchainList:
    """Toolchains, their versions, and the JSON Schema of each version's options."""
    fleet = control.fleet.live_workers()
    toolchain_list = []
    for toolchain in all_toolchains().values():
        versions = []
        for release in toolchain.releases():
            # False is no error: a build of this version waits until such a worker starts.
            available = any(has_toolchain(worker, toolchain.name, release.version) for worker in fleet)
            versions.append(
                ToolchainVersion(
                    version=release.version,
                    available=available,
                    notes=release.notes,
                    options_schema=dict(toolchain.options_schema(release.version)),
                )
            )
        toolchain_list.append(Toolchain(name=toolchain.name, title=toolchain.title, versions=versions))
    return ToolchainList(items=toolchain_list)
