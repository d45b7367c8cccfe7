"""Keep the worker's secrets from the programs that it runs: they must not find them in /proc either.

What a process was started with stays readable in /proc/PID/environ for every process of its user, and for root. So the
worker starts itself once more without it, and gets its environment through a file in memory instead. Then it asks the
kernel to let no other process of its user look inside.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from typing import NoReturn

from toolchains.toolchain import PASSED_ON

_HANDED_ON = "ENGINEFARM_ENVIRONMENT_FD"
# What it takes to start, and no secrets.
_NEEDED = (*PASSED_ON, "HOME", "VIRTUAL_ENV")
_NEEDED_TOO = ("PYTHON", "LD_")
_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Return with the whole environment in `os.environ` and none of its secrets in /proc. Call it before any thread."""
    if (handed := os.environ.pop(_HANDED_ON, None)) is None:
        _start_again()
    with os.fdopen(int(handed), "r") as stream:
        os.environ.update(json.load(stream))
    # Also denies ptrace and /proc/PID/mem to the same user. An execve would undo it, so this comes after.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _start_again() -> NoReturn:
    memory = os.memfd_create("environment", 0)  # inherited: no MFD_CLOEXEC
    os.write(memory, json.dumps(dict(os.environ)).encode())
    os.lseek(memory, 0, os.SEEK_SET)
    kept = {name: value for name, value in os.environ.items() if name in _NEEDED or name.startswith(_NEEDED_TOO)}
    os.execve(sys.executable, sys.orig_argv, kept | {_HANDED_ON: str(memory)})  # noqa: S606  # ourselves
