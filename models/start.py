"""Start of the farm's programs: a failure that an operator can mend is one line and an exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from enginefarm.contract.errors import CallerError, EnginefarmError, FarmError
from models.exit_codes import ExitCode


class SettingsError(ValueError):
    """Settings are wrong. The text has a line for each, which begins with the setting's full name."""


class StartRefusedError(Exception):
    """The process must not run while the farm or the machine is as it is; the text says what to do."""


class StartUnavailableError(Exception):
    """Something that the process needs for itself is in use, such as its port; the text says what."""


@contextmanager
def failures_reported(program: str) -> Iterator[None]:
    """End the process with one line for each failure of the block that an operator can mend.

    Any other exception is a defect and passes, so that its traceback is seen.
    """
    try:
        yield
    except (ValueError, EnginefarmError, StartRefusedError, StartUnavailableError) as error:
        code = _exit_code(error)
        if code is None:
            raise
        for line in str(error).splitlines():
            print(f"{program}: {line}", file=sys.stderr)
        sys.exit(code)


def _exit_code(error: Exception) -> ExitCode | None:
    """The code for an expected failure; None for a defect."""
    match error:
        case StartRefusedError():
            return ExitCode.REFUSED
        case FarmError() | StartUnavailableError():
            return ExitCode.UNAVAILABLE
        case CallerError():
            return ExitCode.COMMAND_LINE
        case EnginefarmError() | SettingsError():
            return ExitCode.SETTINGS
    # The farm's own functions raise ValueError itself, with a text for operators. A class derived from it, such as
    # UnicodeDecodeError, comes from a library, and its text names no setting.
    return ExitCode.SETTINGS if type(error) is ValueError else None


def print_result(line: str, consequence: str) -> None:
    """Print a line of a command's result; if standard output takes none, end the program with the reason.

    Args:
        consequence: what has happened all the same, and what to do.
    """
    with failures_reported("enginefarm"):
        try:
            if sys.stdout is None:  # it was closed before the start
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            print(line, flush=True)
        except BrokenPipeError:
            raise  # click ends quietly then, as when `head` has read enough
        except OSError as error:
            raise StartUnavailableError(f"standard output takes nothing: {error.strerror}; {consequence}") from error
