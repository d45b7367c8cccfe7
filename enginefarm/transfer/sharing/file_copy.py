"""Give a file a second name, or a second file its bytes: by hard link, by shared blocks (reflink), or by a copy."""

from __future__ import annotations

import fcntl
import os
from enum import Enum, auto
from pathlib import Path

from enginefarm.contract.digest import Watch, ignore_progress, read_chunks, verified
from enginefarm.contract.manifest import FileEntry

_FICLONE = 0x40049409  # linux/fs.h


class Copied(Enum):
    """How a file got the bytes of another one."""

    CLONE = auto()  # it has the other's blocks, until one of the two is written to
    COPY = auto()  # its bytes were verified as they were copied


def link(source: Path, target: Path) -> bool:
    """Make `target` a hard link to `source`. False if that cannot be.

    File systems have many answers to a link that they cannot make: EXDEV, EPERM, EMLINK, ENOTSUP, ENOSYS, EACCES,
    EINVAL and more. Whatever keeps a copy from being made as well is raised by `clone_or_copy`.
    """
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def clone_or_copy(source: Path, target: Path, entry: FileEntry, watch: Watch = ignore_progress) -> Copied:
    """Make `target`, which must not exist, a file of its own with the bytes of `source`; durably.

    Args:
        watch: is told of the bytes that are copied.

    Raises:
        IntegrityError: the bytes that were copied are wrong.
        FileNotFoundError: there is no `source`.
        OSError: it cannot be copied.
    """
    with source.open("rb") as original, target.open("xb") as new:
        try:
            copied = Copied.CLONE
            try:
                fcntl.ioctl(new, _FICLONE, original.fileno())
            except OSError:  # most file systems have no shared blocks
                copied = Copied.COPY
                new.writelines(verified(read_chunks(source), entry.digest, entry.size, what=str(source), watch=watch))
                new.flush()
            os.fsync(new.fileno())
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return copied
