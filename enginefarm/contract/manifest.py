"""Manifests: the sorted list of (path, digest, size) that describes a directory. Its own digest identifies it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, model_validator

from enginefarm.contract import digest, regular_files
from enginefarm.contract.digest import Digest, Watch, ignore_progress
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.portable import PortablePath
from enginefarm.contract.regular_files import LIMITS, FolderLimits, RefusedFile

RelativePath = PortablePath


class FileEntry(BaseModel):
    """One file of a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: RelativePath = Field(examples=["rank0.engine"])
    digest: Digest
    # Beyond 2^53 - 1 a JSON number is not exact, and a manifest would have no canonical form.
    size: Annotated[int, Field(ge=0, le=2**53 - 1, description="bytes")]


class Manifest(BaseModel):
    """The files of an engine or a checkpoint. Paths are unique, sorted, relative and stay inside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: tuple[FileEntry, ...]

    @model_validator(mode="after")
    def sorted_and_unique(self) -> Manifest:
        # One order, so that a directory has one canonical form and one digest.
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files must be sorted by path, each path once")
        # A path below a file could not be written: the pull would fail after gigabytes.
        folders: set[str] = set()
        for path in paths:
            folders.update(str(parent) for parent in PurePosixPath(path).parents)
        clashes = folders.intersection(paths)
        if clashes:
            raise ValueError(f"{min(clashes)!r} is both a file and a folder")
        return self

    @classmethod
    def of(cls, entries: Iterable[FileEntry]) -> Manifest:
        """Return the manifest of `entries`, in any order. Raises ValidationError if they make no directory."""
        return cls(files=tuple(sorted(entries, key=lambda entry: entry.path)))

    @classmethod
    def of_directory(cls, root: Path, *, limits: FolderLimits = LIMITS, watch: Watch = ignore_progress) -> Manifest:
        """Return the manifest of every file below `root`. A program that nobody trusts may have written them.

        Args:
            watch: is told of the bytes that were hashed; an exception ends the reading.

        Raises:
            RefusedFile: there is a link, a special file or a name that a manifest cannot have, a file cannot be read or
                changed meanwhile, or a limit is exceeded.
        """
        entries = []
        for listed in regular_files.walk(root, limits):
            with regular_files.opened(root, listed.path, listed) as stream:
                try:
                    name, size = digest.of_stream(stream, watch, longest=listed.size)
                except IntegrityError as error:
                    raise RefusedFile(f"{listed.path} changed while it was read") from error
            if size != listed.size:
                raise RefusedFile(f"{listed.path} changed while it was read")
            entries.append(FileEntry(path=listed.path, digest=name, size=size))
        return cls.of(entries)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        # Files with equal content count each time: this is the directory's size, not the store's.
        return sum(entry.size for entry in self.files)

    @property
    def digest(self) -> Digest:
        """The digest of the manifest itself, which identifies the directory."""
        return digest.of_bytes(self.canonical())

    def canonical(self) -> bytes:
        """Return the manifest as RFC 8785 JSON: the exact bytes whose digest is `digest`."""
        return rfc8785.dumps({"files": [entry.model_dump() for entry in self.files]})

    def entry(self, path: str) -> FileEntry | None:
        """Return the file at `path`; None if there is none."""
        for entry in self.files:
            if entry.path == path:
                return entry
        return None
