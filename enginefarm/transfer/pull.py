"""Pull an engine to this node: verified bytes in a directory that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import Conflict
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.node.detection import detect
from enginefarm.node.fit import require_fit
from enginefarm.transfer.download import FileLinks, download
from enginefarm.transfer.file_lock import locked
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.partial_file import Journal, PartialFile
from enginefarm.transfer.progress import Activity, ByteMeter, OnProgress
from enginefarm.transfer.rate_limit import RateLimit
from enginefarm.transfer.staging import StagingDirectory
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of


@dataclass(frozen=True)
class Transfer:
    """How bytes are fetched. A pull that is killed loses at most one part a connection."""

    connections: int = 4
    part_size: int = 16 << 20  # bytes fetched by one request
    limit_rate: int | None = None  # bytes per second, of all connections together
    cache: Cache | None = None  # the node's, to share files with other engines and processes
    verify_cached: bool = (
        False  # read the cache's files again before they are used; a node that requires signatures does
    )


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

    Every byte is checked against the manifest, and the manifest against its digest. A pull goes on from what an
    interrupted one left in `.<name>.partial-<manifest>` beside the destination. A destination that already is exactly
    this engine is checked and returned. `progress` is called from several threads, one at a time.

    Raises:
        PlatformMismatch: the engine does not run on this machine; `any_platform` skips this check.
        IntegrityError: the farm's response contradicts itself, or the bytes are wrong.
        Conflict: the destination is something else.
        CallerError: there is not enough room.
        FarmError: the farm or its store could not be reached for as long as the farm's patience lasts.
        OSError: the destination cannot be written. What fails in the cache is logged and raises nothing.
    """
    # What can be refused is refused before anything is made or waited for.
    manifest = manifest_of(engine)
    if not any_platform:
        require_fit(engine, detect(prefer_gpu=engine.platform.device == "cuda").platform)
    destination = Path(os.path.realpath(destination))  # `Path.resolve` raises RuntimeError for a circle of links
    destination.parent.mkdir(parents=True, exist_ok=True)
    meter = ByteMeter(manifest.size, progress)
    with locked(destination, on_wait=lambda: meter.begin(Activity.WAITING)):
        # Looked at under the lock: the process that was waited for has probably made it.
        if os.path.lexists(destination):
            meter.begin(Activity.CHECKING)
            _require_same(destination, manifest, engine)
        else:
            staging = StagingDirectory(destination, manifest)
            staging.prepare()
            _EngineFiles(farm, engine, staging, transfer or Transfer(), meter).fetch(manifest.files)
            staging.publish()
    meter.begin(Activity.DONE)
    return destination


class _EngineFiles:
    """Bring the files of one engine into its staging directory: from the node's cache, else from the farm."""

    def __init__(
        self, farm: Farm, engine: Engine, staging: StagingDirectory, transfer: Transfer, meter: ByteMeter
    ) -> None:
        self._farm, self._staging, self._transfer, self._meter = farm, staging, transfer, meter
        self._links = FileLinks(farm, engine)
        self._complete: set[str] = set()  # paths

    def fetch(self, files: Sequence[FileEntry]) -> None:
        cache = self._transfer.cache
        if cache is None:
            self._download(files)
            return
        missing = self._missing_after_cache(cache, files)
        with cache.locked_if_free({entry.digest for entry in missing}) as locked_digests:
            # Looked up in the cache again under the locks: another process may have fetched a file and released its
            # lock since. Of several files with the same bytes one is fetched; the cache provides the others below.
            one_per_digest = {entry.digest: entry for entry in missing if entry.digest in locked_digests}
            self._download(self._missing_after_cache(cache, list(one_per_digest.values())))
        # The rest is being fetched by other processes. Each file is waited for, and fetched if its process failed.
        for entry in self._missing_after_cache(cache, missing):
            with cache.locked(entry.digest, on_wait=lambda: self._meter.begin(Activity.WAITING)):
                self._download(self._missing_after_cache(cache, [entry]))
        try:
            cache.prune()
        except OSError as error:
            cache.report(error)

    def _missing_after_cache(self, cache: Cache, files: Sequence[FileEntry]) -> list[FileEntry]:
        """Take from the cache what it has; return the files that are still missing."""
        missing = []
        for entry in files:
            if entry.path in self._complete:
                continue
            # Not to the file's own name at once: a part of it may have it, and a link cannot replace that.
            aside = self._staging.path / f".{secrets.token_hex(8)}"
            if not cache.give(entry, aside, verify=self._transfer.verify_cached):
                missing.append(entry)
                continue
            aside.replace(self._staging.file(entry))
            aside.unlink(missing_ok=True)  # rename(2) does nothing when both paths are hard links to one inode
            self._complete.add(entry.path)
            self._meter.add(entry.size)
        return missing

    def _download(self, files: Sequence[FileEntry]) -> None:
        """Fetch files from the farm, verified and durable, and add them to the cache."""
        self._staging.require_room(files)
        self._meter.begin(Activity.FETCHING)
        transfer = self._transfer
        limit = RateLimit(transfer.limit_rate) if transfer.limit_rate else None
        with ExitStack() as open_files:
            journal = open_files.enter_context(Journal(self._staging.journal, transfer.part_size))
            partial_files = []
            for entry in files:
                self._staging.make_writable(entry)
                path = self._staging.file(entry)
                partial_file = PartialFile(path, entry, journal, transfer.part_size, self._meter.add)
                open_files.callback(partial_file.close)
                partial_files.append(partial_file)
            download(self._farm, self._links, partial_files, connections=transfer.connections, limit=limit)
        # Only complete files get here: the cache hands them to other engines without reading them again.
        for entry in files:
            if transfer.cache is not None:
                transfer.cache.keep(self._staging.file(entry), entry)
            self._complete.add(entry.path)


def _require_same(destination: Path, manifest: Manifest, engine: Engine) -> None:
    """Every byte is read: a directory that was right once may not be now."""
    expected_sizes = {entry.path: entry.size for entry in manifest.files}
    sizes = {}
    for path in destination.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            name = path.relative_to(destination).as_posix()
            sizes[name] = status.st_size
            # The first other file is enough: somebody may have named a home folder or the root.
            if sizes[name] != expected_sizes.get(name):
                break
    # Sizes first: they tell most other directories apart without reading them.
    same = sizes == expected_sizes
    if same:
        try:
            same = Manifest.of_directory(destination) == manifest
        except ValueError:  # links and special files are no part of any engine
            same = False
    if not same:
        raise Conflict(
            f"{destination} exists and is not engine {engine.key[:12]}: name another place, or remove it first"
        )
