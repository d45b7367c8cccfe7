"""One process at a time for one path, among all that share its file system."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def claimed(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock beside `path`; `on_wait` is called once if another process has it.

    The kernel lets go of the lock when its holder dies, however it dies.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock, on_wait)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            lock.unlink()
        os.close(descriptor)


@contextmanager
def claimed_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock beside `path` if nobody else does; says whether."""
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        free = _at_once(descriptor) and _is_named(descriptor, lock)
        yield free
    finally:
        if free:
            with suppress(FileNotFoundError):
                lock.unlink()
        os.close(descriptor)


def _acquire(lock: Path, on_wait: Callable[[], None]) -> int:
    """Lock the file that has this name *now*: its last holder may have removed the one we waited for."""
    waited = False
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            if not waited and not _at_once(descriptor):
                waited = True
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_named(descriptor, lock):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(descriptor: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False
