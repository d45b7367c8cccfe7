"""The turn of an attempt in its slot: until it is over, the slot takes no other message."""

from __future__ import annotations

import threading


class Slot:
    """Runs the programs of one attempt; one other attempt may finish meanwhile.

    Not more, so that the disk and the memory that outputs take are bounded.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.finishing: Turn | None = None
        self.waiting: Turn | None = None  # to finish: until then it keeps its turn


class Turn:
    """Begins with a message, and is over when the attempt ends or passes it on."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._over = threading.Event()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def pass_on(self) -> None:
        """Let the slot take its next message: at once, or when the attempt that is finishing has ended."""
        with self._slot.lock:
            if self._slot.finishing is None:
                self._slot.finishing = self
                self._over.set()
            elif self._slot.finishing is not self:
                self._slot.waiting = self

    def end(self) -> None:
        """The attempt has ended."""
        slot = self._slot
        with slot.lock:
            if slot.waiting is self:
                slot.waiting = None
            if slot.finishing is self:
                slot.finishing, slot.waiting = slot.waiting, None
                if slot.finishing is not None:
                    slot.finishing._over.set()
            self._over.set()

    def wait(self) -> None:
        """Wait until the turn is over."""
        self._over.wait()
