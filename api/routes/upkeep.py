"""What keeps the catalogue honest: reports of damage, repair, recall."""

from __future__ import annotations

from collections.abc import Collection

from fastapi import APIRouter

from api.auth import Administrator, Reader
from api.control import Control, ControlPlane
from enginefarm.contract.errors import NotFound
from enginefarm.contract.key import Key
from enginefarm.wire.recall import Damage, Inspection, Recall, WithdrawalResult
from models.incidents import repair
from models.incidents.recall import recall
from models.lifecycle.submission import can_submit_again, submit_again

router = APIRouter(prefix="/v1", tags=["upkeep"])


@router.post("/engines/{key}:damaged")
def report_damage(key: Key, damage: Damage, control: Control, _: Reader) -> Inspection:
    """Say that files of an engine came with wrong bytes. The farm reads them again in its store and believes that."""
    with control.database.read() as session:
        engine, _checkpoint = repair.manifests_of(session, key)
    if unknown := set(damage.paths) - {entry.path for entry in engine.files}:
        raise NotFound(f"engine {key[:12]} has no file {min(unknown)!r}; GET /v1/engines/{key} lists its files")
    found = repair.damaged_files(control.store, (entry for entry in engine.files if entry.path in damage.paths))
    taken = _take_out(control, {entry.digest for entry in found})
    return Inspection(key=key, damaged=[entry.path for entry in found], taken_out=taken)


@router.post("/engines/{key}:repair")
def repair_engine(key: Key, control: Control, caller: Administrator, rebuild: bool = False) -> Inspection:
    """Read all bytes of an engine and of its checkpoint again; take out what is damaged, and rebuild it if asked to.

    Answers when all is read: minutes, for a large engine.
    """
    with control.database.read() as session:
        engine, checkpoint = repair.manifests_of(session, key)
    files = {entry.digest: entry for part in (engine, checkpoint) if part is not None for entry in part.files}
    found = {entry.digest for entry in repair.damaged_files(control.store, files.values())}
    taken = _take_out(control, found)
    taken = _rebuilt(control, taken, caller.name) if rebuild else taken
    paths = [entry.path for entry in engine.files if entry.digest in found]
    if checkpoint is not None:
        paths += [f"checkpoint/{entry.path}" for entry in checkpoint.files if entry.digest in found]
    return Inspection(key=key, damaged=paths, taken_out=taken)


@router.post("/engines:recall")
def recall_engines(wanted: Recall, control: Control, caller: Administrator) -> WithdrawalResult:
    """Take out every engine and checkpoint built by a worker, by a toolchain, or between two times."""
    with control.database.write() as session:
        taken, announcements = recall(session, wanted)
    control.announcer.announce(announcements)
    return _rebuilt(control, taken, caller.name) if wanted.rebuild else taken


def _take_out(control: ControlPlane, digests: Collection[str]) -> WithdrawalResult:
    if not digests:
        return WithdrawalResult()
    with control.database.write() as session:
        taken, announcements = repair.withdraw_damaged(session, digests)
    control.announcer.announce(announcements)
    return taken


def _rebuilt(control: ControlPlane, taken: WithdrawalResult, name: str | None) -> WithdrawalResult:
    """A transaction for each engine: a long one would hold up everybody else."""
    builds, left = [], []
    for key in taken.engines:
        with control.database.write() as session:
            accepted = submit_again(session, key, requested_by=name) if can_submit_again(session, key) else None
        if accepted is None:
            left.append(key)
            continue
        control.announcer.announce(accepted.announcements)
        builds.append(accepted.id)
    return taken.model_copy(update={"builds": builds, "not_rebuilt": left})
