"""A server that the farm depends on (database, broker, store), taken down for a while and brought back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers.server import Server

_CALM_SECONDS = 4.0  # after its return; no other fault hits it meanwhile


@dataclass
class Outage:
    server: str
    begun: float  # time.monotonic()
    ended: float | None = None


class BackingServer:
    def __init__(self, name: str, server: Server) -> None:
        self.name, self.server = name, server
        self.outages: list[Outage] = []
        self._up_at = 0.0
        self._bring_up: Callable[[], None] = server.start

    @property
    def up(self) -> bool:
        return not self.outages or self.outages[-1].ended is not None

    @property
    def calm(self) -> bool:
        """True if it has been up for a while, so that no fault falls into the recovery from another."""
        last = self.outages[-1].ended if self.outages else 0.0
        return last is not None and time.monotonic() > last + _CALM_SECONDS

    def take_away(self, seconds: float, *, kill: bool) -> None:
        self.interrupt(seconds, self.server.kill if kill else self.server.stop, self.server.start)

    def interrupt(self, seconds: float, take_down: Callable[[], None], bring_up: Callable[[], None]) -> None:
        """Call `take_down` now and `bring_up` after `seconds`."""
        begun = time.monotonic()
        take_down()
        self.outages.append(Outage(self.name, begun))
        self._bring_up = bring_up
        self._up_at = time.monotonic() + seconds

    def tend(self) -> None:
        if not self.up and time.monotonic() >= self._up_at:
            self.bring_back()

    def bring_back(self) -> None:
        if not self.up:
            self._bring_up()
            self.outages[-1].ended = time.monotonic()
