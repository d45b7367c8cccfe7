"""/v1/workers and /v1/toolchains"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import Administrator, Reader
from api.control import Control, ControlPlane
from enginefarm.wire.bodies import Toolchain, ToolchainList, ToolchainVersion, WorkerList
from models.fleet.roster import has_toolchain, list_workers
from models.fleet.worker_control import drain, release
from toolchains import toolchain as interface
from toolchains.registry import all_toolchains

router = APIRouter(prefix="/v1", tags=["fleet"])


@router.get("/workers")
def workers(
    control: Control, _: Reader, gone: Annotated[bool, Query(description="list those that left, too")] = False
) -> WorkerList:
    """The live fleet."""
    with control.database.read() as session:
        return WorkerList(items=list_workers(session, include_gone=gone))


@router.post("/workers/{name}:drain")
def drain_worker(name: str, control: Control, _: Administrator) -> WorkerList:
    """Let every worker of this name (or id) finish what it runs and take nothing new."""
    with control.database.write() as session:
        ids = drain(session, name)
    return _these(control, ids)


@router.post("/workers/{name}:release")
def release_worker(name: str, control: Control, _: Administrator) -> WorkerList:
    """Let every worker of this name (or id) take work again: no longer drained, no longer quarantined."""
    with control.database.write() as session:
        ids = release(session, name)
    return _these(control, ids)


def _these(control: ControlPlane, ids: list[str]) -> WorkerList:
    with control.database.read() as session:
        return WorkerList(items=[worker for worker in list_workers(session, include_gone=True) if worker.id in ids])


@router.get("/toolchains")
def toolchains(control: Control, _: Reader) -> ToolchainList:
    """Toolchains, their versions, and the JSON Schema of each version's options."""
    return ToolchainList(items=[_toolchain(found, control) for found in all_toolchains().values()])


def _toolchain(found: interface.Toolchain, control: Control) -> Toolchain:
    fleet = control.fleet.live_workers()
    versions = [
        ToolchainVersion(
            version=release.version,
            available=any(has_toolchain(row, found.name, release.version) for row in fleet),
            notes=release.notes,
            options_schema=dict(found.options_schema(release.version)),
        )
        for release in found.releases()
    ]
    return Toolchain(name=found.name, title=found.title, versions=versions)
