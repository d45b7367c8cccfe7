"""Which inputs this node's cache holds, by the names that actions have for them: a claim prefers these.

A record is a file in the cache's folder that lists the files of one input. All workers of the host share the records.
A record may be wrong: then a claim prefers an action whose inputs must be fetched after all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from enginefarm.contract.manifest import FileEntry
from enginefarm.transfer.atomic_file import write_atomically
from enginefarm.transfer.node_cache import Cache
from models.queue.order import MOST_HELD

_NAME = re.compile(r"[0-9a-f]{64}")
_MOST_FILES = 1000  # of one input that has a record: each claim looks for all of them


class WarmRecords:
    """
    Args:
        cache: None: the node holds nothing.
    """

    def __init__(self, cache: Cache | None) -> None:
        self._cache = cache

    def remember(self, inputs: str | None, entries: Iterable[FileEntry]) -> None:
        """Record that the cache has these files, which are the inputs of that name. A failure costs the preference."""
        files = [[entry.digest, entry.size] for entry in entries]
        if self._cache is None or inputs is None or not files or len(files) > _MOST_FILES:
            return
        folder = self._folder(self._cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically([json.dumps(files).encode()], folder / inputs, staging=folder)
            for forgotten in self._newest_first(folder)[MOST_HELD:]:
                forgotten.unlink(missing_ok=True)
        except OSError as error:
            self._cache.report(error)

    def held(self) -> Sequence[str]:
        """The names of the inputs whose files the cache seems to have, the most recently used first."""
        if self._cache is None:
            return ()
        cache = self._cache
        held = []
        for record in self._newest_first(self._folder(cache))[:MOST_HELD]:
            with suppress(OSError, ValueError, TypeError):  # removed by another worker, or damaged
                files = json.loads(record.read_bytes())
                entries = [FileEntry(path="file", digest=digest, size=size) for digest, size in files]
                if entries and all(cache.holds(entry) for entry in entries):
                    held.append(record.name)
        return held

    @staticmethod
    def _folder(cache: Cache) -> Path:
        return cache.root / "inputs"

    @staticmethod
    def _newest_first(folder: Path) -> list[Path]:
        used_at: dict[Path, float] = {}
        with suppress(OSError):
            for path in folder.iterdir():
                if _NAME.fullmatch(path.name):
                    with suppress(FileNotFoundError):  # removed by another worker
                        used_at[path] = path.stat().st_mtime
        return sorted(used_at, key=lambda path: -used_at[path])
