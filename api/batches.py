"""Answer requests that arrive together with the statements of one.

A thread and a transaction for each request would spend most of their time waiting: for their turn at the interpreter,
and for a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, TypeVar

from api.lanes import call_in_thread

T = TypeVar("T")
R = TypeVar("R")


class Batches(Generic[T, R]):
    """Gathers items; a thread answers all that wait at once. Use it from one event loop.

    Args:
        name: what the threads do, for their names.
        work: returns the answer to each item, in their order. An exception is an answer, too: `answer` raises it. If
            it raises, all items get that error.
        at_once: batches that are answered at once, each in a thread. While one waits for the database, the next is
            prepared. Items that arrive when all are busy make one large batch, which costs little more than a small
            one.
    """

    def __init__(self, name: str, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, at_once: int) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._at_once = at_once
        self._queue: list[tuple[T, asyncio.Future[R]]] = []
        self._is_gathering = False
        self._running: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Wait for the batches that are being answered."""
        self._threads.shutdown()

    async def answer(self, item: T) -> R:
        """The answer to this item, or the error of it or of its whole batch."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._queue.append((item, answer))
        self._begin()
        return await answer

    def _begin(self) -> None:
        if self._queue and not self._is_gathering and len(self._running) < self._at_once:
            self._is_gathering = True
            batch = asyncio.create_task(self._answer_all())
            self._running.add(batch)
            batch.add_done_callback(self._end)

    def _end(self, batch: asyncio.Task[None]) -> None:
        self._running.discard(batch)
        self._begin()

    async def _answer_all(self) -> None:
        """Answer all items that wait now."""
        # Requests that arrived in the same moment are in the queue after one turn of the event loop.
        await asyncio.sleep(0)
        # A client that disconnected before its turn needs no answer.
        batch = [(item, answer) for item, answer in self._queue if not answer.cancelled()]
        self._queue = []
        self._is_gathering = False
        answers: Sequence[R | Exception] = []
        error: BaseException | None = None
        try:
            work = partial(self._work, [item for item, _ in batch])
            answers = await asyncio.get_running_loop().run_in_executor(self._threads, call_in_thread, work)
        except BaseException as cause:  # noqa: BLE001  # whatever it is, the callers must get it
            error = cause
        for position, (_, waiting) in enumerate(batch):
            if waiting.cancelled():
                # Its client disconnected meanwhile. Its build is recorded like the others.
                continue
            if error is not None:
                waiting.set_exception(error)
                continue
            answer = answers[position]
            if isinstance(answer, Exception):
                waiting.set_exception(answer)
            else:
                waiting.set_result(answer)
