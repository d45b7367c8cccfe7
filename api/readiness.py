"""Readiness: whether database, broker and store can be used, asked once for all who ask within a second."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from api.lanes import Lane
from enginefarm.contract.errors import EnginefarmError
from enginefarm.wire.bodies import Dependency, Readiness

log = logging.getLogger(__name__)

_SECONDS = 1.0  # for which an answer is given again: anybody may ask, and a store writes a file for each ping
_ANSWER_SECONDS = 10.0


class ReadinessProbe:
    """Pings the parts of a farm side by side, in a lane of their own.

    Args:
        pings: by part; each raises an error of the farm if the part does not answer.
        answer_seconds: after which a part that keeps its ping waiting is not ready.
    """

    def __init__(
        self,
        pings: dict[str, Callable[[], None]],
        lane: Lane,
        clock: Callable[[], float] = time.monotonic,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> None:
        self._pings = pings
        self._lane = lane
        self._clock = clock
        self._answer_seconds = answer_seconds
        self._running: dict[str, asyncio.Task[Dependency]] = {}
        self._asking: asyncio.Task[Readiness] | None = None
        self._latest: tuple[float, Readiness] | None = None

    async def ask(self) -> Readiness:
        """Each part, with its error if it does not answer."""
        if self._latest is not None and self._clock() - self._latest[0] < _SECONDS:
            return self._latest[1]
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all())
        # Shielded: whoever asked first may leave before the answer.
        return await asyncio.shield(self._asking)

    async def log_once(self) -> None:
        """Log each part that is not ready. Called at the start: the API serves what the others allow meanwhile."""
        readiness = await self.ask()
        for name, part in readiness.parts.items():
            if not part.ok:
                log.warning("not ready: %s: %s", name, part.detail)

    async def _ask_all(self) -> Readiness:
        try:
            dependencies = await asyncio.gather(*(self._ask(name) for name in self._pings))
            parts = dict(zip(self._pings, dependencies, strict=True))
            readiness = Readiness(ok=all(part.ok for part in dependencies), parts=parts)
            self._latest = (self._clock(), readiness)
            return readiness
        finally:
            self._asking = None

    async def _ask(self, name: str) -> Dependency:
        """The state of a part. A ping that waits goes on, and the next question waits for the same one."""
        ping = self._running.get(name)
        if ping is None or ping.done():
            ping = asyncio.create_task(self._lane.run(None, partial(_state_of, self._pings[name])))
            self._running[name] = ping
        await asyncio.wait([ping], timeout=self._answer_seconds)
        if not ping.done():
            return Dependency(ok=False, detail=f"it has not answered for {self._answer_seconds:g} s")
        return await ping


def _state_of(ping: Callable[[], None]) -> Dependency:
    try:
        ping()
    except EnginefarmError as error:
        return Dependency(ok=False, detail=error.detail)
    return Dependency(ok=True)
