"""Turn an error of an attempt into a Failure: its cause, whose fault it is, whether to retry, and advice."""

from __future__ import annotations

import errno

from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import CallerError, EnginefarmError, FarmError, IntegrityError
from enginefarm.contract.work import UnreadableWork
from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import InvalidOutput
from workers.programs.child import KilledFor, ProcessLimits, SandboxBroken, Unkillable
from workers.programs.output_check import CheckDied
from workers.reporting.storable_text import storable


class StageFailed(Exception):
    """A step of the stage failed; `failure` is what the caller reads."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure


class StartDamaged(StageFailed):
    """The checkpoint that a build starts from is missing or damaged in the store."""

    def __init__(self, digest: Digest, error: EnginefarmError) -> None:
        super().__init__(
            Failure(
                cause="checkpoint_damaged",
                fault=Fault.FARM,
                detail=f"the checkpoint cannot be used: {error.detail}",
                advice="it is converted anew; look at what the store's disks say",
            )
        )
        self.digest = digest


class OutputRefused(Exception):
    """The output contains what no engine and no checkpoint may contain; reading it could do harm."""


class StageStopped(Exception):
    """The stage was stopped: its lease is lost, or the worker is leaving. The action did not fail."""


class BelongsElsewhere(Exception):
    """The action is for the workers of `queue`, and this one cannot run it. The action did not fail."""

    def __init__(self, queue: str, reason: str) -> None:
        super().__init__(reason)
        self.queue = queue


def explain(error: Exception) -> Failure:
    """The failure to record for `error`. Its texts can be stored, although a program may have chosen parts of them."""
    failure = _failure_of(error)
    advice = None
    if failure.advice is not None:
        advice = storable(failure.advice)
    return failure.model_copy(update={"detail": storable(failure.detail), "advice": advice})


def _failure_of(error: Exception) -> Failure:
    """The first matching case decides, from specific to general."""
    match error:
        case StageFailed():
            return error.failure
        case InvalidOutput():
            return Failure(
                cause="incomplete_output",
                fault=Fault.TOOLCHAIN,
                detail=f"the program ended with success, but its output is not usable: {error}",
                advice="the log has what it printed; an exit status alone proves nothing",
            )
        case OutputRefused():
            # No retry: the programs would leave the same again.
            return Failure(
                cause="output_refused",
                fault=Fault.TOOLCHAIN,
                detail=f"the output cannot be published: {error}",
                advice="an output has regular files and folders only; look at what the model's own code does",
            )
        case CheckDied():
            return Failure(
                cause="check_failed",
                fault=Fault.TOOLCHAIN,
                detail="the toolchain's check of the output crashed; the worker's log has the details",
                advice="report it to whoever maintains the toolchain",
                retryable=True,
            )
        case CallerError():
            # A wrong spec or model fails the same way each time: no retry.
            advice = next((problem.remedy for problem in error.problems if problem.remedy), None)
            return Failure(cause=error.code, fault=Fault.CALLER, detail=error.detail, advice=advice)
        case UnreadableWork():
            # The farm's fault, not the toolchain's: the API was upgraded before this worker.
            return Failure(
                cause=error.code,
                fault=Fault.FARM,
                detail=error.detail,
                advice="upgrade this worker to the release of the API; a worker that can read the work takes it",
                retryable=True,
            )
        case FarmError(lasting=True):
            # Another try would meet the same setting; the text names it.
            return Failure(
                cause=error.code,
                fault=Fault.FARM,
                detail=error.detail,
                advice="have the operator mend what the detail names, then submit again",
            )
        case FarmError() | IntegrityError():
            return Failure(cause=error.code, fault=Fault.FARM, detail=error.detail, retryable=True)
        case EnginefarmError():
            return Failure(cause=error.code, fault=Fault.FARM, detail=error.detail)
        # Another worker may have a larger disk, so this one retries; other OSErrors are defects.
        case OSError() if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return Failure(
                cause="disk_full",
                fault=Fault.WORKER,
                detail=f"no space left on the worker's scratch disk ({error.filename or 'while writing'})",
                advice="a build needs about three times the weights: free space, or move ENGINEFARM_SCRATCH",
                retryable=True,
            )
        case OSError() if error.errno in {errno.EROFS, errno.EIO}:
            return Failure(
                cause="disk_broken",
                fault=Fault.WORKER,
                detail=f"the worker's scratch disk (ENGINEFARM_SCRATCH) cannot be used: {error.strerror}",
                advice="mount it for writing, or look at what the kernel log of that machine says of the disk",
                retryable=True,  # by another worker: this one does not get the action again while there is one
            )
        case _:
            # The text of an unknown error may hold a secret or a path: the caller reads its type only.
            return Failure(
                cause="internal",
                fault=Fault.FARM,
                detail=f"the worker met a defect ({type(error).__name__}); its log has the details",
                retryable=True,
            )


def cannot_begin(error: Exception) -> Failure:
    """The failure of a stage for which the worker could make no folder, no log or no thread."""
    failure = explain(error)
    if failure.cause != "internal":
        return failure
    reason = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return Failure(
        cause="cannot_begin",
        fault=Fault.WORKER,
        detail=f"the worker could not begin the stage: {reason}",
        advice="look at ENGINEFARM_SCRATCH and at the limits of the worker's account; its log has the details",
        retryable=True,
    )


def out_of_time(step: str, limits: ProcessLimits) -> Failure:
    """The failure of a stage whose time was over in a step of the worker's own."""
    # A slow source or store is the farm's fault, and may be faster next time; checking and hashing are local.
    waits_for_others = step in {"fetch", "upload"}
    return Failure(
        cause="timed_out",
        fault=Fault.FARM if waits_for_others else Fault.TOOLCHAIN,
        detail=f"the stage took longer than its limit of {limits.wall_seconds:g} s; it ended in the step {step}",
        advice="have ENGINEFARM_STAGE_SECONDS raised on the worker, or look at why this step is slow",
        retryable=waits_for_others,
    )


