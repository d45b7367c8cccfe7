"""Give the room of cached files back while the disk fills: no program fails for what the cache keeps."""

from __future__ import annotations

import shutil

from enginefarm.transfer.node_cache import Cache
from models.loops import Loops

_EVERY_SECONDS = 1.0  # a program that writes 5 GB/s needs longer to fill the smallest reserve of a disk for models
_RESERVED_SHARE = 20  # a 20th of the disk stays free
_LARGEST_RESERVE = 64 << 30  # bytes


class CacheRoom:
    """Watches the disk of the cache in a thread of its own between `start` and `stop`; does nothing without a cache."""

    def __init__(self, cache: Cache | None, loops: Loops) -> None:
        self._cache = cache
        self._thread = loops.thread("the room that the cache leaves", self.look, every_seconds=_EVERY_SECONDS)

    def start(self) -> None:
        if self._cache is not None:
            self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def look(self) -> None:
        """Remove the least recently used files if less than the reserve is free, until twice the reserve is."""
        if self._cache is None:
            return
        try:
            disk = shutil.disk_usage(self._cache.root)
        except OSError:  # there is no cache yet, or it cannot be used
            return
        reserve = min(disk.total // _RESERVED_SHARE, _LARGEST_RESERVE)
        if disk.free < reserve:
            self._cache.make_room(2 * reserve)
