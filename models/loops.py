"""Run the loops that a process's promises rest on, such as lease renewal and the sweep, in threads or asyncio tasks.

An error ends one round, never the loop: it is counted, logged once for each kind, and the next round follows at the
loop's pace. A loop that ends all the same ends its process: a worker that renews no leases, or an API that does not
sweep, would look alive.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from enginefarm.contract.errors import EnginefarmError
from models.exit_codes import ExitCode

log = logging.getLogger(__name__)

_END_SECONDS = 60.0  # for the orderly end of a process that lost a loop, in which a worker hands its stage back
_REPEAT_SECONDS = 600.0  # an error that lasts is logged again after so long
# An outage that begins after so long without an error is a new one, and is logged again.
_CALM_SECONDS = 60.0
_HEAD = 60  # characters of a message that tell its kind: what follows may differ each time
_MOST_KINDS = 50


@dataclass
class LoopCounter:
    """Rounds of all loops of one name, since the start of the process."""

    succeeded: int = 0
    failed: int = 0


class ErrorLog:
    """Logs the errors of one loop: the first of each kind, and then one in ten minutes with the number left out.

    The kind of an error is its class and the beginning of its message.
    """

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._logged_at: dict[tuple[type[BaseException], str], float] = {}
        self._left_out: Counter[tuple[type[BaseException], str]] = Counter()
        self._failed_at = -_CALM_SECONDS
        self._announces_recovery = False

    def failed(self, error: BaseException) -> None:
        """Log the error of a round, if its kind was not logged a moment ago."""
        now = self._clock()
        message = message_of(error)
        kind = (type(error), message[:_HEAD])
        if now - self._failed_at > _CALM_SECONDS or len(self._logged_at) > _MOST_KINDS:
            self._logged_at.clear()
            self._left_out.clear()
        self._failed_at = now
        logged_at = self._logged_at.get(kind)
        if logged_at is not None and now - logged_at < _REPEAT_SECONDS:
            self._left_out[kind] += 1
            return
        self._logged_at[kind] = now
        self._announces_recovery = True
        left_out = self._left_out.pop(kind, 0)
        more = f" ({left_out} more like it since the last such line)" if left_out else ""
        if isinstance(error, EnginefarmError):
            log.warning("%s failed and is tried again: %s%s", self._name, message, more)
        else:
            # The farm's own errors say everything in their message. Any other one is a defect.
            log.error("%s failed by a defect and is tried again: %s%s", self._name, message, more, exc_info=error)

    def succeeded(self) -> None:
        """Log that the loop works again, if its last logged line says that it does not."""
        if self._announces_recovery:
            self._announces_recovery = False
            log.info("%s works again", self._name)


class Loops:
    """The loops of one process.

    Args:
        end_process: is called in place of `end_this_process` when a loop has ended by itself.
    """

    def __init__(self, end_process: Callable[[], None] | None = None) -> None:
        self.counters: dict[str, LoopCounter] = {}
        self.ended: str | None = None  # name of the first loop that ended by itself; the process then ends, too
        self._end_process = end_process or end_this_process
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def exit_status(self) -> int:
        """Of this process: ExitCode.LOOP_ENDED if a loop has ended by itself, else 0."""
        return ExitCode.LOOP_ENDED if self.ended else 0

    def thread(
        self, name: str, work: Callable[[], None], *, every_seconds: float, subject: str | None = None
    ) -> LoopThread:
        """A daemon thread that calls `work` at an interval, once it is started.

        Args:
            name: what the loop does, for log lines and `counters`.
            subject: replaces `name` in log lines, where several loops of one name run at once.
        """
        return LoopThread(self, name, work, every_seconds=every_seconds, subject=subject)

    def start_task(
        self, name: str, work: Callable[[], Awaitable[object]], *, every_seconds: float, first_seconds: float = 0.0
    ) -> None:
        """Await `work()` at an interval in a task of the running event loop, until `stop_tasks`.

        Args:
            name: what the loop does, for log lines and `counters`.
            first_seconds: before the first round.
        """
        task = asyncio.create_task(self._repeat(name, work, every_seconds, first_seconds), name=name)
        self._tasks.add(task)

    async def stop_tasks(self) -> None:
        """End all tasks of `start_task`. A round that is in progress is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _repeat(
        self, name: str, work: Callable[[], Awaitable[object]], every_seconds: float, first_seconds: float
    ) -> None:
        this_task = asyncio.current_task()
        assert this_task is not None
        error_log = ErrorLog(name)
        pause = first_seconds
        while True:
            try:
                await asyncio.sleep(pause)
                pause = every_seconds
                with self.one_round(name, error_log):
                    try:
                        await work()
                    except asyncio.CancelledError as error:
                        if this_task.cancelling():
                            raise
                        # Something that the round waited for was cancelled, not the loop.
                        raise RuntimeError("what it waited for was cancelled") from error
            except asyncio.CancelledError:
                raise
            except BaseException as error:  # noqa: BLE001  # asyncio would end its event loop by SystemExit, silently
                self.note_end(name, error)
                return

    @contextmanager
    def one_round(self, name: str, error_log: ErrorLog) -> Iterator[None]:
        """One round of the loop `name`: an error is counted and logged here, and goes no further."""
        counter = self.counters.setdefault(name, LoopCounter())
        try:
            yield
        except Exception as error:  # noqa: BLE001  # whatever it is, the loop must go on
            counter.failed += 1
            error_log.failed(error)
        else:
            counter.succeeded += 1
            error_log.succeeded()

    def note_end(self, name: str, error: BaseException | None) -> None:
        """End the process, because the loop `name` has ended by itself."""
        if self.ended is None:
            self.ended = name
        log.critical("%s has ended: this process ends with status %d", name, ExitCode.LOOP_ENDED, exc_info=error)
        self._end_process()