def limit_passed(limit: KilledFor, limits: ProcessLimits) -> Failure:
    """The failure of a program that was killed because it exceeded `limit`."""
    if limit is KilledFor.WALL:
        return Failure(
            cause="timed_out",
            fault=Fault.TOOLCHAIN,
            detail=f"the stage ran longer than its limit of {limits.wall_seconds:g} s",
            advice="ask for smaller limits, or have ENGINEFARM_STAGE_SECONDS raised on the worker",
        )
    if limit is KilledFor.DISK:
        return Failure(
            cause="disk_limit",
            fault=Fault.TOOLCHAIN,
            detail=f"the stage took more than its {limits.disk_bytes} bytes on the worker's disk, "
            "or hid what it took in a tree that cannot be measured",
            advice="ask for less, or have ENGINEFARM_STAGE_DISK_BYTES raised on the worker",
        )
    if limit is KilledFor.PROCESSES:
        return Failure(
            cause="process_limit",
            fault=Fault.TOOLCHAIN,
            detail=f"the stage had more than its {limits.processes} processes and threads",
            advice="have ENGINEFARM_STAGE_PROCESSES raised on the worker, if its programs do need them",
        )
    return Failure(
        cause="silent",
        fault=Fault.TOOLCHAIN,
        detail=f"the stage printed nothing for {limits.silence_seconds:g} s",
        advice="its programs hung; the next try may fall on another worker",
        retryable=True,
    )


def sandbox_missing(model: str, obstacle: str) -> Failure:
    """The failure of a stage that would run a model's own code on a worker without the complete sandbox."""
    return Failure(
        cause="sandbox_missing",
        fault=Fault.FARM,
        detail=f"{model} brings its own code or pickles, and this worker has no complete sandbox: {obstacle}",
        advice="start a worker with ENGINEFARM_SANDBOX=required: it names what its machine lacks",
        retryable=True,
    )


def without_end(error: SandboxBroken | Unkillable) -> Failure:
    """The failure of a program that did not start in the sandbox, or that no signal ends."""
    if isinstance(error, SandboxBroken):
        return Failure(
            cause="sandbox_failed",
            fault=Fault.WORKER,
            detail=f"the sandbox did not start, so the program did not either: {error}",
            advice="restart that worker: it names what its machine lacks",
            retryable=True,
        )
    return Failure(
        cause="unkillable",
        fault=Fault.WORKER,
        detail="a process of the stage hangs in the kernel, and SIGKILL does not end it",
        advice="look at the kernel log of that worker's machine; only a reboot may end the process",
        retryable=True,
    )
