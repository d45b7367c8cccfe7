"""A stream of callers: most ask for what others ask for too, some change their mind, one collects garbage."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from enginefarm.node.detection import cpu_isa

_SAME = 0.7  # of all submits ask for what was asked for a moment ago
_REFUSED = 0.04  # of new specs are made to fail
_CANCELLED = 0.05  # of accepted builds are cancelled by their caller
_COLLECT_SECONDS = 7.0
_SIZES = (1, 64, 512, 2048, 9000)  # KiB of an engine; the last goes in parts
_SIZE_WEIGHTS = (30, 30, 25, 13, 2)


@dataclass
class Book:
    """What the farm has said yes to. Only that counts: an answer that never came promised nothing."""

    accepted: dict[str, bool] = field(default_factory=dict)  # build → whether it was made to fail
    cancelled: set[str] = field(default_factory=set)  # asked to be, whether or not the answer came
    dispositions: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    collections: int = 0
    wrong: list[str] = field(default_factory=list)


class Load:
    """Threads that ask for builds of `models` until `stop`."""

    def __init__(
        self,
        urls: Sequence[str],
        models: Sequence[str],
        seed: int,
        *,
        callers: int,
        pause_seconds: float,
        build_seconds: float,
    ) -> None:
        self.book = Book()
        self._urls, self._models, self._seed = urls, models, seed
        self._pause, self._build_seconds = pause_seconds, build_seconds
        self._recent: deque[dict[str, Any]] = deque(maxlen=20)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(callers)]
        self._threads.append(threading.Thread(target=self._collect, daemon=True))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> Book:
        """Let them end; returns what was accepted."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return self.book

    def _ask(self, number: int) -> None:
        random = Random(f"{self._seed} {number}")
        with httpx.Client(timeout=30) as client:
            while not self._stopped.wait(random.expovariate(1 / self._pause)):
                try:
                    self._submit(client, random)
                except httpx.TransportError:
                    self.book.unanswered += 1

    def _submit(self, client: httpx.Client, random: Random) -> None:
        spec = self._spec(random)
        answer = client.post(f"{random.choice(self._urls)}/v1/builds", json=spec)
        if answer.status_code not in {200, 202}:
            self.book.dispositions[f"refused with {answer.status_code}"] += 1
            if answer.status_code != 503:
                self.book.wrong.append(f"a submit was answered {answer.status_code}: {answer.text[:300]}")
            return
        said = answer.json()
        self.book.accepted[said["id"]] = "behave" in spec["options"]
        self.book.dispositions[said["disposition"]] += 1
        if random.random() < _CANCELLED:
            self.book.cancelled.add(said["id"])
            client.delete(f"{random.choice(self._urls)}/v1/builds/{said['id']}")

    def _spec(self, random: Random) -> dict[str, Any]:
        if self._recent and random.random() < _SAME:
            return random.choice(list(self._recent))
        (kib,) = random.choices(_SIZES, _SIZE_WEIGHTS)
        options: dict[str, Any] = {
            "salt": f"{random.getrandbits(64):x}", "seconds": round(random.uniform(0.2, 2 * self._build_seconds), 2),
            "convert_seconds": random.choice([0.3, 1.0, 2.0]), "kib": kib,
        }  # fmt: skip
        if random.random() < _REFUSED:
            options["behave"] = "refuse"
        # The platform is named: while all workers are away, it could not be completed from those that are there.
        spec = {
            "model": random.choice(self._models), "toolchain": {"name": "quick"}, "options": options,
            "platform": {"cpu_isa": cpu_isa()},
        }  # fmt: skip
        self._recent.append(spec)
        return spec

    def _collect(self) -> None:
        random = Random(self._seed)
        while not self._stopped.wait(_COLLECT_SECONDS):
            try:
                answer = httpx.post(f"{random.choice(self._urls)}/v1/gc", json={}, timeout=60)
                self.book.collections += answer.status_code == 200
            except httpx.TransportError:
                self.book.unanswered += 1
