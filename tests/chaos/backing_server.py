"""A server that the farm stands on, taken away for a while and brought back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.servers.server import Server

_REST = 4.0  # seconds after its return in which nothing else happens to it


@dataclass
class Outage:
    part: str
    begun: float  # time.monotonic()
    ended: float | None = None


class Part:
    def __init__(self, name: str, server: Server) -> None:
        self.name, self.server = name, server
        self.outages: list[Outage] = []
        self._back_at = 0.0
        self._back: Callable[[], None] = server.start

    @property
    def up(self) -> bool:
        return not self.outages or self.outages[-1].ended is not None

    @property
    def calm(self) -> bool:
        """Up, and for a while: no fault falls into the recovery from another."""
        last = self.outages[-1].ended if self.outages else 0.0
        return last is not None and time.monotonic() > last + _REST

    def take_away(self, seconds: float, *, kill: bool) -> None:
        self.stall(seconds, self.server.kill if kill else self.server.stop, self.server.start)

    def stall(self, seconds: float, away: Callable[[], None], back: Callable[[], None]) -> None:
        begun = time.monotonic()
        away()
        self.outages.append(Outage(self.name, begun))
        self._back, self._back_at = back, time.monotonic() + seconds

    def tend(self) -> None:
        if not self.up and time.monotonic() >= self._back_at:
            self.bring_back()

    def bring_back(self) -> None:
        if not self.up:
            self._back()
            self.outages[-1].ended = time.monotonic()
