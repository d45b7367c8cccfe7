"""The seal of a cached file: read-only, and with a fixed time of modification that any write to it changes."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from enginefarm.contract.manifest import FileEntry

_SEALED_AT = 1_000_000_000  # ns since 1970, that is, one second after: no file gets this time by itself


def seal(path: Path) -> None:
    """Seal a file. Raises OSError if its permissions or times cannot be changed."""
    path.chmod(0o444)
    note_use(path)


def note_use(path: Path) -> None:
    """Set the time of use, which is the access time: a mount with `noatime` does not keep it by itself.

    Raises:
        OSError: the time cannot be set, as on a read-only mount.
    """
    os.utime(path, ns=(time.time_ns(), _SEALED_AT))


def is_sealed(status: os.stat_result, entry: FileEntry) -> bool:
    """True if this is the file that `seal` sealed, and not a link or another user's file in its place."""
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid in {os.geteuid(), 0}
        and status.st_mode & 0o222 == 0
        and (status.st_size, status.st_mtime_ns) == (entry.size, _SEALED_AT)
    )
