"""Fetch the inputs of a stage through the cache of this node, which all workers and pulls of a host share.

A cached file is read again before it is used, unless this process has read it and nobody has changed it since: a file
that the disk or a program has damaged must never become an engine. What fails in the cache costs time and a warning,
and never an attempt. See docs/adr/0026-node-cache.md.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from enginefarm.contract.digest import Digest, Watch
from enginefarm.contract.manifest import FileEntry, Manifest
from enginefarm.contract.work import Work
from enginefarm.transfer.node_cache import Cache
from workers.inputs.input_files import InputFile, InputFiles, OtherFiles, Places
from workers.parallel import ParallelTasks, Task
from workers.scratch.workspace import Workspace

# Files at a time. With four, one slow file does not hold the others back, and four cores read cached files again.
_THREADS = 4


@dataclass
class Fetched:
    """Bytes of a stage's inputs, by where they came from. Threads add to it."""

    fetched: int = 0
    cached: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, fetched: int = 0, cached: int = 0) -> None:
        with self._lock:
            self.fetched += fetched
            self.cached += cached

    def __str__(self) -> str:
        return f"fetched {_decimal(self.fetched)}, {_decimal(self.cached)} from this node's cache"


@dataclass(frozen=True)
class Caller:
    """Who fetches: an attempt, or whoever fetches ahead of one.

    Args:
        keep_going: called for every piece of the work; what it raises ends the fetch within a moment.
        say: writes a line to the log.
    """

    keep_going: Callable[[], None]
    say: Callable[[str], None]


