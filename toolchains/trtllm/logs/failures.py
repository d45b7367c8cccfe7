"""Say why a program failed, by how it ended and by the last error of its output. `data/failures.json` has the messages.

The reader goes through the output from its end. A line that only follows from an earlier one ("Engine building failed")
is passed over; the first other line that states an error decides. If no message of the table matches it, the cause is
unknown: an earlier message may be harmless, and a wrong cause is worse than none.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from typing import Literal

from enginefarm.contract.stage import Stage
from enginefarm.wire.bodies import Failure, Fault
from toolchains.toolchain import Exit
from toolchains.trtllm.logs.output_lines import OutputLine, read_lines, telling_lines
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file

_LONGEST_DETAIL = 300  # characters; a program can print a line of megabytes, and people read the detail as one line
_TELLING_LINES = 10
_LONGEST_TELLING_LINE = 150  # ten of them fit into what the catalogue stores of a detail
_SEARCHED_LINES = 200  # from the end, without stacks and harmless lines; bounds the time of the search
_OUT_OF_MEMORY = "out_of_memory"
_QUANTIZE = "quantize.py"
# The program's own frame: tensorrt_llm/quantization/quantize.py is a module that every program imports.
_QUANTIZE_FRAME = re.compile(r"/quantize\.py\", line \d+, in <module>")
# Signals that come from outside, or show a fault that the next try may not meet. SIGABRT is a program's own decision:
# the same assertion would fail again.
_SIGNALS_TO_RETRY = frozenset(signal.Signals) - {signal.SIGABRT}

# quantize.py is a program of the convert stage with options of its own.
Step = Literal["convert", "quantize", "build"]


class Message(FrozenModel):
    """A pattern of lines, with an example and where it was seen.

    `near`: what the traceback above the line must match, for messages that Python gives to many failures. `alone`: the
    line is enough if no traceback was printed. `raised_in`: what the file of the traceback's last frame must match.
    `in_warnings`: the program prints it as a warning, and ends of it nevertheless.
    """

    pattern: str
    says: str
    since: str | None
    source: str
    near: str | None = None
    alone: bool = False
    raised_in: str | None = None
    in_warnings: bool = False

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @cached_property
    def _near_regex(self) -> re.Pattern[str] | None:
        return re.compile(self.near) if self.near else None

    @cached_property
    def _raised_in_regex(self) -> re.Pattern[str] | None:
        return re.compile(self.raised_in) if self.raised_in else None

    def matches(self, line: OutputLine) -> bool:
        """True if the line has this message."""
        if line.is_warning and not self.in_warnings:
            return False
        if not self._regex.search(line.text):
            return False
        if self._raised_in_regex is not None and not self._raised_in_regex.search(line.raised_in):
            return False
        if self._near_regex is None or (self.alone and not line.traceback):
            return True
        return self._near_regex.search(line.traceback) is not None


class Cause(FrozenModel):
    """A cause of failure.

    `retryable`: another try, perhaps on another worker, can succeed. `general`: the messages say that something failed
    and not why, so the cause counts only if no earlier line says more.
    """

    cause: str
    fault: Fault
    retryable: bool
    advice: str | Mapping[Step, str]
    stages: tuple[Stage, ...] = tuple(Stage)
    general: bool = False
    messages: tuple[Message, ...]

    def failure(self, step: Step, detail: str) -> Failure:
        """The failure with this cause; `detail` is shortened to one line's length."""
        advice = self.advice if isinstance(self.advice, str) else self.advice[step]
        return Failure(
            cause=self.cause,
            fault=self.fault,
            detail=detail[:_LONGEST_DETAIL],
            advice=advice,
            retryable=self.retryable,
        )


class _Failures(DataFile):
    causes: tuple[Cause, ...]
    consequences: tuple[Message, ...]  # lines that only follow from an earlier error, whatever that is


@cache
def _failures() -> _Failures:
    return read_data_file("failures.json", _Failures)


