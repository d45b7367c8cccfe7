"""Create a folder for one attempt, measure it, and remove it when the attempt ends.

Programs that nobody trusts write into it: trees deeper than any stack or path, links to elsewhere, folders without
permissions, mount points. Measuring and removing follow no link and end for every tree.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from secrets import token_hex

from toolchains.toolchain import Directories
from workers.sandbox.launched import LaunchedSupervisor
from workers.sandbox.mount_view import StagePaths, StageView

log = logging.getLogger(__name__)

UNMEASURABLE = 1 << 62  # bytes, more than any limit
_REMOVED_PREFIX = "removed-"
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# linux/fs.h: ioctls for the attributes of chattr, and those two that forbid removal.
_GET_ATTRIBUTES, _SET_ATTRIBUTES = 0x80086601, 0x40086602
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20


@dataclass
class Workspace:
    """The folder of one attempt."""

    folder: Path
    directories: Directories
    supervisor: LaunchedSupervisor | None = None  # started for the first program of the attempt
    has_run: bool = False  # a program has written into the folder
    before_removal: list[Callable[[], None]] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path) -> Workspace:
        """Make the folder and the stage's directories in it. Only this user may read."""
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="attempt-", dir=root))
        directories = Directories(folder / "source", folder / "output", folder / "scratch")
        workspace = cls(folder, directories)
        for directory in workspace.all_directories():
            directory.mkdir()
        return workspace

    def is_complete(self) -> bool:
        """True if all its directories are there."""
        return all(directory.is_dir() for directory in self.all_directories())

    def all_directories(self) -> tuple[Path, ...]:
        """Those of the stage, and that of its inputs."""
        return (self.directories.source, self.directories.output, self.directories.scratch, self.inputs)

    @property
    def inputs(self) -> Path:
        return self.folder / "inputs"

    def paths(self, view: StageView) -> StagePaths:
        """What the stage's programs see."""
        directories = self.directories
        readable = (directories.source, self.inputs, *view.readable)
        return StagePaths(directories.scratch, writable=(directories.output,), readable=readable, gpu=view.gpu)

    def add_inputs(self, names: Iterable[str]) -> Mapping[str, Path]:
        """Make a directory for each of the stage's inputs."""
        inputs = {name: self.inputs / name for name in names}
        for directory in inputs.values():
            directory.mkdir(parents=True)
        self.directories = replace(self.directories, inputs=inputs)
        return inputs

    def remove(self) -> None:
        """End the supervisor that no program needed, and remove the folder.

        A kill of the worker skips this: `clear` removes the folder at the next start.
        """
        if self.supervisor is not None:
            self.supervisor.close()
        for prepare in self.before_removal:
            prepare()
        remove(self.folder)


def clear(root: Path) -> None:
    """Remove the folders of a killed worker below `root`. One worker owns one scratch folder."""
    if root.is_dir():
        for folder in root.iterdir():
            remove(folder)


def remove(folder: Path) -> None:
    """Remove `folder` with all its content. What cannot be removed stays, and the log says so in one line."""
    removal = _Removal()
    try:
        parent = os.open(folder.parent, _FOLDER_FLAGS)
    except OSError as error:
        log.warning("%s cannot be removed: %s", folder, error.strerror)
        return
    try:
        removal.remove(parent, folder.name)
    finally:
        os.close(parent)
    if removal.remaining:
        # ascii: the names are a program's choice.
        log.warning(
            "%d entries of %s cannot be removed, first %s: %s: remove %s/%s* by hand",
            removal.remaining, folder, ascii(removal.first), removal.reason, folder.parent, _REMOVED_PREFIX,
        )  # fmt: skip


@dataclass
class _Removal:
    """Removes one tree. `remaining` counts the entries that could not be removed."""

    remaining: int = 0
    first: str = ""
    reason: str = ""
    pending: list[str] = field(default_factory=list)

    def remove(self, parent: int, name: str) -> None:
        """Remove the entry `name` of the folder that is open as `parent`.

        Each folder below is moved up into `parent` first. So no path grows with the tree, and a mount point, which
        cannot be moved, is never entered.
        """
        self._take(parent, name, parent)
        while self.pending:
            name = self.pending.pop()
            remaining_before = self.remaining
            entries_before = 0
            try:
                _unlock(parent, name)
                descriptor = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
                try:
                    with os.scandir(descriptor) as entries:
                        for entry in entries:
                            entries_before += 1
                            self._take(descriptor, entry.name, parent)
                finally:
                    os.close(descriptor)
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    self._count(name, error)
                elif self.remaining == remaining_before and entries_before > 0:
                    # Entries that were removed while they were listed may have hidden others: list again.
                    self.pending.append(name)

    def _take(self, folder: int, name: str, parent: int) -> None:
        """Unlink a file of `folder`; move a folder of it into `parent` and note it for removal."""
        try:
            if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                try:
                    os.unlink(name, dir_fd=folder)
                except PermissionError:
                    _clear_attributes(folder, name)
                    os.unlink(name, dir_fd=folder)
                return
            new_name = _REMOVED_PREFIX + token_hex(8)
            try:
                os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=parent)
            except PermissionError:
                # Moving a folder changes its '..': it must be writable itself.
                _unlock(folder, name)
                os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=parent)
            self.pending.append(new_name)
        except FileNotFoundError:
            return  # a program that is still alive removed it
        except OSError as error:
            self._count(name, error)

    def _count(self, name: str, error: OSError) -> None:
        if self.remaining == 0:
            self.first, self.reason = name, error.strerror or type(error).__name__
        self.remaining += 1


def _unlock(folder: int, name: str) -> None:
    """Give the owner all permissions on a subfolder, and clear its attributes if they forbid removal.

    Raises:
        OSError: EBUSY if another file system is mounted there, else why the permissions cannot be changed.
    """
    # O_PATH opens a folder without permissions, and chmod through /proc cannot be led elsewhere by a link.
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if os.fstat(descriptor).st_dev != os.fstat(folder).st_dev:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # noqa: PTH101  # no path, a descriptor
        except PermissionError:
            _clear_attributes(folder, name)
            os.chmod(f"/proc/self/fd/{descriptor}", 0o700)  # noqa: PTH101
    finally:
        os.close(descriptor)


def _clear_attributes(folder: int, name: str) -> None:
    """Clear the attributes of chattr that forbid removal, of the folder and of its entry; only root may."""
    with suppress(OSError):
        entry = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            for descriptor in (folder, entry):
                attributes = array.array("L", [0])
                fcntl.ioctl(descriptor, _GET_ATTRIBUTES, attributes)
                attributes[0] &= ~(_IMMUTABLE | _APPEND_ONLY)
                fcntl.ioctl(descriptor, _SET_ATTRIBUTES, attributes)
        finally:
            os.close(entry)


def sizes(folder: Path) -> Iterator[int]:
    """Yield the bytes that each file and folder below `folder` takes on the disk.

    What cannot be measured counts as UNMEASURABLE: paths longer than the system's limit, folders that are not readable.
    A program that makes such a tree hides how much it writes.
    """
    pending = [os.fspath(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    with suppress(FileNotFoundError):  # removed since the listing
                        # Blocks, not the length: a sparse file takes less than it is long. They have 512 bytes each,
                        # and an empty file takes an inode.
                        yield 512 * max(1, entry.stat(follow_symlinks=False).st_blocks)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed since the listing
        except OSError:
            yield UNMEASURABLE
