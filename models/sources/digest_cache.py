"""Digests of local files, remembered so that an unchanged model is not read again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from enginefarm.contract.digest import Digest


@dataclass(frozen=True)
class FileStamp:
    """What tells, without reading, that a file is still the one that was hashed."""

    path: str  # absolute, links resolved
    size: int  # bytes
    mtime_ns: int
    inode: int


class DigestCache(Protocol):
    """One entry per path is enough: a new stamp replaces the old. Called from several threads."""

    def get(self, stamp: FileStamp) -> Digest | None: ...

    def put(self, stamp: FileStamp, digest: Digest) -> None: ...


class MemoryDigestCache:
    """A DigestCache that ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[str, tuple[FileStamp, Digest]] = {}

    def get(self, stamp: FileStamp) -> Digest | None:
        with self._lock:
            known = self._digests.get(stamp.path)
        return known[1] if known and known[0] == stamp else None

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        with self._lock:
            self._digests[stamp.path] = (stamp, digest)
