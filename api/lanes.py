"""Lanes: threads of their own for each kind of slow work, with a bounded queue that is fair between callers.

A model hub that does not answer, minutes of hashing or a listing of the whole store then delay only work of the same
kind, and one caller's work never takes all threads of a lane.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial, wraps
from typing import ParamSpec, TypeVar

from enginefarm.contract.errors import Busy, FarmError
from models.outbound import time_limit

# For what a request needs of the servers of models. A caller that waits for an answer is told within 15 s.
SOURCE_SECONDS = 12.0
# A call that gets its turn late ends at once, and its error names the server; only then the queue answers itself.
_MARGIN_SECONDS = 2.0

T = TypeVar("T")
P = ParamSpec("P")


class Lane:
    """Runs calls in threads. Use it from one event loop.

    Args:
        name: what the threads do, for error texts and names of threads.
        threads: calls that run at once.
        per_caller: of these, calls of one caller. Some threads are then left for the others.
        waiting: calls of one caller that may wait for a thread.
        seconds: in which a call must have asked servers outside what it needs, from the moment that it wants a thread;
            None: no limit.
        servers: those that calls of this lane wait for, and their setting, for error texts.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int,
        per_caller: int,
        waiting: int,
        seconds: float | None = None,
        servers: str = "",
    ) -> None:
        self._name = name
        self._seconds = seconds
        self._servers = servers
        self._per_caller = per_caller
        self._most_waiting = waiting
        self._free = threads
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name.replace(" ", "-"))
        self._running: Counter[str] = Counter()
        # By caller, in the order of their next turns.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def close(self) -> None:
        """Let the process end without the calls that run: a hub may take its time to answer."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, caller: str | None, work: Callable[[], T]) -> T:
        """Run `work` in a thread once it is this caller's turn.

        A caller that leaves gives its place in the queue up. A call that runs cannot be stopped: it keeps its thread
        until it ends.

        Raises:
            Busy: too many calls of this caller wait already.
            FarmError: no thread was free in time.
        """
        if self._seconds is not None:
            work = partial(_before, time.monotonic() + self._seconds, work)
        # A farm without API keys has one caller without a name.
        name = caller or ""
        await self._turn(name)
        try:
            running = self._executor.submit(call_in_thread, work)
        except BaseException:
            self._leave(name)
            raise
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: _call_if_open(loop, self._leave, name))
        return await _outcome(running)

    async def _turn(self, caller: str) -> None:
        """Wait for a thread, which then belongs to the caller until `_leave`."""
        if self._free and self._running[caller] < self._per_caller and caller not in self._waiting:
            self._enter(caller)
            return
        queue = self._waiting.setdefault(caller, deque())
        if len(queue) >= self._most_waiting:
            raise Busy(
                f"{len(queue)} requests of this API key wait for {self._name} already: wait for their answers, then "
                "try again"
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        seconds = None
        if self._seconds is not None:
            seconds = self._seconds + _MARGIN_SECONDS
        try:
            await asyncio.wait_for(turn, seconds)
        except TimeoutError:
            self._give_up(caller, turn)
            raise FarmError(
                f"{self._servers} did not answer earlier requests of this API key within {seconds:.0f} s, and this one "
                "waits behind them; check the server, then try again"
            ) from None
        except asyncio.CancelledError:
            if turn.cancelled():
                self._give_up(caller, turn)
            else:
                self._leave(caller)  # its turn came while it left
            raise

    def _enter(self, caller: str) -> None:
        self._free -= 1
        self._running[caller] += 1

    def _leave(self, caller: str) -> None:
        """Give a thread back, and then to the next caller that may have it."""
        self._free += 1
        self._running[caller] -= 1
        if not self._running[caller]:
            del self._running[caller]
        for candidate, queue in list(self._waiting.items()):
            turn = next((turn for turn in queue if not turn.cancelled()), None)
            if turn is not None and self._running[candidate] < self._per_caller:
                self._give_up(candidate, turn)
                # Behind the others, so that callers take turns.
                if candidate in self._waiting:
                    self._waiting[candidate] = self._waiting.pop(candidate)
                self._enter(candidate)
                turn.set_result(None)
                return

    def _give_up(self, caller: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting[caller]
        queue.remove(turn)
        if not queue:
            del self._waiting[caller]


def call_in_thread(work: Callable[[], T]) -> T:
    """Call `work` in a thread for which a coroutine waits.

    Raises:
        RuntimeError: `work` raised StopIteration, which would leave the coroutine waiting for ever, or SystemExit or
            the like, which would end the event loop.
    """
    try:
        return work()
    except (StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise RuntimeError(f"a call in a thread raised {type(error).__name__}") from error


async def _outcome(running: ThreadFuture[T]) -> T:
    """What the call returns or raises. A caller that leaves does not stop it."""
    wrapped = asyncio.wrap_future(running)
    # asyncio logs errors that nobody reads, and a caller that left does not.
    wrapped.add_done_callback(lambda future: future.cancelled() or future.exception())
    return await asyncio.shield(wrapped)


def _before(deadline: float, work: Callable[[], T]) -> T:
    """Run `work`, whose calls of servers outside end at `deadline`, by the monotonic clock."""
    with time_limit.until(deadline):
        return work()


def _call_if_open(loop: asyncio.AbstractEventLoop, callback: Callable[[str], None], argument: str) -> None:
    # A call may end after the process has stopped serving.
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, argument)


@dataclass(frozen=True)
class Lanes:
    """The lanes of one API process. Quick requests, such as the state of a build, use the threads of the framework."""

    # Threads that wait for a network are many; those that hash, list or read whole engines are few.
    hub: Lane = field(
        default_factory=partial(
            Lane,
            "model hubs",
            threads=32,
            per_caller=16,
            waiting=64,
            seconds=SOURCE_SECONDS,
            servers="the model hub (ENGINEFARM_HF_ENDPOINT)",
        )
    )
    bucket: Lane = field(
        default_factory=partial(
            Lane,
            "model buckets",
            threads=32,
            per_caller=16,
            waiting=64,
            seconds=SOURCE_SECONDS,
            servers="the S3 server of models (ENGINEFARM_MODELS_S3_ENDPOINT)",
        )
    )
    folders: Lane = field(default_factory=partial(Lane, "model folders", threads=4, per_caller=2, waiting=64))
    # A thousand callers of one key may submit at once: each waits for milliseconds.
    submits: Lane = field(default_factory=partial(Lane, "submits", threads=16, per_caller=12, waiting=2000))
    planning: Lane = field(default_factory=partial(Lane, "explanations", threads=4, per_caller=2, waiting=16))
    listings: Lane = field(default_factory=partial(Lane, "listings", threads=8, per_caller=4, waiting=100))
    status: Lane = field(default_factory=partial(Lane, "builds", threads=16, per_caller=16, waiting=10_000))
    files: Lane = field(
        default_factory=partial(
            Lane,
            "files of engines",
            threads=16,
            per_caller=12,
            waiting=2000,
            seconds=20.0,
            servers="the store (ENGINEFARM_STORE_URL)",
        )
    )
    logs: Lane = field(
        default_factory=partial(
            Lane,
            "logs",
            threads=4,
            per_caller=4,
            waiting=10_000,
            seconds=20.0,
            servers="the store (ENGINEFARM_STORE_URL)",
        )
    )
    watching: Lane = field(default_factory=partial(Lane, "watched builds", threads=2, per_caller=2, waiting=10_000))
    inspections: Lane = field(default_factory=partial(Lane, "inspections", threads=2, per_caller=1, waiting=16))
    upkeep: Lane = field(default_factory=partial(Lane, "upkeep", threads=4, per_caller=2, waiting=16))
    uploads: Lane = field(default_factory=partial(Lane, "uploads", threads=8, per_caller=4, waiting=8))
    probes: Lane = field(default_factory=partial(Lane, "readiness", threads=3, per_caller=3, waiting=3))
    # The farm's own loops: they have no caller.
    looks: Lane = field(default_factory=partial(Lane, "looks at watched builds", threads=1, per_caller=1, waiting=1))
    sweep: Lane = field(default_factory=partial(Lane, "the sweep", threads=1, per_caller=1, waiting=1))
    registration: Lane = field(default_factory=partial(Lane, "registration", threads=1, per_caller=1, waiting=1))
    past_builds: Lane = field(default_factory=partial(Lane, "past builds", threads=1, per_caller=1, waiting=1))
    clean_up: Lane = field(default_factory=partial(Lane, "garbage collection", threads=1, per_caller=1, waiting=1))

    def close(self) -> None:
        for lane in fields(self):
            getattr(self, lane.name).close()


def in_lane(name: str) -> Callable[[Callable[P, T]], Callable[P, Awaitable[T]]]:
    """Let a route run in a lane. It has the parameters `control` and `caller`, or `_` in place of `caller`."""

    def decorate(route: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        @wraps(route)
        async def run(*arguments: P.args, **named: P.kwargs) -> T:
            # FastAPI passes all arguments by name.
            lane: Lane = getattr(named["control"].lanes, name)  # type: ignore[attr-defined]
            caller = named["caller"] if "caller" in named else named["_"]
            return await lane.run(caller.name, partial(route, *arguments, **named))  # type: ignore[attr-defined]

        return run

    return decorate
