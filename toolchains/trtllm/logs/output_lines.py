"""Read the end of a program's output: which lines state an error, and which only surround one.

A failed build prints hundreds of lines after the one that says why: the stack of every rank, of the signal handler of
Open MPI and of Python, and what follows from the failure. Here the stacks and the harmless lines are dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# What launchers and loggers put before a line: the rank, the time.
_PREFIX = re.compile(r"\[rank\d+\]: ?|\[\d+,\d+\]<std(?:err|out)>: ?|\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] ")
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # some libraries colour their lines in a file, too
_WHAT = re.compile(r"\s*what\(\):\s+")  # of std::terminate; the text of the exception follows
_FRAME = re.compile(r'^\s+File "([^"]+)", line \d+, in ', re.MULTILINE)
_STACK_FRAME = re.compile(
    r"""
    \s*\d+\s+0x[0-9a-f]+\b                # 12      0x7fd9ebc2829e tensorrt_llm::kernels::… + 94
    | \s*\#\d+\s+0x                       # the same as gdb writes it
    | \[[\w.-]+:\d+\]\ \[\s*\d+\]         # [host:02001] [ 3] /lib/x86_64-linux-gnu/libc.so.6(…)
    | \[\s*\d+\]\ \S*[/(]                 # [ 9] /lib/x86_64-linux-gnu/libgcc_s.so.1(…)
    | \[[\w.-]+:\d+\]\ (?:\*\*\*|Signal|Failing\ at|Associated\ errno)
    | \*{3}\ (?:Process\ received\ signal|End\ of\ error\ message)
    | [│╭╰┃┏┗]                            # a traceback that rich draws; the exception stands below it
    | [\s^~"]*$                           # empty lines, carets, quotes around the traceback of another process
    | [-=*]{5,}
    """,
    re.VERBOSE,
)
_HARMLESS = re.compile(
    r"""
    ^\[TensorRT-LLM\]\[(?:INFO|DEBUG|TRACE)\] | ^\[TR[TL][\w-]*\]\ \[[IVD]\] | ^INFO\b | \bNCCL\ INFO\b
    | \d+%\|                                # a progress bar
    | _RemoteTraceback:$
    | ^\[TRT\]\ \[E\]\ (?:\d+:)?$           # TensorRT splits some errors over two lines
    # Tactics that the builder tried and passed over: it goes on with others.
    | Skipping\ tactic | insufficient\ to\ use\ tactic | due\ to\ insufficient\ memory\ on\ requested\ size
    # Threads and destructors that end after the program has failed.
    | driver\ shutting\ down
    | TORCH_USE_CUDA_DSA                    # torch appends this hint to every error of CUDA
    | haveStreamOrderedAllocatorHelper      # TensorRT without memory pools; it goes on
    # Open MPI, the loader and a library of torch leave out what this machine does not have.
    | mca_base_component_repository_open | cannot\ be\ preloaded | ^Error\ in\ cpuinfo:
    | thrown\ while\ requesting             # the hub's client tries again
    """,
    re.VERBOSE | re.IGNORECASE,
)
_WARNING = re.compile(
    r"""
    ^\[TensorRT-LLM\]\[WARNING\] | ^\[TR[TL][\w-]*\]\ \[W\]
    | ^(?:\S+:\d+:\ )?\w*Warning:\  | ^\S+:\ [Ww]arning:\  | ^WARN(?:ING)?\b | ^\[?W\d{4} | NCCL\ WARN
    """,
    re.VERBOSE,
)
_STATES_ERROR = re.compile(
    r"""
    ^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|NotSupported)(?::|$)
    | ^(?:ERROR|Error|error|FATAL|Fatal|fatal)\b | ^\S+:\ (?:fatal\ )?error:\ | ^\[?E\d{4}\s
    | ^\[(?:TensorRT-LLM|TRT-LLM|TRT)\]\ ?\[(?:ERROR|E|F)\]
    | Assertion\ failed: | Assertion\ `.*'\ failed
    | ^Failed,\ | \bCUDA\ (?:driver\ |runtime\ )?error\b
    """,
    re.VERBOSE,
)
_TRACEBACK = "Traceback (most recent call last)"
# The exception of such a traceback changed nothing: the program was ending, or went on.
_IGNORED_TRACEBACK = re.compile(r"^Exception ignored |^Error in (?:atexit|sys\.excepthook)|^--- Logging error ---")
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception"
_MESSAGE_IS_MISSING = re.compile(r"^[\w.]+:?$")


@dataclass(frozen=True)
class OutputLine:
    """A line without the prefixes of launchers and loggers."""

    text: str
    states_error: bool = False
    is_warning: bool = False
    traceback: str = ""  # of the exception that the line names; empty if none was printed
    wraps_earlier: bool = False  # an exception raised from an earlier one, which says more

    @property
    def raised_in(self) -> str:
        """The file of the traceback's last frame; empty if no traceback was printed."""
        files = _FRAME.findall(self.traceback)
        return files[-1] if files else ""


@dataclass
class _Reader:
    lines: list[OutputLine] = field(default_factory=list)
    frames: list[str] | None = None  # of the traceback that is being read
    ignores_traceback: bool = False
    wraps_earlier: bool = False

    def read(self, text: str) -> None:
        if text.startswith(_TRACEBACK):
            self.frames = []
            return
        if self.frames is None and _FRAME.match(text):
            # Two ranks printed at the same time: the first exception stood between the frames of the other.
            self.frames = []
        if self.frames is not None and text[:1] in ("", " ", "\t"):
            self.frames.append(text)
            return
        # Another process may print in the middle of a traceback.
        is_harmless = _STACK_FRAME.match(text) or _HARMLESS.search(text)
        is_warning = _WARNING.search(text) is not None
        if self.frames is not None and not (is_harmless or is_warning):
            self.read_exception(text, self.frames)
            self.frames = None
            return
        if text.startswith(_DIRECT_CAUSE):
            self.wraps_earlier = True
            return
        # Only the traceback that follows at once.
        self.ignores_traceback = _IGNORED_TRACEBACK.match(text) is not None
        if not (is_harmless or self.ignores_traceback):
            prefix = _WHAT.match(text)
            if prefix:
                text = text[prefix.end() :]
            states_error = not is_warning and bool(prefix or _STATES_ERROR.search(text))
            self.lines.append(OutputLine(text.strip(), states_error, is_warning))

    def read_exception(self, text: str, frames: list[str]) -> None:
        """Add the line after a traceback, which names the exception."""
        if _MESSAGE_IS_MISSING.match(text):
            # `assert x == y` without a message: the source line is the message.
            for frame in reversed(frames):
                if frame.strip(" ^~") and not frame.lstrip().startswith("File "):
                    text = f"{text.rstrip(':')}: {frame.strip()}"
                    break
        if not self.ignores_traceback:
            traceback = "\n".join([*frames, text])
            self.lines.append(
                OutputLine(text.strip(), states_error=True, traceback=traceback, wraps_earlier=self.wraps_earlier)
            )
        self.ignores_traceback = self.wraps_earlier = False


def read_lines(output: str) -> list[OutputLine]:
    """The lines of the output that may say something about a failure, in their order."""
    reader = _Reader()
    for line in output.splitlines():
        text = _COLOUR.sub("", line).rstrip()
        while prefix := _PREFIX.match(text):
            text = text[prefix.end() :]
        reader.read(text)
    return reader.lines


def telling_lines(lines: list[OutputLine], count: int) -> list[str]:
    """The last `count` different lines that state an error, in their order."""
    texts: dict[str, None] = {}
    for line in reversed(lines):
        # Every rank prints the same error.
        if line.states_error and len(texts) < count:
            texts.setdefault(line.text)
    return list(reversed(texts))
