"""How long to wait before another try, and when to stop trying."""

from __future__ import annotations

import logging
import random
import time

from enginefarm.contract.errors import EnginefarmError

FIRST = 0.2  # seconds
LONGEST = 5.0  # seconds

_log = logging.getLogger(__name__)


class Backoff:
    """Growing, jittered pauses for as long as nothing works; `patience` is that long, in seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        """Something worked: the next failure is a first one again."""
        self._gives_up_at: float | None = None
        self._pause = FIRST

    def after(self, error: EnginefarmError) -> float:
        """Seconds to pause after `error`; raises it when the patience is over."""
        now = time.monotonic()
        if self._gives_up_at is None:
            self._gives_up_at = now + self._patience
            _log.warning("%s; trying again for %g s", error, self._patience)
        if now >= self._gives_up_at:
            raise error
        pause, self._pause = self._pause, min(self._pause * 2, LONGEST)
        # Many nodes lose the same farm at once; jitter keeps them from coming back at once.
        jittered = pause * random.uniform(0.5, 1.0)  # noqa: S311  # nothing secret depends on it
        return min(jittered, self._gives_up_at - now)
