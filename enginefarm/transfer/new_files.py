"""Write beside what a user has: never through a link, and never over what somebody else put there."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from enginefarm.contract.errors import Conflict
from enginefarm.transfer.atomic_file import sync_directory


def own_directory(path: Path) -> None:
    """Make a directory, or use the one that an interrupted call of this user left.

    Raises:
        Conflict: something else has this name, or another user made it.
    """
    path.mkdir(exist_ok=True)
    # lstat: a link would let whoever made it choose where files are written.
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise Conflict(f"{path} is not a directory of this user: remove it first")


def own_parents(root: Path, path: Path) -> None:
    """Make the directories between `root` and `path`, a path below it. Raises Conflict as `own_directory`."""
    for parent in reversed(path.relative_to(root).parents):
        own_directory(root / parent)


def open_new(path: Path) -> BinaryIO:
    """Open a new file for writing, in the place of a file or link that an interrupted call left.

    Raises:
        OSError: a directory has this name, or somebody makes a file of this name at the same time.
    """
    path.unlink(missing_ok=True)  # the link itself, not what it leads to
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "wb")


def publish_new(partial: Path, target: Path) -> None:
    """Give the complete and synced file `partial` the name `target`, durably.

    Raises:
        Conflict: `target` exists; a rename would have replaced it.
    """
    try:
        os.link(partial, target, follow_symlinks=False)
    except FileExistsError:
        raise Conflict(f"{target} appeared meanwhile: name another file, or remove it first") from None
    except OSError:
        # File systems without hard links have many answers: EPERM, ENOSYS, EINVAL and more. If something else is wrong,
        # the rename fails, too. Between this look and the rename is a moment in which a file could appear.
        if os.path.lexists(target):
            raise Conflict(f"{target} appeared meanwhile: name another file, or remove it first") from None
        partial.rename(target)
    partial.unlink(missing_ok=True)
    sync_directory(target.parent)