@cache
def causes(stage: Stage) -> tuple[Cause, ...]:
    """The causes that a stage can have. The first that matches a line is the line's cause."""
    return tuple(cause for cause in _failures().causes if stage in cause.stages)


def classify(stage: Stage, ended: Exit) -> Failure:
    """Why a program failed. The most certain sign decides: the kernel, SIGKILL, the last error, another signal."""
    step = _step(stage, ended)
    out_of_memory = next(cause for cause in causes(stage) if cause.cause == _OUT_OF_MEMORY)
    # The kernel knows why it killed a program. The output may show an older, harmless message.
    if ended.oom_killed:
        detail = f"the kernel killed {stage} for memory"
        if ended.peak_memory:
            detail += f", having used {ended.peak_memory / 2**30:.1f} GiB"
        return out_of_memory.failure(step, detail)
    # Python reports a program killed by signal 9 as -9; a shell in between makes 137 of it.
    number = ended.status - 128
    if ended.status < 0:
        number = -ended.status
    if number == signal.SIGKILL:
        return Failure(
            cause="killed",
            fault=Fault.WORKER,
            detail=f"{stage} was killed from outside and printed no reason; most often the machine lacks memory",
            advice=out_of_memory.failure(step, "").advice,
            retryable=True,
        )

    lines = read_lines(ended.tail)
    known = _find_known(causes(stage), lines[-_SEARCHED_LINES:])
    if known is not None:
        cause, line = known
        return cause.failure(step, line.text)

    event = f"ended with status {ended.status}"
    was_signaled = number in set(signal.Signals)
    if was_signaled:
        event = f"was ended by {signal.Signals(number).name}"
    # An error that only follows tells little, and says nothing about another try.
    causing_lines = [line for line in lines if not _matches_any(_failures().consequences, line)]
    errors = telling_lines(causing_lines, _TELLING_LINES)
    return Failure(
        cause="toolchain_failed",
        fault=Fault.TOOLCHAIN,
        detail=_unknown_detail(f"{stage} {event}", errors, lines),
        advice="the farm does not know this message; the log has the full output",
        # A crash may depend on the machine; a program that says why it ends would do so again.
        retryable=was_signaled and number in _SIGNALS_TO_RETRY and not errors,
    )


def _step(stage: Stage, ended: Exit) -> Step:
    if stage is Stage.BUILD:
        return "build"
    if any(argument.endswith(_QUANTIZE) for argument in ended.argv) or _QUANTIZE_FRAME.search(ended.tail):
        return "quantize"
    return "convert"


def _find_known(stage_causes: Iterable[Cause], lines: list[OutputLine]) -> tuple[Cause, OutputLine] | None:
    """The cause of the last error, and the line that shows it; None if the table does not have its message."""
    specific = [cause for cause in stage_causes if not cause.general]
    general = [cause for cause in stage_causes if cause.general]
    found_general: tuple[Cause, OutputLine] | None = None
    for line in reversed(lines):
        if _matches_any(_failures().consequences, line):
            continue
        for cause in specific:
            if _matches_any(cause.messages, line):
                return cause, line
        line_is_general = False
        for cause in general:
            if _matches_any(cause.messages, line):
                line_is_general = True
                found_general = found_general or (cause, line)
        if line.states_error and not line_is_general and not line.wraps_earlier:
            # An error that the table does not have: what stands before it may be harmless.
            return None
    return found_general


def _matches_any(messages: Iterable[Message], line: OutputLine) -> bool:
    return any(message.matches(line) for message in messages)


def _unknown_detail(event: str, errors: list[str], lines: list[OutputLine]) -> str:
    """The last error on the first line, and the errors before it, oldest first, on the lines below."""
    if errors:
        detail = f"{event}: {errors[-1][:_LONGEST_DETAIL]}"
        return "\n".join([detail, *(error[:_LONGEST_TELLING_LINE] for error in errors[:-1])])
    # A program may print empty lines after its last one; `lines` has none.
    if lines:
        return f"{event}: {lines[-1].text[:_LONGEST_DETAIL]}"
    return event
