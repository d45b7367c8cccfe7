"""Why a program failed, from how it ended and from the last of what it said."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from enginefarm.wire import Failure, Fault, Stage
from toolchains.toolchain import Exit

_LONGEST_DETAIL = 300  # characters


@dataclass(frozen=True)
class _Cause:
    """A known message. `retryable` only where another try, perhaps elsewhere, can end otherwise."""

    name: str
    pattern: re.Pattern[str]
    fault: Fault
    advice: str
    retryable: bool = False


_CAUSES = (
    _Cause(
        "option_refused",
        re.compile(r"error: (?:unrecognized arguments|argument .*(?:invalid|expected)|ambiguous option)"),
        Fault.FARM,
        "the farm's table of this release is wrong about an option: report it, and leave the option out meanwhile",
    ),
    _Cause(
        "disk_full",
        re.compile(r"No space left on device|Disk quota exceeded|Errno 28"),
        Fault.WORKER,
        "free disk space on the worker: a build needs about three times the weights",
        retryable=True,
    ),
    _Cause(
        "gpu_out_of_memory",
        # Warnings about single tactics that were skipped for lack of memory are no failure.
        re.compile(r"CUDA out of memory|\[E\].*OutOfMemory|Cuda Runtime \(out of memory\)|cudaErrorMemoryAllocation"),
        Fault.CALLER,
        "lower max_num_tokens or max_batch_size, raise tp, or build for a GPU with more memory",
    ),
)
_OUT_OF_MEMORY_ADVICE = {
    Stage.CONVERT: "give the worker more memory than the whole model takes, or set load_by_shard",
    Stage.BUILD: "give the worker more memory: the builder holds the weights of a rank more than once",
}


def classify(stage: Stage, ended: Exit) -> Failure:
    if ended.oom_killed:
        return _out_of_memory(stage, ended)
    if cause := next((cause for cause in _CAUSES if cause.pattern.search(ended.tail)), None):
        return Failure(
            cause=cause.name,
            fault=cause.fault,
            detail=_line_of(cause.pattern, ended.tail),
            advice=cause.advice,
            retryable=cause.retryable,
        )
    if _signal_of(ended.status) == signal.SIGKILL:
        return _killed(stage)
    return _generic(stage, ended)


def _out_of_memory(stage: Stage, ended: Exit) -> Failure:
    peak = f", having used {ended.peak_memory / 2**30:.1f} GiB" if ended.peak_memory else ""
    return Failure(
        cause="out_of_memory",
        fault=Fault.WORKER,
        detail=f"the kernel killed {stage} for memory{peak}",
        advice=_OUT_OF_MEMORY_ADVICE[stage],
    )


def _killed(stage: Stage) -> Failure:
    return Failure(
        cause="killed",
        fault=Fault.WORKER,
        detail=f"{stage} was killed from outside; with nothing said before, that is most often a lack of memory",
        advice=_OUT_OF_MEMORY_ADVICE[stage],
        retryable=True,
    )


def _generic(stage: Stage, ended: Exit) -> Failure:
    number = _signal_of(ended.status)
    how = f"ended with status {ended.status}" if number is None else f"was ended by {signal.Signals(number).name}"
    last = next((line.strip() for line in reversed(ended.tail.splitlines()) if line.strip()), "")
    return Failure(
        cause="toolchain_failed",
        fault=Fault.TOOLCHAIN,
        detail=f"{stage} {how}" + (f": {last[:_LONGEST_DETAIL]}" if last else ""),
        advice="the log says more",
        retryable=number is not None,
    )


def _signal_of(status: int) -> int | None:
    """The signal that ended a program: -9 as Python says it, 137 as a shell in between does."""
    number = -status if status < 0 else status - 128
    return number if number in set(signal.Signals) else None


def _line_of(pattern: re.Pattern[str], text: str) -> str:
    line = next((line for line in text.splitlines() if pattern.search(line)), "")
    return line.strip()[:_LONGEST_DETAIL]
