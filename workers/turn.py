"""The turn of an attempt in its slot: until it is over, the slot takes no other message."""

from __future__ import annotations

import threading


class Turn:
    """Begins with a message, and is over when the attempt ends or passes it on.

    Args:
        places: of attempts that finish while their slot runs the next one. Bounds the disk and the memory that outputs
            take.
    """

    def __init__(self, places: threading.Semaphore) -> None:
        self._places = places
        self._has_place = False
        self._over = threading.Event()

    def pass_on(self) -> bool:
        """Let the slot take its next message. Returns False without a place: the attempt keeps its turn to the end."""
        if not self._has_place:
            self._has_place = self._places.acquire(blocking=False)
        if self._has_place:
            self._over.set()
        return self._has_place

    def end(self) -> None:
        """The attempt has ended. Its place comes first: the slot's next attempt must find it."""
        if self._has_place:
            self._has_place = False
            self._places.release()
        self._over.set()

    def wait(self) -> None:
        """Wait until the turn is over."""
        self._over.wait()
