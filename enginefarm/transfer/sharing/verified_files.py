"""Remember which files this process has read and found right, so that an unchanged one is not read again.

The kernel sets the time of the last change (ctime) of an inode at every write to the file and at every change of its
permissions, times and links, and no program can set it back. So a file whose inode and ctime are those of a verified
one has the same bytes. The cache itself adds and removes links: it tells of them in `own_change`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from enginefarm.contract.digest import Digest

# The kernel's clock of ctime advances in steps of some milliseconds, and a write within the step in which a file was
# verified would not show. Reading so many bytes takes longer than a step; smaller files are read each time.
_SMALLEST = 64 << 20  # bytes

_State = tuple[int, int, int, int]  # device, inode, bytes, ctime in ns


class VerifiedFiles:
    """The verified state of one file for each digest. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[Digest, _State] = {}

    def is_unchanged(self, name: Digest, path: Path) -> bool:
        """True if the file was found right by this process, and nobody has changed it since."""
        with self._lock:
            return name in self._states and self._states[name] == state_of(path)

    def remember(self, name: Digest, state: _State) -> None:
        """Note that the file had this state before it was read, and still when it had been found right."""
        if state[2] >= _SMALLEST:
            with self._lock:
                self._states[name] = state

    @contextmanager
    def own_change(self, name: Digest, path: Path) -> Iterator[None]:
        """Change links or times of the file in this context: a file that was unchanged before it still counts so."""
        with self._lock:
            was_unchanged = name in self._states and self._states[name] == state_of(path)
            yield
            state = state_of(path)
            if was_unchanged and state is not None:
                self._states[name] = state


def state_of(path: Path) -> _State | None:
    """The state of a file; None if it cannot be looked at."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
