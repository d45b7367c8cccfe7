"""Why a program failed, from how it ended and from the last of what it said. The messages are data."""

from __future__ import annotations

import re
import signal
from functools import cache, cached_property

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import Exit
from toolchains.trtllm.releases.data_file import DATA, FrozenModel, Source

_LONGEST_DETAIL = 300  # characters
_OUT_OF_MEMORY = "out_of_memory"


class Message(FrozenModel):
    """A line that means one cause, as a pattern, with the line itself and where it was seen."""

    pattern: str
    says: str
    since: str | None
    source: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    def line_of(self, text: str) -> str | None:
        """The last line that says so: what came before it may be the story of another rank."""
        return next((line.strip() for line in reversed(text.splitlines()) if self.regex.search(line)), None)


class Cause(FrozenModel):
    """`retryable` only where another try, perhaps elsewhere, can end otherwise."""

    cause: str
    fault: Fault
    retryable: bool
    advice: str
    stages: tuple[Stage, ...] = tuple(Stage)
    messages: tuple[Message, ...]

    def line_of(self, text: str) -> str | None:
        return next((line for message in self.messages if (line := message.line_of(text))), None)

    def failure(self, detail: str) -> Failure:
        return Failure(
            cause=self.cause,
            fault=self.fault,
            detail=detail[:_LONGEST_DETAIL],
            advice=self.advice,
            retryable=self.retryable,
        )


class _Failures(FrozenModel):
    description: str
    source: Source
    causes: tuple[Cause, ...]


@cache
def causes(stage: Stage) -> tuple[Cause, ...]:
    known = _Failures.model_validate_json((DATA / "failures.json").read_bytes()).causes
    return tuple(cause for cause in known if stage in cause.stages)


def classify(stage: Stage, ended: Exit) -> Failure:
    if ended.oom_killed:
        peak = f", having used {ended.peak_memory / 2**30:.1f} GiB" if ended.peak_memory else ""
        return _out_of_memory(stage).failure(f"the kernel killed {stage} for memory{peak}")
    for cause in causes(stage):
        if line := cause.line_of(ended.tail):
            return cause.failure(line)
    if _signal_of(ended.status) == signal.SIGKILL:
        return _killed(stage)
    return _generic(stage, ended)


def _out_of_memory(stage: Stage) -> Cause:
    return next(cause for cause in causes(stage) if cause.cause == _OUT_OF_MEMORY)


def _killed(stage: Stage) -> Failure:
    return Failure(
        cause="killed",
        fault=Fault.WORKER,
        detail=f"{stage} was killed from outside; with nothing said before, that is most often a lack of memory",
        advice=_out_of_memory(stage).advice,
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
