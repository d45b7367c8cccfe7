"""Read folders of the farm's own machines below roots that the operator names, and nothing outside them.

Links are followed inside the roots only. A path is checked when it is listed, and the opened file is checked again:
whoever may write below a root may replace a file by a link at any time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path

from enginefarm.contract.digest import CHUNK, Watch, ignore_progress, verified
from enginefarm.contract.errors import IntegrityError, ModelUnavailable, SourceUnavailable
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.model.reference import FileReference
from enginefarm.contract.model.resolved_files import ModelFile
from models.sources.digest_cache import DigestCache, FileStamp
from models.sources.protocol import write_new
from models.sources.rejection import changed, refusal

# A name of more than 255 bytes and a loop of links are paths that cannot exist.
_NO_SUCH_PATH = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})

Select = Callable[[FileReference, Iterable[str]], tuple[str, ...]]


@dataclass(frozen=True)
class Listing:
    """A folder without its content. Equal listings mean that no selected file was rewritten."""

    folder: Path  # links resolved
    names: tuple[str, ...]  # every entry
    stamps: tuple[tuple[str, FileStamp], ...]  # of the selected files, by name


class ConfinedFolders:
    """Folders below some roots.

    Args:
        roots: folders that may be read. A link that leads out of them is refused.
        digests: digests of files that were hashed before.
        select: returns the names of a folder's files that are used; raises ModelUnavailable.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache, select: Select) -> None:
        # A root may be a link itself, or below one; opened files are compared with where it leads.
        self._roots = tuple(root.resolve() for root in roots)
        self._digests = digests
        self._select = select

    def find_folder(self, reference: FileReference) -> Path:
        """Return the folder with links resolved.

        Raises:
            ModelUnavailable: it is outside the roots. The text does not tell whether it exists.
        """
        folder = Path(os.path.realpath(reference.path))
        if not self._within_roots(folder):
            roots = " or ".join(map(str, self._roots)) or "a folder, but none is configured"
            raise refusal(
                reference,
                "model_outside_roots",
                "the path is not below a folder that this farm reads models from",
                expected=f"a path below {roots}",
                remedy="move the model there, or ask the operator to add its folder to the farm's model roots",
            )
        _require_text(reference, "the folder", folder)
        return folder

    def _within_roots(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._roots)

    def scan(self, reference: FileReference) -> Listing:
        """List the folder, reading no file but those that `select` reads.

        Raises:
            ModelUnavailable: missing, not readable, outside the roots, or without the files that `select` needs.
        """
        folder = self.find_folder(reference)
        try:
            with os.scandir(folder) as iterator:
                entries = {entry.name: entry for entry in iterator}
        except OSError as error:
            if error.errno in _NO_SUCH_PATH:
                raise refusal(
                    reference,
                    "model_not_found",
                    "there is no such folder",
                    expected="a folder that the farm's machines see under this path",
                    remedy="check the spelling, and that the volume is mounted on the farm's machines",
                ) from error
            raise _unreadable(reference, "the folder", error) from error
        names = tuple(sorted(entries))
        stamps = []
        # Only selected files are examined: an unused link to elsewhere must not make a model unusable.
        for name in self._select(reference, names):
            entry = entries[name]
            real_path = entry.path
            if entry.is_symlink():
                real_path = os.path.realpath(entry.path)
                if not self._within_roots(Path(real_path)):
                    raise _leads_outside(reference, name)
                _require_text(reference, name, real_path)
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno in _NO_SUCH_PATH:  # a link to nothing
                    raise _not_regular(reference, name) from error
                raise _unreadable(reference, name, error) from error
            if not stat.S_ISREG(status.st_mode):
                raise _not_regular(reference, name)
            stamps.append((name, FileStamp(real_path, status.st_size, status.st_mtime_ns, status.st_ino)))
        return Listing(folder, names, tuple(stamps))

    def stamp(self, reference: FileReference, path: Path) -> FileStamp:
        """Return the stamp of a file below the roots. Raises as `open`."""
        with self.open(reference, path) as stream:
            status = os.fstat(stream.fileno())
        return FileStamp(os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ino)

    def identify(self, reference: FileReference, listing: Listing) -> tuple[dict[str, str], tuple[ModelFile, ...]]:
        """Return (the identity of the selected files, the files with their digests).

        The identity is the content alone: the same files at two paths are one input of a key. A file that was not
        hashed before is read completely.

        Raises:
            ModelUnavailable: a file was written while the farm read the folder.
        """
        entries = []
        files = []
        for name, stamp in listing.stamps:
            digest = self._digests.get(stamp)
            if digest is None:
                with self.open(reference, Path(stamp.path), name) as stream:
                    digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
                self._digests.put(stamp, digest)
            entries.append(FileEntry(path=name, size=stamp.size, digest=digest))
            files.append(ModelFile(path=name, size=stamp.size, digest=digest))
        # A file that was written while it was read has a digest of neither version.
        if self.scan(reference) != listing:
            raise changed(reference, "its files were written while the farm read them")
        return {"source": "files", "digest": Manifest.of(entries).digest}, tuple(files)

    def copy(
        self,
        reference: FileReference,
        folder: Path,
        file: ModelFile,
        target: Path,
        watch: Watch = ignore_progress,
    ) -> None:
        """Copy one resolved file of `folder` to `target`, which must not exist.

        Raises:
            ModelUnavailable: its bytes are no longer those that were resolved, or it leads out of the roots.
            FileExistsError: `target` exists.
        """
        assert file.digest is not None, "a folder's files are hashed when it is resolved"
        with self.open(reference, folder / file.path) as stream:
            # Hashed as they are copied: between a check and a copy the file could change.
            chunks = iter(partial(stream.read, CHUNK), b"")
            try:
                write_new(target, verified(chunks, file.digest, file.size, what=file.path, watch=watch))
            except IntegrityError as error:
                raise changed(reference, error.detail) from error

    def read_start(self, reference: FileReference, folder: Path, name: str, length: int) -> bytes:
        """Return the first `length` bytes of a file of `folder`, or all of a shorter one. Raises as `open`."""
        with self.open(reference, folder / name, name) as stream:
            return stream.read(length)

    @contextmanager
    def open(self, reference: FileReference, path: Path, name: str = "") -> Iterator[BufferedReader]:
        """Open a regular file below the roots for reading; `name` is its name in error texts.

        Raises:
            ModelUnavailable: missing, not readable, not a regular file, or outside the roots.
        """
        name = name or path.name
        try:
            # O_NOFOLLOW: links are resolved here, so one that is met in opening was planted meanwhile.
            # O_NONBLOCK: opening a named pipe without it would wait for a writer.
            descriptor = os.open(os.path.realpath(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NO_SUCH_PATH:
                raise changed(reference, f"{name} is gone") from error
            raise _unreadable(reference, name, error) from error
        try:
            # Check the opened file, not the path: a directory above it may have become a link meanwhile.
            if not self._within_roots(Path(f"/proc/self/fd/{descriptor}").readlink()):
                raise _leads_outside(reference, name)
            # A device or a pipe could be read without end, and a directory makes no stream.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_regular(reference, name)
        except BaseException:
            os.close(descriptor)
            raise
        with os.fdopen(descriptor, "rb") as stream:
            yield stream


def _unreadable(reference: FileReference, name: str, error: OSError) -> ModelUnavailable | SourceUnavailable:
    if not isinstance(error, PermissionError):
        # A network volume that is away, or a broken disk: nothing that the caller can mend.
        return SourceUnavailable(f"{reference}: {name} cannot be read ({error.strerror}); try again later")
    return refusal(
        reference,
        "model_unreadable",
        f"the farm may not read {name}",
        expected="files that the account which runs the farm may read",
        remedy="give that account read permission",
    )


def _require_text(reference: FileReference, name: str, path: Path | str) -> None:
    """Refuse a path with bytes that are not UTF-8: the catalogue remembers digests by path, and stores text only.

    References are UTF-8 themselves, so only a link leads to such a path.

    Raises:
        ModelUnavailable: it has such bytes.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise refusal(
            reference,
            "model_path_encoding",
            f"{name} is behind a link to {ascii(os.fspath(path))[1:-1]}, which is not text in UTF-8",
            expected="names of files and folders in UTF-8",
            remedy="rename the folder or file that the link leads to",
        ) from None


def _leads_outside(reference: FileReference, name: str) -> ModelUnavailable:
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
