"""Let one process at a time work on a path, among all processes that share its file system.

The lock is `filelock`'s: flock(2) on a file beside the path, opened with O_NOFOLLOW. The kernel releases it when its
holder dies, however it dies. See docs/adr/0015-file-lock.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOOK_SECONDS = 0.2  # between two calls of `keep_waiting`


@contextmanager
def locked(
    path: Path, on_wait: Callable[[], None], *, keep_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Lock `path`; `on_wait` is called once if another process or thread holds the lock.

    Args:
        keep_waiting: called again and again while the lock is waited for; what it raises ends the waiting.

    Raises:
        OSError: the lock's file cannot be made, or the file system has no locks.
    """
    lock = _lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _require_file(lock)
        on_wait()
        while not lock.is_locked:
            if keep_waiting is not None:
                keep_waiting()
            with suppress(Timeout):
                lock.acquire(timeout=_LOOK_SECONDS)
    try:
        yield
    finally:
        _release(lock)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Lock `path` if no other process has; yields whether. Raises OSError as `locked`."""
    lock = _lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _require_file(lock)
        yield False
        return
    try:
        yield True
    finally:
        _release(lock)


def _lock_of(path: Path) -> FileLock:
    # A file system without flock(2) is an error: a lock that is a mere file stays when its holder is killed.
    # Not `with_name`, which refuses the root folder.
    return FileLock(path.parent / f".{path.name}.lock", fallback_to_soft=False)


def _require_file(lock: FileLock) -> None:
    """Make the lock's file unless it exists.

    filelock takes "no such file" for another process that has just removed it, and would wait for ever in a folder that
    takes no files, such as one of /proc.
    """
    if not os.path.lexists(lock.lock_file):
        os.close(os.open(lock.lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))


def _release(lock: FileLock) -> None:
    # Removed while it is still locked. A process that waits for this very file gets the lock, sees that the file has
    # no name any more, and starts over with the file that has the name now.
    with suppress(OSError):  # a disk that has become read-only: an unlocked file that stays does no harm
        Path(lock.lock_file).unlink()
    lock.release()
