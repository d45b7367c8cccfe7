"""A node's cache: files by digest, hard-linked into every engine that has them.

A cached file is read-only and bears one fixed modification time. Whoever writes to it, through whichever of its
names, changes that time, and it is not handed out again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest, read_chunks, verified
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.file_lock import claimed, claimed_if_free

_SEALED_AT = 1_000_000_000  # ns since 1970: a second, as no file gets by itself


@dataclass(frozen=True)
class Cached:
    digest: Digest
    size: int  # bytes
    used_at: float  # seconds since 1970
    engines: int  # directories of this file system that share it


class Cache:
    """Safe to share between processes, containers on one volume included.

    Args:
        limit: bytes to keep at most, the latest used; half of the disk if None.
    """

    def __init__(self, root: Path, *, limit: int | None = None) -> None:
        self.root = root
        self._limit = limit
        self._files = root / "sha256"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Cache:
        """Where ENGINEFARM_CACHE says, else in the user's cache folder."""
        home = environment.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
        return cls(Path(environment.get("ENGINEFARM_CACHE") or Path(home) / "enginefarm").absolute())

    def give(self, entry: FileEntry, target: Path) -> bool:
        """Put the file at `target`, where nothing may be. False if the cache does not have it."""
        path = self._path(entry.digest)
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        if (found.st_size, found.st_mtime_ns) != (entry.size, _SEALED_AT):
            path.unlink(missing_ok=True)
            return False
        try:
            os.utime(path, ns=(time.time_ns(), _SEALED_AT))
            return _link_or_copy(path, target, entry)
        except FileNotFoundError:  # removed by a clean-up in this very moment
            return False

    def keep(self, source: Path, entry: FileEntry) -> None:
        """Share a file whose bytes were just checked. A cache that has no room for it goes without."""
        path = self._path(entry.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{secrets.token_hex(8)}")
        try:
            if _link_or_copy(source, partial, entry):
                _seal(partial)
                partial.replace(path)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def claimed(self, name: Digest, on_wait: Callable[[], None]) -> Iterator[None]:
        """Be the only process to fetch this file."""
        with claimed(self._lock(name), on_wait):
            yield

    @contextmanager
    def claimed_if_free(self, names: set[Digest]) -> Iterator[set[Digest]]:
        """Those of `names` that no other process is fetching."""
        with ExitStack() as stack:
            yield {name for name in sorted(names) if stack.enter_context(claimed_if_free(self._lock(name)))}

    def entries(self) -> list[Cached]:
        """The latest used first."""
        found = []
        for path in self._files.glob("??/*"):
            with suppress(FileNotFoundError):
                seen = path.stat()
                shared = seen.st_nlink - 1
                found.append(Cached(f"sha256:{path.name}", seen.st_size, seen.st_atime, shared))
        return sorted(found, key=lambda cached: -cached.used_at)

    def prune(self, limit: int | None = None) -> list[Cached]:
        """Remove what was not used for longest until `limit` bytes are left; returns what went.

        What an engine's directory shares stays on the disk until that directory goes too.
        """
        limit = self._limit if limit is None else limit
        if limit is None:
            limit = shutil.disk_usage(self.root).total // 2 if self.root.exists() else 0
        gone, kept = [], 0
        for cached in self.entries():
            kept += cached.size
            if kept > limit or not limit:
                self._path(cached.digest).unlink(missing_ok=True)
                kept -= cached.size
                gone.append(cached)
        return gone

    def verify(self) -> Iterator[tuple[Cached, bool]]:
        """Read every file again; one that is wrong is removed."""
        for cached in self.entries():
            path = self._path(cached.digest)
            with suppress(FileNotFoundError):
                right = digest.of_file(path) == cached.digest
                if not right:
                    path.unlink(missing_ok=True)
                yield cached, right

    def _path(self, name: Digest) -> Path:
        hexadecimal = name.removeprefix("sha256:")
        return self._files / hexadecimal[:2] / hexadecimal

    def _lock(self, name: Digest) -> Path:
        locks = self.root / "fetching"
        locks.mkdir(parents=True, exist_ok=True)
        return locks / name.removeprefix("sha256:")


def _link_or_copy(source: Path, target: Path, entry: FileEntry) -> bool:
    """False if the source turns out to be wrong while it is copied."""
    try:
        os.link(source, target)
        return True
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP}:
            raise
    try:
        with target.open("xb") as stream:
            stream.writelines(verified(read_chunks(source), entry.digest, entry.size, what=str(source)))
            stream.flush()
            os.fsync(stream.fileno())
    except IntegrityError:
        target.unlink()
        return False
    return True


def _seal(path: Path) -> None:
    path.chmod(0o444)
    os.utime(path, ns=(time.time_ns(), _SEALED_AT))
