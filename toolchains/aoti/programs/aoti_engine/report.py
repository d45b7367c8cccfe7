"""Report to the worker: progress lines on stdout and, if the program fails, one last line on stderr.

`toolchains/aoti/toolchain.py` reads the progress lines and `toolchains/aoti/failures.py` the last line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Literal

CallerFault = Literal["unsupported_model", "unsupported_dtype", "bad_checkpoint", "limits"]
Code = CallerFault | Literal["missing_compiler", "out_of_memory", "compile_failed", "smoke_failed"]

_CALLER_FAULTS = frozenset({"unsupported_model", "unsupported_dtype", "bad_checkpoint", "limits"})
_LONGEST_MESSAGE = 600  # characters; a traceback of the compiler would fill the tail of output that the worker keeps


class Failure(Exception):
    """The program cannot finish, for a reason that has a code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        """Exit status: 2 if the caller's model or spec is at fault, else 3."""
        return 2 if self.code in _CALLER_FAULTS else 3


def progress(fraction: float, message: str) -> None:
    """Print a progress line; `fraction` is 0–1 of the stage."""
    print(f"[enginefarm] progress {fraction:.2f} {message}", flush=True)


def exit_status(run_program: Callable[[], None]) -> int:
    """Run the program and return its exit status; after a failure the last line of stderr gives the reason.

    Unexpected errors pass through: Python prints their traceback, which is the best report, and exits with status 1.
    """
    try:
        run_program()
    except Failure as error:
        failure = error
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        failure = Failure("out_of_memory", str(error) or "the machine has no more memory")
    else:
        return 0
    # Both streams usually end in one log: flushed first, the progress lines precede the error.
    sys.stdout.flush()
    one_line = " ".join(str(failure).split())
    print(f"[enginefarm] error {failure.code}: {one_line[:_LONGEST_MESSAGE]}", file=sys.stderr, flush=True)
    return failure.status


def ran_out_of_memory(error: BaseException) -> bool:
    """True if torch failed to allocate memory. It has an error class for GPU memory; on the CPU only the text tells."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
