"""Run tasks in a few threads; the first failure ends the others."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context

from enginefarm.contract.digest import Watch

Task = Callable[[Watch], None]


class _OtherTaskFailed(Exception):
    """Ends a task because another one failed; it is no news of its own."""


class ParallelTasks:
    """Tasks that the calling thread and its helpers take one after the other.

    Args:
        tasks: each gets a `Watch` that it must call for every piece of its work.
        keep_going: raises if the work must end; the watch calls it.
    """

    def __init__(self, tasks: Iterable[Task], keep_going: Callable[[], None]) -> None:
        self._tasks = deque(tasks)
        self._keep_going = keep_going
        self._has_failed = threading.Event()

    def run(self, threads: int) -> None:
        """Run all tasks. No thread runs any more when this returns or raises.

        Raises:
            Exception: the first error of a task, or of `keep_going`.
        """
        helpers: list[Future[None]] = []
        with ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="files") as pool:
            with suppress(RuntimeError):  # `ulimit -u`, or a container's limit of processes: fewer threads will do
                for _ in range(min(threads, len(self._tasks)) - 1):
                    # Each with a copy of this thread's context, which has the limit of the work.
                    helpers.append(pool.submit(copy_context().run, self._work))  # noqa: PERF401  # those that started
            with suppress(_OtherTaskFailed):
                self._work()
        for helper in helpers:
            error = helper.exception()
            if error is not None and not isinstance(error, _OtherTaskFailed):
                raise error

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.popleft()
            except IndexError:
                return
            try:
                self._watch(0)
                task(self._watch)
            except BaseException:
                self._has_failed.set()
                raise

    def _watch(self, _: int) -> None:
        if self._has_failed.is_set():
            raise _OtherTaskFailed
        self._keep_going()
