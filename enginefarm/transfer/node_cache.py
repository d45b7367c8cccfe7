"""A node's cache: files named by digest, hard-linked into every engine directory that has them.

A cached file is read-only and has one fixed modification time. Writing to it through any of its links changes that
time, and a file with another time is not handed out again.

A pull needs no cache. A failure in the cache's folder, whatever its reason, is logged once and never fails the pull: a
file is then not shared, or is fetched again.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from enginefarm.contract import digest
from enginefarm.contract.digest import Digest, Watch, ignore_progress
from enginefarm.contract.errors import IntegrityError
from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.atomic_file import sync_file
from enginefarm.transfer.file_lock import locked, locked_if_free
from enginefarm.transfer.seen_revocations import SeenRevocations
from enginefarm.transfer.sharing.cache_folder import cache_folder
from enginefarm.transfer.sharing.file_copy import Copied, clone_or_copy, link
from enginefarm.transfer.sharing.seal import is_sealed, note_use, seal
from enginefarm.transfer.sharing.verified_files import VerifiedFiles, state_of

_FILE_NAME = re.compile(r"[0-9a-f]{64}")
_ABANDONED_AFTER = 3600.0  # seconds without a change: a copy of the largest file is written to much more often

_PULLS_WITHOUT = (
    "engines are pulled without it. ENGINEFARM_CACHE names another folder; `enginefarm pull --no-cache` and "
    "pull(use_cache=False) use none"
)

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
        use_without: for the warning about a folder that cannot be used: what happens without a cache, and what to do.
    """

    def __init__(self, root: Path, *, limit: int | None = None, use_without: str = _PULLS_WITHOUT) -> None:
        self.root = root
        self._limit = limit
        self._files = root / "sha256"
        self._verified = VerifiedFiles()
        self._use_without = use_without
        self._is_reported = False

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Cache:
        """The cache in the folder that `cache_folder` finds."""
        return cls(cache_folder(environment))

    @property
    def revocations(self) -> SeenRevocations:
        """The lists of recalled engines that this node saw."""
        return SeenRevocations(self.root / "revocations")

    def give(
        self,
        entry: FileEntry,
        target: Path,
        *,
        verify: bool = False,
        may_link: bool = True,
        watch: Watch = ignore_progress,
    ) -> bool:
        """Put the file at `target`, which must not exist. False if the cache does not have it.

        Args:
            verify: compare the file's digest, unless this process has done so and nobody has changed the file since.
                Without it, the seal shows that nobody wrote to the file by mistake; somebody who wants to deceive can
                restore the seal.
            may_link: False: whoever writes to `target` must not change the cached file.
            watch: is told of the bytes that are read. If it raises, no `target` is left.
        """
        path = self._path(entry.digest)
        try:
            if not is_sealed(path.lstat(), entry):
                path.unlink(missing_ok=True)
                return False
            with self._verified.own_change(entry.digest, path):
                with suppress(OSError):  # on a read-only mount, where nothing is pruned either
                    note_use(path)
                is_linked = may_link and link(path, target)
            state = state_of(path)
            # A copy is verified as it is made.
            is_verified = not is_linked and clone_or_copy(path, target, entry, watch) is Copied.COPY
            # The target is read, and not the cached file: that might be replaced meanwhile.
            if verify and not is_verified and not self._verified.is_unchanged(entry.digest, path):
                if digest.of_file(target, watch) != entry.digest:
                    raise IntegrityError(f"{path} was changed")
                if state is not None and state == state_of(path):
                    self._verified.remember(entry.digest, state)
        except IntegrityError as error:
            _log.warning("a damaged file is removed from the cache: %s", error.detail)
            target.unlink(missing_ok=True)
            with suppress(OSError):  # of another user, or on a read-only mount
                path.unlink(missing_ok=True)
            return False
        except OSError as error:
            # If the target's disk is to blame, fetching the file fails, too, and says so.
            target.unlink(missing_ok=True)
            if not isinstance(error, FileNotFoundError):  # never there, or pruned by another process since `lstat`
                self.report(error)
            return False
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return True

    def take_back(self, name: Digest, target: Path) -> None:
        """Remove `target`, which `give` or `keep` has linked with the cache. The cached file then still counts as read.

        Whoever removes the link elsewhere changes the file's inode, and the next `give` reads the file again.
        """
        with self._verified.own_change(name, self._path(name)), suppress(OSError):
            target.unlink()

    def keep(
        self,
        source: Path,
        entry: FileEntry,
        *,
        read_again: bool = False,
        may_link: bool = True,
        watch: Watch = ignore_progress,
    ) -> None:
        """Share a file whose bytes were just verified, if the cache's folder allows it.

        Args:
            read_again: somebody could have written to `source` since: verify the file before it is given.
            may_link: False: whoever writes to `source` later must not change the cached file.
            watch: is told of the bytes that are copied. If it raises, nothing is shared.
        """
        path = self._path(entry.digest)
        partial = path.with_name(f".{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # A power cut must not leave a sealed file without its bytes.
                if may_link and link(source, partial):
                    sync_file(partial)
                else:
                    clone_or_copy(source, partial, entry, watch)
                # Sealed before it has its name: no other process may see it unsealed and remove it.
                seal(partial)
                partial.replace(path)
                state = state_of(path)
                if state is not None and not read_again:
                    self._verified.remember(entry.digest, state)
            finally:
                partial.unlink(missing_ok=True)
        except IntegrityError:  # changed since it was verified
            return
        except OSError as error:
            self.report(error)

    def holds(self, entry: FileEntry) -> bool:
        """True if the cache seems to have the file; `give` may still find it damaged."""
        try:
            return is_sealed(self._path(entry.digest).lstat(), entry)
        except OSError:
            return False

    @contextmanager
    def locked(
        self, name: Digest, on_wait: Callable[[], None], *, keep_waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Be the only process to fetch this file; `on_wait` and `keep_waiting` are called as by `file_lock.locked`.

        Without a folder for locks there is none: several processes may then fetch the same file.
        """
        with ExitStack() as locks:
            try:
                locks.enter_context(locked(self._lock_path(name), on_wait, keep_waiting=keep_waiting))
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

    def size_limit(self) -> int:
        """The most bytes that the cache keeps. Raises OSError if the disk does not tell."""
        if self._limit is not None:
            return self._limit
        return shutil.disk_usage(self.root).total // 2 if self.root.exists() else 0

    def prune(self, limit: int | None = None) -> list[Cached]:
        """Remove the least recently used files until `limit` bytes are left; returns what was removed.

        What an engine's directory shares stays on the disk until that directory is removed, too. Temporary files of
        processes that were killed while they added a file are removed as well.
        """
        if limit is None:
            limit = self.size_limit()
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

    def make_room(self, size: int) -> None:
        """Remove the least recently used files until `size` bytes of the disk are free, if so many can become free.

        A file that an engine's directory or an attempt shares stays: removing its name frees nothing.
        """
        try:
            missing = size - shutil.disk_usage(self.root).free
            for cached in reversed(self.entries()):
                if missing <= 0:
                    return
                if cached.engines == 0:
                    self._path(cached.digest).unlink(missing_ok=True)
                    missing -= cached.size
        except FileNotFoundError:  # there is no cache yet
            return
        except OSError as error:
            self.report(error)

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
        _log.warning("the cache %s cannot be used (%s): %s", self.root, error.strerror or error, self._use_without)

    def _path(self, name: Digest) -> Path:
        hexadecimal = name.removeprefix("sha256:")
        return self._files / hexadecimal[:2] / hexadecimal

    def _lock_path(self, name: Digest) -> Path:
        directory = self.root / "fetching"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / name.removeprefix("sha256:")
