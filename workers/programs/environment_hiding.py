"""Keep the worker's secrets from the programs that it runs: they must not find them in /proc either.

The environment that a process was started with stays readable in /proc/PID/environ for every process of its user, and
for root. So the worker restarts itself with an environment without secrets, and passes the full environment through a
file in memory. Then it tells the kernel that no other process of its user may read its memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

from toolchains.toolchain import PASSED_ON

_DESCRIPTOR_VARIABLE = "ENGINEFARM_ENVIRONMENT_FD"
# What Python needs to start again in the same virtual environment; none of it is a secret.
_START_NAMES = (*PASSED_ON, "HOME", "VIRTUAL_ENV")
_START_PREFIXES = ("PYTHON", "LD_")
_PR_SET_DUMPABLE = 4  # prctl.h


def hide() -> None:
    """Return with the whole environment in `os.environ` and no secret in /proc.

    Call it before any thread starts: at its first call it replaces the process by a new one, and returns only there.
    """
    descriptor = os.environ.pop(_DESCRIPTOR_VARIABLE, None)
    if descriptor is None:
        # First start: write the environment into memory that the next program inherits (no MFD_CLOEXEC).
        memory = os.memfd_create("environment", 0)
        os.write(memory, json.dumps(dict(os.environ)).encode())
        os.lseek(memory, 0, os.SEEK_SET)
        public = {
            name: value
            for name, value in os.environ.items()
            if name in _START_NAMES or name.startswith(_START_PREFIXES)
        }
        public[_DESCRIPTOR_VARIABLE] = str(memory)
        # Only exec replaces /proc/PID/environ: changing os.environ leaves it as it was.
        os.execve(sys.executable, sys.orig_argv, public)  # noqa: S606  # this program itself
    with os.fdopen(int(descriptor), "r") as stream:
        os.environ.update(json.load(stream))
    # This also denies ptrace and /proc/PID/mem to the same user. An execve would undo it, so it comes after.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
