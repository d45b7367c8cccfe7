"""Callers of the farm: most submit a spec that others submitted too, some cancel, one runs garbage collection."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from enginefarm.node.detection import cpu_isa

_REPEATED_SHARE = 0.7  # of all submits repeat a recent spec
_FAILING_SHARE = 0.04  # of new specs make the toolchain fail
_CANCELLED_SHARE = 0.05  # of accepted builds are cancelled by their caller
_GC_SECONDS = 7.0  # between two garbage collections
_SIZES = (1, 64, 512, 2048, 9000)  # KiB of an engine; the last is large enough for a multipart upload
_SIZE_WEIGHTS = (30, 30, 25, 13, 2)


@dataclass
class Book:
    """What the farm accepted. A request without an answer promised nothing, so it is only counted."""

    accepted: dict[str, bool] = field(default_factory=dict)  # build id → True if its spec makes the toolchain fail
    cancelled: set[str] = field(default_factory=set)  # cancel was requested, answered or not
    dispositions: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    collections: int = 0
    wrong_answers: list[str] = field(default_factory=list)


class Load:
    """Threads that submit builds of `models` until `stop`."""

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
        """Stop the threads, and return what the farm accepted."""
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
                self.book.wrong_answers.append(f"a submit was answered {answer.status_code}: {answer.text[:300]}")
            return
        build = answer.json()
        self.book.accepted[build["id"]] = "behave" in spec["options"]
        self.book.dispositions[build["disposition"]] += 1
        if random.random() < _CANCELLED_SHARE:
            self.book.cancelled.add(build["id"])
            client.delete(f"{random.choice(self._urls)}/v1/builds/{build['id']}")

    def _spec(self, random: Random) -> dict[str, Any]:
        if self._recent and random.random() < _REPEATED_SHARE:
            return random.choice(list(self._recent))
        (kib,) = random.choices(_SIZES, _SIZE_WEIGHTS)
        options: dict[str, Any] = {
            "salt": f"{random.getrandbits(64):x}", "seconds": round(random.uniform(0.2, 2 * self._build_seconds), 2),
            "convert_seconds": random.choice([0.3, 1.0, 2.0]), "kib": kib,
        }  # fmt: skip
        if random.random() < _FAILING_SHARE:
            options["behave"] = "refuse"
        # The spec names its platform: the API completes one from the live workers, and chaos may have killed them all.
        spec = {
            "model": random.choice(self._models), "toolchain": {"name": "quick"}, "options": options,
            "platform": {"cpu_isa": cpu_isa()},
        }  # fmt: skip
        self._recent.append(spec)
        return spec

    def _collect(self) -> None:
        random = Random(self._seed)
        while not self._stopped.wait(_GC_SECONDS):
            try:
                answer = httpx.post(f"{random.choice(self._urls)}/v1/gc", json={}, timeout=60)
                self.book.collections += answer.status_code == 200
            except httpx.TransportError:
                self.book.unanswered += 1
