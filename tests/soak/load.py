"""Callers at a constant rate: new, cached and joined builds, failures, cancellations, watchers, pulls, listings."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.spec import Limits
from enginefarm.node.detection import cpu_isa
from enginefarm.transfer.pull import pull
from enginefarm.wire.bodies import Build
from enginefarm.wire.resolution import EngineRequirements
from enginefarm.wire.retention import CleanUpRequest, Policy

_CALLERS = 12  # requests at once: one that waits for a build holds one
_MOST_WAITING = 24  # steps that no caller has begun; more are left out, or they would pile up on a busy machine
_BUILD_TIMEOUT = 300.0
_COLLECTION_SECONDS = 60.0
_KEPT_ENGINES = 50  # of each model, by garbage collection
_RECENT = 20  # specs that cached submits repeat: fewer than the engines that are kept
_PAGE = 50


@dataclass
class Count:
    """What the callers did."""

    steps: Counter[str] = field(default_factory=Counter)  # by the name of the step
    submits: Counter[str] = field(default_factory=Counter)  # by disposition
    left_out: int = 0  # steps that no caller was free for
    problems: list[str] = field(default_factory=list)


class Load:
    """Threads that call the farm until `stop`.

    Args:
        pulls: a folder for engines; each is removed at once.
        per_minute: steps, each of one to four requests.
    """

    def __init__(self, urls: Sequence[str], models: Sequence[str], pulls: Path, *, per_minute: float) -> None:
        self.count = Count()
        self._urls = urls
        self._farms = [Farm(url) for url in urls]
        self._models, self._pulls, self._pause = models, pulls, 60.0 / per_minute
        # So that keys differ from those of an earlier load of the same farm.
        self._salt = secrets.token_hex(4)
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._stopped = threading.Event()
        self._callers = ThreadPoolExecutor(_CALLERS, thread_name_prefix="caller")
        self._waiting = threading.Semaphore(_CALLERS + _MOST_WAITING)
        self._schedule = threading.Thread(target=self._keep_the_rate, daemon=True)

    def start(self) -> None:
        self._schedule.start()

    def stop(self) -> Count:
        """Begin nothing more, wait for the steps in progress, and return what was done."""
        self._stopped.set()
        self._schedule.join()
        self._callers.shutdown()
        for farm in self._farms:
            farm.close()
        return self.count

    def _keep_the_rate(self) -> None:
        steps: Sequence[Callable[[Farm, int], None]] = (
            self.build_and_pull, self.repeat, self.repeat, self.join, self.repeat, self.follow_the_log, self.list,
            self.repeat, self.fail, self.repeat, self.watch_events, self.repeat, self.repeat, self.cancel, self.repeat,
        )  # fmt: skip
        begin = next_collection = time.monotonic()
        number = 0
        while not self._stopped.wait(max(0.0, begin + number * self._pause - time.monotonic())):
            self._begin(steps[number % len(steps)], number)
            if time.monotonic() >= next_collection:
                next_collection += _COLLECTION_SECONDS
                self._begin(self.collect_garbage, number)
            number += 1

    def _begin(self, step: Callable[[Farm, int], None], number: int) -> None:
        if self._waiting.acquire(blocking=False):
            self._callers.submit(self._run, step, number)
        else:
            self.count.left_out += 1

    def _run(self, step: Callable[[Farm, int], None], number: int) -> None:
        name = step.__name__.replace("_", " ")
        try:
            step(self._farms[number % len(self._farms)], number)
            self.count.steps[name] += 1
        except Exception as error:
            self.count.problems.append(f"{name}: {type(error).__name__}: {error}"[:300])
        finally:
            self._waiting.release()

    def build_and_pull(self, farm: Farm, number: int) -> None:
        spec = self._new_spec(number)
        build = self._succeeded(farm, self._submit(farm, spec))
        self._recent.append(spec)
        destination = self._pulls / build.id
        pull(farm, farm.engine(engine_of(build).key), destination)
        shutil.rmtree(destination)

    def follow_the_log(self, farm: Farm, number: int) -> None:
        build_id = self._submit(farm, self._new_spec(number))
        lines = sum(1 for _ in farm.logs(build_id, follow=True))
        assert lines > 0, f"build {build_id} has no log"
        self._succeeded(farm, build_id)

    def watch_events(self, farm: Farm, number: int) -> None:
        build_id = self._submit(farm, self._new_spec(number))
        with httpx.stream("GET", f"{farm.url}/v1/builds/{build_id}/events", timeout=_BUILD_TIMEOUT) as events:
            events.raise_for_status()
            for _ in events.iter_lines():
                pass
        self._succeeded(farm, build_id)

    def join(self, farm: Farm, number: int) -> None:
        spec = self._new_spec(number)
        build_ids = [self._submit(each, spec) for each in (farm, *self._farms)]
        for build_id in build_ids:
            self._succeeded(farm, build_id)

    def repeat(self, farm: Farm, number: int) -> None:
        if self._recent:
            self._submit(farm, self._recent[number % len(self._recent)])

    def fail(self, farm: Farm, number: int) -> None:
        spec = self._new_spec(number)
        spec["options"]["behave"] = "refuse"
        build = farm.wait(self._submit(farm, spec), timeout=_BUILD_TIMEOUT)
        assert build.state == "failed", f"build {build.id} is {build.state}"

    def cancel(self, farm: Farm, number: int) -> None:
        spec = self._new_spec(number)
        spec["options"]["seconds"] = 60
        build_id = self._submit(farm, spec)
        # Some are queued when they are cancelled, and some run.
        self._stopped.wait(number % 4)
        assert farm.cancel(build_id).state == "cancelled"

    def list(self, farm: Farm, number: int) -> None:
        model = self._models[number % len(self._models)]
        list(islice(farm.builds(), _PAGE))
        list(islice(farm.builds(model=model, state="failed"), _PAGE))
        engines = list(islice(farm.engines(model=model), _PAGE))
        farm.workers()
        farm.health()
        if engines:
            farm.resolve(EngineRequirements(model=model, limits=Limits()))

    def collect_garbage(self, farm: Farm, _number: int) -> None:
        farm.clean_up(CleanUpRequest(policies=(Policy(keep_last=_KEPT_ENGINES),)))

    def _new_spec(self, number: int) -> dict[str, Any]:
        # Every second one has a checkpoint of its own.
        own_checkpoint = number // 2 * 2 * 1e-7
        return {
            "model": self._models[number % len(self._models)],
            "toolchain": {"name": "quick"},
            "options": {
                "salt": f"{self._salt}-{number}", "seconds": 0.3, "kib": 16, "convert_seconds": 0.1 + own_checkpoint,
            },
            # A spec without a platform takes that of the live workers.
            "platform": {"cpu_isa": cpu_isa()},
        }  # fmt: skip

    def _submit(self, farm: Farm, spec: dict[str, Any]) -> str:
        build = farm.submit(spec)
        self.count.submits[build.disposition] += 1
        return build.id

    def _succeeded(self, farm: Farm, build_id: str) -> Build:
        build = farm.wait(build_id, timeout=_BUILD_TIMEOUT)
        engine_of(build)  # raises what went wrong
        return build
