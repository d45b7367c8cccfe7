"""Folders of the farm's own machines, below roots that the operator names: listed, hashed, copied, never left."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest
from enginefarm.contract.errors import IntegrityError, ModelUnavailable
from enginefarm.contract.manifest import FileEntry
from enginefarm.contract.model_reference import FileReference
from enginefarm.contract.resolved_files import ModelFile
from models.sources.digest_cache import DigestCache, FileStamp
from models.sources.protocol import write_new
from models.sources.rejection import changed, refusal

Select = Callable[[FileReference, Iterable[str]], tuple[str, ...]]


@dataclass(frozen=True)
class Listing:
    """A folder at a glance: all names in it, and the stamps of the files that count, by name."""

    folder: Path
    names: tuple[str, ...]
    stamps: tuple[tuple[str, FileStamp], ...]


class Folders:
    """
    Args:
        roots: folders that may be read from; a link that leads out of them is refused.
        digests: what was hashed before.
        select: which files of a folder count; raises ModelUnavailable.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, select: Select) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._digests = digests
        self._select = select

    def folder(self, reference: FileReference) -> Path:
        """The folder with links resolved. Outside the roots, nothing is said about what is there."""
        folder = Path(os.path.realpath(reference.path))
        if not self._within_roots(folder):
            raise refusal(
                reference,
                "model_outside_roots",
                "the path is not below a folder that this farm reads models from",
                expected="a path below " + (" or ".join(map(str, self._roots)) or "a folder, but none is configured"),
                remedy="move the model there, or ask the operator to add its folder to the farm's model roots",
            )
        return folder

    def _within_roots(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)

    def look(self, reference: FileReference) -> Listing:
        folder = self.folder(reference)
        try:
            with os.scandir(folder) as found:
                entries = {entry.name: entry for entry in found}
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(reference) from error
        except PermissionError as error:
            raise _unreadable(reference, "the folder") from error
        names = tuple(sorted(entries))
        counting = self._select(reference, names)
        return Listing(folder, names, tuple((name, self._stamp(reference, entries[name])) for name in counting))

    def _stamp(self, reference: FileReference, entry: os.DirEntry[str]) -> FileStamp:
        real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        if real is not entry.path and not self._within_roots(Path(real)):
            raise _escapes(reference, entry.name)
        try:
            status = entry.stat()
        except OSError as error:
            raise _not_regular(reference, entry.name) from error
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(reference, entry.name)
        return FileStamp(real, status.st_size, status.st_mtime_ns, status.st_ino)

    def entries(self, reference: FileReference, listing: Listing) -> list[FileEntry]:
        """With digests; a file that was not hashed before is read whole.

        Raises:
            ModelUnavailable: the folder is another by the time all is read.
        """
        entries = [
            FileEntry(path=name, size=stamp.size, digest=self._digest(reference, name, stamp))
            for name, stamp in listing.stamps
        ]
        if self.look(reference) != listing:
            raise changed(reference, "its files were written while the farm read them")
        return entries

    def _digest(self, reference: FileReference, name: str, stamp: FileStamp) -> Digest:
        if known := self._digests.get(stamp):
            return known
        with self.open(reference, Path(stamp.path), name) as stream:
            made = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        self._digests.put(stamp, made)
        return made

    def copy(self, reference: FileReference, folder: Path, file: ModelFile, target: Path) -> None:
        assert file.digest is not None, "a folder's files are hashed when it is resolved"
        with self.open(reference, folder / file.path) as stream:
            chunks = iter(partial(stream.read, digest.CHUNK), b"")
            try:
                write_new(target, digest.verified(chunks, file.digest, file.size, what=file.path))
            except IntegrityError as error:
                raise changed(reference, error.detail) from error

    @contextmanager
    def open(self, reference: FileReference, path: Path, name: str = "") -> Iterator[BufferedReader]:
        """A regular file below the roots, for reading.

        What was opened is checked, not what was asked for: a link put in between changes nothing.
        """
        name = name or path.name
        try:
            # O_NONBLOCK: a named pipe in place of the file must not hold the farm up.
            descriptor = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise changed(reference, f"{name} is gone") from error
        except PermissionError as error:
            raise _unreadable(reference, name) from error
        with os.fdopen(descriptor, "rb") as stream:
            if not self._within_roots(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise _escapes(reference, name)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_regular(reference, name)
            yield stream


def _not_found(reference: FileReference) -> ModelUnavailable:
    return refusal(
        reference,
        "model_not_found",
        "there is no such folder",
        expected="a folder that the farm's machines see under this path",
        remedy="check the spelling, and that the volume is mounted on the farm's machines",
    )


def _unreadable(reference: FileReference, what: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_unreadable",
        f"the farm may not read {what}",
        expected="files that the account which runs the farm may read",
        remedy="give that account read permission",
    )


def _escapes(reference: FileReference, name: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_link_outside",
        f"{name} is a link that leads out of the folders that this farm reads models from",
        expected="regular files, or links that stay inside",
        remedy="put the file itself in the model's folder",
    )


def _not_regular(reference: FileReference, name: str) -> ModelUnavailable:
    return refusal(
        reference,
        "model_file_invalid",
        f"{name} is not a regular file, or is a link to nothing",
        expected="regular files, or links to them",
        remedy="put the file itself in the model's folder",
    )
