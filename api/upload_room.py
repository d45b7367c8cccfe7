"""Room for uploads: what they declare must fit on the disk of a folder store, all of them together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from enginefarm.contract.errors import StoreUnavailable
from models.store import Store

# Workers publish engines to the same disk: uploads leave this part of it to them.
_KEPT_FREE = 0.05


class UploadRoom:
    """The bytes that running uploads of this process may still write."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._reserved = 0

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Keep `size` bytes for an upload while the block runs.

        Raises:
            StoreUnavailable: the disk has no room for them beside the other uploads.
        """
        with self._lock:
            # None: an object store, which says by itself when it is full.
            room = self._store.room()
            if room is not None:
                total, free = room
                left = int(free - total * _KEPT_FREE) - self._reserved
                if size > left:
                    raise StoreUnavailable(
                        f"the store's disk has room for {max(0, left)} bytes of uploads, and this one has {size}: "
                        "free some space there, or give it more"
                    )
            # Counted in full until the upload ends, although a part of it is on the disk by then.
            self._reserved += size
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size
