"""A broker that drops, repeats and reorders messages, and a store that fails half-way and damages blobs."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterable, Iterator
from datetime import timedelta

from enginefarm.contract.digest import Digest, of_bytes
from enginefarm.contract.errors import BrokerUnavailable, NotFound, StoreUnavailable
from models.queue.broker import Announcer
from models.queue.names import Announcement
from models.store import Store


class Broker(Announcer):
    """A message that `announce` sends may be lost, delivered twice, or delivered in any order."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.messages: list[Announcement] = []
        self.faults = 0.0
        self.away = False

    def announce(self, announcements: Iterable[Announcement]) -> None:
        for announcement in announcements:
            chance = self.random.random()
            if self.away or chance < self.faults:
                continue
            self.messages += [announcement] * (2 if chance < 2 * self.faults else 1)

    def depth(self, queue: str) -> int:
        if self.away:
            raise BrokerUnavailable("simulated: the broker is away")
        return sum(queue == waiting for _, waiting in self.messages)

    def take(self, queues: Iterable[str]) -> Announcement | None:
        """Take a random message of these queues, not the oldest: a broker promises no order."""
        messages = [message for message in self.messages if message[1] in set(queues)]
        if self.away or not messages:
            return None
        message = self.random.choice(messages)
        self.messages.remove(message)
        return message


class MemoryStore(Store):
    """`rotten` holds the blobs that `rot` damaged, until they are written again."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.blobs: dict[Digest, bytes] = {}
        self.rotten: set[Digest] = set()
        self.changes = 0
        self.faults = 0.0
        self.away = False

    def intact(self, digest: Digest) -> bool:
        return digest in self.blobs and of_bytes(self.blobs[digest]) == digest

    def rot(self, digest: Digest) -> None:
        self.changes += 1
        self.blobs[digest] = b"?" * len(self.blobs[digest])
        self.rotten.add(digest)

    def prepare(self) -> None: ...

    def ping(self) -> None:
        self._answer()

    def stat(self, digest: Digest) -> int | None:
        self._answer()
        return len(self.blobs[digest]) if digest in self.blobs else None

    def read(self, digest: Digest, start: int = 0, length: int | None = None) -> Generator[bytes, None, None]:
        self._answer()
        if digest not in self.blobs:
            raise NotFound(f"no blob {digest}")
        yield self.blobs[digest][start : None if length is None else start + length]

    def delete(self, digest: Digest) -> None:
        """The call may fail before the blob is deleted, and after."""
        self._answer()
        self.changes += 1
        self.blobs.pop(digest, None)
        self.rotten.discard(digest)
        self._answer()

    def link(self, digest: Digest, *, filename: str, expires: timedelta) -> str:
        return f"/v1/blobs/{digest}"

    def list(self) -> Iterator[tuple[Digest, int]]:
        self._answer()
        yield from ((digest, len(data)) for digest, data in [*self.blobs.items()])

    def abort_stale(self, age: timedelta) -> int:
        return 0

    def _write(self, chunks: Iterator[bytes], digest: Digest, size: int) -> None:
        data = b"".join(chunks)
        self.changes += 1
        chance = self.random.random()
        if chance < self.faults / 3:
            raise StoreUnavailable("simulated: nothing arrived")
        if chance < 2 * self.faults / 3:  # a store that lists a partial object; only its size shows it
            self.blobs[digest] = data[: len(data) // 2]
            raise StoreUnavailable("simulated: half of it arrived")
        self.blobs[digest] = data
        self.rotten.discard(digest)
        if chance < self.faults:
            raise StoreUnavailable("simulated: it arrived, the answer did not")

    def _answer(self) -> None:
        if self.away or self.random.random() < self.faults / 3:
            raise StoreUnavailable("simulated: the store is away")
