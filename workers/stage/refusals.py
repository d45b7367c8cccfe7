"""Refusals before a stage begins: the wrong platform, the wrong SM, and foreign code without a complete sandbox."""

from __future__ import annotations

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Work
from enginefarm.wire.bodies import Failure, Fault
from models.lifecycle.conversions import names_no_sm, sm_of_checkpoint
from models.lifecycle.leases import Claim
from models.queue.names import convert_queue
from models.sources.inspection.file_names import has_pickle
from toolchains.registry import all_toolchains
from workers.reporting.failures import BelongsElsewhere, StageFailed, sandbox_missing
from workers.stage.tools import Tools


def refuse_other_platform(claim: Claim, tools: Tools) -> None:
    """A message in the wrong queue must never make an engine or a checkpoint for the wrong machine.

    Raises:
        UnreadableWork: the API is of another release.
        StageFailed: this worker's platform is not the one that the engine is bound to.
        BelongsElsewhere: its GPU has another SM than the one that the checkpoint is laid out for.
    """
    job = claim.work.job
    toolchain = all_toolchains()[job.toolchain]
    platform = tools.identity.fingerprint.platform
    if job.stage is Stage.BUILD:
        actual = platform.bound(toolchain.binds_to, tools.binding)
        required = claim.document["platform"]
        if actual != required:
            raise StageFailed(
                Failure(
                    cause="misrouted",
                    fault=Fault.FARM,
                    detail=f"this engine is for {required}, and this worker is {actual}",
                    retryable=True,
                )
            )
    elif toolchain.needs(job).same_sm:
        # An API of an earlier release names no SM in the work and shares the checkpoint between all of them. The
        # conversion then serves the platform of the spec, and `refuse_checkpoint_of_other_sm` stops other builds.
        required_sm = job.sm or job.spec.platform.sm
        if platform.sm != required_sm:
            machine = "no GPU" if platform.sm is None else f"SM {platform.sm}"
            raise BelongsElsewhere(
                convert_queue(job.toolchain, job.version, sm=required_sm),
                f"this checkpoint is laid out for SM {required_sm}, and this worker has {machine}",
            )


def refuse_checkpoint_of_other_sm(claim: Claim, tools: Tools) -> None:
    """An engine from weights in the layout of another SM loads, runs, and answers with garbage.

    A key of version 2 names the SM. A checkpoint under a key of version 1, which an earlier release planned, may have
    been converted on any GPU of the fleet.

    Raises:
        StageFailed: the checkpoint was converted for another SM than this worker's, or for one that is not known.
    """
    job = claim.work.job
    if job.stage is not Stage.BUILD:
        return
    conversion = job.model_copy(update={"stage": Stage.CONVERT})
    if not all_toolchains()[job.toolchain].needs(conversion).same_sm:
        return
    convert = claim.document["convert"]
    with tools.database.read() as session:
        if not names_no_sm(session, convert):
            return
        converted_for = sm_of_checkpoint(session, convert)
    required = tools.identity.fingerprint.platform.sm
    if converted_for != required:
        machine = "a machine without a GPU" if converted_for is None else f"a GPU of SM {converted_for}"
        raise StageFailed(
            Failure(
                cause="checkpoint_of_other_sm",
                fault=Fault.FARM,
                detail=f"checkpoint {convert[:12]} was converted on {machine}, this engine is for SM {required}, and "
                f"{job.spec.precision.quantization} weights are laid out for one SM",
                advice="submit the spec again to an API of this release: it plans a conversion for this SM",
            )
        )


def refuse_foreign_code(claim: Claim, tools: Tools) -> None:
    """Code and pickles of a model can do what this user can, unless the sandbox is complete.

    Raises:
        StageFailed: this worker has no complete sandbox.
    """
    if runs_foreign_code(claim.work) and not tools.isolation.complete:
        raise StageFailed(sandbox_missing(claim.work.job.spec.model, tools.isolation.obstacle))


def runs_foreign_code(work: Work) -> bool:
    """True if a model's author may decide what the programs do."""
    facts = work.job.facts
    # Also in a build: what another farm's toolchain does with the checkpoint is not known here.
    if work.job.stage is Stage.CONVERT and facts.has_pickle and not facts.has_safetensors:
        return True  # the conversion reads a pickle, whatever the reader accepts
    if facts.trusted and (facts.remote_code or facts.has_pickle):
        return True
    # A second model's pickles are loaded as tensors alone. The sandbox holds if the loader has a fault.
    return any(has_pickle(file.path for file in files.files) for files in work.inputs.values())
