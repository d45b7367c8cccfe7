"""Read folders that an untrusted program wrote: regular files only, and nothing outside the folder.

A program may leave links that lead out, named pipes that block a reader forever, devices, sparse files of exabytes, and
trees deeper than any stack. So a folder is listed without following links, a file is opened relative to its folder
without following links, and the opened file is compared with the listed one.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from enginefarm.contract.portable import portable_path

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: without it, opening a named pipe waits for a writer. It has no effect on regular files.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
    stat.S_IFREG: "a regular file",
}
_SMALL_BYTES = 64 << 20  # holes in a shorter file do no harm
_MOST_HOLES = 10_000  # of a file that is mostly holes: counting them takes a system call each


class RefusedFile(ValueError):
    """A file or folder that is not read: no regular file, unreadable, changed, or beyond a limit. The text names it."""


class MissingFile(RefusedFile):
    """There is no such file."""


@dataclass(frozen=True)
class FolderLimits:
    """What a folder may contain. The default fits a pulled engine, whose files may be links to the node's cache."""

    entries: int = 10_000  # files and folders
    depth: int = 32  # folders above a file
    total_bytes: int | None = None  # lengths of all files together; None: no limit
    hard_links_outside: bool = True  # False: no file may have a name outside the folder


@dataclass(frozen=True)
class ListedFile:
    """A regular file as its folder's listing describes it. Another file of the same path has another inode."""

    path: str  # below the listed folder, with '/'
    size: int  # bytes
    inode: int


LIMITS = FolderLimits()


def walk(root: Path, limits: FolderLimits = LIMITS) -> Iterator[ListedFile]:
    """Yield the regular files below `root`, in no order, without opening any of them.

    Raises:
        RefusedFile: an entry is neither a regular file nor a folder, is a mount point, or has a name that not every
            system shows alike; a file has names outside `root`, or is mostly holes; or a limit is exceeded.
    """
    entries = 0
    total_bytes = 0
    names_by_inode: dict[int, int] = {}
    link_counts: dict[int, tuple[str, int]] = {}
    with _opened_folder(root, ()) as descriptor:
        device = os.fstat(descriptor).st_dev
    # Paths instead of recursion or open descriptors: neither the stack nor the descriptors grow with the tree.
    pending: list[tuple[str, ...]] = [()]
    while pending:
        folder = pending.pop()
        with _opened_folder(root, folder) as descriptor:
            # Only folders are compared: on some overlay file systems files have device numbers of their own.
            if os.fstat(descriptor).st_dev != device:
                raise RefusedFile(f"{_shown(folder)} is a mount point")
            with os.scandir(descriptor) as iterator:
                for entry in iterator:
                    entries += 1
                    if entries > limits.entries:
                        raise RefusedFile(f"there are more than {limits.entries} files and folders")
                    parts = (*folder, entry.name)
                    try:
                        portable_path("/".join(parts))
                    except ValueError as error:
                        raise RefusedFile(str(error)) from error
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError as error:
                        raise _refusal(parts, error) from error
                    if stat.S_ISDIR(status.st_mode):
                        if len(parts) > limits.depth:
                            raise RefusedFile(f"folders are nested more than {limits.depth} deep")
                        pending.append(parts)
                        continue
                    if not stat.S_ISREG(status.st_mode):
                        raise RefusedFile(f"{_shown(parts)} is {_kind(status)}, not a regular file")
                    total_bytes += status.st_size
                    if limits.total_bytes is not None and total_bytes > limits.total_bytes:
                        raise RefusedFile(f"the files are longer than {limits.total_bytes} bytes together")
                    if status.st_nlink > 1 and not limits.hard_links_outside:
                        names_by_inode[status.st_ino] = names_by_inode.get(status.st_ino, 0) + 1
                        link_counts[status.st_ino] = (_shown(parts), status.st_nlink)
                    if status.st_size > _SMALL_BYTES + 2 * 512 * status.st_blocks:
                        _refuse_holes(root, parts, status)
                    yield ListedFile("/".join(parts), status.st_size, status.st_ino)
    # Links between files of the folder are harmless. A name outside could be a file that the program may not read, and
    # whoever writes to that name changes the folder after it was checked.
    for inode, (shown, links) in link_counts.items():
        if links != names_by_inode[inode]:
            raise RefusedFile(f"{shown} is hard-linked to a file outside the folder")


