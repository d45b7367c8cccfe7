"""Withdraw bad engines: reports of damaged files, repair, recall."""

from __future__ import annotations

import logging
from collections.abc import Collection

from api.auth import Administrator, Reader
from api.control import Control, ControlPlane
from api.engines.layouts import laid_out_for_sm, spec_of_outdated_key
from api.http.openapi import refuses
from api.http.routing import bounded_router
from api.lanes import in_lane
from api.submits.new_submits import NewSubmit
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import InvalidSpec, NotFound, SourceUnavailable
from enginefarm.contract.key import Key
from enginefarm.contract.spec import BuildSpec
from enginefarm.contract.work import UnreadableWork
from enginefarm.wire.recall import Damage, Inspection, Recall, WithdrawalResult
from models.incidents import repair
from models.incidents.recall import recall
from models.lifecycle.submission import can_submit_again, submit_again
from models.security.api_keys import Caller

log = logging.getLogger(__name__)
router = bounded_router(prefix="/v1", tags=["upkeep"])


@router.post("/engines/{key:key}:damaged", responses=refuses(410))
@in_lane("inspections")
def report_damage(key: Key, damage: Damage, control: Control, _: Reader) -> Inspection:
    """Report files of an engine that arrived with wrong bytes. The farm reads them again in its store and decides."""
    with control.database.read() as session:
        engine, _checkpoint = repair.manifests_of(session, key)
    unknown_paths = set(damage.paths).difference(entry.path for entry in engine.files)
    if unknown_paths:
        raise NotFound(f"engine {key[:12]} has no file {min(unknown_paths)!r}; GET /v1/engines/{key} lists its files")
    # The report alone proves nothing: any reader may send one, and a proxy may have broken the bytes on their way.
    reported = (entry for entry in engine.files if entry.path in damage.paths)
    damaged = repair.damaged_files(control.store, reported)
    withdrawn = _withdraw(control, {entry.digest for entry in damaged})
    return Inspection(key=key, damaged=[entry.path for entry in damaged], taken_out=withdrawn)


@router.post("/engines/{key:key}:repair", responses=refuses(410))
@in_lane("upkeep")
def repair_engine(key: Key, control: Control, caller: Administrator, rebuild: bool = False) -> Inspection:
    """Read every file of an engine and of its checkpoint again, withdraw what is damaged, and rebuild it on request.

    The answer comes when all files were read, which takes minutes for a large engine.
    """
    with control.database.read() as session:
        engine, checkpoint = repair.manifests_of(session, key)
    # By digest: a file that engine and checkpoint share is read once.
    entries = list(engine.files)
    if checkpoint is not None:
        entries += checkpoint.files
    files = {entry.digest: entry for entry in entries}
    damaged = {entry.digest for entry in repair.damaged_files(control.store, files.values())}
    withdrawn = _withdraw(control, damaged)
    if rebuild:
        withdrawn = _submit_rebuilds(control, withdrawn, caller)
    paths = [entry.path for entry in engine.files if entry.digest in damaged]
    if checkpoint is not None:
        paths += [f"checkpoint/{entry.path}" for entry in checkpoint.files if entry.digest in damaged]
    return Inspection(key=key, damaged=paths, taken_out=withdrawn)


@router.post("/engines:recall", responses=refuses(404))
@in_lane("upkeep")
def recall_engines(criteria: Recall, control: Control, caller: Administrator) -> WithdrawalResult:
    """Withdraw every engine and checkpoint built by a worker, by a toolchain, between two times, or laid out for an SM
    that its key does not name."""
    with control.database.write() as session:
        withdrawn, announcements = recall(session, criteria, laid_out_for_sm)
    # After the commit: a worker that receives the message must find the action queued.
    control.announcer.announce(announcements)
    if criteria.rebuild and not criteria.dry_run:
        withdrawn = _submit_rebuilds(control, withdrawn, caller)
    return withdrawn


def _withdraw(control: ControlPlane, damaged: Collection[Digest]) -> WithdrawalResult:
    """Withdraw every engine and checkpoint that has one of these files; other engines may share the blob."""
    if not damaged:
        return WithdrawalResult()
    with control.database.write() as session:
        withdrawn, announcements = repair.withdraw_damaged(session, damaged)
    control.announcer.announce(announcements)
    return withdrawn


def _submit_rebuilds(control: ControlPlane, withdrawn: WithdrawalResult, caller: Caller) -> WithdrawalResult:
    """Submit a build for each withdrawn engine; returns `withdrawn` with the ids of these builds."""
    builds, not_rebuilt = [], []
    for key in withdrawn.engines:
        with control.database.read() as session:
            outdated = spec_of_outdated_key(session, key)
        if outdated is not None:
            # Its key must not be built again: it is planned anew, and the new key names the SM.
            try:
                plan = control.planner.plan(BuildSpec.parse(outdated))
                rebuild = NewSubmit(plan, caller.name, require_worker=False)
                builds.append(control.new_submits.record(rebuild).id)
            except (InvalidSpec, SourceUnavailable) as error:
                log.warning("engine %s is not rebuilt: %s", key[:12], error.detail)
                not_rebuilt.append(key)
            continue
        # A transaction for each engine: one for all would lock their actions until the last was submitted.
        with control.database.write() as session:
            if not can_submit_again(session, key):
                not_rebuilt.append(key)
                continue
            try:
                accepted = submit_again(session, key, requested_by=caller.name)
            except UnreadableWork as error:
                # Of a later release. The other withdrawn engines are rebuilt all the same.
                log.warning("engine %s is not rebuilt: %s", key[:12], error.detail)
                not_rebuilt.append(key)
                continue
        control.announcer.announce(accepted.announcements)
        builds.append(accepted.id)
    return withdrawn.model_copy(update={"builds": builds, "not_rebuilt": not_rebuilt})
