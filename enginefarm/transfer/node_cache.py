"""A node's cache: files named by digest, hard-linked into every engine directory that has them.

A cached file is read-only and has one fixed modification time. Writing to it through any of its links changes that
time, and a file with another time is not handed out again.

A pull needs no cache. A failure in the cache's folder, whatever its reason, is logged once and never fails the pull: a
file is then not shared, or is fetched again.
"""

from __future__ import annotations

import logging
import os
import pwd
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest, read_chunks, verified
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.file_lock import locked, locked_if_free
from enginefarm.transfer.seen_revocations import SeenRevocations

_SEALED_AT = 1_000_000_000  # ns since 1970, that is, one second after: no file gets this time by itself
_FILE_NAME = re.compile(r"[0-9a-f]{64}")
_ABANDONED_AFTER = 3600.0  # seconds without a change: a copy of the largest file is written to much more often

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cached:
    digest: Digest
    size: int  # bytes
    used_at: float  # seconds since 1970
    engines: int  # directories of this file system that share it


class Cache:
    """Safe to share between processes, also between containers on one volume.

    Args:
        limit: bytes to keep at most, the most recently used; half of the disk if None.
    """

    def __init__(self, root: Path, *, limit: int | None = None) -> None:
        self.root = root
        self._limit = limit
        self._files = root / "sha256"
        self._is_reported = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Cache:
        """The cache that ENGINEFARM_CACHE names, else the one in the user's cache folder.

        In a container neither may exist: a user without a home gets a cache that cannot be used.
        """
        home = environment.get("HOME", "")
        if not home.startswith("/"):
            try:
                home = pwd.getpwuid(os.geteuid()).pw_dir
            except KeyError:  # a user without an entry, as OpenShift starts containers
                home = "/nonexistent"
        root = environment.get("ENGINEFARM_CACHE")
        if root:
            if root.startswith("~/"):  # no shell has expanded it: systemd, Compose and Kubernetes have none
                root = home + root.removeprefix("~")
            with suppress(FileNotFoundError):  # the working directory was removed
                return cls(Path(root).absolute())
            return cls(Path(root))
        folder = environment.get("XDG_CACHE_HOME", "")
        if folder.startswith("/"):  # the XDG specification: a relative path is invalid and to be ignored
            return cls(Path(folder) / "enginefarm")
        return cls(Path(home) / ".cache" / "enginefarm")

    @property
    def revocations(self) -> SeenRevocations:
        """The lists of recalled engines that this node saw."""
        return SeenRevocations(self.root / "revocations")

    def give(self, entry: FileEntry, target: Path, *, verify: bool = False) -> bool:
        """Put the file at `target`, which must not exist. False if the cache does not have it.

        Args:
            verify: read the file again and compare its digest. Without it, the seal shows that nobody wrote to the file
                by mistake; somebody who wants to deceive can restore the seal.
        """
        path = self._path(entry.digest)
        try:
            if not _is_sealed(path.lstat(), entry) or (verify and digest.of_file(path) != entry.digest):
                path.unlink(missing_ok=True)
                return False
        except FileNotFoundError:  # never there, or pruned by another process
            return False
        except OSError as error:
            self.report(error)
            return False
        # The time of use is the access time: a mount with `noatime` does not keep it by itself. On a read-only mount it
        # cannot be set, and nothing is pruned there either.
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), _SEALED_AT))
        try:
            return _link_or_copy(path, target, entry)
        except OSError as error:
            # If the target's disk is to blame, fetching the file fails, too, and says so.
            target.unlink(missing_ok=True)
            if not isinstance(error, FileNotFoundError):  # pruned by another process since `lstat`
                self.report(error)
            return False

    def keep(self, source: Path, entry: FileEntry) -> None:
        """Share a file whose bytes were just verified, if the cache's folder allows it."""
        path = self._path(entry.digest)
        partial = path.with_name(f".{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                if _link_or_copy(source, partial, entry):
                    # Sealed before it has its name: no other process may see it unsealed and remove it.
                    partial.chmod(0o444)
                    os.utime(partial, ns=(time.time_ns(), _SEALED_AT))
                    partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            self.report(error)

    @contextmanager
    def locked(self, name: Digest, on_wait: Callable[[], None]) -> Iterator[None]:
        """Be the only process to fetch this file; `on_wait` is called if another one does.

        Without a folder for locks there is none: several processes may then fetch the same file.
        """
        with ExitStack() as locks:
            try:
                locks.enter_context(locked(self._lock_path(name), on_wait))
            except OSError as error:
                self.report(error)
            yield

    @contextmanager
    def locked_if_free(self, names: set[Digest]) -> Iterator[set[Digest]]:
        """Lock those of `names` that no other process is fetching; yields them, and those that cannot be locked."""
        with ExitStack() as locks:
            locked_names = set()
            for name in sorted(names):
                try:
                    is_free = locks.enter_context(locked_if_free(self._lock_path(name)))
                except OSError as error:
                    self.report(error)
                    is_free = True
                if is_free:
                    locked_names.add(name)
            yield locked_names

    def entries(self) -> list[Cached]:
        """The most recently used first. A file that another process is adding is not one of them yet."""
        entries = []
        for path in self._files.glob("??/*"):
            # Under its temporary name a copy has other bytes than its digest until its last byte is written.
            if not _FILE_NAME.fullmatch(path.name):
                continue
            with suppress(FileNotFoundError):  # pruned by another process
                status = path.stat()
                other_links = status.st_nlink - 1
                entries.append(Cached(f"sha256:{path.name}", status.st_size, status.st_atime, other_links))
        return sorted(entries, key=lambda cached: -cached.used_at)

    def prune(self, limit: int | None = None) -> list[Cached]:
        """Remove the least recently used files until `limit` bytes are left; returns what was removed.

        What an engine's directory shares stays on the disk until that directory is removed, too. Temporary files of
        processes that were killed while they added a file are removed as well.
        """
        if limit is None:
            limit = self._limit
        if limit is None:
            limit = shutil.disk_usage(self.root).total // 2 if self.root.exists() else 0
        for temporary in self._files.glob("??/.*"):
            with suppress(FileNotFoundError):  # its process has finished with it
                # The time of the last change to the inode, because `keep` sets the modification time to a fixed one.
                if temporary.stat().st_ctime < time.time() - _ABANDONED_AFTER:
                    temporary.unlink()
        removed = []
        remaining_size = 0
        for cached in self.entries():
            # With a limit of 0 empty files go as well.
            if remaining_size + cached.size <= limit and limit:
                remaining_size += cached.size
            else:
                self._path(cached.digest).unlink(missing_ok=True)
                removed.append(cached)
        return removed

    def verify(self) -> Iterator[tuple[Cached, bool]]:
        """Read every file again, and remove those with wrong bytes; yields each with whether it is right."""
        for cached in self.entries():
            path = self._path(cached.digest)
            with suppress(FileNotFoundError):
                is_right = digest.of_file(path) == cached.digest
                if not is_right:
                    path.unlink(missing_ok=True)
                yield cached, is_right

    def report(self, error: OSError) -> None:
        """Log that the cache is not used as it should be, once."""
        if self._is_reported:
            return
        self._is_reported = True
        _log.warning(
            "the cache %s cannot be used (%s): engines are pulled without it. ENGINEFARM_CACHE names another folder; "
            "`enginefarm pull --no-cache` and pull(use_cache=False) use none",
            self.root,
            error.strerror or error,
        )

    def _path(self, name: Digest) -> Path:
        hexadecimal = name.removeprefix("sha256:")
        return self._files / hexadecimal[:2] / hexadecimal

    def _lock_path(self, name: Digest) -> Path:
        directory = self.root / "fetching"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / name.removeprefix("sha256:")


def _is_sealed(status: os.stat_result, entry: FileEntry) -> bool:
    """True if this is the file that `keep` sealed, and not a link or another user's file in its place."""
    return (
        stat.S_ISREG(status.st_mode)
        and status.st_uid in {os.geteuid(), 0}
        and status.st_mode & 0o222 == 0
        and (status.st_size, status.st_mtime_ns) == (entry.size, _SEALED_AT)
    )


def _link_or_copy(source: Path, target: Path, entry: FileEntry) -> bool:
    """Hard-link `source` to `target`, or copy it. False if its bytes turn out to be wrong.

    Raises:
        FileNotFoundError: there is no `source`.
        OSError: it can be neither linked nor copied.
    """
    # File systems have many answers to a link that they cannot make: EXDEV, EPERM, EMLINK, ENOTSUP, ENOSYS, EACCES,
    # EINVAL and more. Whatever keeps a copy from being made as well raises here.
    with suppress(OSError):
        os.link(source, target)
        return True
    try:
        with target.open("xb") as stream:
            stream.writelines(verified(read_chunks(source), entry.digest, entry.size, what=str(source)))
            stream.flush()
            os.fsync(stream.fileno())
    except IntegrityError:
        target.unlink()
        return False
    return True