class NodeInputs:
    """Safe to share between threads.

    Args:
        cache: None: every stage fetches all its inputs.
        may_link: programs see their inputs read-only, as in a complete sandbox, so that an input may be the cached file
            itself. Otherwise each stage gets copies.
    """

    def __init__(self, files: InputFiles, cache: Cache | None, *, may_link: bool) -> None:
        self._files = files
        self.cache = cache
        self._may_link = may_link

    def fetch(self, work: Work, checkpoint: Manifest | None, workspace: Workspace, caller: Caller) -> Fetched:
        """Bring all inputs of a stage into its workspace, verified.

        In the attempt's folder, because the disk limit counts the inputs: a link counts as a copy does.

        Raises:
            StartDamaged: the store does not have the checkpoint's bytes.
            ModelUnavailable, SourceUnavailable, StoreUnavailable, IntegrityError: see `Source.fetch` and `Store.fetch`.
            Exception: whatever `keep_going` raises.
        """
        inputs = workspace.add_inputs(work.inputs)
        places = Places(workspace.directories.source, inputs, workspace.folder / "fetching")
        files = list(self._files.list(work, checkpoint, places))
        if self.cache is not None:
            for file in files:
                if isinstance(file, InputFile):
                    workspace.before_removal.append(partial(self.cache.take_back, file.entry.digest, file.target))
        return self._fetch(files, caller, may_link=self._may_link)

    def prefetch(self, work: Work, checkpoint: Manifest | None, scratch: Path, caller: Caller) -> Fetched:
        """Bring those inputs of a stage into the cache whose digests are known, before an attempt needs them.

        Nothing of it is reserved: the least recently used files leave the cache first, and an attempt fetches what has
        left it. Files that the cache has are read again, so that the attempt need not. Call it only if `has_room_for`
        the inputs.

        Args:
            checkpoint: the manifest of the checkpoint of a build; None for a convert.
            scratch: a folder of this worker that it empties at its start; no program may see it.

        Raises: as `fetch`.
        """
        if self.cache is None:
            return Fetched()
        with tempfile.TemporaryDirectory(prefix="prefetch-", dir=scratch, ignore_cleanup_errors=True) as folder:
            inputs = {name: Path(folder, "inputs", name) for name in work.inputs}
            places = Places(Path(folder, "source"), inputs, Path(folder, "staging"))
            files = [file for file in self._files.list(work, checkpoint, places) if isinstance(file, InputFile)]
            try:
                # No program writes into this folder.
                return self._fetch(files, caller, may_link=True)
            finally:
                for file in files:
                    self.cache.take_back(file.entry.digest, file.target)

    def holds(self, manifest: Manifest) -> bool:
        """True if the cache seems to have all files of a manifest; looks at names only."""
        return self.digests_held(manifest.files) == {entry.digest for entry in manifest.files}

    def digests_held(self, entries: Iterable[FileEntry]) -> set[Digest]:
        """The digests of those files that the cache seems to have; looks at names only."""
        if self.cache is None:
            return set()
        return {entry.digest for entry in entries if self.cache.holds(entry)}

    def has_room_for(self, size: int) -> bool:
        """True if inputs of this size, in bytes, fit into the limit of the cache; False without a cache."""
        return self.cache is not None and size <= self.cache.size_limit()

    def keep_output(self, manifest: Manifest, folder: Path, watch: Watch) -> None:
        """Keep the checked output of a stage whose programs have ended, for a stage of this host that starts from it.

        Args:
            watch: is told of the bytes that are copied, where the file system has no links.
        """
        if self.cache is None:
            return
        for entry in manifest.files:
            # A program wrote the file: unlike the farm's own files it is read again before it is used.
            self.cache.keep(folder / entry.path, entry, read_again=True, watch=watch)
        self._prune(self.cache)

    def _fetch(self, files: Iterable[InputFile | OtherFiles], caller: Caller, *, may_link: bool) -> Fetched:
        fetched = Fetched()
        tasks: list[tuple[int, Task]] = []
        # Files with the same bytes are one task: the first is fetched, and the cache gives the others.
        same_bytes: dict[Digest, list[InputFile]] = {}
        for file in files:
            if isinstance(file, OtherFiles):
                tasks.append((file.size, partial(_fetch_others, file, fetched)))
            else:
                same_bytes.setdefault(file.entry.digest, []).append(file)
        for group in same_bytes.values():
            task = partial(self._fetch_group, group, fetched, caller, may_link)
            tasks.append((group[0].entry.size, task))
        if self.cache is not None:
            missing = sum(group[0].entry.size for group in same_bytes.values() if not self.cache.holds(group[0].entry))
            self.cache.make_room(missing)
        # The largest file first, so that it is not fetched alone at the end.
        tasks.sort(key=lambda sized_task: -sized_task[0])
        ParallelTasks([task for _, task in tasks], caller.keep_going).run(_THREADS)
        if self.cache is not None:
            self._prune(self.cache)
        return fetched

    def _fetch_group(
        self, group: list[InputFile], fetched: Fetched, caller: Caller, may_link: bool, watch: Watch
    ) -> None:
        """Bring one file, or several with the same bytes, to their targets."""
        for file in group:
            entry = file.entry
            file.target.parent.mkdir(parents=True, exist_ok=True)
            if self.cache is None:
                file.fetch(file.target, watch)
                fetched.add(fetched=entry.size)
                continue
            give = partial(self.cache.give, entry, file.target, verify=True, may_link=may_link, watch=watch)
            if give():
                fetched.add(cached=entry.size)
                continue
            waiting_text = f"waits: another worker or pull of this host is fetching {entry.path}"
            with self.cache.locked(entry.digest, partial(caller.say, waiting_text), keep_waiting=partial(watch, 0)):
                # Whoever was waited for has probably fetched it. If it died, this one fetches the file.
                if give():
                    fetched.add(cached=entry.size)
                    continue
                file.fetch(file.target, watch)
                self.cache.keep(file.target, entry, may_link=may_link, watch=watch)
                fetched.add(fetched=entry.size)

    def _prune(self, cache: Cache) -> None:
        try:
            cache.prune()
        except OSError as error:
            cache.report(error)


def _fetch_others(files: OtherFiles, fetched: Fetched, watch: Watch) -> None:
    files.fetch(watch)
    fetched.add(fetched=files.size)


def _decimal(size: int) -> str:
    """A number of bytes with a unit, as disks and networks count."""
    amount = float(size)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
