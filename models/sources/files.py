"""Models in folders of the farm's own machines, below roots that the operator names.

A folder is identified by what is in it, so two copies of a model in two places are one model. Hashing a
large model takes minutes, therefore digests are kept by path, size, mtime and inode; the worker hashes
again as it copies, and refuses what differs.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path

from enginefarm import digest
from enginefarm.digest import Digest
from enginefarm.errors import IntegrityError, ModelUnavailable
from enginefarm.manifest import FileEntry, Manifest
from enginefarm.model import FileReference, parse
from models.sources.digests import DigestCache, FileStamp
from models.sources.facts import MAX_CONFIG_BYTES, read_facts, too_large
from models.sources.flight import SingleFlight
from models.sources.refusal import changed, refusal
from models.sources.resolved import ModelFile, ResolvedModel
from models.sources.selection import CONFIG, select
from models.sources.source import write_new


@dataclass(frozen=True)
class _Listing:
    """A folder at a glance: all names in it, and the stamps of the files that count, by name."""

    folder: Path
    names: tuple[str, ...]
    stamps: tuple[tuple[str, FileStamp], ...]


class FileSource:
    """Resolves and fetches `file:` models.

    Args:
        roots: folders that models may be read from; a link that leads out of them is refused.
        digests: what was hashed before.
    """

    def __init__(self, roots: Sequence[Path], digests: DigestCache) -> None:
        self._roots = tuple(root.resolve() for root in roots)
        self._digests = digests
        self._reading: SingleFlight[_Listing, ResolvedModel] = SingleFlight()
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[_Listing, ResolvedModel]] = {}

    def resolve(self, reference: FileReference) -> ResolvedModel:
        """Of a folder that did not change since the last time, only directory entries are read.

        The first time, all the files that count are hashed: minutes for a large model.
        """
        listing = self._list(reference)
        with self._lock:
            known = self._known.get(listing.folder)
        if known and known[0] == listing:
            resolved = known[1]
        else:
            resolved = self._reading.run(listing, lambda: self._read(reference, listing))
        return resolved.model_copy(update={"reference": str(reference)})

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        reference = parse(model.reference)
        if not isinstance(reference, FileReference):
            raise TypeError(f"{reference} names no folder")
        folder = self._folder(reference)
        for file in model.files:
            self._copy(reference, folder, file, destination / file.path)

    def _folder(self, reference: FileReference) -> Path:
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

    def _list(self, reference: FileReference) -> _Listing:
        folder = self._folder(reference)
        try:
            names = tuple(sorted(path.name for path in folder.iterdir()))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _not_found(reference) from error
        except PermissionError as error:
            raise _unreadable(reference, "the folder") from error
        counting = select(reference, names)
        return _Listing(folder, names, tuple((name, self._stamp(reference, folder / name)) for name in counting))

    def _stamp(self, reference: FileReference, path: Path) -> FileStamp:
        real = Path(os.path.realpath(path))
        if not self._within_roots(real):
            raise _escapes(reference, path.name)
        try:
            status = real.stat()
        except OSError as error:
            raise _not_regular(reference, path.name) from error
        if not stat.S_ISREG(status.st_mode):
            raise _not_regular(reference, path.name)
        return FileStamp(str(real), status.st_size, status.st_mtime_ns, status.st_ino)

    def _read(self, reference: FileReference, listing: _Listing) -> ResolvedModel:
        config = self._config(reference, listing.folder)
        weights = [stamp.size for name, stamp in listing.stamps if name.endswith(".safetensors")]
        facts = read_facts(reference, config, weights, listing.names)
        entries = [
            FileEntry(path=name, size=stamp.size, digest=self._digest(reference, name, stamp))
            for name, stamp in listing.stamps
        ]
        if self._list(reference) != listing:
            raise changed(reference, "its files were written while the farm read them")
        resolved = ResolvedModel(
            reference=str(reference),
            identity={"source": "files", "digest": Manifest.of(entries).digest},
            files=tuple(ModelFile(path=entry.path, size=entry.size, digest=entry.digest) for entry in entries),
            facts=facts,
        )
        with self._lock:
            self._known[listing.folder] = (listing, resolved)
        return resolved

    def _config(self, reference: FileReference, folder: Path) -> bytes:
        with self._open(reference, folder / CONFIG) as stream:
            config = stream.read(MAX_CONFIG_BYTES + 1)
        if len(config) > MAX_CONFIG_BYTES:
            raise too_large(reference)
        return config

    def _digest(self, reference: FileReference, name: str, stamp: FileStamp) -> Digest:
        if known := self._digests.get(stamp):
            return known
        with self._open(reference, Path(stamp.path), name) as stream:
            made = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
        self._digests.put(stamp, made)
        return made

    def _copy(self, reference: FileReference, folder: Path, file: ModelFile, target: Path) -> None:
        assert file.digest is not None, "a folder's files are hashed when it is resolved"
        with self._open(reference, folder / file.path) as stream:
            chunks = iter(partial(stream.read, digest.CHUNK), b"")
            try:
                write_new(target, digest.verified(chunks, file.digest, file.size, what=file.path))
            except IntegrityError as error:
                raise changed(reference, error.detail) from error

    @contextmanager
    def _open(self, reference: FileReference, path: Path, name: str = "") -> Iterator[BufferedReader]:
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