@contextmanager
def opened(root: Path, path: str, listed: ListedFile | None = None) -> Iterator[BinaryIO]:
    """Open a regular file below `root` for reading, following no link on the way.

    Args:
        path: below `root`, with '/'.
        listed: the file that must be opened; None: whichever regular file has the path.

    Raises:
        MissingFile: there is no such file.
        RefusedFile: it cannot be read, or it is no regular file or another one than `listed`.
    """
    parts = PurePosixPath(path).parts
    if not parts or parts[0] == "/" or ".." in parts:
        raise RefusedFile(f"{path!r} is no path below a folder")
    with _opened_folder(root, parts[:-1]) as folder:
        try:
            # Looked at before it is opened: opening a device can have effects, as rewinding a tape.
            before = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISREG(before.st_mode):
                raise RefusedFile(f"{_shown(parts)} is {_kind(before)}, not a regular file")
            descriptor = os.open(parts[-1], _FILE_FLAGS, dir_fd=folder)
        except OSError as error:
            raise _refusal(parts, error) from error
    with os.fdopen(descriptor, "rb") as stream:
        # Whatever has the name now: the opened file decides.
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise RefusedFile(f"{_shown(parts)} is {_kind(status)}, not a regular file")
        if listed is not None and (status.st_ino, status.st_size) != (listed.inode, listed.size):
            raise RefusedFile(f"{_shown(parts)} changed while it was read")
        yield stream


def write_new(root: Path, name: str, content: bytes) -> None:
    """Write a file directly in `root`, in place of a file or link of this name, which is removed and never followed.

    Raises:
        RefusedFile: a folder has the name, or the file cannot be written.
    """
    with _opened_folder(root, ()) as folder:
        try:
            os.fchmod(folder, 0o700)  # a program may have taken the permission to write
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as stream:
                stream.write(content)
        except IsADirectoryError as error:
            raise RefusedFile(f"{name} is a folder, where the farm writes a file") from error
        except PermissionError as error:
            raise RefusedFile(f"{name} cannot be written: {error.strerror}") from error


@contextmanager
def _opened_folder(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """Open a folder below `root` component by component; yields its descriptor."""
    descriptor = -1
    try:
        descriptor = os.open(root, _FOLDER_FLAGS)
        for part in parts:
            below = os.open(part, _FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
    except OSError as error:
        if descriptor != -1:
            os.close(descriptor)
        raise _refusal(parts, error) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_holes(root: Path, parts: tuple[str, ...], listed: os.stat_result) -> None:
    """Refuse a file that is mostly holes: it is short on this disk, but every copy of it is long.

    Its blocks alone prove nothing: a file system that compresses, or that has not written the file yet, counts few.
    """
    with opened(root, "/".join(parts), ListedFile("", listed.st_size, listed.st_ino)) as stream:
        descriptor = stream.fileno()
        data_bytes = 0
        position = 0
        for _ in range(_MOST_HOLES):
            try:
                position = os.lseek(descriptor, position, os.SEEK_DATA)
                hole = os.lseek(descriptor, position, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise _refusal(parts, error) from error
                break  # no data behind `position`
            data_bytes += hole - position
            position = hole
        if data_bytes < listed.st_size // 2:
            raise RefusedFile(
                f"{_shown(parts)} is {listed.st_size} bytes long, but has only {data_bytes} bytes of data"
            )


def _refusal(parts: tuple[str, ...], error: OSError) -> RefusedFile:
    match error.errno:
        case errno.ENOENT:
            return MissingFile(f"there is no file {_shown(parts)}")
        case errno.ELOOP | errno.ENOTDIR:
            return RefusedFile(f"{_shown(parts)} is a link, or no folder, where a folder or a regular file is expected")
        case _:
            return RefusedFile(f"{_shown(parts)} cannot be read: {error.strerror}")


def _shown(parts: tuple[str, ...]) -> str:
    """The path for a text: short, and with control characters spelled out."""
    path = "/".join(parts) or "the folder itself"
    if len(path) > 200:
        path = path[:200] + "…"
    return path if path.isprintable() else ascii(path)


def _kind(status: os.stat_result) -> str:
    return _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
