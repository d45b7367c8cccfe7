"""Limit and log requests with wrong API keys.

Nobody guesses 256 random bits: the limit keeps guesses from filling the log and from keeping the database busy. It
never refuses an active key, whoever else guesses from the same address or behind the same proxy, because `api.auth`
looks among the active keys first.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from cachetools import LRUCache

from enginefarm.contract.errors import TooManyFailedSignIns
from models.security import key_format

log = logging.getLogger(__name__)

_MAX_PEERS = 1024  # the limit of all peers together holds for those that were forgotten


@dataclass
class _Bucket:
    """`burst` tokens; one more every `seconds`. A failed sign-in takes one."""

    burst: int
    seconds: float
    full_at: float = -math.inf  # when all tokens are back
    is_logged: bool = False  # that it is empty

    def wait(self, now: float) -> float:
        """Seconds until there is a token; 0 if there is one now."""
        return max(0.0, self.full_at - now - (self.burst - 1) * self.seconds)

    def take(self, now: float) -> None:
        self.full_at = max(self.full_at, now) + self.seconds


class FailedSignIns:
    """Counts failed sign-ins, of each peer and in total, in bounded memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._total = _Bucket(burst=100, seconds=0.6)
        self._peers: LRUCache[str, _Bucket] = LRUCache(_MAX_PEERS)

    def count(self, peer: str) -> None:
        """Count a sign-in with a key that is not known to be active.

        Raises:
            TooManyFailedSignIns: too many failed lately, of this peer or in total.
        """
        network = _network(peer)
        now = self._clock()
        bucket = self._peers.get(network)
        if bucket is None:
            bucket = self._peers[network] = _Bucket(burst=10, seconds=6)
        for limit, whose in ((bucket, f"from {network}"), (self._total, "to this process")):
            wait = limit.wait(now)
            if wait > 0:
                if not limit.is_logged:
                    log.warning("too many failed sign-ins %s: more of them are answered 429 and not logged", whose)
                    limit.is_logged = True
                seconds = math.ceil(wait)
                raise TooManyFailedSignIns(
                    f"this API key is not accepted, and too many wrong keys were sent {whose}: try again in "
                    f"{seconds} s, with a key that `python -m api.keys list` shows as active",
                    retry_after_seconds=seconds,
                )
        for limit in (bucket, self._total):
            limit.take(now)
            limit.is_logged = False

    def note(self, peer: str, key: str, reason: str) -> None:
        """Log a failed sign-in, with the public part of the key alone."""
        parsed = key_format.parse(key)
        name = key_format.prefix(parsed.id) if parsed else "a text that is no key"
        log.warning("failed sign-in from %s with %s: %s", peer, name, reason)


def _network(peer: str) -> str:
    """The peer's address; of IPv6 the /64, because whoever has one address there has all."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return peer
