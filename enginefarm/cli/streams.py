"""Standard streams that the caller closed, or that cannot be written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO


def open_closed_streams() -> None:
    """Connect each standard stream that the caller closed (`>&-`) to /dev/null.

    Otherwise Python has None in its place, and the next file that is opened, perhaps an engine's, gets its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free number, which is that of the closed stream.
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # it stays open


def discard(stream: IO[str]) -> None:
    """Send what is still buffered in `stream`, and everything after it, to /dev/null.

    Otherwise Python tries to write it again when it ends, fails again, and exits with status 120.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
