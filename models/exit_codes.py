"""Exit codes of the farm's programs; docs/operations.md has them for operators."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m api`, `workers`, `migrations.…`, `api.…` and `local` besides 0, and 1 for a defect.

    The numbers are those of sysexits.h, which systemd shows by name.
    """

    COMMAND_LINE = 2  # the arguments are wrong, or name what does not exist
    UNAVAILABLE = 69  # something that the program needs is away or taken: a later start can succeed as it is
    LOOP_ENDED = 70  # a background loop ended by itself, which is a defect: see models/loops.py
    REFUSED = 77  # the farm is in a state that forbids the start, such as an old catalogue; a command changes it
    SETTINGS = 78  # a setting, a file that it names or the installation is wrong: it must be changed first
