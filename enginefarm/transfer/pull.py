"""Pulling an engine: verified bytes, and a directory that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, Conflict
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.node.detection import detect
from enginefarm.node.fit import require_fit
from enginefarm.transfer.download import Links, download
from enginefarm.transfer.file_lock import claimed
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.partial_file import Journal, PartialFile
from enginefarm.transfer.rate_limit import RateLimit
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of


class Activity(StrEnum):
    WAITING = "waiting for another pull"
    CHECKING = "checking what is there"
    FETCHING = "fetching"
    WRITING = "writing the bundle"
    SENDING = "sending"
    DONE = "done"


@dataclass(frozen=True)
class Progress:
    activity: Activity
    done: int  # bytes
    total: int  # bytes


@dataclass(frozen=True)
class Transfer:
    """How bytes are fetched. A pull that is killed loses at most one part a connection."""

    connections: int = 4
    part_size: int = 16 << 20  # bytes fetched by one request
    limit_rate: int | None = None  # bytes per second, of all connections together
    cache: Cache | None = None  # the node's, to share files with other engines and processes


OnProgress = Callable[[Progress], None]


def pull(
    farm: Farm,
    engine: Engine,
    destination: Path,
    *,
    transfer: Transfer | None = None,
    any_platform: bool = False,
    progress: OnProgress | None = None,
) -> Path:
    """Bring `engine` to the directory `destination` and return it, resolved.

    Every byte is checked against the manifest, and the manifest against its digest. What an interrupted
    pull left in `.<name>.partial-<manifest>` beside the destination is taken up again. A destination that
    already holds exactly this engine is checked and returned. `progress` is called from several threads, one at a time.

    Raises:
        PlatformMismatch: the engine does not run on this machine; `any_platform` skips the question.
        IntegrityError: the farm's answer contradicts itself, or the bytes are wrong.
        Conflict: the destination holds something else.
        CallerError: there is not enough room.
        FarmError: the farm or its store could not be reached for as long as the farm's patience lasts.
    """
    manifest, transfer = manifest_of(engine), transfer or Transfer()
    if not any_platform:
        require_fit(engine, detect(prefer_gpu=engine.platform.device == "cuda").platform)
    destination = destination.resolve()
    meter = _Meter(manifest.size, progress)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with claimed(destination, on_wait=lambda: meter.now(Activity.WAITING)):
        if os.path.lexists(destination):
            meter.now(Activity.CHECKING)
            _require_same(destination, manifest, engine)
        else:
            staging = _staging(destination, manifest)
            _Fetching(farm, engine, staging, transfer, meter).run(manifest.files)
            _settle(staging, destination)
    meter.now(Activity.DONE)
    return destination


class _Meter:
    """Counts the bytes of all files together, and tells the caller."""

    def __init__(self, total: int, progress: OnProgress | None) -> None:
        self._total = total
        self._progress = progress
        self._done = 0
        self.whole: set[str] = set()  # paths of the files that are here and right
        self._activity = Activity.CHECKING
        self._lock = threading.Lock()

    def now(self, activity: Activity) -> None:
        self._activity = activity
        self.add(0)

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress:
                done = self._total if self._activity is Activity.DONE else self._done
                self._progress(Progress(self._activity, done, self._total))


def _require_same(destination: Path, manifest: Manifest, engine: Engine) -> None:
    """Every byte is read: a directory that was right once may not be now."""
    try:
        same = _sizes(destination) == {f.path: f.size for f in manifest.files} and (
            Manifest.of_directory(destination) == manifest
        )
    except ValueError:  # links and special files are no part of any engine
        same = False
    if not same:
        raise Conflict(
            f"{destination} exists and is not engine {engine.key[:12]}: name another place, or remove it first"
        )


def _sizes(root: Path) -> dict[str, int]:
    """Size of each regular file below `root`: enough to tell most strangers without reading them."""
    return {
        path.relative_to(root).as_posix(): path.lstat().st_size
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


def _staging(destination: Path, manifest: Manifest) -> Path:
    """The directory beside `destination` that will become it, cleared of all that the manifest does not name."""
    short = manifest.digest.removeprefix("sha256:")[:12]
    staging = destination.with_name(f".{destination.name}.partial-{short}")
    staging.mkdir(exist_ok=True)
    found = staging.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Conflict(f"{staging} is not a directory of this user: remove it first")
    _clear(staging, {staging / file.path for file in manifest.files})
    for file in manifest.files:
        (staging / file.path).parent.mkdir(parents=True, exist_ok=True)
    return staging


def _clear(folder: Path, wanted: set[Path]) -> None:
    """Remove what is below `folder` and is neither a wanted file nor on the way to one."""
    folders = {parent for path in wanted for parent in path.parents}
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode) and path in folders:
            _clear(path, wanted)
        elif stat.S_ISDIR(mode):
            shutil.rmtree(path)
        elif not (stat.S_ISREG(mode) and path in wanted):
            path.unlink()


def _make_own(path: Path) -> None:
    """What an earlier pull shared with the cache is read-only, and not to be written to while others have it."""
    if path.exists():
        if path.stat().st_nlink > 1:
            path.unlink()
        else:
            path.chmod(0o644)  # the cache let go of it since


def _allocated(path: Path) -> int:
    """Bytes that the file takes on the disk: one with gaps is longer than that."""
    return path.lstat().st_blocks * 512 if path.exists() else 0


class _Fetching:
    """The files of one engine on their way into its staging directory: from the node's cache, else from the farm."""

    def __init__(self, farm: Farm, engine: Engine, staging: Path, transfer: Transfer, meter: _Meter) -> None:
        self._farm, self._engine, self._staging = farm, engine, staging
        self._transfer, self._meter, self._cache = transfer, meter, transfer.cache

    def run(self, files: Sequence[FileEntry]) -> None:
        if self._cache is None:
            self._download(files)
            return
        missing = self._not_given(files)
        with self._cache.claimed_if_free({entry.digest for entry in missing}) as ours:
            # Only now: what another process fetched until it let go of its claim is in the cache by now.
            self._download(_one_each(self._not_given([entry for entry in missing if entry.digest in ours])))
        for entry in self._not_given(missing):
            with self._cache.claimed(entry.digest, on_wait=lambda: self._meter.now(Activity.WAITING)):
                self._download(self._not_given([entry]))
        self._cache.prune()

    def _not_given(self, files: Sequence[FileEntry]) -> list[FileEntry]:
        """The files that are not here and that the cache does not have."""
        return [entry for entry in files if not self._is_here(entry) and not self._given(entry)]

    def _is_here(self, entry: FileEntry) -> bool:
        return entry.path in self._meter.whole

    def _given(self, entry: FileEntry) -> bool:
        assert self._cache is not None
        aside = self._staging / f".{secrets.token_hex(8)}"
        if not self._cache.give(entry, aside):
            return False
        aside.replace(self._staging / entry.path)
        aside.unlink(missing_ok=True)  # renaming one name of a file to another of its names leaves both
        self._arrived(entry, entry.size)
        return True

    def _download(self, files: Sequence[FileEntry]) -> None:
        """All of them whole and right, and in the cache."""
        _require_room(self._staging, files)
        self._meter.now(Activity.FETCHING)
        transfer = self._transfer
        with ExitStack() as stack:
            journal = stack.enter_context(Journal(_journal(self._staging), transfer.part_size))
            partials = []
            for entry in files:
                target = self._staging / entry.path
                _make_own(target)
                partials.append(PartialFile(target, entry, journal, transfer.part_size, self._meter.add))
                stack.callback(partials[-1].close)
            limit = RateLimit(transfer.limit_rate) if transfer.limit_rate else None
            links = Links(self._farm, self._engine)
            download(self._farm, links, partials, connections=transfer.connections, limit=limit)
        for entry in files:
            if self._cache is not None:
                self._cache.keep(self._staging / entry.path, entry)
            self._arrived(entry, 0)

    def _arrived(self, entry: FileEntry, count: int) -> None:
        self._meter.whole.add(entry.path)
        self._meter.add(count)


def _one_each(files: Sequence[FileEntry]) -> list[FileEntry]:
    """One file of each digest: the others are given by the cache afterwards."""
    return list({entry.digest: entry for entry in files}.values())


def _require_room(staging: Path, files: Sequence[FileEntry]) -> None:
    missing = sum(max(0, entry.size - _allocated(staging / entry.path)) for entry in files)
    free = shutil.disk_usage(staging).free
    if missing > free:
        raise CallerError(
            f"{missing} bytes are still to be fetched and {free} are free in {staging.parent}: "
            "make room, or name another place"
        )


def _journal(staging: Path) -> Path:
    return staging.with_name(staging.name + ".journal")


def _settle(staging: Path, destination: Path) -> None:
    """Give the directory its name: everything below it is on the disk before, the name itself after."""
    for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
        _sync(folder)
    try:
        staging.rename(destination)
    except OSError as error:
        raise Conflict(f"{destination} appeared while the engine was fetched: {error.strerror}") from error
    _journal(staging).unlink(missing_ok=True)
    _sync(destination.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