class LoopThread:
    """Calls `work` at an interval in a daemon thread. Made by `Loops.thread`."""

    def __init__(
        self, loops: Loops, name: str, work: Callable[[], None], *, every_seconds: float, subject: str | None
    ) -> None:
        self._loops = loops
        self._name = name
        self._work = work
        self._every = every_seconds
        self._error_log = ErrorLog(subject or name)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def start(self) -> None:
        """
        Raises:
            RuntimeError: the system starts no more threads.
        """
        self._thread.start()

    def stop(self) -> None:
        """Let the loop end after the round that is in progress. `work` may call it."""
        self._stopped.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end of a loop that was started."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _repeat(self) -> None:
        try:
            while not self._stopped.wait(self._every):
                with self._loops.one_round(self._name, self._error_log):
                    self._work()
        except BaseException as error:  # noqa: BLE001  # a thread that ends by SystemExit says nothing
            self._loops.note_end(self._name, error)


def end_this_process() -> None:
    """Ask this process to end as by SIGTERM; it exits with LOOP_ENDED after _END_SECONDS at the latest."""
    end_later(_END_SECONDS, ExitCode.LOOP_ENDED)
    os.kill(os.getpid(), signal.SIGTERM)


def end_later(seconds: float, status: int) -> None:
    """Exit with `status` after `seconds`, whatever this process then waits for."""
    timer = threading.Timer(seconds, _exit_now, args=(status,))
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError as error:
        # The orderly end goes on, without a limit.
        log.warning("the end of this process has no limit: %s", error)


def _exit_now(status: int) -> NoReturn:
    log.warning("this process exits with status %d and waits for nothing more", status)
    logging.shutdown()
    os._exit(status)


def message_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, EnginefarmError):
        return error.detail
    try:
        text = str(error).strip()
    except Exception:  # noqa: BLE001  # a defect of the error's class must not end the loop
        text = ""
    if not text:
        return type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}"
