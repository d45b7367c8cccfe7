"""What a program tells the worker: progress lines on stdout, and on failure one last line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

CallersFault = Literal["unsupported_model", "unsupported_dtype", "bad_checkpoint", "limits"]
Code = CallersFault | Literal["missing_compiler", "out_of_memory", "compile_failed", "smoke_failed"]

_CALLERS_FAULT = frozenset({"unsupported_model", "unsupported_dtype", "bad_checkpoint", "limits"})
_LONGEST = 600  # characters of a message: the worker keeps one line


class Failure(Exception):
    """The program cannot do what was asked, for a reason that it can name."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """Exit status: 2 if the caller can mend it, else 3."""
        return 2 if self.code in _CALLERS_FAULT else 3


def progress(fraction: float, text: str) -> None:
    print(f"[enginefarm] progress {fraction:.2f} {text}", flush=True)


def exit_status(work: Callable[[], None]) -> int:
    """Do `work`; the exit status, with the reason on the last line of stderr.

    An error that nobody foresaw passes through: its traceback is the best report, its status 1.
    """
    try:
        work()
    except Failure as failure:
        return _fail(failure)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        return _fail(Failure("out_of_memory", str(error) or "the machine has no more memory"))
    return 0


def ran_out_of_memory(error: BaseException) -> bool:
    """Torch says it by a class of its own on a GPU, and only by the message on the CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _fail(failure: Failure) -> int:
    sys.stdout.flush()
    message = " ".join(str(failure).split())[:_LONGEST]
    print(f"[enginefarm] error {failure.code}: {message}", file=sys.stderr, flush=True)
    return failure.status
