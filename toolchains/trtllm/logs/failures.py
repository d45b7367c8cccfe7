"""Classify a failed program by how it ended and by the end of its output. `data/failures.json` has the messages."""

from __future__ import annotations

import re
import signal
from functools import cache, cached_property

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import Exit
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file

_LONGEST_DETAIL = 300  # characters; a program can print a line of megabytes, and people read the detail as one line
_OUT_OF_MEMORY = "out_of_memory"


class Message(FrozenModel):
    """A pattern of lines that have one cause, with an example and where it was seen."""

    pattern: str
    says: str
    since: str | None
    source: str

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.pattern)

    def line_of(self, text: str) -> str | None:
        """The last line that matches, None if no line does. Earlier lines may be of another rank."""
        for line in reversed(text.splitlines()):
            if self.regex.search(line):
                return line.strip()
        return None


class Cause(FrozenModel):
    """A cause of failure. `retryable`: another try, perhaps on another worker, can succeed."""

    cause: str
    fault: Fault
    retryable: bool
    advice: str
    stages: tuple[Stage, ...] = tuple(Stage)
    messages: tuple[Message, ...]

    def line_of(self, text: str) -> str | None:
        """The line that shows this cause; None if there is none."""
        for message in self.messages:
            line = message.line_of(text)
            if line:
                return line
        return None

    def failure(self, detail: str) -> Failure:
        """The failure with this cause; `detail` is shortened to one line's length."""
        return Failure(
            cause=self.cause,
            fault=self.fault,
            detail=detail[:_LONGEST_DETAIL],
            advice=self.advice,
            retryable=self.retryable,
        )


class _Failures(DataFile):
    causes: tuple[Cause, ...]


@cache
def causes(stage: Stage) -> tuple[Cause, ...]:
    """The causes that a stage can have. Their order decides if the output shows several."""
    all_causes = read_data_file("failures.json", _Failures).causes
    return tuple(cause for cause in all_causes if stage in cause.stages)


def classify(stage: Stage, ended: Exit) -> Failure:
    """Why a program failed. The most certain sign decides: the kernel, a line of output, a signal, the exit status."""
    by_name = {cause.cause: cause for cause in causes(stage)}
    out_of_memory = by_name[_OUT_OF_MEMORY]
    # The kernel knows why it killed a program. The output may show an older, harmless message.
    if ended.oom_killed:
        detail = f"the kernel killed {stage} for memory"
        if ended.peak_memory:
            detail += f", having used {ended.peak_memory / 2**30:.1f} GiB"
        return out_of_memory.failure(detail)
    for cause in causes(stage):
        line = cause.line_of(ended.tail)
        if line:
            return cause.failure(line)

    # Python reports a program killed by signal 9 as -9; a shell in between makes 137 of it.
    number = ended.status - 128
    if ended.status < 0:
        number = -ended.status
    if number == signal.SIGKILL:
        return Failure(
            cause="killed",
            fault=Fault.WORKER,
            detail=f"{stage} was killed from outside and printed no reason; most often the machine lacks memory",
            advice=out_of_memory.advice,
            retryable=True,
        )
    was_signaled = number in set(signal.Signals)
    event = f"ended with status {ended.status}"
    if was_signaled:
        event = f"was ended by {signal.Signals(number).name}"
    # The last line of a traceback names the exception. A program may also print empty lines after it.
    last_line = ""
    for line in reversed(ended.tail.splitlines()):
        if line.strip():
            last_line = f": {line.strip()[:_LONGEST_DETAIL]}"
            break
    return Failure(
        cause="toolchain_failed",
        fault=Fault.TOOLCHAIN,
        detail=f"{stage} {event}{last_line}",
        advice="the log has the full output",
        # A crash may depend on the machine; a program that exits by itself would do so again.
        retryable=was_signaled,
    )
