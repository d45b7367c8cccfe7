"""Remember the digests of local files, so that an unchanged model is not read again.

Hashing a large model takes minutes. `database_digest_cache.py` keeps digests across restarts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from enginefarm.contract.digest import Digest


@dataclass(frozen=True)
class FileStamp:
    """Metadata that changes when a file is rewritten: an equal stamp means that the file need not be read."""

    path: str  # absolute, links resolved
    size: int  # bytes
    mtime_ns: int
    inode: int  # differs for a file that was replaced by one of equal size and time, as `cp -p` leaves it


class DigestCache(Protocol):
    """Digests by stamp. One entry a path is enough: a new stamp replaces the old. Called from several threads."""

    def get(self, stamp: FileStamp) -> Digest | None:
        """Return the digest of the file with this stamp; None if it was not hashed in this state."""

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        """Remember the digest of the file with this stamp."""


class MemoryDigestCache:
    """A DigestCache that ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[str, tuple[FileStamp, Digest]] = {}

    def get(self, stamp: FileStamp) -> Digest | None:
        """See `DigestCache.get`."""
        with self._lock:
            entry = self._digests.get(stamp.path)
        # One entry a path: a file that was rewritten has no use for its former digest.
        if entry is None or entry[0] != stamp:
            return None
        return entry[1]

    def put(self, stamp: FileStamp, digest: Digest) -> None:
        """See `DigestCache.put`."""
        with self._lock:
            self._digests[stamp.path] = (stamp, digest)
